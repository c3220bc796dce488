//! What is looked at after each step: the keeper beside the line and the holds as the
//! contract has them. Nothing is changed in here but the note of a breach; what must follow
//! later is in `after.rs`.

use gpulock_core::arena::Id;

use crate::ask::OWNERS;
use crate::holds::Tie;
use crate::keyspace::{KEYS, name};
use crate::law::Law;
use crate::line::Place;
use crate::world::{World, Writes};

impl World {
    /// What must hold at every moment.
    pub(crate) fn check(&mut self) {
        self.let_leases_end();
        self.check_holds();
        self.check_counters();
        self.check_tables();
        self.check_lines();
        if !self.owes_still() {
            self.check_sessions();
            let owes = self.keeper.owes();
            self.require(Law::NoLostWakeUp, !owes, "what is owed is made good");
            self.check_wake_ups(|world, key| world.shown_free[key]);
        }
    }

    /// What is owed could not be made good yet.
    fn owes_still(&self) -> bool {
        self.writes != Writes::Accepted
            || self.owes_longer && self.keeper.owes()
            || self.in_portions && self.is_behind()
    }

    /// More is to be done, a portion at a time.
    pub(crate) fn is_behind(&self) -> bool {
        let owes_later = self.keeper.owes() && !self.keeper.owes_at_once();
        owes_later || self.keeper.is_behind(self.now())
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
        let table = self.keeper.table();
        let held = table.by_age().count() as u64;
        let tracked = || table.tracked().filter_map(|id| table.get(id));
        let own = tracked().all(|lock| {
            let held = u64::from(lock.hold.is_some());
            lock.counters().is_some_and(|counters| counters.held_by_law() == held)
        });
        let limit = self.keeper.settings().tracked_keys;
        let within = tracked().count() as u64 <= limit;
        let law = self.keeper.counters().held_by_law();
        let adds_up = law == table.held() && law == held;
        self.require(Law::CountersAddUp, adds_up, "taken less ended is held");
        self.require(Law::CountersAddUp, own, "also for each lock");
        self.require(Law::Tidiness, within, "at most tracked-keys locks are tracked");
    }

    fn check_tables(&mut self) {
        let ids = (0..KEYS.len()).filter_map(|key| self.keeper.table().find(name(key)));
        let is_idle = |id: Id| {
            let lock = self.keeper.table().get(id);
            lock.is_none_or(|lock| lock.is_idle() && lock.own.is_none())
        };
        let none_idle = !ids.into_iter().any(is_idle);
        self.require(Law::Tidiness, none_idle, "nothing is known of idle locks");
    }

    fn check_lines(&mut self) {
        let lines = self.keeper.lines();
        // What the clock ends, the keeper ends with its next portion.
        let over = self.keeper.kept_no_longer(self.now());
        let ours = self.line.places().iter().filter(|place| !place.is_over(self.now()));
        let are_known = lines.len() - over == ours.count()
            && lines.clients() == self.line.present().count();
        let one_each = self.line.places().iter().enumerate().all(|(at, place)| {
            let meets = |other: &&Place| {
                place.unique
                    && other.unique
                    && other.owner == place.owner
                    && other.keys.iter().any(|key| place.keys.contains(key))
            };
            self.line.places()[..at].iter().filter(meets).count() == 0
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
        let is_served = (0..self.line.places().len()).all(|at| {
            let place = &self.line.places()[at];
            let has = |key: &&usize| match self.keys.get(**key) {
                None => counts(self, **key) && self.line.first(**key) == Some(at),
                Some(_) => place.unique && place.of_set && self.is_held_by(**key, place),
            };
            !place.is_present() || place.keys.iter().filter(has).count() < place.wants
        });
        self.require(Law::NoLostWakeUp, is_served, "who can be served is served");
    }

    /// Whether the keeper knows that a lock is held by who waits for the others of its set.
    fn is_held_by(&self, key: usize, place: &Place) -> bool {
        let id = self.keeper.table().find(name(key));
        let hold = id.and_then(|id| self.keeper.table().get(id)?.hold.as_ref());
        // An adopted lock may be overwritten unnoticed: see `Keeper::agrees`.
        hold.is_some_and(|hold| {
            Some(&*hold.owner) == self.keys.text(key)
                && *hold.owner == *OWNERS[place.owner]
        })
    }
}
