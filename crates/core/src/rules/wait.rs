//! Waiting: how a client joins wait queues, and how it leaves them.
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

use crate::error::CommandError;
use crate::manager::{LockManager, counted_for};
use crate::request::Acquire;
use crate::rules::deadlock::DeadlockCheck;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::counters::Counters;
use crate::state::lease;
use crate::state::lock::{Bytes, Name};
use crate::state::outbox::WaitReply;
use crate::state::wait_queue::{Left, Locks, Ticket, Waiter, Wanted};

/// What became of a call that may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It has a position; the reply follows later, under this ticket.
    Queued(Ticket),
    /// It seems to close a cycle through these locks: probe them and call again, because the record
    /// may be older than what their keys show.
    ProbeFirst(Vec<Id>),
}

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
            | Self::Disconnected => None,
        }
    }
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
        let lease_ms = lease::asked(request.lease_ms, &self.settings)?;
        let locks = self.find_or_make_all(wanted).ok_or(CommandError::OutOfMemory)?;
        let older = self.own_positions(&locks, request);
        if older.is_empty() {
            self.check_room(&locks, has_memory)?;
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
        let same = self.same_call(&older, &locks, wanted.count, now);
        // Its sequence number is used again, so it has to leave the queues first.
        let same =
            same.and_then(|ticket| self.end_wait(ticket, LeaveReason::TakenOver, now));
        for ticket in older {
            self.end_wait_within_budget(ticket, LeaveReason::TakenOver, now);
        }
        for lock in wanted.free.iter().filter_map(|index| locks.get(*index)) {
            self.table.reserve(*lock);
        }
        let seq = match &same {
            Some(same) => same.seq,
            None => self.queues.next_number(),
        };
        let deadline = |ms: u64| now.ms().saturating_add(ms);
        let ticket = self.add_waiter(Waiter {
            locks,
            wants: wanted.count,
            of_set: wanted.of_set,
            seq,
            owner: Bytes::from_slice(request.owner),
            unique: request.unique,
            lease_ms,
            session_grace_ms: request.session_grace_ms,
            since_ms: same.map_or(now.ms(), |same| same.since_ms),
            client: Some(client),
            deadline_ms: request.block_ms.filter(|ms| *ms > 0).map(deadline),
            missing: 0,
            recount_deferred: false,
            left: None,
        });
        self.hand_off_what_became_free(ticket, wanted);
        Ok(Waiting::Queued(ticket))
    }

    /// Waiters that were before a call may have left since it was refused: the older calls of its
    /// owner, or a set that got other locks than the one that the call was refused for.
    fn hand_off_what_became_free(&mut self, ticket: Ticket, wanted: Wanted<'_>) {
        if wanted.count > 1 {
            if self.complete_set(ticket).is_some() {
                self.recount_later(ticket);
            }
            return;
        }
        let locks = self.queues.get(ticket).map(|waiter| waiter.locks.clone());
        for lock in locks.unwrap_or_default() {
            let is_held = self.table.get(lock).is_none_or(|lock| lock.hold.is_some());
            if !is_held && self.queues.first_connected(lock) == Some(ticket) {
                self.deferred.hand_off(lock);
            }
        }
    }

    fn find_or_make_all(&mut self, wanted: Wanted<'_>) -> Option<Locks> {
        let names = wanted.keys.iter().map(|key| Name { db: wanted.db, key });
        names.map(|name| self.table.find_or_make(name)).collect()
    }

    fn check_room(&mut self, locks: &[Id], has_memory: bool) -> Result<(), CommandError> {
        let waiting = u64::try_from(self.queues.len()).unwrap_or(u64::MAX);
        if waiting >= self.settings.max_waiters {
            self.count(counted_for(locks), |counters| &mut counters.refused);
            return Err(CommandError::MaxWaiters);
        }
        if has_memory { Ok(()) } else { Err(CommandError::OutOfMemory) }
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
    /// as many of them.
    pub(crate) fn same_call(
        &self,
        own: &[Ticket],
        locks: &[Id],
        count: usize,
        now: Now,
    ) -> Option<Ticket> {
        let [ticket] = own else { return None };
        let waiter = self.queues.get(*ticket)?;
        let is_in_queue =
            |id: &Id| self.queues.position_of(&waiter.owner, *id) == Some(*ticket);
        let same = !waiter.is_keep_over(now)
            && waiter.wants == count
            && waiter.locks.len() == locks.len()
            && locks.iter().all(is_in_queue);
        same.then_some(*ticket)
    }

    fn add_waiter(&mut self, waiter: Waiter) -> Ticket {
        let (locks, is_connected) = (waiter.locks.clone(), waiter.client.is_some());
        let ticket = self.queues.add(waiter);
        for id in locks {
            self.table.add_position(id, is_connected);
        }
        ticket
    }

    /// Removes a waiter from its queues, without a reply. The locks that were reserved for it pass
    /// to the next waiters.
    pub(crate) fn remove_waiter(&mut self, ticket: Ticket) -> Option<Waiter> {
        let locks = self.queues.get(ticket)?.locks.iter();
        let reserved: Locks =
            locks.copied().filter(|id| self.is_reserved_for(*id, ticket)).collect();
        let waiter = self.queues.remove(ticket)?;
        for id in &waiter.locks {
            self.table.remove_position(*id, waiter.client.is_some());
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
                self.keep_position_until(&waiter, until_ms);
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
        let keep_ms = self.settings.place_keep;
        let is_kept = keep_ms > 0
            && matches!(reason, LeaveReason::TimedOut | LeaveReason::Disconnected);
        let Some(waiter) = self.queues.get(ticket) else { return };
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
        let keep_ms = self.settings.place_keep;
        if waiter.unique && keep_ms > 0 {
            self.keep_position_until(waiter, now.ms().saturating_add(keep_ms));
        }
    }

    fn keep_position_until(&mut self, waiter: &Waiter, until_ms: u64) {
        self.add_waiter(Waiter {
            client: None,
            deadline_ms: Some(until_ms),
            recount_deferred: false,
            left: None,
            ..waiter.clone()
        });
    }

    /// Ends the waits and kept positions that have expired, and removes the waiters that are marked
    /// as left, as far as the budget goes. The others have expired all the same.
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
    use crate::state::settings::Settings;

    const BEGIN: Now = Now::from_ms(1_000_000);

    fn manager() -> LockManager {
        LockManager::new(
            Settings { max_waiters: 100_000, ..Settings::default() },
            1,
            BEGIN,
        )
    }

    /// A call of its own owner that waits a second for one of some locks.
    fn wait(
        manager: &mut LockManager,
        keys: &[String],
        owner: &str,
        client: u64,
    ) -> Ticket {
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let wanted = Wanted { db: 0, keys: &keys, count: 1, of_set: true, free: &[] };
        let request = Acquire {
            owner: owner.as_bytes(),
            lease_ms: None,
            unique: true,
            block_ms: Some(1_000),
            session_grace_ms: None,
        };
        match manager
            .wait(wanted, &request, client, &DeadlockCheck::Skipped, true, BEGIN)
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
            wait(&mut manager, &keys("k", 100), &n.to_string(), n);
        }
        let over = |ms: u64| Now::from_ms(BEGIN.ms() + 1_000 + ms);
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
            wait(&mut manager, &keys("k", 500), &n.to_string(), n);
        }
        let all = positions(&manager);
        manager.settings.place_keep = 0;
        (0..100).for_each(|client| manager.client_gone(client, BEGIN));
        assert_eq!(manager.queues.clients(), 0);
        assert_eq!(manager.counters.waits_abandoned, 100);
        assert_eq!(manager.queues.len(), 0);
        let removed = all - positions(&manager);
        assert_eq!(removed, 1_500, "the call that exceeds a portion is finished");
        manager.deferred.clear();
        assert_eq!(manager.next_wake_ms(BEGIN), Some(BEGIN.ms() + 1));
        (1..100).for_each(|ms| manager.expire_waits(Now::from_ms(BEGIN.ms() + ms)));
        assert_eq!((positions(&manager), manager.queues.is_empty()), (0, true));
    }

    #[test]
    fn a_call_takes_over_many_positions_at_once_and_removes_them_in_portions() {
        let mut manager = manager();
        let sets: Vec<_> = (0..50).map(|n| keys(&n.to_string(), 100)).collect();
        for (n, set) in sets.iter().enumerate() {
            wait(&mut manager, set, "me", n as u64);
        }
        let all = positions(&manager);
        let one_of_each: Vec<String> = sets.iter().map(|set| set[0].clone()).collect();
        let ticket = wait(&mut manager, &one_of_each, "me", 99);
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
        (1..100).for_each(|ms| manager.expire_waits(Now::from_ms(BEGIN.ms() + ms)));
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
        manager.end_wait(first, LeaveReason::Unblocked, BEGIN);
        assert_eq!(manager.deferred.work().count(), 2);
    }

    fn wait_for_all(
        manager: &mut LockManager,
        keys: &[String],
        owner: &str,
        client: u64,
    ) -> Ticket {
        let ticket = wait(manager, keys, owner, client);
        manager.queues.get_mut(ticket).unwrap().wants = keys.len();
        ticket
    }
}
