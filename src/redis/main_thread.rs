//! Statics of the module. They are sound because of rule 1 of [`super`]: one thread at a time runs
//! code of the module.

use std::ops::Deref;

/// A value that only the server's main thread uses, or a thread for which it waits.
pub(crate) struct MainThread<T>(T);

// SAFETY: one thread at a time runs code of the module (`super`, 1).
unsafe impl<T> Sync for MainThread<T> {}

impl<T> MainThread<T> {
    /// Wraps a value for a static.
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for MainThread<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
