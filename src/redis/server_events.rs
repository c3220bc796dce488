//! What the server reports: its cron, its role, its configuration, closed connections, forks, and
//! evictions. Of the keyspace notifications only evictions are subscribed to: any other class would
//! make every client's writes slower.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

use gpulock_core::Name;

use super::api::{ERR, OK, api, raw};
use super::context::{Context, log_warning};
use super::main_thread::MainThread;
use super::panic_boundary::catch_panics;
use super::string::StringRef;

/// An event of the server.
pub(crate) enum ServerEvent<'a> {
    /// The server's cron runs, `hz` times a second.
    Cron,
    /// The server became a primary.
    Promoted,
    /// The server became a replica.
    Demoted,
    /// These settings of the server have changed.
    ConfigChanged(Vec<&'a [u8]>),
    /// The connection of this client closed.
    ClientClosed(u64),
    /// The server forked, or a replica came or went.
    ListenersChanged,
    /// The server evicted this key.
    Evicted(Name<'a>),
}

type Handler = fn(Context<'_>, ServerEvent<'_>);

struct Subscriptions {
    handler: Cell<Option<Handler>>,
    to_evictions: Cell<bool>,
}

static SUBSCRIPTIONS: MainThread<Subscriptions> = MainThread::new(Subscriptions {
    handler: Cell::new(None),
    to_evictions: Cell::new(false),
});

/// Calls `handler` for every event from now on, until [`forget`].
///
/// # Errors
/// When the server refuses a subscription.
pub(crate) fn subscribe(context: Context<'_>, handler: Handler) -> Result<(), String> {
    SUBSCRIPTIONS.handler.set(Some(handler));
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
            return Err(format!("the server does not support event subscription {id}"));
        }
    }
    Ok(())
}

/// Subscribes to evictions, once it is known that the server may evict keys: the subscription costs
/// every write of every client one step of the server, and a module cannot unsubscribe.
pub(crate) fn subscribe_to_evictions(context: Context<'_>) {
    if SUBSCRIPTIONS.to_evictions.replace(true) {
        return;
    }
    let class = raw::REDISMODULE_NOTIFY_EVICTED;
    let ctx = context.as_ptr();
    // SAFETY: the context is valid.
    let status =
        unsafe { api!(RedisModule_SubscribeToKeyspaceEvents(ctx, class, Some(evicted))) };
    if status != OK {
        log_warning(
            "cannot subscribe to evictions: evicted locks will be counted as removed",
        );
    }
}

/// Handles no more events, when the module unloads: the server drops the subscriptions, but may
/// still close clients.
pub(crate) fn forget() {
    SUBSCRIPTIONS.handler.set(None);
    SUBSCRIPTIONS.to_evictions.set(false);
}

const PROMOTED: u64 = raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_MASTER;
const CONNECTED: u64 = raw::REDISMODULE_SUBEVENT_CLIENT_CHANGE_CONNECTED;

unsafe extern "C" fn happened(
    ctx: *mut raw::RedisModuleCtx,
    event: raw::RedisModuleEvent,
    what: u64,
    data: *mut c_void,
) {
    let Some(handler) = SUBSCRIPTIONS.handler.get() else { return };
    catch_panics(|| {
        let event = match event.id {
            raw::REDISMODULE_EVENT_CRON_LOOP => ServerEvent::Cron,
            raw::REDISMODULE_EVENT_FORK_CHILD | raw::REDISMODULE_EVENT_REPLICA_CHANGE => {
                ServerEvent::ListenersChanged
            }
            // SAFETY: with this event the server passes what has changed.
            raw::REDISMODULE_EVENT_CONFIG => unsafe {
                ServerEvent::ConfigChanged(changed_settings(data))
            },
            raw::REDISMODULE_EVENT_CLIENT_CHANGE if what == CONNECTED => return,
            // SAFETY: with this event the server passes the client.
            raw::REDISMODULE_EVENT_CLIENT_CHANGE => unsafe {
                ServerEvent::ClientClosed((*data.cast::<raw::RedisModuleClientInfo>()).id)
            },
            _ if what == PROMOTED => ServerEvent::Promoted,
            _ => ServerEvent::Demoted,
        };
        // SAFETY: the server passes a context that is valid for the time of the call.
        handler(unsafe { Context::new(ctx) }, event);
    });
}

/// The names of the settings that have changed.
///
/// # Safety
/// `data` is what the server passes with its event of a changed configuration, valid for `'a`.
unsafe fn changed_settings<'a>(data: *mut c_void) -> Vec<&'a [u8]> {
    // SAFETY: by this function's own condition: an array of that many C strings.
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

unsafe extern "C" fn evicted(
    ctx: *mut raw::RedisModuleCtx,
    _: c_int,
    _: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    if let Some(handler) = SUBSCRIPTIONS.handler.get() {
        catch_panics(|| {
            // SAFETY: the server passes context and key, valid for the time of the call.
            let (context, key) = unsafe { (Context::new(ctx), StringRef::new(key)) };
            let name = Name { db: context.db(), key: key.bytes() };
            handler(context, ServerEvent::Evicted(name));
        });
    }
    OK
}
