//! The two functions that the server calls by name: to load the module, and to unload it.

use std::ffi::{CStr, c_int};

use super::api::{ERR, OK, api, flag, optional, raw};
use super::context::{Context, log_warning};
use super::panic_boundary::{catch_panics, forget_hook, log_panics};
use super::string::StringRef;

/// The module that is loaded.
pub(crate) trait Module {
    /// Loads it. The arguments are the words after the module's path.
    ///
    /// # Errors
    /// When the module cannot be loaded; the server logs why.
    fn load(context: Context<'_>, arguments: &[&[u8]]) -> Result<(), String>;

    /// Whether it may unload now.
    fn may_unload(context: Context<'_>) -> bool;

    /// Drops everything that it keeps.
    fn forget();

    /// Closes the clients that must not outlive it.
    fn close_clients(context: Context<'_>);
}

/// Exports the two functions for a [`Module`].
macro_rules! export_module {
    ($module:ty) => {
        /// Called by the server when it loads the module.
        ///
        /// # Safety
        /// Only for the server to call, with what it passes to a module.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn RedisModule_OnLoad(
            ctx: *mut $crate::redis::exports::Ctx,
            argv: *mut *mut $crate::redis::exports::Str,
            argc: ::std::ffi::c_int,
        ) -> ::std::ffi::c_int {
            // SAFETY: by this function's own condition.
            unsafe { $crate::redis::exports::on_load::<$module>(ctx, argv, argc) }
        }

        /// Called by the server when it unloads the module.
        ///
        /// # Safety
        /// Only for the server to call.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn RedisModule_OnUnload(
            ctx: *mut $crate::redis::exports::Ctx,
        ) -> ::std::ffi::c_int {
            // SAFETY: by this function's own condition.
            unsafe { $crate::redis::exports::on_unload::<$module>(ctx) }
        }
    };
}
pub(crate) use export_module;

pub(crate) use raw::{RedisModuleCtx as Ctx, RedisModuleString as Str};

/// The server's own allocator: the memory of the module is part of `used_memory`.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: redis_module::alloc::RedisAlloc = redis_module::alloc::RedisAlloc;

const NAME: &CStr = c"gpulock";

/// The version as `MODULE LIST` shows it: 0.1.0 is 100.
const VERSION: c_int = number(env!("CARGO_PKG_VERSION_MAJOR")) * 10_000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 100
    + number(env!("CARGO_PKG_VERSION_PATCH"));

const fn number(digits: &str) -> c_int {
    match c_int::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

const API_VERSION: c_int = raw::REDISMODULE_APIVER_1.cast_signed();

/// # Safety
/// The three are what the server passes to a module that it loads.
pub(crate) unsafe fn on_load<M: Module>(
    ctx: *mut Ctx,
    argv: *mut *mut Str,
    argc: c_int,
) -> c_int {
    // Nothing may be allocated before this: the allocator is the server's.
    // SAFETY: by this function's own condition.
    if unsafe { raw::Export_RedisModule_Init(ctx, NAME.as_ptr(), VERSION, API_VERSION) }
        != OK
    {
        return ERR;
    }
    log_panics();
    let loaded = catch_panics(|| {
        // SAFETY: by this function's own condition.
        let (context, arguments) = unsafe { (Context::new(ctx), words(argv, argc)) };
        set_options(context);
        M::load(context, &arguments)
    });
    match loaded {
        Some(Ok(())) => OK,
        outcome => {
            if let Some(Err(reason)) = outcome {
                log_warning(&format!("not loaded: {reason}"));
            }
            catch_panics(M::forget);
            forget_hook();
            ERR
        }
    }
}

/// # Safety
/// `ctx` is what the server passes to a module that it unloads.
pub(crate) unsafe fn on_unload<M: Module>(ctx: *mut Ctx) -> c_int {
    // SAFETY: by this function's own condition.
    let context = unsafe { Context::new(ctx) };
    if catch_panics(|| M::may_unload(context)) != Some(true) {
        return ERR;
    }
    catch_panics(M::forget);
    catch_panics(|| M::close_clients(context));
    forget_hook();
    OK
}

/// # Safety
/// The two are what the server passes, valid for `'a`.
unsafe fn words<'a>(
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> Vec<&'a [u8]> {
    let argc = usize::try_from(argc).unwrap_or(0);
    if argc == 0 {
        return Vec::new();
    }
    // SAFETY: by this function's own condition: `argc` valid strings.
    unsafe {
        let words = std::slice::from_raw_parts(argv, argc);
        words.iter().map(|word| StringRef::new(*word).bytes()).collect()
    }
}

/// The server may move slots in one piece although a module is loaded (Valkey 9, which
/// refuses it otherwise): our keys are plain keys. Not in the header that we are bound to.
const HANDLES_ATOMIC_SLOT_MIGRATION: c_int = 1 << 5;

fn set_options(context: Context<'_>) {
    // A key that is opened for writing and only looked at is not modified; and a replica
    // may load a new data set beside the old one, since we keep no data of our own.
    let mut options = flag(
        raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED
            | raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD,
    );
    // SAFETY: a question without arguments, where the server knows it.
    if let Some(all) = unsafe { optional!(RedisModule_GetModuleOptionsAll) } {
        // SAFETY: as above.
        options |= unsafe { all() } & HANDLES_ATOMIC_SLOT_MIGRATION;
    }
    // SAFETY: the context is valid.
    unsafe { api!(RedisModule_SetModuleOptions(context.as_ptr(), options)) };
}
