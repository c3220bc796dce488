//! Where the server enters when it loads the module, and leaves when it unloads it.

use std::ffi::{CStr, c_int};

use gpulock_core::Keeper;
use gpulock_core::settings::Settings;

use super::api::{ERR, OK, api, flag, optional, raw};
use super::context::{Context, log_warning};
use super::text::Lent;
use super::{
    blocked, config, events, guard, info, kept, needed_commands, own, passing_on, state,
    unload,
};

/// The server's own allocator: what the module uses is seen in `used_memory`.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: redis_module::alloc::RedisAlloc = redis_module::alloc::RedisAlloc;

const NAME: &CStr = c"gpulock";

/// The version as the server shows it: 0.1.0 is 100.
const VERSION: c_int = 100;

/// Called by the server, by this name, when the module is loaded.
///
/// # Safety
/// For the server to call, with what it hands to a module.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn RedisModule_OnLoad(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    // Nothing may be allocated before this: the allocator is the server's.
    // SAFETY: by this function's own condition.
    if unsafe { raw::Export_RedisModule_Init(ctx, NAME.as_ptr(), VERSION, API_VERSION) }
        != OK
    {
        return ERR;
    }
    guard::log_panics();
    let loaded = guard::contained(|| {
        // SAFETY: by this function's own condition.
        let (context, arguments) = unsafe { (Context::new(ctx), words(argv, argc)) };
        load(context, &arguments)
    });
    match loaded {
        Some(Ok(())) => OK,
        outcome => {
            if let Some(Err(why)) = outcome {
                log_warning(&format!("not loaded: {why}"));
            }
            forget_all();
            guard::forget_hook();
            ERR
        }
    }
}

const API_VERSION: c_int = raw::REDISMODULE_APIVER_1.cast_signed();

/// Called by the server, by this name, when the module is unloaded.
///
/// # Safety
/// For the server to call.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn RedisModule_OnUnload(
    ctx: *mut raw::RedisModuleCtx,
) -> c_int {
    // SAFETY: by this function's own condition.
    let context = unsafe { Context::new(ctx) };
    if guard::contained(|| unload::is_possible(context)) != Some(true) {
        return ERR;
    }
    forget_all();
    guard::contained(|| unload::close_clients(context));
    guard::forget_hook();
    OK
}

fn forget_all() {
    guard::contained(|| {
        state::set_keeper(None);
        kept::forget();
        own::forget();
        events::forget();
        passing_on::may_have_begun();
        blocked::forget();
    });
}

fn load(context: Context<'_>, arguments: &[&[u8]]) -> Result<(), String> {
    needed_commands::require(context)?;
    set_options(context);
    own::make(context);
    let settings = crate::settings_from(arguments)?;
    let seed = crate::server::state::now().micros();
    let keeper = Keeper::new(Settings::clone(&settings), seed, state::now());
    state::set_keeper(Some(keeper));
    if !context.flags().is_primary() {
        state::with_keeper(|keeper| keeper.demoted(state::now()));
    }
    crate::commands::announce_all(context)?;
    config::register(context, &settings)?;
    info::register(context);
    events::subscribe(context)?;
    crate::warnings::check_all(context);
    Ok(())
}

/// The words behind the module's path.
///
/// # Safety
/// The two are what the server handed to us, valid for `'a`.
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
        words.iter().map(|word| Lent::new(*word).bytes()).collect()
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
