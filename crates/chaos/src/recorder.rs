//! Collects the entries of all clients and faults. Each writes to its own buffer, which
//! is appended when it is done, so that they do not block each other.

use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

use crate::history::{Entry, EntryWriter};

/// The history being recorded.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Entry>>>);

impl Recorder {
    /// A new buffer.
    pub fn writer(&self) -> Writer {
        Writer { recorder: self.clone(), entries: Vec::new() }
    }

    /// All entries of dropped buffers.
    pub fn take(&self) -> Vec<Entry> {
        take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A buffer of entries.
pub struct Writer {
    recorder: Recorder,
    entries: Vec<Entry>,
}

impl EntryWriter for Writer {
    fn write(&mut self, entry: Entry) {
        self.entries.push(entry);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut all = self.recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.append(&mut self.entries);
    }
}
