//! Whether a renewal revealed that the server has adopted the locks. The session learns of that
//! from INSPECT; this replaces it for users who may not call INSPECT.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by the renewal and the session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adopted(Arc<AtomicBool>);

impl Adopted {
    /// Records that a renewal returned other tokens.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether that happened, and the locks have not been tied to a connection since.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The same, and clears the flag: before the tie, so that a renewal can set it again
    /// meanwhile.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}
