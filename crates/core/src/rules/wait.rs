//! Waiting: how a client joins wait queues. How it leaves them is in `leave`.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::Acquire;
use crate::rules::deadlock::DeadlockCheck;
use crate::rules::leave::LeaveReason;
use crate::rules::turn::Entry;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::lease;
use crate::state::lock::{Bytes, Name};
use crate::state::lock_groups::LockGroups;
use crate::state::turn::Turn;
use crate::state::wait_queue::{Locks, Ticket, Waiter, Wanted};

/// What became of a call that may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It has a position; the reply follows later, under this ticket.
    Queued(Ticket),
    /// It seems to close a cycle through these locks: probe them and call again, because the record
    /// may be older than what their keys show.
    ProbeFirst(Vec<Id>),
}

impl LockManager {
    /// Queues a call that was not granted its locks at once. `check` says what came of
    /// [`Waiting::ProbeFirst`]; `has_memory` is false when the server is out of memory.
    ///
    /// # Errors
    /// When too many clients wait, memory is short, or the wait would close a cycle.
    pub fn wait(
        &mut self,
        wanted: Wanted<'_>,
        request: &Acquire<'_>,
        client: u64,
        check: &DeadlockCheck,
        has_memory: bool,
        now: Now,
    ) -> Result<Waiting, CommandError> {
        let lease_ms = lease::requested(request.lease_ms, &self.settings)?;
        let locks = self.find_or_create_all(wanted).ok_or(CommandError::OutOfMemory)?;
        let older = self.own_positions(&locks, request);
        self.check_room(&locks, &older)?;
        if older.is_empty() && !has_memory {
            return Err(CommandError::OutOfMemory);
        }
        if request.unique
            && let DeadlockCheck::Probed(probed) = check
            && let Some(cycle) = self.cycle(request.owner, wanted, &locks, &older, now)
        {
            if cycle.locks != *probed {
                return Ok(Waiting::ProbeFirst(cycle.locks));
            }
            return Err(self.refuse_deadlock(wanted, request, cycle, client, now));
        }
        let groups = wanted.groups.map(|groups| {
            let count = wanted.count.checked_div(groups.wanted).unwrap_or(0);
            Box::new(LockGroups::new(groups, count))
        });
        let same =
            self.same_call(&older, &locks, wanted.count, groups.as_deref(), request, now);
        // Its turn is used again, so it has to leave the queues first. They go on counting.
        let counted_before = same.and_then(|_| self.queues.counted_of_all(&locks));
        let same =
            same.and_then(|ticket| self.end_wait(ticket, LeaveReason::TakenOver, now));
        for ticket in older {
            self.end_wait_within_budget(ticket, LeaveReason::TakenOver, now);
        }
        for lock in wanted.free.iter().filter_map(|index| locks.get(*index)) {
            if self.table.reserve(*lock) {
                self.update_groups(*lock);
            }
        }
        let (turn, counted, counted_at_end) = match &same {
            Some(same) => (same.turn, same.counted, counted_before),
            None => {
                let Entry { number, counted } = self.entry(&locks, request);
                let arrival = self.queues.next_number();
                (Turn { number, arrival }, counted, None)
            }
        };
        let deadline = |ms: u64| now.ms().saturating_add(ms);
        let waiter = Waiter {
            locks,
            wants: wanted.count,
            groups,
            of_set: wanted.of_set,
            turn,
            counted,
            counted_at_end,
            owner: Bytes::from_slice(request.owner),
            unique: request.unique,
            priority: request.priority,
            share: request.share.map(Bytes::from_slice),
            tag: wanted.near.map(Into::into),
            keep_ms: request.keep_ms,
            lease_ms,
            session_grace_ms: request.session_grace_ms,
            since_ms: same.map_or(now.ms(), |same| same.since_ms),
            client: Some(client),
            deadline_ms: request.block_ms.filter(|ms| *ms > 0).map(deadline),
            missing: 0,
            kept_number: 0,
            recount_deferred: false,
            left: None,
        };
        let ticket = self.add_waiter(waiter, now);
        self.hand_off_what_became_free(ticket, wanted);
        Ok(Waiting::Queued(ticket))
    }

    /// Waiters that were before a call may have left since it was refused: the older calls of its
    /// owner, or a set that got other locks than the one that the call was refused for. And its turn
    /// may be a later one than when it found locks free: then these pass on.
    fn hand_off_what_became_free(&mut self, ticket: Ticket, wanted: Wanted<'_>) {
        for index in wanted.free {
            let locks = self.queues.get(ticket).map(|waiter| waiter.locks.as_slice());
            let lock = locks.and_then(|locks| locks.get(*index).copied());
            if let Some(lock) = lock
                && self.queues.first_taker(lock).is_some_and(|first| first != ticket)
            {
                self.pass_on_reserved(lock);
            }
        }
        if wanted.groups.is_some() {
            self.join_groups(ticket);
            return;
        }
        if wanted.count > 1 {
            if self.complete_set(ticket).is_some() {
                self.recount_later(ticket);
            }
            return;
        }
        let locks = self.queues.get(ticket).map(|waiter| waiter.locks.clone());
        for lock in locks.unwrap_or_default() {
            let is_held = self.table.get(lock).is_none_or(|lock| lock.hold.is_some());
            if !is_held && self.queues.first_taker(lock) == Some(ticket) {
                self.deferred.hand_off(lock);
            }
        }
    }

    fn find_or_create_all(&mut self, wanted: Wanted<'_>) -> Option<Locks> {
        let names = wanted.keys.iter().map(|key| Name { db: wanted.db, key });
        names.map(|name| self.table.find_or_create(name)).collect()
    }

    /// The positions that a UNIQUE owner has in the queues of some locks, each once.
    pub(crate) fn own_positions(
        &self,
        locks: &[Id],
        request: &Acquire<'_>,
    ) -> Vec<Ticket> {
        if !request.unique {
            return Vec::new();
        }
        let has_queue =
            |id: &&Id| self.table.get(**id).is_some_and(|lock| lock.positions > 0);
        let locks = locks.iter().filter(has_queue);
        let own = locks.filter_map(|id| self.queues.position_of(request.owner, *id));
        let mut own: Vec<_> = own.collect();
        own.sort_unstable();
        own.dedup();
        own
    }

    /// The position among these that waits for exactly the same: the same locks, in any order, and
    /// as many of them, with the same groups, priority and share.
    pub(crate) fn same_call(
        &self,
        own: &[Ticket],
        locks: &[Id],
        count: usize,
        groups: Option<&LockGroups>,
        request: &Acquire<'_>,
        now: Now,
    ) -> Option<Ticket> {
        let [ticket] = own else { return None };
        let waiter = self.queues.get(*ticket)?;
        let is_in_queue =
            |id: &Id| self.queues.position_of(&waiter.owner, *id) == Some(*ticket);
        let has_same_groups = match (waiter.groups.as_deref(), groups) {
            (None, None) => true,
            (Some(own), Some(groups)) => {
                own.asks_for_same(groups) && waiter.locks.as_slice() == locks
            }
            _ => false,
        };
        let same = !waiter.is_keep_over(now)
            && has_same_groups
            && waiter.wants == count
            && waiter.priority == request.priority
            && waiter.share.as_deref() == request.share
            && waiter.locks.len() == locks.len()
            && locks.iter().all(is_in_queue);
        same.then_some(*ticket)
    }

    /// Adds a waiter or a kept position. The position kept longest may give way.
    pub(crate) fn add_waiter(&mut self, waiter: Waiter, now: Now) -> Ticket {
        let (locks, is_connected) = (waiter.locks.clone(), waiter.client.is_some());
        let (turn, has_groups) = (waiter.turn, waiter.groups.is_some());
        let ticket = self.queues.add(waiter);
        for id in locks {
            self.table.add_position(id, is_connected);
            if is_connected {
                self.count_for_new(id, turn, has_groups);
            }
        }
        self.make_room(now);
        ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, NOW, acquire, after, begin, counted, held, id, logged, manager, name, queue,
        request, shows, unique, wait, wait_for_set,
    };
    use crate::state::deferred::Deferred;

    /// A call that waits for `gpu:0`.
    fn call(
        manager: &mut LockManager,
        request: &Acquire<'_>,
        client: u64,
        has_memory: bool,
        now: Now,
    ) -> Result<Ticket, CommandError> {
        let keys = [GPU.as_bytes()];
        let wanted = Wanted { keys: &keys, ..Wanted::default() };
        let skipped = DeadlockCheck::Skipped;
        match manager.wait(wanted, request, client, &skipped, has_memory, now)? {
            Waiting::Queued(ticket) => Ok(ticket),
            Waiting::ProbeFirst(_) => unreachable!("deadlocks are not searched for"),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_call_waits_unless_there_are_too_many_waiters_or_there_is_no_memory() {
        let kept: fn(&mut LockManager) = |it| {
            wait(it, GPU, &unique("me"), 2);
            it.client_gone(2, NOW);
        };
        let waiting: fn(&mut LockManager) = |it| {
            wait(it, GPU, &unique("me"), 2);
        };
        let nothing: fn(&mut LockManager) = |_| {};
        let (too_many, no_memory) = (CommandError::MaxWaiters, CommandError::OutOfMemory);
        let too_long = CommandError::LeaseTooLong { max_ms: 86_400_000 };
        let long = Acquire { lease_ms: Some(86_400_001), ..unique("me") };
        for (what, record, max_waiters, memory, request, error, expected_counted,
            expected_queue) in [
            ("there is room", waiting, 2, true, request("b"), None, "", "me b"),
            ("max-waiters is reached", waiting, 1, true, request("b"), Some(too_many.clone()),
                "refused", "me"),
            ("a kept position gives way", kept, 1, true, request("b"), None, "", "b"),
            ("there is room for both", kept, 2, true, request("b"), None, "", "(me) b"),
            ("max-waiters 0, the owner has a kept position", kept, 0, true, unique("me"),
                Some(too_many.clone()), "refused", "(me)"),
            ("max-waiters 0, the owner waits already", waiting, 0, true, unique("me"), None,
                "waits_abandoned", "me"),
            ("max-waiters 0", nothing, 0, true, request("b"), Some(too_many.clone()), "refused",
                ""),
            ("the owner has a kept position", kept, 1, true, unique("me"), None, "", "me"),
            ("the owner waits already", waiting, 1, true, unique("me"), None, "waits_abandoned",
                "me"),
            ("the owner waits already, without UNIQUE", waiting, 1, true, request("me"),
                Some(too_many), "refused", "me"),
            ("no memory", nothing, 9, false, request("b"), Some(no_memory), "", ""),
            ("no memory, the owner has a kept position", kept, 9, false, unique("me"), None, "",
                "me"),
            ("the lease is too long", kept, 9, true, long, Some(too_long), "", "(me)"),
        ] {
            let mut manager = manager();
            held(&mut manager, GPU, "other");
            record(&mut manager);
            begin(&mut manager);
            manager.configure(|settings| settings.max_waiters = max_waiters);
            let waits = call(&mut manager, &request, 4, memory, NOW);
            assert_eq!(waits.err(), error, "{what}: error");
            assert_eq!(counted(&manager), expected_counted, "{what}: counters");
            assert_eq!(queue(&manager, GPU), expected_queue, "{what}: queue");
        }
    }

    #[test]
    fn block_0_waits_indefinitely() {
        let mut manager = manager();
        held(&mut manager, GPU, "other");
        for (block_ms, deadline_ms) in [(0, None), (50, Some(after(50).ms()))] {
            let request = Acquire { block_ms: Some(block_ms), ..request("me") };
            let ticket = wait(&mut manager, GPU, &request, 2);
            let waiter = manager.queues.get(ticket).unwrap();
            assert_eq!(waiter.deadline_ms, deadline_ms, "BLOCK {block_ms}");
        }
        manager.expire_waits(Now::from_ms(u64::MAX / 1_000));
        assert_eq!(queue(&manager, GPU), "me");
    }

    /// The turn of a waiter, and when its owner took the position.
    fn position(manager: &LockManager, ticket: Ticket) -> (Turn, u64) {
        let waiter = manager.queues.get(ticket).unwrap();
        (waiter.turn, waiter.since_ms)
    }

    #[test]
    fn the_same_call_takes_over_a_kept_position_and_since_when_it_waits() {
        let mut manager = manager();
        held(&mut manager, GPU, "other");
        let first = wait(&mut manager, GPU, &unique("me"), 2);
        wait(&mut manager, GPU, &request("b"), 3);
        let before = position(&manager, first);
        manager.client_gone(2, after(10));
        assert_eq!(queue(&manager, GPU), "(me) b");
        let again = call(&mut manager, &unique("me"), 4, true, after(20)).unwrap();
        assert_eq!(position(&manager, again), before);
        assert_eq!(queue(&manager, GPU), "me b");
    }

    #[test]
    fn a_position_that_is_no_longer_kept_is_not_taken_over() {
        let mut manager = manager();
        held(&mut manager, GPU, "other");
        wait(&mut manager, GPU, &unique("me"), 2);
        wait(&mut manager, GPU, &request("b"), 3);
        manager.client_gone(2, NOW);
        let again = call(&mut manager, &unique("me"), 4, true, after(10_000)).unwrap();
        assert_eq!(queue(&manager, GPU), "b me");
        assert_eq!(position(&manager, again).1, after(10_000).ms());
    }

    #[test]
    #[rustfmt::skip]
    fn a_call_for_a_lock_set_is_the_same_with_the_same_locks_in_any_order_and_as_many() {
        for (what, keys, count, expected) in [
            ("the same", &["gpu:0", "gpu:1"][..], 1, "me b"),
            ("in another order", &["gpu:1", "gpu:0"], 1, "me b"),
            ("another COUNT", &["gpu:0", "gpu:1"], 2, "b me"),
            ("fewer locks", &["gpu:0"], 1, "b me"),
            ("more locks", &["gpu:0", "gpu:1", "gpu:2"], 1, "b me"),
        ] {
            let mut manager = manager();
            held(&mut manager, "gpu:0", "other");
            held(&mut manager, "gpu:1", "other");
            wait_for_set(&mut manager, &["gpu:0", "gpu:1"], 1, &unique("me"), 2);
            wait(&mut manager, "gpu:0", &request("b"), 3);
            wait_for_set(&mut manager, keys, count, &unique("me"), 4);
            assert_eq!(queue(&manager, "gpu:0"), expected, "{what}");
        }
    }

    #[test]
    fn a_call_that_becomes_the_first_for_a_free_lock_gets_it_as_deferred_work() {
        let mut manager = manager();
        wait(&mut manager, GPU, &request("me"), 2);
        assert_eq!(manager.next_deferred_lock(), Some(id(&manager, GPU)));
    }

    #[test]
    fn a_free_lock_passes_on_if_a_call_joins_with_a_later_turn_than_it_asked_with() {
        for (waiter_wants, priority, is_passed_on) in
            [(1, -1, true), (2, -1, true), (1, 1, false), (2, 1, false)]
        {
            let mut manager = manager();
            let keys = ["gpu:0", "gpu:1"];
            let first = &keys[..waiter_wants];
            let waiter =
                wait_for_set(&mut manager, first, waiter_wants, &request("b"), 2);
            begin(&mut manager);
            let names = keys.map(str::as_bytes);
            let wanted = Wanted {
                db: 0,
                keys: &names,
                count: 2,
                of_set: true,
                free: &[0],
                ..Wanted::default()
            };
            let request = Acquire { priority, ..request("me") };
            let check = DeadlockCheck::Skipped;
            manager.wait(wanted, &request, 3, &check, true, NOW).unwrap();
            let lock = id(&manager, GPU);
            let expected = match waiter_wants {
                1 => Deferred::HandOff { lock },
                _ => Deferred::Recount { ticket: waiter },
            };
            let expected = is_passed_on.then_some(expected);
            assert_eq!(manager.take_deferred(), expected, "PRIORITY {priority}");
        }
    }

    // ---- Deadlocks

    /// `me` holds `gpu:0` and waits for `gpu:1`, whose holder `other` waits for `gpu:0`.
    fn close_cycle(
        manager: &mut LockManager,
        check: &DeadlockCheck,
    ) -> Result<Waiting, CommandError> {
        let keys = [&b"gpu:1"[..]];
        let wanted = Wanted { keys: &keys, ..Wanted::default() };
        manager.wait(wanted, &unique("me"), 1, check, true, NOW)
    }

    fn almost_a_cycle() -> LockManager {
        let mut manager = manager();
        acquire(&mut manager, "gpu:0", &unique("me"), 1);
        acquire(&mut manager, "gpu:1", &unique("other"), 2);
        wait(&mut manager, "gpu:0", &unique("other"), 2);
        begin(&mut manager);
        manager
    }

    #[test]
    fn a_wait_that_closes_a_cycle_is_refused_after_its_locks_were_probed() {
        let mut manager = almost_a_cycle();
        let first = close_cycle(&mut manager, &DeadlockCheck::Probed(Vec::new()));
        let Ok(Waiting::ProbeFirst(locks)) = first else { panic!("{first:?}") };
        assert_eq!(locks, [id(&manager, "gpu:1"), id(&manager, "gpu:0")]);
        assert_eq!(counted(&manager), "", "nothing is certain yet");
        let chain = r#""me" -> "other" -> "me""#.to_owned();
        let second = close_cycle(&mut manager, &DeadlockCheck::Probed(locks));
        assert_eq!(second, Err(CommandError::Deadlock { chain }));
        let lock = id(&manager, "gpu:1");
        assert_eq!(manager.table.use_counters(lock).unwrap().deadlocks, 1);
        assert_eq!(
            (counted(&manager).as_str(), logged(&manager).as_str()),
            ("deadlocks", "deadlock")
        );
        assert_eq!(queue(&manager, "gpu:1"), "");
    }

    #[test]
    fn a_cycle_that_a_probe_has_broken_is_not_refused() {
        let mut manager = almost_a_cycle();
        let first = close_cycle(&mut manager, &DeadlockCheck::Probed(Vec::new()));
        let Ok(Waiting::ProbeFirst(locks)) = first else { panic!("{first:?}") };
        // Another command has overwritten the lock.
        manager.reconcile_named(name("gpu:1"), &shows("third"), NOW);
        let second = close_cycle(&mut manager, &DeadlockCheck::Probed(locks));
        assert!(matches!(second, Ok(Waiting::Queued(_))), "{second:?}");
    }

    #[test]
    fn a_cycle_whose_locks_cannot_be_probed_is_not_refused() {
        let mut manager = almost_a_cycle();
        let waits = close_cycle(&mut manager, &DeadlockCheck::Skipped);
        assert!(matches!(waits, Ok(Waiting::Queued(_))), "{waits:?}");
    }

    #[test]
    fn a_lock_set_that_is_complete_when_its_call_joins_the_queues_is_deferred_work() {
        for (free, is_complete) in [(&[0, 1][..], true), (&[0], false)] {
            let mut manager = manager();
            let keys = [&b"gpu:0"[..], b"gpu:1"];
            let wanted =
                Wanted { keys: &keys, count: 2, of_set: true, free, ..Wanted::default() };
            let check = DeadlockCheck::Skipped;
            let waits = manager.wait(wanted, &request("me"), 2, &check, true, NOW);
            assert!(matches!(waits, Ok(Waiting::Queued(_))), "{waits:?}");
            assert_eq!(manager.take_deferred().is_some(), is_complete, "{free:?}");
        }
    }
}
