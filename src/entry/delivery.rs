//! What follows a command, an event or a tick: waiting clients get their replies, events are
//! published (many of them in portions), the newest log entry gets the line of the client that
//! caused it, idle locks are forgotten, and the timer is armed. No key is written here.

use gpulock_core::CommandError;
use gpulock_core::state::outbox::WaitReply;

use crate::broken_rules;
use crate::entry::timer::arm_timer;
use crate::manager::with_manager;
use crate::redis::context::Context;
use crate::redis::{acl, blocked_client};
use crate::report::event_message::{channel, message};

/// Delivers everything that waits for delivery, and arms the timer.
pub(super) fn deliver(context: Context<'_>) {
    let has_output = with_manager(|manager| {
        manager.forget_idle();
        manager.outbox().has_any()
    });
    if has_output {
        reply_to_waiters(context);
        identify_client(context);
        publish_events(context);
    }
    arm_timer(context);
}

fn reply_to_waiters(context: Context<'_>) {
    while let Some((ticket, reply)) =
        with_manager(|manager| manager.outbox().take_reply())
    {
        if !broken_rules::loses(&reply) {
            blocked_client::reply(ticket, permitted(context, reply));
        }
    }
}

/// The reply, unless it is a grant to a client whose user has lost the permission for it: that
/// grant is taken back, as if the client had gone.
fn permitted(context: Context<'_>, reply: WaitReply) -> WaitReply {
    let WaitReply::Granted { grants, waiter, .. } = &reply else { return reply };
    let Some(client) = waiter.client else { return reply };
    let first = grants.first().map(|grant| grant.lock);
    let db = with_manager(|manager| Some(manager.table().get(first?)?.db));
    if db.is_none_or(|db| {
        acl::may_still_acquire(context, client, db, grants, waiter.of_set)
    }) {
        return reply;
    }
    with_manager(|manager| manager.not_permitted(grants, waiter));
    WaitReply::Error(CommandError::NoPermission)
}

fn identify_client(context: Context<'_>) {
    if let Some(client) = with_manager(|manager| manager.outbox().take_unidentified())
        && !context.flags().in_script()
        && let Some(line) = context.client_line(client)
    {
        with_manager(|manager| manager.identify(&line));
    }
}

/// The size of the events that are published at a time, in bytes. A call for 1,024 locks causes as
/// many events, which would double its time. The rest follows with the next command or tick: more
/// at a time if more are left, so that they do not pile up.
const EVENTS_AT_A_TIME: usize = 128 * 1024;

/// The part of the events left that is published at a time, if that is more.
const PART: usize = 4;

/// The size of an event without its names, in bytes.
const EVENT_SIZE: usize = 256;

fn publish_events(context: Context<'_>) {
    let next = || {
        with_manager(|manager| {
            let event = manager.outbox().take_event()?;
            let channel = channel(&manager.settings().channel_prefix, &event);
            let size = EVENT_SIZE.saturating_add(event.key.len());
            let size = size.saturating_add(event.owner.len());
            Some((channel, message(&event), size))
        })
    };
    let backlog = with_manager(|manager| manager.outbox().events()) / PART;
    let mut left = EVENTS_AT_A_TIME.max(backlog.saturating_mul(EVENT_SIZE));
    while left > 0
        && let Some((channel, message, size)) = next()
    {
        context.publish(&channel, &message);
        left = left.saturating_sub(size);
    }
}
