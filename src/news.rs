//! What others are told after a command or an event was carried out: events are published,
//! and the newest entry of the log gets the line of the client that caused it.

use crate::event::{channel, message};
use crate::server::context::Context;
use crate::server::state::with_keeper;

/// Tells what there is to tell.
pub(crate) fn tell(context: Context<'_>) {
    if !with_keeper(|keeper| keeper.has_news()) {
        return;
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
