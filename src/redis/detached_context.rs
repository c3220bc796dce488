//! A context of the module's own, for callbacks whose context has no client: without a client a
//! context has no database, and asking for it would crash the server.

use std::cell::Cell;
use std::ptr::null_mut;

use super::api::{api, raw};
use super::context::Context;
use super::main_thread::MainThread;

static CONTEXT: MainThread<Cell<*mut raw::RedisModuleCtx>> =
    MainThread::new(Cell::new(null_mut()));

/// Creates it, when the module loads.
pub(crate) fn create(context: Context<'_>) {
    // SAFETY: the context is valid.
    CONTEXT
        .set(unsafe { api!(RedisModule_GetDetachedThreadSafeContext(context.as_ptr())) });
}

/// The detached context; none before it is created.
pub(crate) fn get() -> Option<Context<'static>> {
    let ctx = CONTEXT.get();
    // SAFETY: it is valid until the module unloads.
    (!ctx.is_null()).then(|| unsafe { Context::new(ctx) })
}

/// Frees it, when the module unloads.
pub(crate) fn free() {
    let ctx = CONTEXT.replace(null_mut());
    if !ctx.is_null() {
        // SAFETY: it was made for the module and is not used after this.
        unsafe { api!(RedisModule_FreeThreadSafeContext(ctx)) }
    }
}
