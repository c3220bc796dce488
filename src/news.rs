//! What follows a command or an event: waiting clients are answered, events are published, the
//! newest entry of the log gets the line of the client that caused it, and the timer is armed.
//! No key is written here: an event may come in the middle of another client's command.

use gpulock_core::Fault;
use gpulock_core::keeper::Answer;

use crate::event::{channel, message};
use crate::server::context::Context;
use crate::server::state::{now, with_keeper};
use crate::server::{access, blocked, timer};
use crate::{broken, waiting};

/// Tells what there is to tell, and sees to it that the next tick comes in time.
pub(crate) fn tell(context: Context<'_>) {
    let (has_news, mut is_waited) = with_keeper(|keeper| {
        keeper.trim_tracked();
        (keeper.has_news(), keeper.is_waited_for())
    });
    if has_news {
        tell_news(context);
        // A grant may have been refused, and is to be taken back.
        is_waited = with_keeper(|keeper| keeper.is_waited_for());
    }
    if is_waited || timer::is_armed() {
        timer::arm(context, waiting::next_tick_ms(), now().ms());
    }
}

/// The answer, unless it is a grant to a client whose user has lost the right to it: that one
/// is taken back, as when the client had gone.
fn permitted(context: Context<'_>, answer: Answer) -> Answer {
    let Answer::Granted { grants, waiter, .. } = &answer else { return answer };
    let Some(client) = waiter.client else { return answer };
    let first = grants.first().map(|grant| grant.lock);
    let db = with_keeper(|keeper| Some(keeper.table().get(first?)?.db));
    if db.is_none_or(|db| {
        access::may_still_take(context, client, db, grants, waiter.of_set)
    }) {
        return answer;
    }
    with_keeper(|keeper| keeper.not_permitted(grants, waiter));
    Answer::Refused(Fault::NoPermission)
}

fn tell_news(context: Context<'_>) {
    while let Some((ticket, answer)) = with_keeper(|keeper| keeper.take_answer()) {
        if !broken::drops(&answer) {
            blocked::answer(ticket, permitted(context, answer));
        }
    }
    if let Some(client) = with_keeper(|keeper| keeper.take_unidentified())
        && !context.flags().in_script()
        && let Some(line) = context.client_line(client)
    {
        with_keeper(|keeper| keeper.identify(&line));
    }
    let next = || {
        with_keeper(|keeper| {
            let event = keeper.take_event()?;
            let channel = channel(&keeper.settings().channel_prefix, &event);
            Some((channel, event))
        })
    };
    while let Some((channel, event)) = next() {
        context.publish(&channel, &message(&event));
    }
}
