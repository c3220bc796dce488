//! Strings of the server's that are kept as long as the module is loaded.

use std::cell::RefCell;

use super::api::raw;
use super::text::Made;

struct Kept(RefCell<Option<Made>>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for Kept {}

/// The word that every grant is replicated with.
static PXAT: Kept = Kept(RefCell::new(None));

/// The channel prefix as `CONFIG GET` last showed it: the server wants it lent.
static SHOWN_PREFIX: Kept = Kept(RefCell::new(None));

/// The word PXAT.
pub(super) fn pxat() -> *mut raw::RedisModuleString {
    PXAT.0.borrow_mut().get_or_insert_with(|| Made::new(b"PXAT")).as_ptr()
}

/// Keeps the channel prefix for the server to read, until the next one.
pub(super) fn lend_prefix(prefix: &[u8]) -> *mut raw::RedisModuleString {
    SHOWN_PREFIX.0.borrow_mut().insert(Made::new(prefix)).as_ptr()
}

/// Gives all of it back, when the module unloads.
pub(super) fn forget() {
    PXAT.0.take();
    SHOWN_PREFIX.0.take();
}
