//! What events of the server change. An event may come in the middle of another client's command,
//! so no key is written here: what has to be written becomes deferred work.

use gpulock_core::engine::tick;

use crate::entry::blocked_client_events::Waiters;
use crate::entry::config_checks;
use crate::entry::delivery::deliver;
use crate::keyspace::ServerKeys;
use crate::manager::{now, with_manager};
use crate::redis::context::Context;
use crate::redis::server_events::ServerEvent;
use crate::redis::{blocked_client, replication_listeners};

/// Handles an event.
pub(super) fn handle(context: Context<'_>, event: ServerEvent<'_>) {
    match event {
        ServerEvent::ListenersChanged => {
            replication_listeners::listeners_may_have_changed();
            return;
        }
        ServerEvent::Cron => {
            replication_listeners::refresh(context, now().ms());
            tick::cron(&mut ServerKeys::in_background(context));
        }
        ServerEvent::ConfigChanged(settings) => {
            replication_listeners::listeners_may_have_changed();
            for name in settings {
                config_checks::setting_changed(context, name);
            }
        }
        ServerEvent::ClientClosed(client) => {
            blocked_client::closed::<Waiters>(client);
            with_manager(|manager| manager.client_gone(client, now()));
        }
        ServerEvent::Promoted => {
            replication_listeners::listeners_may_have_changed();
            with_manager(|manager| manager.promoted(now()));
        }
        ServerEvent::Demoted => {
            replication_listeners::listeners_may_have_changed();
            with_manager(|manager| manager.demoted(now()));
        }
        ServerEvent::Evicted(name) => {
            with_manager(|manager| manager.evicted(name, now()));
        }
    }
    deliver(context);
}
