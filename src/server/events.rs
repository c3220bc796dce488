//! What the server tells of itself: its clock ticks, it became a replica or a primary, its
//! configuration changed, a client's connection closed, it forked, it evicted a key. Of the
//! keyspace's own notifications only evictions are listened to: anything else would make
//! every client's writes dearer.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

use gpulock_core::Name;

use super::api::{ERR, OK, api, raw};
use super::blocked;
use super::context::{Context, log_warning};
use super::guard::contained;
use super::passing_on;
use super::state::{is_loaded, now, with_keeper};
use super::text::Lent;

/// Listens from now on, until the module unloads.
///
/// # Errors
/// When the server refuses.
pub(super) fn subscribe(context: Context<'_>) -> Result<(), String> {
    let ids = [
        raw::REDISMODULE_EVENT_CRON_LOOP,
        raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED,
        raw::REDISMODULE_EVENT_CONFIG,
        raw::REDISMODULE_EVENT_CLIENT_CHANGE,
        raw::REDISMODULE_EVENT_FORK_CHILD,
        raw::REDISMODULE_EVENT_REPLICA_CHANGE,
    ];
    for id in ids {
        let event = raw::RedisModuleEvent { id, dataver: 1 };
        let ctx = context.as_ptr();
        // SAFETY: the context is valid.
        let status = unsafe {
            api!(RedisModule_SubscribeToServerEvent(ctx, event, Some(happened)))
        };
        if status == ERR {
            return Err(format!("the server does not tell of its event {id}"));
        }
    }
    Ok(())
}

/// Listens to evictions from now on, once it is known that the server may evict: being
/// told of nothing costs every write of every client one step of the server, and a server
/// does not let a module stop listening.
pub(crate) fn listen_to_evictions(context: Context<'_>) {
    if EVICTIONS.0.replace(true) {
        return;
    }
    let class = raw::REDISMODULE_NOTIFY_EVICTED;
    let ctx = context.as_ptr();
    // SAFETY: the context is valid.
    let status =
        unsafe { api!(RedisModule_SubscribeToKeyspaceEvents(ctx, class, Some(evicted))) };
    if status != OK {
        log_warning("the server does not tell of evictions: they count as removed");
    }
}

/// Forgets it, when the module unloads: the server drops what it listens to.
pub(super) fn forget() {
    EVICTIONS.0.set(false);
}

struct MainThread(Cell<bool>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for MainThread {}

/// Whether evictions are listened to.
static EVICTIONS: MainThread = MainThread(Cell::new(false));

const NOW_PRIMARY: u64 = raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_MASTER;
const CONNECTED: u64 = raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_CONNECTED;

unsafe extern "C" fn happened(
    ctx: *mut raw::RedisModuleCtx,
    event: raw::RedisModuleEvent,
    what: u64,
    data: *mut c_void,
) {
    // While the module unloads clients may still be closed.
    if !is_loaded() {
        return;
    }
    contained(|| {
        // SAFETY: the server handed us the context for the time of the call.
        let context = unsafe { Context::new(ctx) };
        match event.id {
            raw::REDISMODULE_EVENT_CRON_LOOP => {
                passing_on::find_out(context, now().ms());
                crate::background::tick(context);
            }
            raw::REDISMODULE_EVENT_FORK_CHILD | raw::REDISMODULE_EVENT_REPLICA_CHANGE => {
                passing_on::may_have_begun();
                return;
            }
            raw::REDISMODULE_EVENT_CONFIG => {
                passing_on::may_have_begun();
                // SAFETY: with this event the server hands us what has changed.
                for name in unsafe { changed_settings(data) } {
                    crate::warnings::setting_changed(context, name);
                }
            }
            raw::REDISMODULE_EVENT_CLIENT_CHANGE if what == CONNECTED => return,
            raw::REDISMODULE_EVENT_CLIENT_CHANGE => {
                // SAFETY: with this event the server hands us who it is about.
                let client = unsafe { (*data.cast::<raw::RedisModuleClientInfo>()).id };
                blocked::closed(client);
                with_keeper(|keeper| keeper.client_gone(client, now()));
            }
            _ => {
                passing_on::may_have_begun();
                role_changed(what);
            }
        }
        crate::news::tell(context);
    });
}

/// The names of the settings that have changed.
///
/// # Safety
/// `data` is what the server hands over with its event of a changed configuration, valid for
/// `'a`.
unsafe fn changed_settings<'a>(data: *mut c_void) -> Vec<&'a [u8]> {
    // SAFETY: by this function's own condition: so many pointers to C strings.
    unsafe {
        let Some(change) = data.cast::<raw::RedisModuleConfigChange>().as_ref() else {
            return Vec::new();
        };
        let count = usize::try_from(change.num_changes).unwrap_or(0);
        if change.config_names.is_null() {
            return Vec::new();
        }
        let names = std::slice::from_raw_parts(change.config_names, count);
        names.iter().map(|name| CStr::from_ptr(*name).to_bytes()).collect()
    }
}

fn role_changed(to: u64) {
    with_keeper(|keeper| match to == NOW_PRIMARY {
        true => keeper.promoted(now()),
        false => keeper.demoted(now()),
    });
}

unsafe extern "C" fn evicted(
    ctx: *mut raw::RedisModuleCtx,
    _: c_int,
    _: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    contained(|| {
        // SAFETY: the server handed us context and key for the time of the call.
        let (context, key) = unsafe { (Context::new(ctx), Lent::new(key)) };
        let name = Name { db: context.db(), key: key.bytes() };
        with_keeper(|keeper| keeper.evicted(name, now()));
        crate::news::tell(context);
    });
    OK
}
