//! Queries for the model checker only: the parts of the manager that decide what it does next.
//! No rule depends on it.

use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::probe_round::ProbeRound;
use crate::state::wait_queue::{Ticket, Waiter};

impl LockManager {
    /// The positions of a queue, in order, with the waiters that have left and are not removed yet.
    pub fn all_positions(&self, id: Id) -> impl Iterator<Item = (Ticket, &Waiter)> {
        self.queues.all_positions(id)
    }

    /// Whether a waiter is marked as left, and until when, in ms since the epoch, its position is
    /// kept; and whether a recount of its lock set is deferred.
    pub fn marks(&self, ticket: Ticket) -> (Option<Option<u64>>, bool) {
        let Some(waiter) = self.queues.get(ticket) else { return (None, false) };
        let left = waiter.left.map(|left| left.kept_until_ms);
        (left, waiter.recount_deferred)
    }

    /// Whether a waiter takes a lock when it becomes free. One with GROUPS does so only in the groups
    /// that it collects.
    pub fn takes(&self, ticket: Ticket, id: Id) -> bool {
        let waiter = self.queues.get(ticket);
        waiter.is_some_and(|waiter| self.queues.takes(id, waiter.turn))
    }

    /// Of a waiter with GROUPS: for each of its locks, whether it takes the lock and whether that is
    /// free for it; and whether what its owner holds must be counted again.
    pub fn group_marks(&self, ticket: Ticket) -> (Vec<(bool, bool)>, bool) {
        let waiter = self.queues.get(ticket);
        let Some((waiter, groups)) =
            waiter.and_then(|it| Some((it, it.groups.as_ref()?)))
        else {
            return (Vec::new(), false);
        };
        let of_lock = |id: &Id| {
            let takes = self.queues.takes(*id, waiter.turn);
            (takes, self.queues.is_free_for(*id, waiter.turn))
        };
        (waiter.locks.iter().map(of_lock).collect(), groups.must_recount)
    }

    /// The number of a position in the order in which positions began to be kept; 0: it is not kept.
    pub fn kept_number(&self, ticket: Ticket) -> u64 {
        self.queues.get(ticket).map_or(0, |waiter| waiter.kept_number)
    }

    /// Whether waiters have expired or left that are not removed yet.
    pub fn is_behind(&self, now: Now) -> bool {
        self.queues.left() > 0 || self.queues.first_expired(now.ms()).is_some()
    }

    /// The number of positions that are no longer kept and not removed yet.
    pub fn count_keeps_over(&self, now: Now) -> usize {
        self.queues.count_keeps_over(now)
    }

    /// The units of the work budget left in this millisecond.
    pub fn budget_left(&self, now: Now) -> usize {
        self.budget.left(now)
    }

    /// Makes work budgets smaller, for a model in which everything is small.
    pub fn set_budget(&mut self, units: usize) {
        self.budget.set_size(units);
    }

    /// A lower bound of the locks that must become free for a waiter.
    pub fn missing(&self, ticket: Ticket) -> Option<usize> {
        self.queues.get(ticket).map(|waiter| waiter.missing)
    }

    /// When a lock is probed because its lease is over, in ms since the epoch.
    pub fn alarm_ms(&self, id: Id) -> Option<u64> {
        let armed = self.table.get(id).map(|lock| lock.alarm_ms);
        armed.filter(|ms| *ms != 0)
    }

    /// The progress of the probe round.
    pub fn probe_round(&self) -> ProbeRound {
        self.probes
    }
}
