//! The border: no panic crosses into C. It is caught, counted, logged with its message
//! and place, and the client that met it is told `ERR internal error`.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};

use super::context::log_warning;
use super::state::try_with_keeper;

/// Runs what the server asked for; none when it panicked.
pub(crate) fn contained<T>(body: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    if outcome.is_err() {
        try_with_keeper(|keeper| keeper.count_internal_error());
    }
    outcome.ok()
}

/// Writes panics into the server's log. The hook that Rust brings would take a backtrace,
/// which frees memory of the C library with the wrong `free` on servers that load modules
/// with `RTLD_DEEPBIND` (Valkey 8.1 and later), and ends them.
pub(super) fn log_panics() {
    set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let literal = payload.downcast_ref::<&str>().copied();
        let message = literal.or(payload.downcast_ref().map(String::as_str));
        let message = message.unwrap_or("no message");
        log_warning(&format!("internal error, caught: {message} ({place})"));
    }));
}

/// Undoes [`log_panics`] when the module unloads: the hook's code goes with it.
pub(super) fn forget_hook() {
    drop(take_hook());
}
