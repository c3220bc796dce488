//! Blocked clients: how the server blocks a client and unblocks it.
//!
//! Each blocked client is unblocked exactly once (a second time would crash Redis 7.0), by
//! whichever comes first: a reply of the module, `CLIENT UNBLOCK`, or the loss of its connection. A
//! reply may still miss its client before the server delivers it at the end of the same turn of its
//! event loop: when the connection closes, which is reported before anything tied to it ends
//! ([`closed`]); or when the server replies to the client itself, with an error ([`freed`] is the
//! receipt).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use gpulock_core::rules::leave::LeaveReason;
use gpulock_core::state::outbox::WaitReply;
use gpulock_core::state::wait_queue::Ticket;

use super::api::{OK, api, raw};
use super::call::Call;
use super::context::Context;
use super::main_thread::MainThread;
use super::panic_boundary::catch_panics;
use super::reply::Reply;

/// What happens to blocked clients.
pub(crate) trait BlockedClientEvents {
    /// The server has unblocked the client itself.
    fn left(ticket: Ticket, reason: LeaveReason);

    /// A grant did not reach its client, because the connection closed.
    fn connection_lost(reply: &WaitReply);

    /// A grant did not reach its client, because the server has replied to it. Called between
    /// commands.
    fn overtaken(reply: &WaitReply);
}

type Handle = *mut raw::RedisModuleBlockedClient;

/// The blocked clients that are not unblocked yet, and grants that are on their way.
struct Blocked {
    by_ticket: BTreeMap<Ticket, Handle>,
    by_handle: BTreeMap<Handle, Ticket>,
    /// By the client of the grant. The server owns the reply until [`freed`].
    on_their_way: BTreeMap<u64, *const WaitReply>,
}

static BLOCKED: MainThread<RefCell<Blocked>> =
    MainThread::new(RefCell::new(Blocked::new()));

impl Blocked {
    const fn new() -> Self {
        Self {
            by_ticket: BTreeMap::new(),
            by_handle: BTreeMap::new(),
            on_their_way: BTreeMap::new(),
        }
    }

    fn take(&mut self, ticket: Ticket) -> Option<Handle> {
        let handle = self.by_ticket.remove(&ticket)?;
        self.by_handle.remove(&handle);
        Some(handle)
    }

    fn take_by_handle(&mut self, handle: Handle) -> Option<Ticket> {
        let ticket = self.by_handle.remove(&handle)?;
        self.by_ticket.remove(&ticket);
        Some(ticket)
    }
}

/// Frees the tables, when the module unloads; no client is blocked then.
pub(crate) fn forget() {
    BLOCKED.replace(Blocked::new());
}

/// Blocks the calling client under this ticket. Returns whether the server did.
pub(crate) fn block<E: BlockedClientEvents>(call: Call<'_>, ticket: Ticket) -> bool {
    let ctx = call.context().as_ptr();
    // The timeout is the module's: on Redis 7.0 a timeout of the server's in the same turn as a
    // grant leaves the client without any reply.
    let no_timeout = 0;
    // SAFETY: the context is valid, and its client may be blocked.
    let handle = unsafe {
        let on_unblock: raw::RedisModuleCmdFunc =
            if can_unblock_once() { Some(unblocked::<E>) } else { None };
        api!(RedisModule_BlockClient(
            ctx,
            Some(deliver),
            on_unblock,
            Some(freed::<E>),
            no_timeout
        ))
    };
    if handle.is_null() {
        return false;
    }
    // SAFETY: the handle is valid until the client is unblocked.
    unsafe { api!(RedisModule_SetDisconnectCallback(handle, Some(disconnected::<E>))) };
    let mut blocked = BLOCKED.borrow_mut();
    blocked.by_ticket.insert(ticket, handle);
    blocked.by_handle.insert(handle, ticket);
    true
}

/// `CLIENT UNBLOCK` needs a callback, and with that callback a server which checks whether the
/// client was unblocked already. Redis 7.4 and later and every Valkey check.
fn can_unblock_once() -> bool {
    const REDIS_7_4: c_int = 0x0007_0400;
    // SAFETY: a question without arguments.
    unsafe { api!(RedisModule_GetServerVersion()) >= REDIS_7_4 }
}

/// Unblocks a client with its reply.
pub(crate) fn reply(ticket: Ticket, reply: WaitReply) {
    let handle = BLOCKED.borrow_mut().take(ticket);
    if let Some(handle) = handle {
        let to = granted_to(&reply);
        let reply = Box::into_raw(Box::new(reply));
        if let Some(client) = to {
            BLOCKED.borrow_mut().on_their_way.insert(client, reply);
        }
        // SAFETY: the client was not unblocked yet, because the handle was in the table; the reply
        // is taken back in `freed`.
        unsafe { api!(RedisModule_UnblockClient(handle, reply.cast::<c_void>())) };
    }
}

fn granted_to(reply: &WaitReply) -> Option<u64> {
    match reply {
        WaitReply::Granted { waiter, .. } => waiter.client,
        WaitReply::Null | WaitReply::Error(_) => None,
    }
}

/// The connection of a client closed: a grant that is on its way to it will not arrive.
pub(crate) fn closed<E: BlockedClientEvents>(client: u64) {
    let reply = BLOCKED.borrow_mut().on_their_way.remove(&client);
    // SAFETY: the server still has the reply, because `freed` removes it from the table first.
    if let Some(reply) = reply.and_then(|reply| unsafe { reply.as_ref() }) {
        E::connection_lost(reply);
    }
}

/// Unblocks a client that the server replies to, or that is gone.
fn unblock_without_reply(handle: Handle) {
    // SAFETY: the client was not unblocked yet: every caller took the handle out of the table.
    unsafe { api!(RedisModule_UnblockClient(handle, null_mut())) };
}

/// The client is still there: it gets the reply.
unsafe extern "C" fn deliver(
    ctx: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    catch_panics(|| {
        // SAFETY: the server passes the context; what it keeps for the client is the reply that
        // `reply` passed, until it is freed.
        let (context, reply) = unsafe {
            let reply = api!(RedisModule_GetBlockedClientPrivateData(ctx));
            (Context::new(ctx), reply.cast::<WaitReply>().as_ref())
        };
        let out = Reply::new(context);
        match reply {
            Some(WaitReply::Granted { grants, waiter, .. }) if waiter.of_set => {
                out.grants(grants.iter().map(|it| (&*it.key, it.token)));
            }
            Some(WaitReply::Granted { grants, .. }) => {
                out.number_or_null(grants.first().map(|grant| grant.token));
            }
            Some(WaitReply::Error(error)) => out.error(error.clone()),
            Some(WaitReply::Null) | None => out.null(),
        }
    });
    OK
}

/// The reply is no longer needed: delivered, or not.
unsafe extern "C" fn freed<E: BlockedClientEvents>(
    ctx: *mut raw::RedisModuleCtx,
    reply: *mut c_void,
) {
    catch_panics(|| {
        // SAFETY: it is what `reply` passed, and the server no longer uses it.
        let reply = unsafe { Box::from_raw(reply.cast::<WaitReply>()) };
        let on_its_way = granted_to(&reply)
            .and_then(|client| BLOCKED.borrow_mut().on_their_way.remove(&client));
        // SAFETY: a question about the client that the server passes the context for.
        let is_lost = unsafe { api!(RedisModule_BlockedClientDisconnected(ctx)) != 0 };
        if on_its_way.is_some() && is_lost {
            // The server delivers replies between commands.
            E::overtaken(&reply);
        }
    });
}

/// `CLIENT UNBLOCK`: the client gets the reply of an expired wait.
unsafe extern "C" fn unblocked<E: BlockedClientEvents>(
    ctx: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    catch_panics(|| {
        // SAFETY: the server passes the context of a blocked client.
        let (context, handle) =
            unsafe { (Context::new(ctx), api!(RedisModule_GetBlockedClientHandle(ctx))) };
        leave::<E>(handle, LeaveReason::Unblocked);
        Reply::new(context).null();
    });
    OK
}

/// The connection closed (then the waiter has left its queue already), or the server has replied to
/// the client itself, with an error, and the client lives on.
unsafe extern "C" fn disconnected<E: BlockedClientEvents>(
    _: *mut raw::RedisModuleCtx,
    handle: Handle,
) {
    catch_panics(|| leave::<E>(handle, LeaveReason::UnblockedWithError));
}

fn leave<E: BlockedClientEvents>(handle: Handle, reason: LeaveReason) {
    let ticket = BLOCKED.borrow_mut().take_by_handle(handle);
    // None: it was unblocked with a reply, for which `freed` is called.
    if let Some(ticket) = ticket {
        unblock_without_reply(handle);
        E::left(ticket, reason);
    }
}
