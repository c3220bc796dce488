//! The checks after each step: the lock manager compared with the queue and the holds as the
//! command reference defines them. They change nothing but the record of the breach.

use std::collections::BTreeSet;

use gpulock_core::state::arena::Id;
use gpulock_core::state::lock::Lock;
use gpulock_core::state::wait_queue::{Ticket, Waiter};

use crate::call::OWNERS;
use crate::groups::is_complete;
use crate::holds::SessionTie;
use crate::law::Law;
use crate::memory_keys::{KEYS, name};
use crate::queue::Position;
use crate::world::{World, Writes};

impl World {
    /// Checks what must hold after every step.
    pub(crate) fn check(&mut self) {
        self.mark_ended_leases();
        self.forget_ended_holds();
        self.check_holds();
        self.check_notices();
        self.check_counters();
        self.check_tables();
        self.check_queues();
        self.check_order();
        if !self.has_unfinished_work() {
            self.check_sessions();
            let has_deferred = self.manager.deferred().has_any();
            self.require(Law::NoLostWakeUp, !has_deferred, "no deferred work is left");
            self.check_wake_ups(|world, key| world.known_free[key]);
            self.check_collected();
        }
        self.record_taken();
    }

    /// Whether deferred work may still be pending.
    fn has_unfinished_work(&self) -> bool {
        self.writes != Writes::Accepted
            || self.defers_to_turn_end && self.manager.deferred().has_any()
            || self.small_budgets && self.is_behind()
    }

    /// Whether work is left that exceeded its budget.
    pub(crate) fn is_behind(&self) -> bool {
        let deferred = self.manager.deferred();
        deferred.has_any() && !deferred.has_work() || self.manager.is_behind(self.now())
    }

    /// Each key shows the holder of its lock.
    fn check_holds(&mut self) {
        for key in 0..KEYS.len() {
            let shown = self.keys.text(key);
            let held = self.holds[key].as_ref().filter(|held| !held.ended);
            let agrees = held.is_none_or(|held| shown == Some(&*held.owner));
            self.require(Law::MutualExclusion, agrees, "the key shows the holder");
        }
    }

    fn check_counters(&mut self) {
        let table = self.manager.table();
        let held = table.by_age().count() as u64;
        let tracked = || table.tracked().filter_map(|id| table.get(id));
        let own = tracked().all(|lock| {
            let held = u64::from(lock.hold.is_some());
            lock.counters().is_some_and(|counters| counters.expected_held() == held)
        });
        let mut rest = self.manager.counters().clone();
        tracked().filter_map(|lock| lock.counters()).for_each(|own| rest.subtract(own));
        let untracked = rest == *table.untracked();
        let count = |of: fn(&Lock) -> u64| tracked().map(of).sum::<u64>();
        let tallied = table.tracked_held() == count(|lock| lock.hold.is_some().into())
            && table.tracked_connected() == count(|lock| lock.connected.into());
        let walk = table.tracked_below(u64::MAX).map(|(_, id)| id);
        let in_both =
            walk.collect::<BTreeSet<_>>() == table.tracked().collect::<BTreeSet<_>>();
        let limit = self.manager.settings().tracked_keys;
        let within = tracked().count() as u64 <= limit;
        let law = self.manager.counters().expected_held();
        let adds_up = law == table.held() && law == held;
        self.require(
            Law::CountersAddUp,
            adds_up,
            "holds begun less holds ended are held",
        );
        self.require(Law::CountersAddUp, own, "the counters of each lock add up");
        self.require(
            Law::CountersAddUp,
            untracked && tallied,
            "tracked locks and the rest add up to the server",
        );
        self.require(Law::Bookkeeping, in_both, "a walk meets each tracked lock");
        self.require(Law::Bookkeeping, within, "at most tracked-keys locks are tracked");
    }

    fn check_tables(&mut self) {
        let ids = (0..KEYS.len()).filter_map(|key| self.manager.table().find(name(key)));
        let is_idle = |id: Id| {
            let lock = self.manager.table().get(id);
            lock.is_none_or(|lock| lock.is_idle() && lock.own.is_none())
        };
        let none_idle = !ids.into_iter().any(is_idle);
        self.require(Law::Bookkeeping, none_idle, "no record of an idle lock is kept");
    }

    fn check_queues(&mut self) {
        let queues = self.manager.queues();
        // The lock manager removes kept positions whose time is over within its next budget.
        let over = self.manager.count_keeps_over(self.now());
        let expected = self
            .queue
            .positions()
            .iter()
            .filter(|position| !position.is_over(self.now()));
        let are_known = queues.len() - over == expected.count()
            && queues.clients() == self.queue.connected().count();
        let one_each = self.queue.positions().iter().enumerate().all(|(at, position)| {
            let overlaps = |other: &&Position| {
                position.unique
                    && other.unique
                    && other.owner == position.owner
                    && other.keys.iter().any(|key| position.keys.contains(key))
            };
            self.queue.positions()[..at].iter().filter(overlaps).count() == 0
        });
        self.require(
            Law::Bookkeeping,
            are_known,
            "the lock manager knows every position",
        );
        self.require(Law::Bookkeeping, one_each, "an owner has one position in a queue");
    }

    /// The lock manager has the positions of each queue in the same order.
    fn check_order(&mut self) {
        self.turns_are_uncertain &=
            !self.queue.positions().is_empty() || self.is_behind();
        for key in 0..KEYS.len() {
            let order = self.order_of_manager(key);
            let joined = |at: usize| self.queue.positions()[at].turn().arrival;
            let plain = order.iter().filter(|at| self.queue.positions()[**at].is_plain());
            let is_plain_first = plain.is_sorted_by_key(|at| joined(*at));
            let is_passed = order.iter().enumerate().any(|(place, at)| {
                let behind = &self.queue.positions()[*at].joined.behind;
                order[place..].iter().any(|later| behind.contains(&joined(*later)))
            });
            let is_in_queue = |at: &usize| {
                let position = &self.queue.positions()[*at];
                position.keys.contains(&key) && !position.is_over(self.now())
            };
            let expected = (0..self.queue.positions().len()).filter(is_in_queue);
            let is_right = expected.eq(order.iter().copied());
            self.require(
                Law::PlainOrder,
                is_plain_first,
                "callers without PRIORITY and SHARE queue in the order of their arrival",
            );
            self.require(
                Law::BoundedWait,
                !is_passed || self.turns_are_uncertain,
                "no call joins before one whose bound is reached",
            );
            let is_right = is_right || self.turns_are_uncertain;
            self.require(Law::Order, is_right, "the queue is in the order of the turns");
        }
    }

    /// The indexes of the positions in the queue of a key, in the order of the lock manager.
    fn order_of_manager(&self, key: usize) -> Vec<usize> {
        let Some(id) = self.manager.table().find(name(key)) else { return Vec::new() };
        let index = |(ticket, waiter): (Ticket, &Waiter)| {
            let is_kept = |position: &Position| {
                !position.is_connected()
                    && position.keys.contains(&key)
                    && *OWNERS[position.owner] == *waiter.owner
            };
            let kept = || self.queue.positions().iter().position(is_kept);
            self.queue.find(ticket).or_else(|| kept().filter(|_| waiter.unique))
        };
        let is_over = |at: &usize| self.queue.positions()[*at].is_over(self.now());
        let positions = self.manager.queues().positions(id);
        positions.filter_map(index).filter(|at| !is_over(at)).collect()
    }

    fn check_sessions(&mut self) {
        for key in 0..KEYS.len() {
            let session = self.holds[key].as_ref().filter(|held| !held.ended);
            let session = session.map(|held| held.session);
            let Some(SessionTie::Closed { closed_ms, until_ms }) = session else {
                continue;
            };
            let key_ends = self.keys.until_ms(key).is_some_and(|ms| ms <= until_ms);
            let ends = key_ends && until_ms > closed_ms;
            self.require(Law::Sessions, ends, "the hold ends with its grace period");
        }
    }

    /// No waiter could be served by the free locks that `counts` accepts.
    pub(crate) fn check_wake_ups(&mut self, counts: impl Fn(&Self, usize) -> bool) {
        let is_served = (0..self.queue.positions().len()).all(|at| {
            let position = &self.queue.positions()[at];
            let has = |key: &usize| match self.keys.get(*key) {
                None => counts(self, *key) && !self.is_taken_before(at, *key),
                Some(_) => self.is_held_for_set(*key, position),
            };
            let has: Vec<bool> = position.keys.iter().map(has).collect();
            !position.is_connected()
                || !is_complete(position.groups.as_ref(), position.wants, &has)
        });
        self.require(
            Law::NoLostWakeUp,
            is_served,
            "a waiter that can be served is served",
        );
    }

    /// Whether a lock that its owner holds counts for a waiter.
    pub(crate) fn is_held_for_set(&self, key: usize, position: &Position) -> bool {
        position.unique && position.of_set && self.is_held_by(key, position)
    }

    /// Whether the lock manager knows that the owner of a position holds a lock.
    fn is_held_by(&self, key: usize, position: &Position) -> bool {
        let id = self.manager.table().find(name(key));
        let hold = id.and_then(|id| self.manager.table().get(id)?.hold.as_ref());
        // The manager may not notice that the key of an adopted hold is overwritten.
        hold.is_some_and(|hold| {
            Some(&*hold.owner) == self.keys.text(key)
                && *hold.owner == *OWNERS[position.owner]
        })
    }
}
