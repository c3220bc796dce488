//! Strings of the server that are kept while the module is loaded.

use std::cell::RefCell;

use super::api::raw;
use super::main_thread::MainThread;
use super::string::OwnedString;

type Kept = MainThread<RefCell<Option<OwnedString>>>;

const fn none() -> Kept {
    MainThread::new(RefCell::new(None))
}

/// The word that every grant is replicated with.
static PXAT: Kept = none();

/// The commands whose permissions are checked again at a grant.
static ACQUIRE: Kept = none();
static ACQUIRE_ANY: Kept = none();

/// The channel prefix as `CONFIG GET` last showed it: the server borrows it.
static CHANNEL_PREFIX: Kept = none();

fn get_or_make(kept: &Kept, text: &[u8]) -> *mut raw::RedisModuleString {
    kept.borrow_mut().get_or_insert_with(|| OwnedString::new(text)).as_ptr()
}

/// The word PXAT.
pub(super) fn pxat() -> *mut raw::RedisModuleString {
    get_or_make(&PXAT, b"PXAT")
}

/// The name of the command ACQUIRE.
pub(super) fn acquire() -> *mut raw::RedisModuleString {
    get_or_make(&ACQUIRE, b"GPULOCK.ACQUIRE")
}

/// The name of the command ACQUIREANY.
pub(super) fn acquire_any() -> *mut raw::RedisModuleString {
    get_or_make(&ACQUIRE_ANY, b"GPULOCK.ACQUIREANY")
}

/// Keeps the channel prefix for the server to read, until the next call.
pub(super) fn lend_channel_prefix(prefix: &[u8]) -> *mut raw::RedisModuleString {
    CHANNEL_PREFIX.borrow_mut().insert(OwnedString::new(prefix)).as_ptr()
}

/// Frees all of them, when the module unloads.
pub(crate) fn forget() {
    for kept in [&PXAT, &ACQUIRE, &ACQUIRE_ANY, &CHANNEL_PREFIX] {
        kept.take();
    }
}
