//! The two exported functions, with which the server loads and unloads the module.

use std::ffi::{CStr, c_int};

use super::api::{ERR, OK, api, flag, optional, raw};
use super::context::{Context, log_warning};
use super::panic_boundary::{catch_panics, forget_hook, log_panics};
use super::string::StringRef;

/// The module.
pub(crate) trait Module {
    /// Loads the module. The arguments are the module arguments.
    ///
    /// # Errors
    /// When the module cannot be loaded. The error is written to the server log.
    fn load(context: Context<'_>, arguments: &[&[u8]]) -> Result<(), String>;

    /// Whether the module may unload now.
    fn may_unload(context: Context<'_>) -> bool;

    /// Drops the state of the module.
    fn forget();

    /// Closes the connections of clients that must not outlive the module.
    fn close_clients(context: Context<'_>);
}

/// Exports the two functions for a [`Module`].
macro_rules! export_module {
    ($module:ty) => {
        /// The server calls this to load the module.
        ///
        /// # Safety
        /// Only the server may call this.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn RedisModule_OnLoad(
            ctx: *mut $crate::redis::exports::Ctx,
            argv: *mut *mut $crate::redis::exports::Str,
            argc: ::std::ffi::c_int,
        ) -> ::std::ffi::c_int {
            // SAFETY: by the condition of this function.
            unsafe { $crate::redis::exports::on_load::<$module>(ctx, argv, argc) }
        }

        /// The server calls this to unload the module.
        ///
        /// # Safety
        /// Only the server may call this.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn RedisModule_OnUnload(
            ctx: *mut $crate::redis::exports::Ctx,
        ) -> ::std::ffi::c_int {
            // SAFETY: by the condition of this function.
            unsafe { $crate::redis::exports::on_unload::<$module>(ctx) }
        }
    };
}
pub(crate) use export_module;

pub(crate) use raw::{RedisModuleCtx as Ctx, RedisModuleString as Str};

/// The server's allocator, so that the memory of the module is part of `used_memory`.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: redis_module::alloc::RedisAlloc = redis_module::alloc::RedisAlloc;

const NAME: &CStr = c"gpulock";

/// The version in `MODULE LIST`: 100 for 0.1.0.
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
/// The parameters are what the server passes to load a module.
pub(crate) unsafe fn on_load<M: Module>(
    ctx: *mut Ctx,
    argv: *mut *mut Str,
    argc: c_int,
) -> c_int {
    // Nothing may be allocated before this, because the allocator is the server's.
    // SAFETY: by the condition of this function.
    if unsafe { raw::Export_RedisModule_Init(ctx, NAME.as_ptr(), VERSION, API_VERSION) }
        != OK
    {
        return ERR;
    }
    log_panics();
    let loaded = catch_panics(|| {
        // SAFETY: by the condition of this function.
        let (context, arguments) = unsafe { (Context::new(ctx), words(argv, argc)) };
        set_options(context);
        M::load(context, &arguments)
    });
    match loaded {
        Some(Ok(())) => OK,
        outcome => {
            if let Some(Err(reason)) = outcome {
                log_warning(&format!("failed to load: {reason}"));
            }
            catch_panics(M::forget);
            forget_hook();
            ERR
        }
    }
}

/// # Safety
/// `ctx` is what the server passes to unload a module.
pub(crate) unsafe fn on_unload<M: Module>(ctx: *mut Ctx) -> c_int {
    // SAFETY: by the condition of this function.
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
/// The parameters are what the server passes, valid for `'a`.
unsafe fn words<'a>(
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> Vec<&'a [u8]> {
    let argc = usize::try_from(argc).unwrap_or(0);
    if argc == 0 {
        return Vec::new();
    }
    // SAFETY: by the condition of this function: `argc` valid strings.
    unsafe {
        let words = std::slice::from_raw_parts(argv, argc);
        words.iter().map(|word| StringRef::new(*word).bytes()).collect()
    }
}

/// Allows atomic slot migration while the module is loaded, which Valkey 9 refuses otherwise. It is
/// safe because locks are plain keys. The bindings do not include this option.
const HANDLES_ATOMIC_SLOT_MIGRATION: c_int = 1 << 5;

fn set_options(context: Context<'_>) {
    // Opening a key for writing does not count as a modification; and a replica may load a new data
    // set while it serves the old one, because the module adds no data of its own to it.
    let mut options = flag(
        raw::REDISMODULE_OPTION_NO_IMPLICIT_SIGNAL_MODIFIED
            | raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD,
    );
    // SAFETY: this only checks whether the function exists.
    if let Some(all) = unsafe { optional!(RedisModule_GetModuleOptionsAll) } {
        // SAFETY: the function has no parameters.
        options |= unsafe { all() } & HANDLES_ATOMIC_SLOT_MIGRATION;
    }
    // SAFETY: the context is valid.
    unsafe { api!(RedisModule_SetModuleOptions(context.as_ptr(), options)) };
}
