//! What is looked at after each step: the keeper beside the line and the holds as the
//! contract has them. Nothing is changed in here but the note of a breach; what must follow
//! later is in `after.rs`.

use gpulock_core::state::arena::Id;

use crate::call::OWNERS;
use crate::holds::Tie;
use crate::keyspace::{KEYS, name};
use crate::law::Law;
use crate::queue::Position;
use crate::world::{World, Writes};

impl World {
    /// What must hold at every moment.
    pub(crate) fn check(&mut self) {
        self.note_ended_leases();
        self.forget_ended_holds();
        self.check_holds();
        self.check_counters();
        self.check_tables();
        self.check_lines();
        if !self.owes_still() {
            self.check_sessions();
            let has_deferred = self.manager.deferred().has_any();
            self.require(Law::NoLostWakeUp, !has_deferred, "what is owed is made good");
            self.check_wake_ups(|world, key| world.shown_free[key]);
        }
    }

    /// What is owed could not be made good yet.
    fn owes_still(&self) -> bool {
        self.writes != Writes::Accepted
            || self.defers_longer && self.manager.deferred().has_any()
            || self.small_budgets && self.is_behind()
    }

    /// More is to be done, a portion at a time.
    pub(crate) fn is_behind(&self) -> bool {
        let owes_later =
            self.manager.deferred().has_any() && !self.manager.deferred().has_work();
        owes_later || self.manager.is_behind(self.now())
    }

    /// What is held is what the keys show.
    fn check_holds(&mut self) {
        for key in 0..KEYS.len() {
            let shown = self.keys.text(key);
            let held = self.holds[key].as_ref().filter(|held| !held.ended);
            let agrees = held.is_none_or(|held| shown == Some(&*held.owner));
            self.require(Law::MutualExclusion, agrees, "the key shows who holds it");
        }
    }

    fn check_counters(&mut self) {
        let table = self.manager.table();
        let held = table.by_age().count() as u64;
        let tracked = || table.tracked().filter_map(|id| table.get(id));
        let own = tracked().all(|lock| {
            let held = u64::from(lock.hold.is_some());
            lock.counters().is_some_and(|counters| counters.held_by_law() == held)
        });
        let limit = self.manager.settings().tracked_keys;
        let within = tracked().count() as u64 <= limit;
        let law = self.manager.counters().held_by_law();
        let adds_up = law == table.held() && law == held;
        self.require(Law::CountersAddUp, adds_up, "taken less ended is held");
        self.require(Law::CountersAddUp, own, "also for each lock");
        self.require(Law::Tidiness, within, "at most tracked-keys locks are tracked");
    }

    fn check_tables(&mut self) {
        let ids = (0..KEYS.len()).filter_map(|key| self.manager.table().find(name(key)));
        let is_idle = |id: Id| {
            let lock = self.manager.table().get(id);
            lock.is_none_or(|lock| lock.is_idle() && lock.own.is_none())
        };
        let none_idle = !ids.into_iter().any(is_idle);
        self.require(Law::Tidiness, none_idle, "nothing is known of idle locks");
    }

    fn check_lines(&mut self) {
        let lines = self.manager.queues();
        // What the clock ends, the keeper ends with its next portion.
        let over = self.manager.count_keeps_over(self.now());
        let ours = self
            .queue
            .positions()
            .iter()
            .filter(|position| !position.is_over(self.now()));
        let are_known = lines.len() - over == ours.count()
            && lines.clients() == self.queue.connected().count();
        let one_each = self.queue.positions().iter().enumerate().all(|(at, position)| {
            let meets = |other: &&Position| {
                position.unique
                    && other.unique
                    && other.owner == position.owner
                    && other.keys.iter().any(|key| position.keys.contains(key))
            };
            self.queue.positions()[..at].iter().filter(meets).count() == 0
        });
        self.require(Law::Tidiness, are_known, "every place is known");
        self.require(Law::Tidiness, one_each, "an owner has one place in a line");
    }

    fn check_sessions(&mut self) {
        for key in 0..KEYS.len() {
            let session = self.holds[key].as_ref().filter(|held| !held.ended);
            let session = session.map(|held| held.session);
            let Some(Tie::Closed { closed_ms, until_ms }) = session else { continue };
            let key_ends = self.keys.until_ms(key).is_some_and(|ms| ms <= until_ms);
            let ends = key_ends && until_ms > closed_ms;
            self.require(Law::Sessions, ends, "it ends with its grace");
        }
    }

    /// Nobody waits who could be served by locks that are free, of those that `counts`.
    pub(crate) fn check_wake_ups(&mut self, counts: impl Fn(&Self, usize) -> bool) {
        let is_served = (0..self.queue.positions().len()).all(|at| {
            let position = &self.queue.positions()[at];
            let has = |key: &&usize| match self.keys.get(**key) {
                None => counts(self, **key) && self.queue.first(**key) == Some(at),
                Some(_) => {
                    position.unique && position.of_set && self.is_held_by(**key, position)
                }
            };
            !position.is_connected()
                || position.keys.iter().filter(has).count() < position.wants
        });
        self.require(Law::NoLostWakeUp, is_served, "who can be served is served");
    }

    /// Whether the keeper knows that a lock is held by who waits for the others of its set.
    fn is_held_by(&self, key: usize, position: &Position) -> bool {
        let id = self.manager.table().find(name(key));
        let hold = id.and_then(|id| self.manager.table().get(id)?.hold.as_ref());
        // An adopted lock may be overwritten unnoticed: see `LockManager::agrees`.
        hold.is_some_and(|hold| {
            Some(&*hold.owner) == self.keys.text(key)
                && *hold.owner == *OWNERS[position.owner]
        })
    }
}
