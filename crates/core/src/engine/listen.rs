//! Starts and stops listening to the server's commands, as `rules/silence.rs` decides. Only between
//! commands: the timer and the cron do it, before they probe.

use crate::engine::keyspace::Keyspace;

/// Starts or stops listening, if that is needed.
pub(crate) fn update<K: Keyspace>(keys: &mut K) {
    let now = keys.now();
    let (is_on, should_be) =
        keys.with_manager(|manager| (manager.is_listening(), manager.should_listen(now)));
    if is_on != should_be {
        keys.listen(should_be);
        keys.with_manager(|manager| manager.set_listening(should_be));
    }
}
