//! The panic boundary: no panic crosses into C. A panic is caught, counted, and logged with its
//! message and location, and the client that caused it gets `ERR internal error`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};

use super::context::log_warning;
use super::main_thread::MainThread;

static INTERNAL_ERRORS: MainThread<Cell<u64>> = MainThread::new(Cell::new(0));

/// Runs a callback of the server; none when it panicked.
pub(crate) fn catch_panics<T>(body: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    if outcome.is_err() {
        count_internal_error();
    }
    outcome.ok()
}

/// Counts a bug of the module.
pub(crate) fn count_internal_error() {
    INTERNAL_ERRORS.set(internal_errors().saturating_add(1));
}

/// The number of internal errors since the last reset.
pub(crate) fn internal_errors() -> u64 {
    INTERNAL_ERRORS.get()
}

/// Sets the number of internal errors to zero.
pub(crate) fn reset_internal_errors() {
    INTERNAL_ERRORS.set(0);
}

/// Writes panics into the server's log. Rust's own hook would take a backtrace, which frees memory
/// of the C library with the wrong `free` on servers that load modules with `RTLD_DEEPBIND` (Valkey
/// 8.1 and later), and aborts them.
pub(crate) fn log_panics() {
    set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let literal = payload.downcast_ref::<&str>().copied();
        let message = literal.or(payload.downcast_ref().map(String::as_str));
        let message = message.unwrap_or("no message");
        log_warning(&format!("caught an internal error: {message} ({place})"));
    }));
}

/// Undoes [`log_panics`] when the module unloads: the code of the hook goes with it.
pub(crate) fn forget_hook() {
    drop(take_hook());
}
