//! Reading keys: what a key shows, and whether it was set again since its hold ended.

use crate::engine::keyspace::{Keyspace, Permission};
use crate::state::arena::Id;
use crate::state::key_state::{Expires, KeyState};
use crate::state::lock::{Bytes, Name};

/// The name of a lock, for the time in which nothing of the manager is borrowed.
pub(crate) struct OwnedName {
    db: u32,
    key: Bytes,
}

impl OwnedName {
    pub(crate) fn borrow(&self) -> Name<'_> {
        Name { db: self.db, key: &self.key }
    }
}

/// Opens the key of a lock that the manager knows.
pub(crate) fn open_lock<K: Keyspace>(
    keys: &mut K,
    id: Id,
) -> Option<(K::Key, OwnedName)> {
    let name = name_of(keys, id)?;
    let key = keys.open(name.borrow())?;
    // Opening a key may call back into the module, which may forget the lock and reuse its id.
    let is_same = keys.with_manager(|manager| {
        manager.table().get(id).is_some_and(|lock| lock.name() == name.borrow())
    });
    is_same.then_some((key, name))
}

/// The name of a lock that the manager knows.
pub(crate) fn name_of<K: Keyspace>(keys: &mut K, id: Id) -> Option<OwnedName> {
    keys.with_manager(|manager| {
        let lock = manager.table().get(id)?;
        Some(OwnedName { db: lock.db, key: lock.key.clone() })
    })
}

/// What a key shows. A hold that ended before the key was set again by the same owner is
/// ended first.
pub fn state_of<'k, K: Keyspace>(
    keys: &mut K,
    key: &'k K::Key,
    name: Name<'_>,
) -> KeyState<'k> {
    let Some(expires) = keys.expiry(key) else { return keys.state(key) };
    end_if_set_again(keys, key, name, expires);
    keys.string_state(key, expires)
}

/// The same for a key that the current command does not name: in a cluster another node may
/// hold a key that is absent here.
pub(crate) fn state_in_cluster<'k, K: Keyspace>(
    keys: &mut K,
    key: &'k K::Key,
    name: Name<'_>,
) -> KeyState<'k> {
    match state_of(keys, key, name) {
        KeyState::Absent if is_elsewhere(keys, name.key) => KeyState::Elsewhere,
        state => state,
    }
}

fn is_elsewhere<K: Keyspace>(keys: &mut K, key: &[u8]) -> bool {
    keys.in_cluster() && keys.permission(key) == Permission::Elsewhere
}

/// Ends the hold of a lock whose key was set again, to the same owner, after the lease was over.
/// Returns whether it did.
pub fn end_if_set_again<K: Keyspace>(
    keys: &mut K,
    key: &K::Key,
    name: Name<'_>,
    expires: Expires,
) -> bool {
    let other_lease = keys.with_manager(|manager| manager.other_lease(name, expires));
    let Some(id) = other_lease else { return false };
    let now = keys.now();
    if !keys.with_manager(|manager| manager.is_lease_over(id, now)) || keys.is_ours(key) {
        return false;
    }
    keys.with_manager(|manager| manager.key_was_set_again(id, expires, now));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::rules::test_support::{
        GPU, LEASE_END, begin, counted, holder, name, unique,
    };
    use crate::state::clock::Now;

    /// A server on which `me` holds the lock.
    fn server() -> TestKeyspace {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &unique("me"), 1).unwrap();
        begin(&mut server.manager);
        server
    }

    #[test]
    fn a_hold_whose_key_was_set_again_after_its_lease_ends_first() {
        for (what, by_other, expected_counted, expected_holder) in [
            (
                "set again by the same owner",
                (|it| it.set_by_other(GPU, "me", 2_000_000)) as fn(&mut TestKeyspace),
                "adopted expired",
                "me, adopted",
            ),
            ("extended in time", |it| it.expire_by_other(GPU, 2_000_000), "", "me"),
        ] {
            let mut server = server();
            by_other(&mut server);
            server.now = Now::from_ms(LEASE_END + 50);
            let key = server.open(name(GPU)).unwrap();
            let state = state_of(&mut server, &key, name(GPU));
            let expires = Expires::At(2_000_000);
            assert_eq!(state, KeyState::String { value: b"me", expires }, "{what}");
            assert_eq!(counted(&server.manager), expected_counted, "{what}");
            assert_eq!(holder(&server.manager, GPU), expected_holder, "{what}");
        }
    }

    #[test]
    fn a_key_that_was_set_again_before_the_lease_is_over_shows_the_same_hold() {
        let mut server = server();
        server.set_by_other(GPU, "me", 2_000_000);
        let key = server.open(name(GPU)).unwrap();
        state_of(&mut server, &key, name(GPU));
        assert_eq!(counted(&server.manager), "");
    }
}
