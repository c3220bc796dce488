//! Statics of the module. They are sound because of rule 1 of [`super`]: everything runs on the
//! server's main thread.

use std::ops::Deref;

/// A value that only the server's main thread uses.
pub(crate) struct MainThread<T>(T);

// SAFETY: the module runs on the server's main thread only (`super`, 1).
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
