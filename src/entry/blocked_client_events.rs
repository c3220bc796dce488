//! What happens to blocked clients that the server unblocks itself, or that are gone before their
//! grant arrives.

use gpulock_core::rules::leave::LeaveReason;
use gpulock_core::state::outbox::WaitReply;
use gpulock_core::state::wait_queue::Ticket;

use crate::entry::deferred_work::run_deferred_between_commands;
use crate::entry::delivery::deliver;
use crate::manager::{now, with_manager};
use crate::redis::blocked_client::BlockedClientEvents;
use crate::redis::detached_context;

/// The waiters of the lock manager.
pub(crate) struct Waiters;

impl BlockedClientEvents for Waiters {
    fn left(ticket: Ticket, reason: LeaveReason) {
        with_manager(|manager| manager.leave(ticket, reason, now()));
        if let Some(context) = detached_context::get() {
            deliver(context);
        }
    }

    fn connection_lost(reply: &WaitReply) {
        take_back(reply);
    }

    fn overtaken(reply: &WaitReply) {
        take_back(reply);
        run_deferred_between_commands();
        if let Some(context) = detached_context::get() {
            deliver(context);
        }
    }
}

fn take_back(reply: &WaitReply) {
    if let WaitReply::Granted { grants, waiter, set } = reply {
        with_manager(|manager| manager.undelivered(grants, waiter, set));
    }
}
