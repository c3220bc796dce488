//! What must follow from every state. It is checked on a copy of the world in which no client makes
//! a new call.

use crate::call::OWNERS;
use crate::law::{Breach, Law};
use crate::memory_keys::KEYS;
use crate::world::{World, Writes};

/// More budgets than the work can take.
const MAX_BUDGETS: usize = 100;

impl World {
    /// The law that is broken now, or that will be broken whatever clients do.
    pub fn breach_now_or_later(&self) -> Option<Breach> {
        self.breach().or_else(|| self.breach_later())
    }

    fn breach_later(&self) -> Option<Breach> {
        let mut later = self.clone();
        later.set_writes(Writes::Accepted);
        later.end_turn();
        later.tick_until_idle();
        later.sweep_notices();
        later.release_until_served();
        later.breach()
    }

    /// Fires the timer, whenever it is due, until no work is left. Then no waiter waits for a free lock. Two ticks are
    /// enough for that, even when the clock was stepped back a little.
    pub fn tick_until_idle(&mut self) {
        for _ in 0..MAX_BUDGETS {
            for _ in 0..2 {
                self.advance_clock(6);
                self.tick_if_due();
            }
            if !self.is_behind() {
                break;
            }
        }
        self.require(Law::NoLostWakeUp, !self.is_behind(), "all deferred work gets done");
        self.check_wake_ups(|_, _| true);
    }

    /// Releases all locks again and again. Then every waiter is served.
    pub fn release_until_served(&mut self) {
        for _ in 0..=self.queue.positions().len() {
            for key in 0..KEYS.len() {
                self.release_or_delete(key);
            }
            self.end_turn();
            self.tick_until_idle();
        }
        let is_served = self.waiting() == 0 && self.in_flight.is_empty();
        self.require(Law::NoStarvation, is_served, "every waiter is served");
    }

    /// The holder releases a lock. A value that is not an owner is deleted.
    fn release_or_delete(&mut self, key: usize) {
        let holder = self.keys.text(key);
        match OWNERS.iter().position(|owner| Some(*owner) == holder) {
            Some(owner) => self.release(key, owner, None),
            None if self.keys.get(key).is_some() => self.delete(key),
            None => {}
        }
    }
}
