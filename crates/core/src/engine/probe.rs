//! A probe: the engine reads the key of a lock that no command names. A hold whose key is gone ends, and
//! the lock passes to the next waiter.

use crate::engine::hand_off;
use crate::engine::keyspace::{Keyspace, Permission};
use crate::engine::read::{open_lock, state_in_cluster};
use crate::state::arena::Id;
use crate::state::key_state::KeyState;

/// Probes a lock. A free lock with waiters is left to a later probe while the server refuses
/// the write that would hand it over.
pub fn probe<K: Keyspace>(keys: &mut K, id: Id) {
    // A failure with one lock must not keep the others waiting.
    keys.isolated(|keys| {
        let Some((key, name)) = open_lock(keys, id) else { return };
        let meta = keys.meta(&key);
        if keys.with_manager(|manager| manager.matches_meta(id, meta)) {
            return;
        }
        let state = state_in_cluster(keys, &key, name.borrow());
        // In a cluster a refusal does not tell whether the key is free or on another node.
        let leads_to_write = state == KeyState::Absent
            && (keys.in_cluster()
                || keys.with_manager(|manager| manager.has_waiters(id)));
        if leads_to_write && keys.permission(name.borrow().key) == Permission::Refused {
            return;
        }
        let now = keys.now();
        let next = keys.with_manager(|manager| manager.probed(id, &state, now));
        hand_off::take_free_lock(keys, key, next);
    });
}
