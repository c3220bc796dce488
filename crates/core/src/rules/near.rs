//! NEAR: which free locks a call prefers, by what ran on them last.
//!
//! ```text
//!   GPULOCK.ACQUIREANY 5 gpu:0 … gpu:4 me NEAR llama
//!
//!                 gpu:0     gpu:1     gpu:2     gpu:3     gpu:4
//!   last tag      whisper   (none)    llama     clip      llama
//!   left          1 h ago             2 h ago   5 h ago   3 h ago
//!   preferred     5th       3rd       1st       4th       2nd
//! ```
//!
//! The locks whose last hold had the same tag come first, in the order given. Then those without a
//! tag, because nothing that may still be useful is on them. Of the others, those that were left
//! longest ago. With GROUPS, the groups that have a free lock with the tag come first.
//!
//! A tag is remembered when its hold ends ([`Tags`]), and is forgotten when a later hold without a
//! tag ends. A grant that is taken back because it did not arrive changes nothing: nothing ran.
//! Nothing is written to a key, and a restart forgets all tags.
//!
//! [`Tags`]: crate::state::tags::Tags

use smallvec::SmallVec;

use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::event::End;
use crate::state::hold_details::HoldDetails;

/// Indexes of the keys of a call, those of the preferred locks first.
pub(crate) type Order = SmallVec<[u16; 8]>;

/// The index of a key, as [`Order`] has it: a call has at most 1024 keys.
pub(crate) fn number_of(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// What a call prefers, the preferred first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Preference {
    Same,
    Untagged,
    /// Another tag. The number is lower the longer ago the lock was left.
    Other(u64),
}

/// Locks with the indexes of their keys.
pub(crate) type Preferences = SmallVec<[(Preference, u16); 8]>;

/// The indexes of the preferred locks first; of equal ones, in the order given.
pub(crate) fn preferred_first(mut locks: Preferences) -> Order {
    locks.sort_unstable();
    locks.into_iter().map(|(_, index)| index).collect()
}

impl LockManager {
    /// How much a call with a tag prefers a lock: given by the hash of its name, and by its id if the
    /// table has it.
    pub(crate) fn preference(&self, tag: &[u8], hash: u64, id: Option<Id>) -> Preference {
        // A hold that is over may not have ended in the record yet.
        let (last, number) = match id.filter(|id| self.table.hold(*id).is_some()) {
            Some(id) => {
                (self.table.details(id).and_then(|it| it.tag.as_deref()), u64::MAX)
            }
            None => {
                let left = self.tags.get(hash);
                (left.map(|left| &*left.tag), left.map_or(0, |left| left.number))
            }
        };
        match last {
            Some(last) if last == tag => Preference::Same,
            Some(_) => Preference::Other(number),
            None => Preference::Untagged,
        }
    }

    /// A hold has ended: remembers its tag.
    pub(crate) fn remember_tag(
        &mut self,
        id: Id,
        details: Option<Box<HoldDetails>>,
        end: &End,
    ) {
        let tag = details.and_then(|details| details.tag);
        if (tag.is_none() && self.tags.is_empty()) || *end == End::Undelivered {
            return;
        }
        let Some(lock) = self.table.get(id) else { return };
        let hash = self.table.hash(lock.name());
        match tag {
            Some(tag) => self.tags.remember(hash, tag),
            None => self.tags.forget(hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Caller;
    use crate::request::{Acquire, AcquireAny, Groups};
    use crate::rules::acquire_any::{AcquiredAny, Search};
    use crate::rules::deadlock::DeadlockCheck;
    use crate::rules::test_support::{
        GPU, LEASE_END, NOW, after, begin, client, held, id, manager, name, request,
        shows, unique, wait,
    };
    use crate::state::clock::Now;
    use crate::state::key_state::KeyState;
    use crate::state::outbox::WaitReply;
    use crate::state::settings::Settings;
    use crate::state::wait_queue::Wanted;

    const KEYS: [&str; 5] = ["gpu:0", "gpu:1", "gpu:2", "gpu:3", "gpu:4"];

    /// A call for some locks. Each key shows the holder in the record unless its lease is over.
    /// Returns the indexes of the locks that it gets, and those of the keys that it looks at.
    fn call(
        manager: &mut LockManager,
        keys: &[&str],
        count: usize,
        near: Option<&str>,
        how: Acquire<'_>,
        now: Now,
    ) -> (Vec<usize>, Vec<usize>) {
        call_in_groups(manager, (keys, None), count, near, how, now)
    }

    fn call_in_groups(
        manager: &mut LockManager,
        (keys, groups): (&[&str], Option<Groups>),
        count: usize,
        near: Option<&str>,
        how: Acquire<'_>,
        now: Now,
    ) -> (Vec<usize>, Vec<usize>) {
        let names = keys.iter().map(|key| key.as_bytes()).collect();
        let near = near.map(str::as_bytes);
        let call = AcquireAny { keys: names, count, groups, near, how };
        let mut search = Search::new(0, &call);
        let mut looked_at = Vec::new();
        let mut next = manager.search_locks(&mut search, client(7), now).unwrap();
        while let Some(index) = next {
            looked_at.push(index);
            let lock = manager.table.find(name(keys[index]));
            let hold = lock.and_then(|id| manager.table.hold(id));
            let hold = hold.filter(|hold| !hold.is_over(now.ms()));
            let owner = hold.map(|hold| String::from_utf8(hold.owner.to_vec()).unwrap());
            let state = owner.as_deref().map_or(KeyState::Absent, shows);
            next = manager.looked_at(&mut search, index, &state, now).unwrap();
        }
        match manager.acquire_any(&search, client(7), now).unwrap() {
            AcquiredAny::Granted(grants) => {
                (grants.iter().map(|grant| grant.index).collect(), looked_at)
            }
            AcquiredAny::Contested { .. } => (Vec::new(), looked_at),
        }
    }

    fn end(manager: &mut LockManager, key: &str, end: End) {
        let lock = id(manager, key);
        manager.end(lock, end, Caller::default(), NOW);
        manager.forget_idle();
    }

    /// A hold with this tag, or without one, that ends.
    fn used(manager: &mut LockManager, key: &str, tag: Option<&str>) {
        let (got, _) = call(manager, &[key], 1, tag, request("earlier"), NOW);
        assert_eq!(got, [0]);
        end(manager, key, End::Expired);
    }

    /// The picture above: what was left in the order 3, 4, 2, 0.
    fn picture() -> LockManager {
        let mut manager = manager();
        for (key, tag) in [
            ("gpu:3", "clip"),
            ("gpu:4", "llama"),
            ("gpu:2", "llama"),
            ("gpu:0", "whisper"),
        ] {
            used(&mut manager, key, Some(tag));
        }
        manager
    }

    #[test]
    fn locks_with_the_tag_come_first_then_those_without_then_those_left_longest_ago() {
        for (count, granted, looked_at) in [
            (1, &[2][..], &[2][..]),
            (2, &[2, 4], &[2, 4]),
            (3, &[1, 2, 4], &[2, 4, 1]),
            (4, &[1, 2, 3, 4], &[2, 4, 1, 3]),
            (5, &[0, 1, 2, 3, 4], &[2, 4, 1, 3, 0]),
        ] {
            for how in [request("me"), unique("me")] {
                let mut manager = picture();
                let (got, looked) =
                    call(&mut manager, &KEYS, count, Some("llama"), how, NOW);
                assert_eq!(got, granted, "COUNT {count}, UNIQUE {}", how.unique);
                if !how.unique {
                    assert_eq!(looked, looked_at, "COUNT {count}");
                }
            }
        }
    }

    #[test]
    fn without_near_and_with_an_unknown_tag_the_rest_of_the_rule_holds() {
        for (near, count, granted) in
            [(None, 2, &[0, 1][..]), (Some("new"), 1, &[1]), (Some("new"), 2, &[1, 3])]
        {
            let (got, _) = call(&mut picture(), &KEYS, count, near, request("me"), NOW);
            assert_eq!(got, granted, "{near:?}");
        }
    }

    #[test]
    fn a_unique_owner_keeps_what_it_holds_in_key_order_before_what_is_near() {
        let mut manager = picture();
        for key in ["gpu:0", "gpu:4"] {
            let (got, _) = call(&mut manager, &[key], 1, None, unique("me"), NOW);
            assert_eq!(got, [0]);
        }
        for (count, granted) in [(1, &[0][..]), (2, &[0, 4]), (3, &[0, 2, 4])] {
            let (got, _) =
                call(&mut manager, &KEYS, count, Some("llama"), unique("me"), NOW);
            assert_eq!(got, granted, "COUNT {count}");
        }
    }

    #[test]
    fn a_lock_that_is_held_is_not_near() {
        let mut manager = picture();
        held(&mut manager, "gpu:2", "other");
        let (got, looked_at) =
            call(&mut manager, &KEYS, 1, Some("llama"), request("me"), NOW);
        assert_eq!((got, looked_at), (vec![4], vec![4]));
    }

    #[test]
    fn what_a_hold_leaves_behind() {
        let tagged = |it: &mut LockManager| used(it, GPU, Some("new"));
        let untagged = |it: &mut LockManager| used(it, GPU, None);
        let renewed = |it: &mut LockManager| {
            call(it, &[GPU], 1, Some("old"), unique("me"), NOW);
            call(it, &[GPU], 1, Some("new"), unique("me"), NOW);
            end(it, GPU, End::Removed);
        };
        let renewed_without = |it: &mut LockManager| {
            call(it, &[GPU], 1, Some("new"), unique("me"), NOW);
            call(it, &[GPU], 1, None, unique("me"), NOW);
            end(it, GPU, End::Evicted);
        };
        let undelivered = |it: &mut LockManager| {
            call(it, &[GPU], 1, Some("new"), request("me"), NOW);
            end(it, GPU, End::Undelivered);
        };
        let held_now = |it: &mut LockManager| {
            call(it, &[GPU], 1, Some("new"), request("me"), NOW);
        };
        for (what, hold, expected) in [
            ("its tag", tagged as fn(&mut LockManager), Some("new")),
            ("no tag, if it had none", untagged, None),
            ("the tag of its last renewal that named one", renewed, Some("new")),
            ("the tag that a renewal did not name", renewed_without, Some("new")),
            ("nothing, if it did not arrive", undelivered, Some("old")),
            ("nothing yet, while it is held", held_now, Some("old")),
        ] {
            let mut manager = manager();
            used(&mut manager, GPU, Some("old"));
            hold(&mut manager);
            let hash = manager.table.hash(name(GPU));
            let left = manager.tags.get(hash).map(|left| left.tag.to_vec());
            assert_eq!(left.as_deref(), expected.map(str::as_bytes), "{what}");
        }
    }

    #[test]
    fn the_tag_of_a_waiting_call_is_that_of_its_hold_and_does_not_change_its_turn() {
        let mut manager = manager();
        held(&mut manager, GPU, "other");
        wait(&mut manager, GPU, &request("first"), 2);
        let keys = [GPU.as_bytes()];
        let wanted = Wanted {
            keys: &keys,
            of_set: true,
            near: Some(b"llama"),
            ..Wanted::default()
        };
        let check = DeadlockCheck::Skipped;
        manager.wait(wanted, &request("me"), 3, &check, true, NOW).unwrap();
        begin(&mut manager);
        for (owner, tag) in [("first", None), ("me", Some(&b"llama"[..]))] {
            end(&mut manager, GPU, End::Removed);
            manager.hand_off_next(id(&manager, GPU), NOW);
            let reply = manager.outbox.take_reply();
            let Some((_, WaitReply::Granted { waiter, .. })) = reply else {
                panic!("{reply:?}")
            };
            assert_eq!(&*waiter.owner, owner.as_bytes());
            let details = manager.table.details(id(&manager, GPU));
            assert_eq!(details.and_then(|it| it.tag.as_deref()), tag);
        }
    }

    #[test]
    fn a_hold_whose_lease_is_over_has_left_its_tag_although_nobody_has_noticed() {
        let mut manager = manager();
        used(&mut manager, "gpu:2", Some("clip"));
        call(&mut manager, &["gpu:1"], 1, Some("llama"), request("other"), NOW);
        let late = after(LEASE_END);
        let keys = ["gpu:0", "gpu:1", "gpu:2"];
        for (near, granted) in [("llama", 1), ("clip", 2)] {
            let mut manager = manager.clone();
            let (got, _) = call(&mut manager, &keys, 1, Some(near), request("me"), late);
            assert_eq!(got, [granted], "NEAR {near}");
        }
    }

    #[test]
    fn remembered_tags_limits_what_is_remembered_at_once() {
        let settings = Settings { remembered_tags: 1, ..Settings::default() };
        let mut manager = LockManager::new(settings, 1, NOW);
        used(&mut manager, "gpu:1", Some("llama"));
        used(&mut manager, "gpu:2", Some("llama"));
        for (limit, granted) in [(1, 2), (0, 0)] {
            manager.configure(|settings| settings.remembered_tags = limit);
            let mut manager = manager.clone();
            let (got, _) =
                call(&mut manager, &KEYS, 1, Some("llama"), request("me"), NOW);
            assert_eq!(got, [granted], "remembered-tags {limit}");
        }
    }

    #[test]
    fn a_reset_of_the_counters_keeps_the_tags() {
        let mut manager = picture();
        manager.reset_stats();
        let (got, _) = call(&mut manager, &KEYS, 1, Some("llama"), request("me"), NOW);
        assert_eq!(got, [2]);
    }

    #[test]
    #[rustfmt::skip]
    fn groups_with_a_free_lock_with_the_tag_come_first() {
        let keys: Vec<String> = (0..9).map(|gpu| format!("gpu:{gpu}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        for (what, near, held_by, wanted, count, granted) in [
            ("without NEAR the first", None, &[][..], 1, 2, &[0, 1][..]),
            ("the group of the lock, and the lock first", Some("llama"), &[], 1, 2, &[6, 8]),
            ("all of it", Some("llama"), &[], 1, 3, &[6, 7, 8]),
            ("the others in the order given", Some("llama"), &[], 2, 1, &[0, 8]),
            ("one lock of any group", Some("llama"), &[], 1, 1, &[8]),
            ("the lock is held", Some("llama"), &["gpu:8"], 1, 2, &[0, 1]),
            ("its group is not complete", Some("llama"), &["gpu:7"], 1, 3, &[0, 1, 2]),
        ] {
            for how in [request("me"), unique("me")] {
                let mut manager = manager();
                used(&mut manager, "gpu:8", Some("llama"));
                used(&mut manager, "gpu:7", Some("clip"));
                for key in held_by {
                    held(&mut manager, key, "other");
                }
                let groups = Groups { wanted, sizes: SmallVec::from_slice(&[3, 3, 3]) };
                let named = (&keys[..], Some(groups));
                let (got, _) = call_in_groups(&mut manager, named, count, near, how, NOW);
                assert_eq!(got, granted, "{what}, UNIQUE {}", how.unique);
            }
        }
    }

    #[test]
    fn a_group_in_which_a_unique_owner_holds_a_lock_comes_before_one_that_is_near() {
        let mut manager = manager();
        used(&mut manager, "gpu:0", Some("llama"));
        call(&mut manager, &["gpu:2"], 1, None, unique("me"), NOW);
        let groups = Groups { wanted: 1, sizes: SmallVec::from_slice(&[2, 2]) };
        let named = (&KEYS[..4], Some(groups));
        let near = Some("llama");
        let (got, _) = call_in_groups(&mut manager, named, 2, near, unique("me"), NOW);
        assert_eq!(got, [2, 3]);
    }
}
