//! Writes the keys when a lock passes on: to one waiter, or, with other reserved locks, to a waiter
//! for a lock set. The rules decide who is next.

use std::collections::BTreeSet;

use crate::engine::keyspace::Keyspace;
use crate::engine::read::{name_of, open_lock, state_in_cluster};
use crate::rules::hand_off::HandOff;
use crate::rules::lock_set::{KeyWrite, ProbedSet, ToProbe};
use crate::state::arena::Id;
use crate::state::wait_queue::Ticket;

/// Passes on a lock whose key still shows its last holder.
pub(crate) fn replace_holder<K: Keyspace>(keys: &mut K, mut key: K::Key, next: HandOff) {
    match next {
        HandOff::NoWaiter | HandOff::Reserved => keys.delete(&mut key),
        HandOff::Waiter(holder) => keys.set(&mut key, &holder.owner, holder.until_ms),
        HandOff::LockSet { ticket, lock } if keys.may_write_other_keys() => {
            drop(key);
            take_lock_set(keys, ticket, Some(lock));
        }
        HandOff::LockSet { ticket, .. } => {
            keys.delete(&mut key);
            keys.with_manager(|manager| manager.hand_off_set_later(ticket));
        }
    }
}

/// Passes on a lock whose key is absent.
pub(crate) fn take_free_lock<K: Keyspace>(keys: &mut K, mut key: K::Key, next: HandOff) {
    match next {
        HandOff::NoWaiter | HandOff::Reserved => {}
        HandOff::Waiter(holder) => keys.set(&mut key, &holder.owner, holder.until_ms),
        HandOff::LockSet { ticket, .. } if keys.may_write_other_keys() => {
            drop(key);
            take_lock_set(keys, ticket, None);
        }
        HandOff::LockSet { ticket, .. } => {
            keys.with_manager(|manager| manager.hand_off_set_later(ticket));
        }
    }
}

/// Grants a lock set if all of it is there. Other commands may have taken a reserved key, so
/// every key is read before the first is written. `released` is the lock that completes the set
/// and whose key still shows its last holder; the key is deleted if the set does not get it.
pub(crate) fn take_lock_set<K: Keyspace>(
    keys: &mut K,
    ticket: Ticket,
    released: Option<Id>,
) {
    let released_name = released.and_then(|id| name_of(keys, id));
    let set = probe_lock_set(keys, ticket, released);
    let now = keys.now();
    let writes = set.and_then(|set| {
        keys.with_manager(|manager| manager.hand_off_set(ticket, set, now))
    });
    let writes = writes.unwrap_or_default();
    write_all(keys, &writes);
    let is_taken = writes.iter().any(|write| Some(write.lock) == released);
    if let Some(name) = released_name.filter(|_| !is_taken)
        && let Some(mut key) = keys.open(name.borrow())
    {
        keys.delete(&mut key);
    }
}

/// Probes the locks that a lock set would get. What a probe finds may put other locks in their
/// place, so this repeats until every lock of the set was probed. None when a lock is missing after
/// all.
fn probe_lock_set<K: Keyspace>(
    keys: &mut K,
    ticket: Ticket,
    released: Option<Id>,
) -> Option<ProbedSet> {
    let mut probed: BTreeSet<Id> = released.into_iter().collect();
    loop {
        let next = keys.with_manager(|manager| manager.unprobed_of(ticket, &probed));
        let unprobed = match next {
            ToProbe::Locks(unprobed) => unprobed,
            ToProbe::Nothing(set) => return Some(set),
            ToProbe::Incomplete => return None,
        };
        for id in unprobed {
            probed.insert(id);
            let Some((key, name)) = open_lock(keys, id) else { continue };
            let state = state_in_cluster(keys, &key, name.borrow());
            let now = keys.now();
            keys.with_manager(|manager| manager.probed_for_set(id, &state, now));
        }
    }
}

/// Writes the keys of locks that were granted together.
pub(crate) fn write_all<K: Keyspace>(keys: &mut K, writes: &[KeyWrite]) {
    for write in writes {
        let Some((mut key, _)) = open_lock(keys, write.lock) else { continue };
        match write.renewed {
            true => keys.expire(&mut key, write.until_ms),
            false => keys.set(&mut key, &write.owner, write.until_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::deferred;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::rules::test_support::{LEASE_END, NOW, begin, holder, queue, request};

    const PAIR: [&str; 2] = ["gpu:0", "gpu:1"];

    /// A server on which `me` waits for `gpu:0` and `gpu:1`: the first is reserved for it, the
    /// second is held by `other`.
    fn server() -> (TestKeyspace, Ticket) {
        let mut server = TestKeyspace::new();
        server.acquire("gpu:1", &request("other"), 1).unwrap();
        let ticket = server.wait_for_set(&PAIR, 2, request("me"), 2);
        assert_eq!(holder(&server.manager, "gpu:0"), "free, reserved");
        server.written();
        begin(&mut server.manager);
        (server, ticket)
    }

    #[test]
    fn a_complete_lock_set_is_written_at_once() {
        let (mut server, ticket) = server();
        assert_eq!(server.release("gpu:1", "other"), Ok(true));
        assert_eq!(server.written(), ["SET gpu:0 me", "SET gpu:1 me"], "without DEL");
        assert_eq!(server.replies(), [(ticket, "granted gpu:0 gpu:1".to_owned())]);
    }

    #[test]
    fn if_another_command_took_a_reserved_lock_only_the_released_key_is_deleted() {
        let (mut server, _) = server();
        server.set_by_other("gpu:0", "third", LEASE_END);
        assert_eq!(server.release("gpu:1", "other"), Ok(true));
        assert_eq!(server.written(), ["DEL gpu:1"]);
        assert_eq!(holder(&server.manager, "gpu:0"), "third, adopted");
        assert_eq!(holder(&server.manager, "gpu:1"), "free, reserved");
        assert_eq!(queue(&server.manager, "gpu:0"), "me");
    }

    #[test]
    fn a_released_key_that_the_lock_set_does_not_get_is_deleted() {
        let mut server = TestKeyspace::new();
        let three = ["gpu:0", "gpu:1", "gpu:2"];
        for key in three {
            server.acquire(key, &request("other"), 1).unwrap();
        }
        server.wait_for_set(&three, 2, request("me"), 2);
        // A script frees the first two, which complete the set, but may not write them.
        server.may_write_other_keys = false;
        server.release("gpu:0", "other").unwrap();
        server.release("gpu:1", "other").unwrap();
        server.may_write_other_keys = true;
        server.written();
        assert_eq!(server.release("gpu:2", "other"), Ok(true));
        assert_eq!(server.written(), ["SET gpu:0 me", "SET gpu:1 me", "DEL gpu:2"]);
        assert_eq!(holder(&server.manager, "gpu:2"), "free");
    }

    #[test]
    fn in_a_script_the_lock_set_is_deferred() {
        let (mut server, ticket) = server();
        server.may_write_other_keys = false;
        assert_eq!(server.release("gpu:1", "other"), Ok(true));
        assert_eq!(
            server.written(),
            ["DEL gpu:1"],
            "only the key that the command names"
        );
        assert_eq!(server.replies(), []);
        server.may_write_other_keys = true;
        deferred::run(&mut server, NOW);
        assert_eq!(server.written(), ["SET gpu:0 me", "SET gpu:1 me"]);
        assert_eq!(server.replies(), [(ticket, "granted gpu:0 gpu:1".to_owned())]);
    }

    #[test]
    fn in_a_script_one_lock_passes_to_its_waiter_at_once() {
        let mut server = TestKeyspace::new();
        server.acquire("gpu:0", &request("other"), 1).unwrap();
        server.wait("gpu:0", &request("me"), 2);
        server.written();
        server.may_write_other_keys = false;
        assert_eq!(server.release("gpu:0", "other"), Ok(true));
        assert_eq!(server.written(), ["SET gpu:0 me"]);
    }
}
