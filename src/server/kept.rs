//! Strings of the server's that are kept as long as the module is loaded.

use std::cell::RefCell;

use super::api::raw;
use super::text::Made;

struct Kept(RefCell<Option<Made>>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for Kept {}

/// The word that every grant is replicated with.
static PXAT: Kept = Kept(RefCell::new(None));

/// The commands whose rights are checked again at a grant.
static ACQUIRE: Kept = Kept(RefCell::new(None));
static ACQUIRE_ANY: Kept = Kept(RefCell::new(None));

/// The channel prefix as `CONFIG GET` last showed it: the server wants it lent.
static SHOWN_PREFIX: Kept = Kept(RefCell::new(None));

impl Kept {
    fn or_make(&self, text: &[u8]) -> *mut raw::RedisModuleString {
        self.0.borrow_mut().get_or_insert_with(|| Made::new(text)).as_ptr()
    }
}

/// The word PXAT.
pub(super) fn pxat() -> *mut raw::RedisModuleString {
    PXAT.or_make(b"PXAT")
}

/// The name of the command ACQUIRE.
pub(super) fn acquire() -> *mut raw::RedisModuleString {
    ACQUIRE.or_make(b"GPULOCK.ACQUIRE")
}

/// The name of the command ACQUIREANY.
pub(super) fn acquire_any() -> *mut raw::RedisModuleString {
    ACQUIRE_ANY.or_make(b"GPULOCK.ACQUIREANY")
}

/// Keeps the channel prefix for the server to read, until the next one.
pub(super) fn lend_prefix(prefix: &[u8]) -> *mut raw::RedisModuleString {
    SHOWN_PREFIX.0.borrow_mut().insert(Made::new(prefix)).as_ptr()
}

/// Gives all of it back, when the module unloads.
pub(super) fn forget() {
    PXAT.0.take();
    ACQUIRE.0.take();
    ACQUIRE_ANY.0.take();
    SHOWN_PREFIX.0.take();
}
