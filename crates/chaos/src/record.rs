//! Where all who take part in a run write their entries: each into a store of its own, which
//! joins the others when it is done, so that nobody waits for anybody.

use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

use crate::history::{Entry, Pen};

/// The history of a run while it is being made.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<Entry>>>);

impl Record {
    /// A pen for one who takes part.
    pub fn pen(&self) -> Writer {
        Writer { record: self.clone(), entries: Vec::new() }
    }

    /// All entries of those who are done.
    pub fn take(&self) -> Vec<Entry> {
        take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes into a record.
pub struct Writer {
    record: Record,
    entries: Vec<Entry>,
}

impl Pen for Writer {
    fn write(&mut self, entry: Entry) {
        self.entries.push(entry);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut all = self.record.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.append(&mut self.entries);
    }
}
