//! What must follow from every state: looked at on a copy of the world, which goes on
//! without anybody who asks for anything new.

use crate::call::OWNERS;
use crate::keyspace::KEYS;
use crate::law::{Breach, Law};
use crate::world::{World, Writes};

/// More portions than there is work for.
const PORTIONS: usize = 100;

impl World {
    /// The law that is broken here, or will be whatever clients do.
    pub fn breach_here_or_after(&self) -> Option<Breach> {
        self.breach().or_else(|| self.breach_after())
    }

    fn breach_after(&self) -> Option<Breach> {
        let mut calm = self.clone();
        calm.set_writes(Writes::Accepted);
        calm.end_turn();
        calm.tick_until_quiet();
        calm.serve_all();
        calm.breach()
    }

    /// The timer comes, and again: not later than the second time, when the clock was
    /// stepped back a little, nobody waits for a lock that is free.
    pub fn tick_until_quiet(&mut self) {
        for _ in 0..PORTIONS {
            for _ in 0..2 {
                self.pass(6);
                self.tick();
            }
            if !self.is_behind() {
                break;
            }
        }
        self.require(Law::NoLostWakeUp, !self.is_behind(), "the rest is done as well");
        self.check_wake_ups(|_, _| true);
    }

    /// Everything is given up again and again: everybody who waits is served.
    pub fn serve_all(&mut self) {
        for _ in 0..=self.queue.positions().len() {
            for key in 0..KEYS.len() {
                self.give_up(key);
            }
            self.end_turn();
            self.tick_until_quiet();
        }
        let nobody = self.waiting() == 0 && self.in_flight.is_empty();
        self.require(Law::NoStarvation, nobody, "everybody who waits is served");
    }

    /// Whoever holds a lock gives it back, or takes it away from under the keeper.
    fn give_up(&mut self, key: usize) {
        let holder = self.keys.text(key);
        match OWNERS.iter().position(|owner| Some(*owner) == holder) {
            Some(owner) => self.release(key, owner, None),
            None if self.keys.get(key).is_some() => self.delete(key),
            None => {}
        }
    }
}
