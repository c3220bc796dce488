//! How a waiter leaves its queues, and how a kept position ends.
//!
//! | it leaves because | it gets | counted as | a UNIQUE owner's position is |
//! |---|---|---|---|
//! | it is granted the lock, or its set | the token, or each | `acquired_after_wait` | used up |
//! | its BLOCK time expires | null | `wait_timeouts` | kept |
//! | of `CLIENT UNBLOCK` | null | `wait_timeouts` | given up |
//! | its connection closes | | `waits_abandoned` | kept |
//! | the server does not let its client block | an error | `waits_abandoned` | kept |
//! | of `CLIENT UNBLOCK … ERROR` | an error | `waits_abandoned` | given up |
//! | its owner calls again | null | `waits_abandoned` | the new call's, if that names the same locks |
//! | the server becomes a replica | an error | `waits_abandoned` | given up |
//! | the cluster slot moves | an error | `waits_abandoned` | given up |
//!
//! A position is kept for KEEP ms, without KEEP for `place-keep` ms, unless it gives way to others
//! before (`rules/room.rs`).

use crate::error::CommandError;
use crate::manager::{LockManager, counted_for};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::counters::Counters;
use crate::state::outbox::WaitReply;
use crate::state::wait_queue::{Left, Locks, Ticket, Waiter};

/// Why a waiter leaves its queues, or a kept position ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// The wait, or the kept position, expired.
    TimedOut,
    /// `CLIENT UNBLOCK`; the server replies.
    Unblocked,
    /// `CLIENT UNBLOCK … ERROR`; the server has replied.
    UnblockedWithError,
    /// The connection closed.
    Disconnected,
    /// The server does not let a module block the connection; the caller replies.
    CannotBlock,
    /// The same UNIQUE owner called again.
    TakenOver,
    /// The server became a replica.
    RoleChanged,
    /// Another node serves the lock.
    Moved,
    /// A kept position gives way to others.
    GivesWay,
}

impl LeaveReason {
    /// Whether the position is kept for a UNIQUE owner.
    fn keeps_position(self) -> bool {
        matches!(self, Self::TimedOut | Self::Disconnected | Self::CannotBlock)
    }

    fn counter(self, counters: &mut Counters) -> &mut u64 {
        match self {
            Self::TimedOut | Self::Unblocked => &mut counters.wait_timeouts,
            _ => &mut counters.waits_abandoned,
        }
    }

    /// The reply to the waiting client; none where the server or the caller replies.
    fn reply(self) -> Option<WaitReply> {
        match self {
            Self::TimedOut | Self::TakenOver => Some(WaitReply::Null),
            Self::RoleChanged => Some(WaitReply::Error(CommandError::Unblocked)),
            Self::Moved => Some(WaitReply::Error(CommandError::TryAgain)),
            Self::Unblocked
            | Self::UnblockedWithError
            | Self::CannotBlock
            | Self::Disconnected
            | Self::GivesWay => None,
        }
    }
}

impl LockManager {
    /// Removes a waiter from its queues, without a reply. The locks that were reserved for it pass
    /// to the next waiters.
    pub(crate) fn remove_waiter(&mut self, ticket: Ticket) -> Option<Waiter> {
        let locks = self.queues.get(ticket)?.locks.iter();
        let reserved: Locks =
            locks.copied().filter(|id| self.is_reserved_for(*id, ticket)).collect();
        let waiter = self.queues.remove(ticket)?;
        for id in &waiter.locks {
            self.table.remove_position(*id, waiter.client.is_some());
            if self.table.get(*id).is_none_or(|lock| lock.positions == 0) {
                self.queues.queue_ended(*id);
                self.table.unreserve(*id);
            }
        }
        for id in reserved {
            self.pass_on_reserved(id);
        }
        Some(waiter)
    }

    /// Ends a wait without a grant, or a kept position. None when the wait has ended already.
    pub fn leave(
        &mut self,
        ticket: Ticket,
        reason: LeaveReason,
        now: Now,
    ) -> Option<Waiter> {
        self.queues.get(ticket).filter(|waiter| waiter.left.is_none())?;
        self.end_wait(ticket, reason, now)
    }

    /// The same, also for a waiter that is marked as left.
    pub(crate) fn end_wait(
        &mut self,
        ticket: Ticket,
        reason: LeaveReason,
        now: Now,
    ) -> Option<Waiter> {
        let waiter = self.remove_waiter(ticket)?;
        match waiter.left {
            Some(Left { kept_until_ms: Some(until_ms) })
                if reason.keeps_position() && until_ms > now.ms() =>
            {
                self.keep_position_until(&waiter, until_ms, now);
            }
            None if waiter.client.is_some() => {
                self.reply_not_granted(ticket, counted_for(&waiter.locks), reason);
                if reason.keeps_position() {
                    self.keep_position(&waiter, now);
                }
            }
            _ => {}
        }
        Some(waiter)
    }

    /// Counts and replies to a wait that ends without a grant.
    fn reply_not_granted(
        &mut self,
        ticket: Ticket,
        lock: Option<Id>,
        reason: LeaveReason,
    ) {
        self.count(lock, |counters| reason.counter(counters));
        if let Some(reply) = reason.reply() {
            self.outbox.reply(ticket, reply);
        }
    }

    /// The same as [`LockManager::end_wait`], for work that a client can make as large as it likes:
    /// when the budget is used up, the waiter is only marked, and [`LockManager::expire_waits`]
    /// removes it.
    pub(crate) fn end_wait_within_budget(
        &mut self,
        ticket: Ticket,
        reason: LeaveReason,
        now: Now,
    ) {
        let positions = self.queues.positions_of(ticket);
        if self.queues.left() == 0 && self.budget.spend(positions, now) {
            self.end_wait(ticket, reason, now);
        } else {
            self.mark_left(ticket, reason, now);
        }
    }

    /// Ends a wait, or a kept position, that is removed from its queues later.
    pub(crate) fn mark_left(&mut self, ticket: Ticket, reason: LeaveReason, now: Now) {
        let Some(waiter) = self.queues.get(ticket) else { return };
        let keep_ms = self.keep_ms(waiter);
        let is_kept = keep_ms > 0 && reason.keeps_position();
        if waiter.left.is_some() {
            if !is_kept {
                self.queues.give_up_left(ticket);
            }
            return;
        }
        let waits = waiter.client.is_some();
        let lock = counted_for(&waiter.locks);
        let kept = is_kept && waits && waiter.unique;
        let kept_until_ms = kept.then(|| now.ms().saturating_add(keep_ms));
        self.queues.mark_left(ticket, Left { kept_until_ms });
        if waits {
            self.reply_not_granted(ticket, lock, reason);
        }
    }

    /// Keeps the position of a UNIQUE owner while it is away.
    pub(crate) fn keep_position(&mut self, waiter: &Waiter, now: Now) {
        let keep_ms = self.keep_ms(waiter);
        if waiter.unique && keep_ms > 0 {
            self.keep_position_until(waiter, now.ms().saturating_add(keep_ms), now);
        }
    }

    /// How long the position of a UNIQUE owner is kept, in ms; 0: it is not kept.
    pub(crate) fn keep_ms(&self, waiter: &Waiter) -> u64 {
        waiter.keep_ms.unwrap_or(self.settings.place_keep)
    }

    fn keep_position_until(&mut self, waiter: &Waiter, until_ms: u64, now: Now) {
        let kept = Waiter {
            client: None,
            deadline_ms: Some(until_ms),
            recount_deferred: false,
            left: None,
            ..waiter.clone()
        };
        self.add_waiter(kept, now);
    }

    /// Ends the waits and kept positions that have expired, removes the waiters that are marked as
    /// left, and lets kept positions give way after `max-waiters` was lowered, as far as the budget
    /// goes. The others have expired all the same. A replica then ends a portion of the holds from
    /// when it was a primary.
    pub fn expire_waits(&mut self, now: Now) {
        while let Some(ticket) = self.queues.first_expired(now.ms()) {
            let (positions, reply) =
                (self.queues.positions_of(ticket), self.budget.reply());
            // All clients get their reply before waiters for many locks are removed.
            let is_small = positions <= reply;
            let removed = if is_small { positions } else { 0 };
            if !self.budget.spend(removed.saturating_add(reply), now) {
                return;
            }
            match is_small {
                true => drop(self.end_wait(ticket, LeaveReason::TimedOut, now)),
                false => self.mark_left(ticket, LeaveReason::TimedOut, now),
            }
        }
        while let Some(ticket) = self.queues.first_left() {
            if !self.budget.spend(self.queues.positions_of(ticket), now) {
                return;
            }
            self.end_wait(ticket, LeaveReason::TimedOut, now);
        }
        self.end_surplus(now);
        self.finish_demotion(now);
    }

    /// Ends all waits for a lock, as far as the budget goes. The rest follows with the next probe.
    pub(crate) fn end_waits_for(&mut self, id: Id, reason: LeaveReason, now: Now) {
        while let Some(ticket) = self.queues.first_position(id) {
            if !self.budget.spend(self.queues.positions_of(ticket), now) {
                return;
            }
            self.end_wait(ticket, reason, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::deadlock::DeadlockCheck;
    use crate::rules::test_support::{
        GPU, NOW, after, begin, counted, hand_off_set, held, id, manager, name, queue,
        replies, request, run_next_deferred, unique, wait, wait_for_set,
    };
    use crate::rules::wait::Waiting;
    use crate::state::key_state::KeyState;
    use crate::state::lock::Name;
    use crate::state::settings::Settings;
    use crate::state::wait_queue::Wanted;

    /// A call of its own owner that waits a second for one of some locks.
    fn wait_a_second(
        manager: &mut LockManager,
        keys: &[String],
        owner: &str,
        client: u64,
    ) -> Ticket {
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let wanted = Wanted { keys: &keys, count: 1, of_set: true, ..Wanted::default() };
        let request = Acquire { block_ms: Some(1_000), ..unique(owner) };
        match manager
            .wait(wanted, &request, client, &DeadlockCheck::Skipped, true, NOW)
            .unwrap()
        {
            Waiting::Queued(ticket) => ticket,
            Waiting::ProbeFirst(_) => unreachable!("deadlocks are not searched for"),
        }
    }

    fn keys(of: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{of}:{n}")).collect()
    }

    /// The number of positions in all queues.
    fn positions(manager: &LockManager) -> usize {
        let pages = 0..manager.table.pages();
        let locks = pages.flat_map(|page| manager.table.page(page));
        locks.map(|(_, lock)| lock.positions as usize).sum()
    }

    #[test]
    fn waits_that_expire_together_get_their_replies_and_are_removed_in_portions() {
        let mut manager = manager();
        for n in 0..200u64 {
            wait_a_second(&mut manager, &keys("k", 100), &n.to_string(), n);
        }
        let over = |ms: u64| Now::from_ms(NOW.ms() + 1_000 + ms);
        let all = positions(&manager);
        manager.expire_waits(over(0));
        let budget = 128;
        assert_eq!((manager.outbox.replies(), manager.queues.clients()), (budget, 72));
        manager.deferred.clear();
        manager.due_queues(over(0), &mut Vec::new());
        // In the same millisecond nothing more is done.
        manager.expire_waits(over(0));
        assert_eq!((manager.outbox.replies(), positions(&manager)), (budget, all));
        assert_eq!(manager.next_wake_ms(over(0)), Some(over(1).ms()));
        manager.expire_waits(over(1));
        assert_eq!((manager.outbox.replies(), manager.queues.clients()), (200, 0));
        for ms in 2..100 {
            manager.expire_waits(over(ms));
        }
        assert_eq!((manager.queues.left(), manager.queues.len()), (0, 200));
        assert_eq!(positions(&manager), all, "the position of each owner is kept");
        assert_eq!(manager.counters.wait_timeouts, 200);
    }

    #[test]
    fn connections_that_close_together_count_at_once_and_are_removed_in_portions() {
        let mut manager = manager();
        for n in 0..100u64 {
            wait_a_second(&mut manager, &keys("k", 500), &n.to_string(), n);
        }
        let all = positions(&manager);
        manager.settings.place_keep = 0;
        (0..100).for_each(|client| manager.client_gone(client, NOW));
        assert_eq!(manager.queues.clients(), 0);
        assert_eq!(manager.counters.waits_abandoned, 100);
        assert_eq!(manager.queues.len(), 0);
        let removed = all - positions(&manager);
        assert_eq!(removed, 1_500, "the call that exceeds a portion is finished");
        manager.deferred.clear();
        assert_eq!(manager.next_wake_ms(NOW), Some(NOW.ms() + 1));
        (1..100).for_each(|ms| manager.expire_waits(Now::from_ms(NOW.ms() + ms)));
        assert_eq!((positions(&manager), manager.queues.is_empty()), (0, true));
    }

    #[test]
    fn a_call_takes_over_many_positions_at_once_and_removes_them_in_portions() {
        let mut manager = manager();
        let sets: Vec<_> = (0..50).map(|n| keys(&n.to_string(), 100)).collect();
        for (n, set) in sets.iter().enumerate() {
            wait_a_second(&mut manager, set, "me", n as u64);
        }
        let all = positions(&manager);
        let one_of_each: Vec<String> = sets.iter().map(|set| set[0].clone()).collect();
        let ticket = wait_a_second(&mut manager, &one_of_each, "me", 99);
        assert_eq!(all + 50 - positions(&manager), 1_100);
        assert_eq!((manager.queues.len(), manager.queues.clients()), (1, 1));
        assert_eq!(manager.outbox.replies(), 50);
        // The owner has one position in each queue: that of the new call.
        for set in &sets {
            let id = |key: &String| {
                let name = Name { db: 0, key: key.as_bytes() };
                manager.table.find(name)
            };
            let position = |key| manager.queues.position_of(b"me", id(key)?);
            assert_eq!((position(&set[0]), position(&set[1])), (Some(ticket), None));
        }
        (1..100).for_each(|ms| manager.expire_waits(Now::from_ms(NOW.ms() + ms)));
        assert_eq!((positions(&manager), manager.queues.clients()), (50, 1));
    }

    #[test]
    fn a_recount_is_deferred_once_for_each_set_when_another_leaves() {
        let mut manager = manager();
        let (all, even, odd) = (keys("k", 100), 0, 1);
        let half = |of| all.iter().skip(of).step_by(2).cloned().collect::<Vec<_>>();
        let first = wait_for_all(&mut manager, &all, "a", 1);
        wait_for_all(&mut manager, &half(even), "b", 2);
        wait_for_all(&mut manager, &half(odd), "c", 3);
        for key in &all {
            let id = manager.table.find(Name { db: 0, key: key.as_bytes() }).unwrap();
            manager.table.reserve(id);
        }
        manager.deferred.clear();
        manager.end_wait(first, LeaveReason::Unblocked, NOW);
        assert_eq!(manager.deferred.work().count(), 2);
    }

    fn wait_for_all(
        manager: &mut LockManager,
        keys: &[String],
        owner: &str,
        client: u64,
    ) -> Ticket {
        let ticket = wait_a_second(manager, keys, owner, client);
        manager.queues.get_mut(ticket).unwrap().wants = keys.len();
        ticket
    }

    // ---- How a waiter leaves

    /// A row of the table at the head of this file. `me` waits for `gpu:0` with UNIQUE for 50 ms.
    struct Leaves {
        because: &'static str,
        /// Makes the waiter leave.
        leave: fn(&mut LockManager, Ticket),
        /// The reply that the module sends; none where the server or the caller replies.
        gets: Option<&'static str>,
        counted_as: &'static str,
        /// The queue afterwards: a kept position is in parentheses.
        queue: &'static str,
        /// The queue afterwards if `me` waits without UNIQUE.
        queue_without_unique: &'static str,
    }

    #[test]
    #[rustfmt::skip]
    fn what_a_waiter_gets_how_it_counts_and_whether_its_position_is_kept() {
        let leaves = |because, leave, gets, counted_as, queue, queue_without_unique| {
            Leaves { because, leave, gets, counted_as, queue, queue_without_unique }
        };
        for case in [
            leaves("it is granted the lock", |it, _| drop(it.hand_off_next(id(it, GPU), after(0))),
                Some("granted gpu:0"), "acquired acquired_after_wait", "", ""),
            leaves("its BLOCK time expires", |it, _| it.expire_waits(after(50)),
                Some("null"), "wait_timeouts", "(me)", ""),
            leaves("of CLIENT UNBLOCK",
                |it, me| drop(it.leave(me, LeaveReason::Unblocked, after(0))),
                None, "wait_timeouts", "", ""),
            leaves("its connection closes", |it, _| it.client_gone(2, after(0)),
                None, "waits_abandoned", "(me)", ""),
            leaves("the server does not let its client block",
                |it, me| drop(it.leave(me, LeaveReason::CannotBlock, after(0))),
                None, "waits_abandoned", "(me)", ""),
            leaves("of CLIENT UNBLOCK … ERROR",
                |it, me| drop(it.leave(me, LeaveReason::UnblockedWithError, after(0))),
                None, "waits_abandoned", "", ""),
            leaves("the server becomes a replica", |it, _| it.demoted(after(0)),
                Some("UNBLOCKED"), "waits_abandoned", "", ""),
            leaves("the cluster slot moves",
                |it, _| drop(it.probed(id(it, GPU), &KeyState::Elsewhere, after(0))),
                Some("TRYAGAIN"), "waits_abandoned", "", ""),
        ] {
            for (is_unique, expected) in [(true, case.queue), (false, case.queue_without_unique)] {
                let what = format!("{}, UNIQUE: {is_unique}", case.because);
                let mut manager = manager();
                let request = Acquire { unique: is_unique, block_ms: Some(50), ..request("me") };
                let me = wait(&mut manager, GPU, &request, 2);
                begin(&mut manager);
                (case.leave)(&mut manager, me);
                let gets: Vec<_> = case.gets.iter().map(|it| (me, (*it).to_owned())).collect();
                assert_eq!(replies(&mut manager), gets, "{what}: reply");
                assert_eq!(counted(&manager), case.counted_as, "{what}: counters");
                assert_eq!(queue(&manager, GPU), expected, "{what}: queue");
                assert_eq!(manager.queues.clients(), 0, "{what}: clients");
            }
        }
    }

    /// The row: it is granted its set.
    #[test]
    fn a_waiter_for_a_lock_set_gets_the_token_of_each_lock() {
        let mut manager = manager();
        let keys = ["gpu:0", "gpu:1"];
        let me = wait_for_set(&mut manager, &keys, 2, &unique("me"), 2);
        begin(&mut manager);
        for key in keys {
            manager.hand_off_next(id(&manager, key), NOW);
        }
        assert_eq!(
            hand_off_set(&mut manager, me, NOW).map(|writes| writes.len()),
            Some(2)
        );
        assert_eq!(replies(&mut manager), [(me, "granted gpu:0 gpu:1".to_owned())]);
        assert_eq!(counted(&manager), "acquired=2 acquired_after_wait=2");
        assert_eq!((queue(&manager, "gpu:0"), manager.queues.len()), (String::new(), 0));
    }

    /// The row: its owner calls again.
    #[test]
    #[rustfmt::skip]
    fn another_call_of_its_owner_ends_a_wait_and_takes_over_its_position_if_it_is_the_same() {
        let again: fn(&mut LockManager, bool) = |it, is_unique| {
            wait(it, GPU, &Acquire { unique: is_unique, ..request("me") }, 4);
        };
        let set: fn(&mut LockManager, bool) = |it, is_unique| {
            let request = Acquire { unique: is_unique, ..request("me") };
            wait_for_set(it, &[GPU, "gpu:1"], 1, &request, 4);
        };
        let other_lock: fn(&mut LockManager, bool) = |it, is_unique| {
            wait(it, "gpu:1", &Acquire { unique: is_unique, ..request("me") }, 4);
        };
        for (what, call, is_unique, reply, expected_counted, expected_queue) in [
            ("the same lock", again, true, Some("null"), "waits_abandoned", "me b"),
            ("a lock set with that lock", set, true, Some("null"), "waits_abandoned", "b me"),
            ("another lock", other_lock, true, None, "", "me b"),
            ("the same lock, without UNIQUE", again, false, None, "", "me b me"),
        ] {
            let mut manager = manager();
            held(&mut manager, GPU, "other");
            let request = Acquire { unique: is_unique, ..request("me") };
            let me = wait(&mut manager, GPU, &request, 2);
            wait(&mut manager, GPU, &unique("b"), 3);
            begin(&mut manager);
            call(&mut manager, is_unique);
            let reply: Vec<_> = reply.iter().map(|it| (me, (*it).to_owned())).collect();
            assert_eq!(replies(&mut manager), reply, "{what}: reply");
            assert_eq!(counted(&manager), expected_counted, "{what}: counters");
            assert_eq!(queue(&manager, GPU), expected_queue, "{what}: queue");
        }
    }

    #[test]
    fn a_kept_position_ends_after_place_keep() {
        let mut manager = manager();
        wait(&mut manager, GPU, &unique("me"), 2);
        begin(&mut manager);
        manager.client_gone(2, NOW);
        manager.expire_waits(after(9_999));
        assert_eq!(queue(&manager, GPU), "(me)");
        manager.expire_waits(after(10_000));
        assert_eq!(queue(&manager, GPU), "");
        assert_eq!(counted(&manager), "waits_abandoned", "its end does not count again");
    }

    #[test]
    fn without_place_keep_no_position_is_kept() {
        let settings = Settings { place_keep: 0, ..Settings::default() };
        let mut manager = LockManager::new(settings, 1, NOW);
        wait(&mut manager, GPU, &unique("me"), 2);
        manager.client_gone(2, NOW);
        assert_eq!(queue(&manager, GPU), "");
    }

    #[test]
    #[rustfmt::skip]
    fn keep_overrides_place_keep_however_the_wait_ends() {
        type Leave = fn(&mut LockManager, Ticket);
        let expires: Leave = |it, _| it.expire_waits(after(50));
        let closes: Leave = |it, _| it.client_gone(2, after(50));
        let is_marked: Leave = |it, me| it.mark_left(me, LeaveReason::Disconnected, after(50));
        let undelivered: Leave = |it, _| {
            it.reconcile_named(name(GPU), &KeyState::Absent, NOW);
            it.hand_off_next(id(it, GPU), NOW);
            let Some((_, WaitReply::Granted { grants, waiter, .. })) = it.outbox.take_reply()
            else { panic!("no grant") };
            it.undelivered(&grants, &waiter, &[]);
            run_next_deferred(it, after(50));
        };
        for (what, leave) in [("expires", expires), ("closes", closes),
            ("is marked", is_marked), ("undelivered", undelivered)] {
            for (keep_ms, place_keep, kept_ms) in [
                (None, 10_000, 10_000_u64), (None, 0, 0), (Some(0), 10_000, 0),
                (Some(300), 10_000, 300), (Some(300), 0, 300), (Some(60_000), 10_000, 60_000),
            ] {
                let mut manager = manager();
                manager.settings.place_keep = place_keep;
                held(&mut manager, GPU, "other");
                let call = Acquire { keep_ms, block_ms: Some(50), ..unique("me") };
                let me = wait(&mut manager, GPU, &call, 2);
                leave(&mut manager, me);
                for (ms, is_kept) in [(0, kept_ms > 0), (kept_ms.saturating_sub(1), kept_ms > 0),
                    (kept_ms, false)] {
                    manager.expire_waits(after(50 + ms));
                    let expected = if is_kept { "(me)" } else { "" };
                    assert_eq!(queue(&manager, GPU), expected,
                        "{what}, KEEP {keep_ms:?}, place-keep {place_keep}, after {ms} ms");
                }
            }
        }
    }

    #[test]
    fn a_call_that_takes_over_a_position_uses_its_own_keep() {
        for (keep_ms, expected) in [(None, "(me) b"), (Some(0), "b")] {
            let mut manager = manager();
            held(&mut manager, GPU, "other");
            let first = Acquire { keep_ms: Some(60_000), ..unique("me") };
            wait(&mut manager, GPU, &first, 2);
            wait(&mut manager, GPU, &request("b"), 3);
            manager.client_gone(2, NOW);
            wait(&mut manager, GPU, &Acquire { keep_ms, ..unique("me") }, 4);
            manager.client_gone(4, NOW);
            manager.expire_waits(after(9_999));
            assert_eq!(queue(&manager, GPU), expected, "KEEP {keep_ms:?}");
            manager.expire_waits(after(10_000));
            assert_eq!(queue(&manager, GPU), "b", "not for the KEEP of the first");
        }
    }

    #[test]
    fn a_wait_ends_once() {
        let mut manager = manager();
        let me = wait(&mut manager, GPU, &request("me"), 2);
        assert!(manager.leave(me, LeaveReason::Unblocked, NOW).is_some());
        assert!(manager.leave(me, LeaveReason::Disconnected, NOW).is_none());
        assert_eq!(counted(&manager), "wait_timeouts");
    }

    // ---- How a client joins a queue

    #[test]
    fn a_waiter_that_is_marked_as_left_keeps_its_position_if_and_as_long_as_it_may() {
        for (reason, ms, expected) in [
            (LeaveReason::TimedOut, 9_999, "(me)"),
            (LeaveReason::TimedOut, 10_000, ""),
            (LeaveReason::RoleChanged, 0, ""),
        ] {
            let mut manager = manager();
            let ticket = wait(&mut manager, GPU, &unique("me"), 2);
            manager.mark_left(ticket, LeaveReason::Disconnected, NOW);
            assert_eq!(queue(&manager, GPU), "(me)");
            manager.end_wait(ticket, reason, after(ms));
            assert_eq!(queue(&manager, GPU), expected, "{reason:?} after {ms} ms");
            assert_eq!(manager.counters.waits_abandoned, 1, "it counts once");
        }
    }

    #[test]
    fn a_waiter_that_is_marked_as_left_again_may_lose_its_kept_position() {
        for (again, expected) in
            [(LeaveReason::Disconnected, "(me)"), (LeaveReason::TakenOver, "")]
        {
            let mut manager = manager();
            let ticket = wait(&mut manager, GPU, &unique("me"), 2);
            manager.mark_left(ticket, LeaveReason::TimedOut, NOW);
            manager.mark_left(ticket, again, NOW);
            assert_eq!(queue(&manager, GPU), expected, "{again:?}");
        }
    }
}
