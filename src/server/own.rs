//! A context of the module's own, for the callback that comes with one that has no client
//! behind it: the receipt of an answer whose client is gone. Without a client a context
//! has no database, and to ask for it would end the server.

use std::cell::Cell;
use std::ptr::null_mut;

use super::api::{api, raw};
use super::context::Context;

struct MainThread(Cell<*mut raw::RedisModuleCtx>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for MainThread {}

static OWN: MainThread = MainThread(Cell::new(null_mut()));

/// Makes it, when the module loads.
pub(super) fn make(context: Context<'_>) {
    // SAFETY: the context is valid.
    OWN.0
        .set(unsafe { api!(RedisModule_GetDetachedThreadSafeContext(context.as_ptr())) });
}

/// The module's own context; none before it is made.
pub(crate) fn context() -> Option<Context<'static>> {
    let own = OWN.0.get();
    // SAFETY: it is valid until the module unloads.
    (!own.is_null()).then(|| unsafe { Context::new(own) })
}

/// Gives it back, when the module unloads.
pub(super) fn forget() {
    let own = OWN.0.replace(null_mut());
    if !own.is_null() {
        // SAFETY: it was made for us and is not used after this.
        unsafe { api!(RedisModule_FreeThreadSafeContext(own)) }
    }
}
