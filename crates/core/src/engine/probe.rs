//! A probe: the engine reads the key of a lock that no command names. A hold whose key is gone
//! ends, and the lock passes to the next waiter.

use crate::engine::hand_off;
use crate::engine::keyspace::{Keyspace, Permission};
use crate::engine::read::{open_lock, state_in_cluster};
use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::key_state::KeyState;
use crate::state::lock::Name;

/// Probes a lock. A free lock with waiters is left to a later probe while the server refuses
/// the write that would hand it over.
pub fn probe<K: Keyspace>(keys: &mut K, id: Id) {
    // A failure with one lock must not keep the others waiting.
    keys.isolated(|keys| {
        let Some((key, name)) = open_lock(keys, id) else { return };
        let meta = keys.meta(&key);
        if !keys.with_manager(|manager| manager.matches_meta(id, meta)) {
            update(keys, id, key, name.borrow());
        }
    });
    keys.with_manager(|manager| manager.keep_probing_unheld(id));
}

/// Updates the record of a lock to its key, and hands the lock off if it is free.
fn update<K: Keyspace>(keys: &mut K, id: Id, key: K::Key, name: Name<'_>) {
    let state = state_in_cluster(keys, &key, name);
    // In a cluster a refusal does not tell whether the key is free or on another node.
    let leads_to_write = state == KeyState::Absent
        && (keys.in_cluster() || keys.with_manager(|manager| manager.has_waiters(id)));
    if leads_to_write && keys.permission(name.key) == Permission::Refused {
        keys.with_manager(LockManager::keys_may_change);
        return;
    }
    let now = keys.now();
    let next = keys.with_manager(|manager| manager.probed(id, &state, now));
    hand_off::take_free_lock(keys, key, next);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::rules::test_support::{
        GPU, LEASE_END, adopted, after, begin, counted, holder, queue, request, unique,
    };

    /// A server on which `me` holds the lock and `b` waits for it.
    fn server() -> TestKeyspace {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &unique("me"), 1).unwrap();
        server.wait(GPU, &request("b"), 2);
        server.written();
        begin(&mut server.manager);
        server
    }

    fn probe_gpu(server: &mut TestKeyspace) {
        let lock = server.id(GPU);
        probe(server, lock);
    }

    #[test]
    fn a_probe_hands_a_free_lock_to_the_first_waiter() {
        let mut server = server();
        probe_gpu(&mut server);
        assert_eq!(server.owner(GPU), Some("me"), "it is not free");
        server.delete_by_other(GPU);
        probe_gpu(&mut server);
        assert_eq!(server.written(), ["SET gpu:0 b"]);
        assert_eq!(server.replies().len(), 1);
    }

    #[test]
    fn a_free_lock_with_waiters_is_left_to_a_later_probe_while_writes_are_refused() {
        let mut server = server();
        server.delete_by_other(GPU);
        server.permission = Permission::Refused;
        probe_gpu(&mut server);
        assert_eq!((server.written(), server.replies()), (vec![], vec![]));
        assert_eq!(holder(&server.manager, GPU), "me", "the record is unchanged");
        server.permission = Permission::Granted;
        probe_gpu(&mut server);
        assert_eq!(server.owner(GPU), Some("b"));
    }

    #[test]
    fn without_waiters_a_hold_ends_although_writes_are_refused() {
        let mut server = server();
        server.manager.client_gone(2, after(0));
        server.delete_by_other(GPU);
        server.permission = Permission::Refused;
        probe_gpu(&mut server);
        assert_eq!(holder(&server.manager, GPU), "free");
    }

    #[test]
    fn in_a_cluster_an_absent_key_may_be_served_by_another_node() {
        for (permission, expected_counted, expected_queue) in [
            (Permission::Elsewhere, "waits_abandoned moved", ""),
            // A refusal hides whether it is.
            (Permission::Refused, "", "b"),
            (Permission::Granted, "acquired acquired_after_wait removed", ""),
        ] {
            let mut server = server();
            server.in_cluster = true;
            server.delete_by_other(GPU);
            server.permission = permission;
            probe_gpu(&mut server);
            let counted = counted(&server.manager);
            assert_eq!(counted, expected_counted, "{permission:?}");
            assert_eq!(queue(&server.manager, GPU), expected_queue, "{permission:?}");
        }
    }

    #[test]
    fn a_value_is_not_read_if_the_metadata_matches_the_record() {
        let mut server = TestKeyspace::new();
        adopted(&mut server.manager, GPU, "me");
        server.set_by_other(GPU, "me", LEASE_END);
        probe_gpu(&mut server);
        assert_eq!(server.values_read, 0);
        server.set_by_other(GPU, "me", LEASE_END + 1);
        probe_gpu(&mut server);
        assert_eq!(server.values_read, 1);
    }
}
