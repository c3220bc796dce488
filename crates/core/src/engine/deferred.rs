//! Deferred work: what events decided and commands could not write. It runs where the server
//! accepts writes: in the timer, before and after a command, and after a grant that missed its
//! client.

use crate::engine::hand_off;
use crate::engine::keyspace::{Keyspace, Permission};
use crate::engine::read::{name_of, open_lock, state_in_cluster};
use crate::rules::session::DeferredOutcome;
use crate::state::clock::Now;
use crate::state::deferred::Deferred;
use crate::state::key_state::KeyState;

/// How long to carry out deferred work at a time, in microseconds: the server serves no client
/// meanwhile. The rest follows with the next tick.
const LONGEST_US: u64 = 1_000;

/// Carries out the deferred work that is due at once, as far as the server accepts writes. Returns
/// false when the time is up.
pub fn run<K: Keyspace>(keys: &mut K, began: Now) -> bool {
    while !is_next_refused(keys)
        && let Some(work) = keys.with_manager(|manager| manager.take_deferred())
    {
        keys.isolated(|keys| run_one(keys, work));
        if keys.is_time_up(began, LONGEST_US) {
            return false;
        }
    }
    true
}

/// Goes on with the sessions that end in portions, as far as the server accepts writes: at least
/// one lock with each tick.
pub(crate) fn run_sessions<K: Keyspace>(keys: &mut K, began: Now) {
    while !is_next_refused(keys)
        && let Some(work) = keys.with_manager(|manager| manager.take_session_end())
    {
        keys.isolated(|keys| run_one(keys, work));
        if keys.is_time_up(began, LONGEST_US) {
            return;
        }
    }
}

fn is_next_refused<K: Keyspace>(keys: &mut K) -> bool {
    let permission = match keys.known_permission() {
        None => ask_permission(keys),
        known => known,
    };
    permission == Some(Permission::Refused)
}

fn ask_permission<K: Keyspace>(keys: &mut K) -> Option<Permission> {
    let lock = keys.with_manager(|manager| manager.next_deferred_lock())?;
    let name = name_of(keys, lock)?;
    Some(keys.permission(name.borrow().key))
}

pub(crate) fn run_one<K: Keyspace>(keys: &mut K, work: Deferred) {
    if let Deferred::Recount { ticket } = work {
        hand_off::take_lock_set(keys, ticket, None);
        return;
    }
    let Some((mut key, name)) = work.lock().and_then(|id| open_lock(keys, id)) else {
        return;
    };
    let state = state_in_cluster(keys, &key, name.borrow());
    // In a cluster the permission may have been that of another lock's key.
    if state == KeyState::Absent
        && keys.in_cluster()
        && keys.permission(name.borrow().key) == Permission::Refused
    {
        keys.with_manager(|manager| manager.defer_again(work));
        return;
    }
    let now = keys.now();
    match keys.with_manager(|manager| manager.run_deferred(work, &state, now)) {
        DeferredOutcome::Nothing => {}
        DeferredOutcome::Ended(next) => hand_off::replace_holder(keys, key, next),
        DeferredOutcome::Free(next) => hand_off::take_free_lock(keys, key, next),
        DeferredOutcome::Shortened { until_ms } => keys.expire(&mut key, until_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::rules::test_support::{NOW, in_session};

    /// A server on which the connection closed that this number of locks is tied to.
    fn server(locks: usize) -> TestKeyspace {
        let mut server = TestKeyspace::new();
        for n in 0..locks {
            server.acquire(&n.to_string(), &in_session("me", 0), 7).unwrap();
        }
        server.manager.client_gone(7, NOW);
        server.written();
        server
    }

    #[test]
    fn deferred_work_stops_when_writes_are_refused_and_continues_later() {
        let mut server = server(3);
        server.permission = Permission::Refused;
        run(&mut server, NOW);
        assert_eq!(server.written(), [] as [&str; 0]);
        assert!(server.manager.deferred().has_work());
        server.permission = Permission::Granted;
        server.writes_left = 1;
        run(&mut server, NOW);
        assert_eq!(server.written(), ["DEL 0"]);
        assert_eq!(server.manager.table().held(), 2);
        server.writes_left = 9;
        run(&mut server, NOW);
        assert_eq!(server.written(), ["DEL 1", "DEL 2"]);
        assert!(!server.manager.deferred().has_any());
    }

    #[test]
    fn deferred_work_stops_after_a_millisecond_and_continues_later() {
        let mut server = server(5);
        server.us_per_write = 400;
        assert!(!run(&mut server, NOW));
        assert_eq!(server.written().len(), 3);
        let began = server.now;
        assert!(run(&mut server, began));
        assert_eq!(server.written().len(), 2);
    }

    #[test]
    fn the_rest_of_a_large_session_ends_after_other_work() {
        let mut server = server(130);
        run(&mut server, NOW);
        assert_eq!(server.written().len(), 128);
        run(&mut server, NOW);
        assert_eq!(server.written().len(), 0);
        server.permission = Permission::Refused;
        run_sessions(&mut server, NOW);
        assert_eq!(server.written().len(), 0);
        server.permission = Permission::Granted;
        run_sessions(&mut server, NOW);
        assert_eq!(server.written().len(), 2);
    }

    #[test]
    fn a_grace_period_sets_the_expiry_of_the_key() {
        let mut server = TestKeyspace::new();
        server.acquire("0", &in_session("me", 5_000), 7).unwrap();
        server.manager.client_gone(7, NOW);
        server.written();
        run(&mut server, NOW);
        assert_eq!(server.written(), ["PEXPIREAT 0"]);
    }
}
