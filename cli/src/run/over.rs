//! Whether a run asks for its locks no more: they are about to be given back. It keeps its
//! threads from renewing or taking again what was given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by the threads of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Over(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_said: AtomicBool,
    /// Held while the locks may be granted.
    granting: Mutex<()>,
}

impl Over {
    /// Says so, and returns when nothing more can be granted.
    pub(crate) fn say(&self) {
        self.0.is_said.store(true, Ordering::SeqCst);
        drop(self.granting());
    }

    /// Whether it was said.
    pub(crate) fn is_said(&self) -> bool {
        self.0.is_said.load(Ordering::SeqCst)
    }

    /// Keeps it from being said while the answer is kept; none: it was.
    pub(crate) fn not_yet(&self) -> Option<MutexGuard<'_, ()>> {
        let granting = self.granting();
        (!self.is_said()).then_some(granting)
    }

    /// That another thread panicked while it held it changes nothing.
    fn granting(&self) -> MutexGuard<'_, ()> {
        self.0.granting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
