//! GROUPS: a waiter that wants locks of each of several groups, all at once. It collects only the
//! groups that lack the fewest locks: locks of these are reserved for it as they become free (see
//! `lock_set`). A lock of another group passes on to the next waiter, or stays free. The waiter turns
//! to another group only when that one lacks fewer. What was reserved for it then passes on.
//!
//! ```text
//!   COUNT 2 GROUPS 1 2 2 2       group 0: a b    group 1: c d
//!   a becomes free               lacks 1         lacks 2         a is reserved
//!   c becomes free               lacks 1         lacks 1         c passes on, or stays free
//!   d becomes free, c still is   lacks 1         lacks 0         c and d are granted, a passes on
//! ```
//!
//! A lock is free for a waiter if no command holds it and no earlier waiter takes it. Each waiter
//! counts the free locks of each of its groups. A change of one lock is counted for the waiters with
//! GROUPS in its queue that come before the one that takes it: O(N*log N) with N of them, and O(G*log
//! G) with G groups for each that chooses anew. A call that joins is counted alone: O(log N) for each
//! of its locks.

use std::collections::{BTreeSet, VecDeque};

use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::lock_groups::Collected;
use crate::state::turn::Turn;
use crate::state::wait_queue::{Ticket, Waiter};

impl LockManager {
    /// The key of a lock is absent: the waiters with GROUPS that the lock is free for count it.
    pub(crate) fn offer_to_groups(&mut self, id: Id) {
        if self.queues.has_groups(id) {
            self.table.reserve(id);
            self.update_groups(id);
        }
    }

    /// The waiters with GROUPS in the queue of a lock count it anew: it became free or is taken, or
    /// another waiter takes it.
    pub(crate) fn update_groups(&mut self, id: Id) {
        if self.queues.has_groups(id) {
            self.update_groups_of(VecDeque::from([id]));
        }
    }

    fn update_groups_of(&mut self, mut locks: VecDeque<Id>) {
        while let Some(id) = locks.pop_front() {
            self.update_positions(id, &mut locks);
        }
    }

    /// Counts one lock for the waiters in its queue. Adds the free locks that a waiter takes from
    /// now on to `taken`.
    fn update_positions(&mut self, id: Id, taken: &mut VecDeque<Id>) {
        let is_free = self.is_known_free(id);
        let (mut taker, mut after) = (self.turn_of_taker(id), Turn::FIRST);
        while let Some((turn, position)) = self.queues.next_group_position(id, after) {
            after = turn;
            let is_free = is_free && turn <= taker;
            if !is_free && !position.is_free {
                // Nor is it free for the waiters after this one.
                return;
            }
            if is_free != position.is_free
                && let Some(group) = self.queues.set_free(id, turn, is_free)
                && self.must_choose(position.ticket, group)
            {
                if self.choose_groups(position.ticket, taken) {
                    self.recount_later(position.ticket);
                }
                taker = self.turn_of_taker(id);
            }
        }
    }

    fn is_known_free(&self, id: Id) -> bool {
        self.table.get(id).is_some_and(|lock| lock.reserved && lock.hold.is_none())
    }

    /// The turn of the waiter that takes a lock; after all others if none does.
    fn turn_of_taker(&self, id: Id) -> Turn {
        let taker = self.queues.first_taker(id).and_then(|it| self.queues.get(it));
        taker.map_or(Turn::LAST, |waiter| waiter.turn)
    }

    fn must_choose(&self, ticket: Ticket, group: usize) -> bool {
        let groups = self.queues.get(ticket).and_then(|waiter| waiter.groups.as_ref());
        groups.is_some_and(|groups| groups.must_choose(group))
    }

    /// A client has joined the queue of a lock. A waiter with GROUPS takes nothing yet, so that the
    /// others count what they did before.
    pub(crate) fn count_for_new(&mut self, id: Id, turn: Turn, has_groups: bool) {
        if !has_groups {
            self.update_groups(id);
        } else if self.is_known_free(id)
            && turn <= self.turn_of_taker(id)
            && self.queues.is_free_before(id, turn)
        {
            self.queues.set_free(id, turn, true);
        }
    }

    /// A waiter has joined its queues, and its free locks are counted.
    pub(crate) fn join_groups(&mut self, ticket: Ticket) {
        if self.choose_anew(ticket) {
            self.recount_later(ticket);
        }
    }

    /// Chooses the groups that a waiter collects. Returns whether they are complete.
    fn choose_anew(&mut self, ticket: Ticket) -> bool {
        let mut taken = VecDeque::new();
        let is_complete = self.choose_groups(ticket, &mut taken);
        self.update_groups_of(taken);
        is_complete
    }

    /// The same. Adds the free locks that the waiter takes from now on to `taken`: they are no longer
    /// free for the waiters after it.
    fn choose_groups(&mut self, ticket: Ticket, taken: &mut VecDeque<Id>) -> bool {
        self.count_held(ticket);
        let waiter = self.queues.get(ticket).filter(|waiter| waiter.is_waiting());
        let Some(groups) = waiter.and_then(|waiter| waiter.groups.as_ref()) else {
            return false;
        };
        let to_collect = groups.to_collect();
        for number in 0..groups.groups.len() {
            self.collect(ticket, number, to_collect.contains(&number), taken);
        }
        let groups =
            self.queues.get_mut(ticket).and_then(|waiter| waiter.groups.as_mut());
        groups.is_some_and(|groups| {
            groups.chosen();
            groups.are_complete()
        })
    }

    /// Counts the locks that the UNIQUE owner of a waiter holds, if they may have changed.
    fn count_held(&mut self, ticket: Ticket) {
        let Some(waiter) = self.queues.get(ticket) else { return };
        let Some(groups) = waiter.groups.as_ref().filter(|groups| groups.must_recount)
        else {
            return;
        };
        let is_held = |id: &&Id| waiter.unique && self.holds(**id, &waiter.owner);
        let held = groups.groups.iter().map(|group| {
            let locks = waiter.locks.get(group.locks.clone()).unwrap_or_default();
            locks.iter().filter(is_held).count()
        });
        let held: Vec<usize> = held.collect();
        let groups =
            self.queues.get_mut(ticket).and_then(|waiter| waiter.groups.as_mut());
        if let Some(groups) = groups {
            groups.must_recount = false;
            for (group, held) in groups.groups.iter_mut().zip(held) {
                group.held = held;
            }
        }
    }

    /// Begins or ends to collect a group: sets which of its locks the waiter takes.
    fn collect(
        &mut self,
        ticket: Ticket,
        number: usize,
        is_collected: bool,
        taken: &mut VecDeque<Id>,
    ) {
        let Some(waiter) = self.queues.get(ticket) else { return };
        let Some(groups) = &waiter.groups else { return };
        let Some(group) = groups.groups.get(number) else { return };
        let collected = match group.lacks(groups.count) {
            Some(0) if is_collected => Collected::Complete,
            Some(_) if is_collected => Collected::Lacking,
            _ => Collected::No,
        };
        // Which locks make a group complete may have changed.
        if collected == group.collected && collected != Collected::Complete {
            return;
        }
        let turn = waiter.turn;
        let locks = waiter.locks.get(group.locks.clone()).unwrap_or_default().to_vec();
        let needs = groups.count.saturating_sub(group.held);
        let enough = match collected {
            Collected::Complete => self.enough_of(waiter, &locks, needs),
            Collected::Lacking | Collected::No => BTreeSet::new(),
        };
        for id in locks {
            let takes = match collected {
                Collected::No => false,
                Collected::Lacking => true,
                Collected::Complete => enough.contains(&id),
            };
            self.set_takes(id, turn, ticket, takes, taken);
        }
        let groups =
            self.queues.get_mut(ticket).and_then(|waiter| waiter.groups.as_mut());
        if let Some(group) = groups.and_then(|groups| groups.groups.get_mut(number)) {
            group.collected = collected;
        }
    }

    /// As many free locks of a group as a waiter needs. Those that are reserved for it already come
    /// first.
    fn enough_of(&self, waiter: &Waiter, locks: &[Id], needs: usize) -> BTreeSet<Id> {
        let is_free = |id: &&Id| self.queues.is_free_for(**id, waiter.turn);
        let is_taken = |id: &&Id| self.queues.takes(**id, waiter.turn);
        let free = locks.iter().filter(is_free);
        let reserved = free.clone().filter(is_taken);
        let others = free.filter(|id| !is_taken(id));
        reserved.chain(others).take(needs).copied().collect()
    }

    /// Sets whether a waiter takes a lock when it becomes free. A free lock passes on.
    fn set_takes(
        &mut self,
        id: Id,
        turn: Turn,
        ticket: Ticket,
        takes: bool,
        taken: &mut VecDeque<Id>,
    ) {
        if self.queues.takes(id, turn) == takes {
            return;
        }
        self.queues.set_takes(id, turn, ticket, takes);
        match (self.is_known_free(id), takes) {
            (true, true) => taken.push_back(id),
            (true, false) => self.deferred.hand_off(id),
            (false, _) => {}
        }
    }

    /// The locks of a complete waiter: of each group those that its owner holds first, then those
    /// reserved for it; each with whether the owner holds it. None when some are missing.
    pub(crate) fn complete_groups(&mut self, ticket: Ticket) -> Option<Vec<(Id, bool)>> {
        #[cfg(feature = "break-rules")]
        if crate::broken::is("groups-forgotten") {
            return None;
        }
        if !self.choose_anew(ticket) {
            return None;
        }
        let waiter = self.queues.get(ticket)?;
        let groups = waiter.groups.as_ref()?;
        let mut chosen = Vec::new();
        for group in groups.groups.iter().filter(|it| it.collected != Collected::No) {
            let mut held_left = groups.count.min(group.held);
            for id in waiter.locks.get(group.locks.clone())? {
                if held_left > 0 && self.holds(*id, &waiter.owner) {
                    held_left = held_left.saturating_sub(1);
                    chosen.push((*id, true));
                } else if self.is_reserved_for(*id, ticket) {
                    chosen.push((*id, false));
                }
            }
        }
        (chosen.len() == waiter.wants).then_some(chosen)
    }

    /// What the owner of a lock holds counts for the waiter with GROUPS that it has in the queue.
    pub(crate) fn recount_groups_of_holder(&mut self, id: Id, owner: &[u8]) {
        if self.queues.has_groups(id)
            && let Some(own) = self.queues.position_of(owner, id)
            && let Some(waiter) = self.queues.get_mut(own)
            && let Some(groups) = &mut waiter.groups
        {
            groups.must_recount = true;
            self.recount_later(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::commands::Outcome;
    use crate::engine::deferred;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::engine::tick::tick;
    use crate::request::Acquire;
    use crate::rules::test_support::{NOW, after, holder, name, queue, request, unique};
    use crate::state::lock::Bytes;
    use crate::state::outbox::WaitReply;
    use crate::state::turn::Turn;
    use crate::state::wait_queue::{Ticket, Waiter};

    /// Two groups of two.
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];

    /// A server on which `other` holds the locks of two groups of two.
    fn held_server() -> TestKeyspace {
        let mut server = TestKeyspace::new();
        for key in KEYS {
            server.acquire(key, &request("other"), 1).unwrap();
        }
        server
    }

    /// `other` releases a lock, and the deferred work is carried out.
    fn release(server: &mut TestKeyspace, key: &str, owner: &str) {
        assert!(server.release(key, owner).unwrap(), "{key}");
        deferred::run(server, NOW);
    }

    fn holders(server: &TestKeyspace) -> String {
        KEYS.map(|key| server.owner(key).unwrap_or("-").to_owned()).join(" ")
    }

    /// The keys of the locks that are reserved for a waiter.
    fn reserved(server: &TestKeyspace, ticket: Ticket) -> String {
        let manager = &server.manager;
        let locks = manager.queues.get(ticket).unwrap().locks.iter();
        let reserved = locks.filter(|id| manager.is_reserved_for(**id, ticket));
        let key = |id| {
            String::from_utf8_lossy(&manager.table.get(id).unwrap().key).into_owned()
        };
        reserved.map(|id| key(*id)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_call_gets_locks_of_each_of_the_first_groups_that_have_enough() {
        for (held, count, wanted, expected) in [
            ("", 2, 1, Some("me me - -")),
            ("", 1, 2, Some("me - me -")),
            ("a", 2, 1, Some("x - me me")),
            ("a", 1, 2, Some("x me me -")),
            ("a", 1, 1, Some("x me - -")),
            ("a c", 2, 1, None),
            ("a b", 1, 2, None),
            ("c", 2, 2, None),
        ] {
            let mut server = TestKeyspace::new();
            for key in held.split_whitespace() {
                server.acquire(key, &request("x"), 1).unwrap();
            }
            let before = holders(&server);
            let groups = Some((wanted, &[2, 2][..]));
            let outcome = server.acquire_groups(&KEYS, count, groups, request("me"), 2);
            let what = format!("held {held:?}, COUNT {count} GROUPS {wanted}");
            assert_eq!(outcome == Ok(Outcome::Refused), expected.is_none(), "{what}");
            assert_eq!(holders(&server), expected.unwrap_or(&before), "{what}");
        }
    }

    #[test]
    fn a_unique_owner_gets_the_group_in_which_it_holds_a_lock() {
        let mut server = TestKeyspace::new();
        server.acquire("d", &unique("me"), 1).unwrap();
        let groups = Some((1, &[2, 2][..]));
        let outcome = server.acquire_groups(&KEYS, 2, groups, unique("me"), 1);
        let Ok(Outcome::Granted(grants)) = outcome else { panic!("{outcome:?}") };
        let renewed: Vec<_> = grants.iter().map(|it| (it.index, it.renewed)).collect();
        assert_eq!(renewed, [(2, false), (3, true)]);
        // A retry renews both.
        let outcome = server.acquire_groups(&KEYS, 2, groups, unique("me"), 1);
        let Ok(Outcome::Granted(again)) = outcome else { panic!("{outcome:?}") };
        assert!(again.iter().all(|grant| grant.renewed));
        assert_eq!(holders(&server), "- - me me");
    }

    #[test]
    fn locks_are_reserved_in_the_group_that_lacks_the_fewest() {
        let mut server = held_server();
        let me = server.wait_for_groups(&KEYS, 2, (1, &[2, 2]), request("me"), 2);
        release(&mut server, "d", "other");
        assert_eq!(reserved(&server, me), "d", "the second group lacks fewer");
        release(&mut server, "a", "other");
        assert_eq!(reserved(&server, me), "d", "the first does not lack fewer");
        assert_eq!(holder(&server.manager, "a"), "free, reserved");
        let newcomer = server.acquire("a", &request("b"), 3);
        assert!(matches!(newcomer, Ok(Outcome::Granted(_))), "{newcomer:?}");
        assert_eq!(server.acquire("d", &request("b"), 3), Ok(Outcome::Refused));
        release(&mut server, "c", "other");
        assert_eq!(holders(&server), "b other me me");
        assert_eq!(server.manager.queues.len(), 0);
    }

    #[test]
    fn a_lock_that_did_not_pass_on_in_a_demotion_counts_for_the_next_call() {
        let mut server = held_server();
        release(&mut server, "b", "other");
        for (client, keys) in [(2, ["a", "b", "c", "d"]), (3, ["a", "d", "c", "b"])] {
            server.wait_for_groups(&keys, 2, (1, &[2, 2]), request("x"), client);
        }
        // The first waiter, which `b` is reserved for, is removed; the other is only marked as left.
        server.manager.set_budget(1);
        server.manager.demoted(NOW);
        server.manager.promoted(NOW);
        assert_eq!(server.manager.queues.left(), 1);
        let keys = ["a", "c", "b", "d"];
        server.wait_for_groups(&keys, 2, (1, &[2, 2]), request("me"), 4);
        for ms in 1..9 {
            server.manager.expire_waits(after(ms));
            deferred::run(&mut server, after(ms));
        }
        assert_eq!(server.manager.queues.left(), 0);
        // It collects the first group, until the second one is complete.
        release(&mut server, "a", "other");
        release(&mut server, "d", "other");
        assert_eq!(holders(&server), "- me other me");
    }

    #[test]
    fn what_was_reserved_passes_on_when_the_call_turns_to_another_group() {
        let keys = ["a", "b", "c", "d", "e", "f"];
        let mut server = TestKeyspace::new();
        for key in keys {
            server.acquire(key, &request("other"), 1).unwrap();
        }
        let me = server.wait_for_groups(&keys, 3, (1, &[3, 3]), request("me"), 2);
        server.wait("a", &request("b"), 3);
        release(&mut server, "a", "other");
        assert_eq!(reserved(&server, me), "a");
        release(&mut server, "d", "other");
        assert_eq!((reserved(&server, me).as_str(), server.owner("a")), ("a", None));
        release(&mut server, "e", "other");
        assert_eq!(reserved(&server, me), "d e", "the second group lacks fewer");
        assert_eq!(server.owner("a"), Some("b"));
    }

    #[test]
    fn a_complete_group_keeps_only_what_the_call_needs() {
        let keys = ["a", "b", "c", "d"];
        let mut server = held_server();
        // One of three, and the one of the second group.
        let me = server.wait_for_groups(&keys, 1, (2, &[3, 1]), request("me"), 2);
        release(&mut server, "b", "other");
        assert_eq!(reserved(&server, me), "b");
        release(&mut server, "a", "other");
        assert_eq!(reserved(&server, me), "b");
        assert!(matches!(server.acquire("a", &request("x"), 3), Ok(Outcome::Granted(_))));
        // Another command takes the reserved lock; the group lacks one again.
        server.set_by_other("b", "plain", after(1_000).ms());
        server.now = after(10);
        tick(&mut server);
        release(&mut server, "c", "other");
        assert_eq!(reserved(&server, me), "c");
        release(&mut server, "d", "other");
        assert_eq!(holders(&server), "x plain me me");
    }

    #[test]
    fn a_call_is_served_when_a_group_completes_that_it_does_not_collect() {
        let mut server = held_server();
        let me = server.wait_for_groups(&KEYS, 2, (1, &[2, 2]), request("me"), 2);
        release(&mut server, "a", "other");
        assert_eq!(reserved(&server, me), "a");
        // Both locks of the other group are deleted at once.
        server.delete_by_other("c");
        server.delete_by_other("d");
        server.now = after(10);
        tick(&mut server);
        deferred::run(&mut server, NOW);
        assert_eq!(holders(&server), "- other me me");
    }

    #[test]
    fn a_newcomer_does_not_pass_a_call_that_has_not_noticed_yet_that_a_lock_is_free() {
        for is_set in [false, true] {
            let mut server = held_server();
            let me = server.wait_for_groups(&KEYS, 2, (1, &[2, 2]), request("me"), 2);
            server.delete_by_other("d");
            let is_refused = match is_set {
                false => server.acquire("d", &request("new"), 3) == Ok(Outcome::Refused),
                true => {
                    let outcome = server.acquire_any(&["d"], 1, request("new"), 3);
                    outcome == Ok(Outcome::Refused)
                }
            };
            assert!(is_refused, "{is_set}");
            assert_eq!(reserved(&server, me), "d");
        }
    }

    #[test]
    fn a_newcomer_does_not_get_what_a_call_takes_while_the_newcomer_looks_at_its_keys() {
        for (keys, expected) in [
            (&["c", "d"][..], None),
            (&["c", "d", "e"], None),
            (&["c", "d", "e", "f"], Some([2, 3])),
        ] {
            let mut server = TestKeyspace::new();
            for key in ["a", "b", "c"] {
                server.acquire(key, &request("other"), 1).unwrap();
            }
            let short = Acquire { lease_ms: Some(20), ..request("other") };
            server.acquire("d", &short, 1).unwrap();
            server.wait_for_groups(&KEYS, 2, (1, &[2, 2]), request("me"), 2);
            for key in ["a", "c"] {
                release(&mut server, key, "other");
            }
            // With the lock whose lease is over, the second group is complete.
            server.now = after(30);
            let outcome = server.acquire_any(keys, 2, request("new"), 3);
            let granted = match outcome {
                Ok(Outcome::Granted(grants)) => Some([grants[0].index, grants[1].index]),
                _ => None,
            };
            assert_eq!(granted, expected, "{keys:?}");
            deferred::run(&mut server, after(30));
            assert_eq!(holders(&server), "- other me me", "{keys:?}");
        }
    }

    #[test]
    fn what_a_unique_owner_acquires_or_releases_counts_for_its_waiting_call() {
        let mut server = held_server();
        let me = server.wait_for_groups(&KEYS, 2, (1, &[2, 2]), unique("me"), 2);
        server.wait("c", &unique("x"), 4);
        release(&mut server, "a", "other");
        assert_eq!(reserved(&server, me), "a");
        server.set_by_other("d", "me", after(1_000).ms());
        server.now = after(10);
        tick(&mut server);
        deferred::run(&mut server, NOW);
        assert_eq!(reserved(&server, me), "a", "the second group does not lack fewer");
        release(&mut server, "c", "other");
        assert_eq!(holders(&server), "- other me me", "it lacks none");
    }

    #[test]
    fn a_lock_is_no_longer_reserved_when_its_last_position_is_gone() {
        let mut server = held_server();
        server.wait_for_groups(&KEYS, 2, (1, &[2, 2]), request("me"), 2);
        server.wait("c", &unique("b"), 3);
        server.manager.client_gone(3, NOW);
        for key in ["a", "c"] {
            release(&mut server, key, "other");
        }
        assert_eq!(holder(&server.manager, "c"), "free, reserved");
        server.manager.client_gone(2, NOW);
        assert_eq!(queue(&server.manager, "c"), "(b)");
        server.manager.expire_waits(after(10_000));
        assert_eq!(holder(&server.manager, "c"), "free");
    }

    // ---- Random calls

    struct Random(u64);

    impl Random {
        fn new(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
        }

        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 33) as usize % n
        }
    }

    const POOL: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const SIZES: [&[u16]; 6] = [&[6], &[3, 3], &[2, 2, 2], &[1, 5], &[4, 2], &[1, 2, 3]];
    const OWNERS: [&str; 4] = ["m", "n", "o", "p"];

    /// A call of a random kind.
    fn random_call(server: &mut TestKeyspace, random: &mut Random, client: u64) {
        let owner = OWNERS[random.below(OWNERS.len())];
        let mut how = if random.below(2) == 0 { unique(owner) } else { request(owner) };
        how.block_ms = [None, Some(0), Some(0), Some(30)][random.below(4)];
        how.priority = [0, 0, 1, -1][random.below(4)];
        how.share = [None, Some(&b"s"[..])][random.below(2)];
        match random.below(4) {
            0 => drop(server.acquire(POOL[random.below(6)], &how, client)),
            1 => {
                let from = random.below(4);
                let keys = &POOL[from..from + 3];
                drop(server.acquire_any(keys, 1 + random.below(3), how, client));
            }
            _ => {
                let sizes = SIZES[random.below(SIZES.len())];
                let (count, wanted) =
                    (1 + random.below(3), 1 + random.below(sizes.len()));
                let large = sizes.iter().filter(|size| usize::from(**size) >= count);
                if large.count() >= wanted {
                    let groups = Some((wanted, sizes));
                    drop(server.acquire_groups(&POOL, count, groups, how, client));
                }
            }
        }
    }

    /// Other commands change a key.
    fn random_change(
        server: &mut TestKeyspace,
        random: &mut Random,
        key: &str,
        client: u64,
    ) {
        match random.below(4) {
            0 => server.delete_by_other(key),
            1 => {
                server.delete_by_other(key);
                random_call(server, random, client);
            }
            2 => server.set_by_other(key, "", after(90_000).ms()),
            // Each with another lease: a probe compares only lease and length.
            _ => {
                let owner = OWNERS[random.below(4)];
                server.set_by_other(key, owner, after(90_000 + client).ms());
            }
        }
    }

    fn random_step(server: &mut TestKeyspace, random: &mut Random, client: u64) {
        let key = POOL[random.below(6)];
        match random.below(10) {
            0..5 => random_call(server, random, client),
            5..8 => {
                if let Some(owner) = server.owner(key).map(str::to_owned) {
                    server.release(key, &owner).unwrap();
                }
            }
            8 => server.manager.client_gone(1 + client.saturating_sub(5), server.now),
            _ => random_change(server, random, key, client),
        }
        server.manager.command_seen();
        for _ in 0..3 {
            server.now = after(server.now.ms() - NOW.ms() + 10);
            tick(server);
            while !deferred::run(server, server.now) {}
        }
    }

    /// Whether a lock is free for a waiter: its key is absent, and no earlier waiter takes it.
    fn is_free_for(server: &TestKeyspace, key: &Bytes, waiter: &Waiter) -> bool {
        let queues = &server.manager.queues;
        let key = std::str::from_utf8(key).unwrap();
        let id = server.id(key);
        let earlier = queues.positions(id).filter(|(_, it)| it.turn < waiter.turn);
        server.owner(key).is_none()
            && earlier
                .filter(|(_, it)| it.is_waiting())
                .all(|(_, it)| !queues.takes(id, it.turn))
    }

    /// The laws of every state in which no work is deferred.
    fn check(server: &TestKeyspace, what: &str) {
        let manager = &server.manager;
        for ticket in manager.queues.tickets() {
            let waiter = manager.queues.get(ticket).unwrap();
            if !waiter.is_waiting() {
                continue;
            }
            let keys =
                waiter.locks.iter().map(|id| manager.table.get(*id).unwrap().key.clone());
            let keys: Vec<Bytes> = keys.collect();
            let has: Vec<bool> = keys
                .iter()
                .map(|key| {
                    let owner = server.owner(std::str::from_utf8(key).unwrap());
                    let is_held = owner.map(str::as_bytes) == Some(&*waiter.owner);
                    waiter.unique && waiter.of_set && is_held
                        || is_free_for(server, key, waiter)
                })
                .collect();
            let Some(groups) = &waiter.groups else {
                let count = has.iter().filter(|it| **it).count();
                assert!(count < waiter.wants, "{what}: a complete set still waits");
                continue;
            };
            let lacks: Vec<usize> = groups
                .groups
                .iter()
                .filter(|group| group.locks.len() >= groups.count)
                .map(|group| {
                    let has = has[group.locks.clone()].iter().filter(|it| **it).count();
                    assert_eq!(group.held + group.free, has, "{what}: a count is wrong");
                    groups.count.saturating_sub(has)
                })
                .collect();
            let complete = lacks.iter().filter(|lacks| **lacks == 0).count();
            assert!(complete < groups.wanted, "{what}: complete groups still wait");
            check_collected(server, waiter, &has, what);
        }
        for key in POOL {
            let is_reserved = holder(manager, key) == "free, reserved";
            assert!(!is_reserved || !queue(manager, key).is_empty(), "{what}: {key}");
        }
    }

    /// Only the groups that lack the fewest locks are collected, and only their locks are taken.
    fn check_collected(server: &TestKeyspace, waiter: &Waiter, has: &[bool], what: &str) {
        let groups = waiter.groups.as_ref().unwrap();
        let (mut most, mut fewest) = (0, usize::MAX);
        for group in &groups.groups {
            let locks = waiter.locks[group.locks.clone()].iter();
            let taken =
                locks.filter(|id| server.manager.queues.takes(**id, waiter.turn)).count();
            let count = has[group.locks.clone()].iter().filter(|it| **it).count();
            let lacks = groups.count.saturating_sub(count);
            if group.locks.len() < groups.count {
                assert_eq!(taken, 0, "{what}: locks of a small group are taken");
            } else if lacks == 0 {
                assert!(taken <= groups.count, "{what}: more is taken than needed");
            } else if taken > 0 {
                assert_eq!(
                    taken,
                    group.locks.len(),
                    "{what}: a group is collected in part"
                );
                most = most.max(lacks);
            } else {
                fewest = fewest.min(lacks);
            }
        }
        assert!(most <= fewest, "{what}: another group lacks fewer");
    }

    #[test]
    fn no_complete_call_waits_and_only_the_groups_that_lack_the_fewest_are_collected() {
        for seed in 1..=150 {
            let mut random = Random::new(seed);
            let mut server = TestKeyspace::new();
            for client in 2..42 {
                random_step(&mut server, &mut random, client);
                check(&server, &format!("seed {seed}, step {client}"));
                let (owed, held) = (
                    server.manager.counters.expected_held(),
                    server.manager.table.held(),
                );
                assert_eq!(owed, held, "seed {seed}, step {client}: the counters");
            }
        }
    }

    /// Calls one after another while some deferred work remains: it is cut off after a millisecond.
    #[test]
    fn the_laws_hold_once_the_deferred_work_is_done_whenever_it_was_cut_off() {
        for seed in 1..=200 {
            let mut random = Random::new(seed);
            let mut server = TestKeyspace::new();
            if random.below(2) == 0 {
                server.manager.budget.set_size(1 + random.below(6));
            }
            for client in 2..60 {
                random_burst(&mut server, &mut random, client);
                check_prefix(&server, &format!("seed {seed}, step {client}"));
                if random.below(6) > 0 {
                    continue;
                }
                for _ in 0..12 {
                    server.now = after(server.now.ms() - NOW.ms() + 10);
                    server.manager.command_seen();
                    tick(&mut server);
                    let now = server.now;
                    while !deferred::run(&mut server, now) {}
                }
                check(&server, &format!("seed {seed}, step {client}"));
                let (owed, held) = (
                    server.manager.counters.expected_held(),
                    server.manager.table.held(),
                );
                assert_eq!(owed, held, "seed {seed}, step {client}: the counters");
            }
        }
    }

    /// A lock is free for the first waiters of its queue, and not for those after them.
    fn check_prefix(server: &TestKeyspace, what: &str) {
        for key in POOL {
            let name = name(key);
            let Some(id) = server.manager.table.find(name) else { continue };
            let queues = &server.manager.queues;
            let (mut after, mut line) = (Turn::FIRST, Vec::new());
            while let Some((turn, position)) = queues.next_group_position(id, after) {
                line.push(position.is_free);
                after = turn;
            }
            assert!(line.is_sorted_by(|a, b| a >= b), "{what}: {key}: {line:?}");
        }
    }

    fn random_burst(server: &mut TestKeyspace, random: &mut Random, client: u64) {
        let key = POOL[random.below(6)];
        match random.below(12) {
            0..6 => random_call(server, random, client),
            6..8 => {
                if let Some(owner) = server.owner(key).map(str::to_owned) {
                    server.release(key, &owner).unwrap();
                }
            }
            8 => server.manager.client_gone(1 + client.saturating_sub(5), server.now),
            9 => random_change(server, random, key, client),
            10 => {
                while let Some((_, reply)) = server.manager.outbox.take_reply() {
                    if let WaitReply::Granted { grants, waiter, set } = reply
                        && random.below(3) == 0
                    {
                        server.manager.undelivered(&grants, &waiter, &set);
                    }
                }
            }
            _ => {
                let now = server.now;
                server.manager.expire_waits(now);
            }
        }
        for _ in 0..random.below(3) {
            if let Some(work) = server.manager.take_deferred() {
                deferred::run_one(server, work);
            }
        }
        if random.below(3) == 0 {
            server.now = after(server.now.ms() - NOW.ms() + 1);
        }
    }

    #[test]
    fn a_free_lock_that_no_waiter_takes_is_granted_to_a_newcomer() {
        for seed in 1..=100 {
            let mut random = Random::new(seed);
            let mut server = TestKeyspace::new();
            for client in 2..30 {
                random_step(&mut server, &mut random, client);
            }
            for key in POOL {
                if server.owner(key).is_some() {
                    continue;
                }
                let id = server.manager.table.find(name(key));
                let taker = id.and_then(|id| server.manager.queues.first_taker(id));
                // Its turn is after those of all waiters.
                let last = Acquire { priority: -100, ..request("new") };
                let outcome = server.acquire(key, &last, 99).unwrap();
                let is_granted = matches!(outcome, Outcome::Granted(_));
                let line = queue(&server.manager, key);
                assert_eq!(is_granted, taker.is_none(), "seed {seed}: {key}: {line}");
                deferred::run(&mut server, NOW);
                check(&server, &format!("seed {seed}: {key}"));
            }
        }
    }
}
