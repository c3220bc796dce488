//! The command filter: while it is registered, the server calls the module before each command, of
//! clients, scripts and other modules. It makes every command slower, by about 60 instructions.

use std::cell::Cell;
use std::ptr::null_mut;

use super::api::{api, flag, raw};
use super::context::Context;
use super::main_thread::MainThread;
use super::panic_boundary::catch_panics;

static FILTER: MainThread<Cell<*mut raw::RedisModuleCommandFilter>> =
    MainThread::new(Cell::new(null_mut()));

type Handler = fn();

static HANDLER: MainThread<Cell<Option<Handler>>> = MainThread::new(Cell::new(None));

/// Sets what to call before each command.
pub(crate) fn set_handler(handler: Handler) {
    HANDLER.set(Some(handler));
}

/// Registers the filter, if it is not registered. It is not called for the calls of this module.
pub(crate) fn register(context: Context<'_>) {
    if FILTER.get().is_null() {
        let (ctx, flags) = (context.as_ptr(), flag(raw::REDISMODULE_CMDFILTER_NOSELF));
        // SAFETY: the context is valid, and the filter is a function of the module.
        let filter =
            unsafe { api!(RedisModule_RegisterCommandFilter(ctx, Some(called), flags)) };
        FILTER.set(filter);
    }
}

/// Unregisters the filter, if it is registered. Not to be called in the filter's own callback: the
/// server may still use it.
pub(crate) fn unregister(context: Context<'_>) {
    let filter = FILTER.replace(null_mut());
    if !filter.is_null() {
        // SAFETY: the context is valid, and the filter is registered and not in use.
        unsafe { api!(RedisModule_UnregisterCommandFilter(context.as_ptr(), filter)) };
    }
}

unsafe extern "C" fn called(_: *mut raw::RedisModuleCommandFilterCtx) {
    if let Some(handler) = HANDLER.get() {
        catch_panics(handler);
    }
}
