//! What others are told after a command or an event was carried out: what is owed to others
//! is made good, waiting clients are answered, events are published, and the newest entry of the log gets the line of the
//! client that caused it.

use crate::event::{channel, message};
use crate::server::context::Context;
use crate::server::state::{now, with_keeper};
use crate::server::{blocked, timer};
use crate::{broken, waiting};

/// Tells what there is to tell, and sees to it that the next tick comes in time.
pub(crate) fn tell(context: Context<'_>) {
    waiting::make_good_at_once(context);
    let (has_news, is_waited) = with_keeper(|keeper| {
        keeper.trim_tracked();
        (keeper.has_news(), keeper.is_waited_for())
    });
    if has_news {
        tell_news(context);
    }
    if is_waited || timer::is_armed() {
        timer::arm(context, waiting::next_tick_ms(), now().ms());
    }
}

fn tell_news(context: Context<'_>) {
    while let Some((ticket, answer)) = with_keeper(|keeper| keeper.take_answer()) {
        if !broken::drops(&answer) {
            blocked::answer(ticket, answer);
        }
    }
    if let Some(client) = with_keeper(|keeper| keeper.take_unidentified())
        && !context.flags().in_script()
    {
        let line = context.client_line(client);
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
