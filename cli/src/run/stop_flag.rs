//! The stop flag of a run: set when the locks are about to be released. It keeps the other
//! threads from renewing or re-acquiring what was released.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by the threads of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFlag(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_set: AtomicBool,
    /// Locked during a call that may grant the locks.
    granting: Mutex<()>,
}

impl StopFlag {
    /// Sets the flag. Returns once no call that may grant the locks is in progress.
    pub(crate) fn set(&self) {
        self.0.is_set.store(true, Ordering::SeqCst);
        drop(self.lock_granting());
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::SeqCst)
    }

    /// Makes [`StopFlag::set`] wait until the returned guard is dropped. None if the flag is
    /// already set.
    pub(crate) fn delay(&self) -> Option<MutexGuard<'_, ()>> {
        let granting = self.lock_granting();
        (!self.is_set()).then_some(granting)
    }

    /// A poisoned mutex is harmless: it protects no data.
    fn lock_granting(&self) -> MutexGuard<'_, ()> {
        self.0.granting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
