//! Clients that wait: how the server is told to let them, and to let them go on.
//!
//! Each blocked client is let go exactly once (a second time would end Redis 7.0), by one
//! of three ways, whichever comes first: an answer of ours, `CLIENT UNBLOCK`, or the loss
//! of its connection. An answer may still miss its client before the server delivers it, at
//! the end of the same turn of its loop: when the connection closes, which is heard of
//! before anything that is tied to it ends ([`closed`]); or when the server answers the
//! client itself, with an error ([`freed`] is the receipt).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use gpulock_core::keeper::Answer;
use gpulock_core::line::Ticket;
use gpulock_core::wait::Leaving;

use super::api::{OK, api, raw};
use super::call::Call;
use super::context::Context;
use super::guard::contained;
use super::own;
use super::reply::Reply;
use super::state::{now, with_keeper};

type Handle = *mut raw::RedisModuleBlockedClient;

/// The blocked clients that were not let go yet, and grants that are on their way.
#[derive(Default)]
struct Blocked {
    by_ticket: BTreeMap<Ticket, Handle>,
    by_handle: BTreeMap<Handle, Ticket>,
    /// By the client that the grant is for. The answer is the server's until [`freed`].
    on_their_way: BTreeMap<u64, *const Answer>,
}

struct MainThread(RefCell<Blocked>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for MainThread {}

static BLOCKED: MainThread = MainThread(RefCell::new(Blocked {
    by_ticket: BTreeMap::new(),
    by_handle: BTreeMap::new(),
    on_their_way: BTreeMap::new(),
}));

impl Blocked {
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

/// Gives the tables back, when the module unloads; nobody waits then.
pub(super) fn forget() {
    BLOCKED.0.take();
}

/// Lets the calling client wait under this ticket. False when the server does not.
pub(crate) fn block(call: Call<'_>, ticket: Ticket) -> bool {
    let ctx = call.context().as_ptr();
    // The time is ours to keep: on Redis 7.0 a time-out of the server's in the same turn
    // as a grant leaves the client without any answer.
    let no_timeout = 0;
    // SAFETY: the context is valid and its client may be blocked.
    let handle = unsafe {
        let on_unblock: raw::RedisModuleCmdFunc =
            if may_be_unblocked() { Some(unblocked) } else { None };
        api!(RedisModule_BlockClient(
            ctx,
            Some(answered),
            on_unblock,
            Some(freed),
            no_timeout
        ))
    };
    if handle.is_null() {
        return false;
    }
    // SAFETY: the handle is valid until we let the client go.
    unsafe { api!(RedisModule_SetDisconnectCallback(handle, Some(disconnected))) };
    let mut blocked = BLOCKED.0.borrow_mut();
    blocked.by_ticket.insert(ticket, handle);
    blocked.by_handle.insert(handle, ticket);
    true
}

/// `CLIENT UNBLOCK` needs a callback, and that a server which does not look whether the
/// client was let go already. Redis 7.4 and later and every Valkey look.
fn may_be_unblocked() -> bool {
    const REDIS_7_4: c_int = 0x0007_0400;
    // SAFETY: a question without arguments.
    unsafe { api!(RedisModule_GetServerVersion()) >= REDIS_7_4 }
}

/// Lets a client go on with its answer.
pub(crate) fn answer(ticket: Ticket, answer: Answer) {
    let handle = BLOCKED.0.borrow_mut().take(ticket);
    if let Some(handle) = handle {
        let to = granted_to(&answer);
        let answer = Box::into_raw(Box::new(answer));
        if let Some(client) = to {
            BLOCKED.0.borrow_mut().on_their_way.insert(client, answer);
        }
        // SAFETY: the handle was not let go yet, for it was in the table; the answer is
        // taken back in `freed`.
        unsafe { api!(RedisModule_UnblockClient(handle, answer.cast::<c_void>())) };
    }
}

fn granted_to(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Granted { waiter, .. } => waiter.client,
        Answer::Null | Answer::Refused(_) => None,
    }
}

/// The connection of a client closed: what is on its way to it will not arrive.
pub(super) fn closed(client: u64) {
    let answer = BLOCKED.0.borrow_mut().on_their_way.remove(&client);
    // SAFETY: the server has the answer still, for `freed` takes it out of the table first.
    if let Some(answer) = answer.and_then(|answer| unsafe { answer.as_ref() }) {
        take_back(answer);
    }
}

fn take_back(answer: &Answer) {
    if let Answer::Granted { grants, waiter, set } = answer {
        with_keeper(|keeper| keeper.undelivered(grants, waiter, set));
    }
}

/// Lets go of a client that the server answers, or that is gone.
fn let_go(handle: Handle) {
    // SAFETY: the handle was not let go yet: every caller took it out of the table.
    unsafe { api!(RedisModule_UnblockClient(handle, null_mut())) };
}

/// The client is still there: it gets the answer.
unsafe extern "C" fn answered(
    ctx: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    contained(|| {
        // SAFETY: the server handed us the context; what it keeps for the client is the
        // answer that we gave, until it is freed.
        let (context, answer) = unsafe {
            let answer = api!(RedisModule_GetBlockedClientPrivateData(ctx));
            (Context::new(ctx), answer.cast::<Answer>().as_ref())
        };
        let reply = Reply::new(context);
        match answer {
            Some(Answer::Granted { grants, waiter, .. }) if waiter.of_set => {
                reply.grants(grants);
            }
            Some(Answer::Granted { grants, .. }) => {
                reply.number_or_null(grants.first().map(|grant| grant.token));
            }
            Some(Answer::Refused(fault)) => reply.fault(fault.clone()),
            Some(Answer::Null) | None => reply.null(),
        }
    });
    OK
}

/// The answer is done with: delivered, or not.
unsafe extern "C" fn freed(ctx: *mut raw::RedisModuleCtx, answer: *mut c_void) {
    contained(|| {
        // SAFETY: it is what `answer` gave, and the server is done with it.
        let answer = unsafe { Box::from_raw(answer.cast::<Answer>()) };
        let on_its_way = granted_to(&answer)
            .and_then(|client| BLOCKED.0.borrow_mut().on_their_way.remove(&client));
        // SAFETY: a question about the client that the server handed us the context for.
        let is_lost = unsafe { api!(RedisModule_BlockedClientDisconnected(ctx)) != 0 };
        if on_its_way.is_some() && is_lost {
            take_back(&answer);
            // The server delivers answers between commands.
            crate::waiting::run_deferred_between_commands();
            if let Some(context) = own::context() {
                crate::news::tell(context);
            }
        }
    });
}

/// `CLIENT UNBLOCK`: the client gets what it gets when its time is over.
unsafe extern "C" fn unblocked(
    ctx: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    contained(|| {
        // SAFETY: the server handed us the context of a client that is blocked.
        let (context, handle) =
            unsafe { (Context::new(ctx), api!(RedisModule_GetBlockedClientHandle(ctx))) };
        leave(handle, Leaving::Unblocked);
        Reply::new(context).null();
    });
    OK
}

/// The connection closed (then the waiter has left its line already), or the server has
/// answered the client itself, with an error, and it lives on.
unsafe extern "C" fn disconnected(_: *mut raw::RedisModuleCtx, handle: Handle) {
    contained(|| leave(handle, Leaving::UnblockedWithError));
}

fn leave(handle: Handle, why: Leaving) {
    let ticket = BLOCKED.0.borrow_mut().take_by_handle(handle);
    // None: it was let go with an answer, of which `freed` will tell.
    if let Some(ticket) = ticket {
        with_keeper(|keeper| keeper.leave(ticket, why, now()));
        let_go(handle);
        if let Some(context) = own::context() {
            crate::news::tell(context);
        }
    }
}
