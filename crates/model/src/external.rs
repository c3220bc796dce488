//! What happens without a command of the module's: other clients' commands, the clock, the
//! server's pauses and roles.

use gpulock_core::CommandError;
use gpulock_core::state::lock::Bytes;
use gpulock_core::state::outbox::WaitReply;
use gpulock_core::state::settings::Settings;

use crate::keyspace::{KEYS, Value, name};
use crate::law::Law;
use crate::queue::Queue;
use crate::world::{World, Writes};

impl World {
    /// `SET key value`, with or without `PX`.
    pub fn set(&mut self, key: usize, value: &[u8], ttl_ms: Option<u64>) {
        let until_ms = ttl_ms.map(|ttl| self.now().ms() + ttl);
        let value = Value::Text(Bytes::from_slice(value), until_ms);
        self.put_external(key, Some(value));
        self.finish_step();
    }

    /// A value of another type.
    pub fn set_other(&mut self, key: usize) {
        self.put_external(key, Some(Value::Other));
        self.finish_step();
    }

    /// `DEL key`
    pub fn delete(&mut self, key: usize) {
        self.put_external(key, None);
        self.finish_step();
    }

    /// `PEXPIRE`, or `PERSIST`: the hold goes on, with the new end.
    pub fn expire(&mut self, key: usize, ttl_ms: Option<u64>) {
        let until_ms = ttl_ms.map(|ttl| self.now().ms() + ttl);
        self.keys.expire(key, until_ms);
        // A session whose end is still owed ends the hold all the same.
        let is_owed_an_end = self.is_owed_an_end(key);
        if let Some(held) = self.holds[key].as_mut().filter(|_| !is_owed_an_end) {
            held.forget_closed_session();
        }
        self.finish_step();
    }

    fn is_owed_an_end(&self, key: usize) -> bool {
        let id = self.manager.table().find(name(key));
        let hold = id.and_then(|id| self.manager.table().get(id)?.hold.as_ref());
        hold.is_some_and(|hold| self.manager.is_ending(hold.session))
    }

    /// The server evicts a key.
    pub fn evict(&mut self, key: usize) {
        if self.keys.get(key).is_some() {
            self.put_external(key, None);
            self.manager.evicted(name(key), self.now());
        }
        self.finish_step();
    }

    /// Time goes by; negative: the clock is stepped back.
    pub fn pass(&mut self, ms: i64) {
        self.keys.step_clock(ms);
        // What was over may not be over any more, as far as anybody can tell.
        if ms < 0 {
            self.holds.iter_mut().flatten().for_each(|held| held.over = false);
        }
        self.finish_step();
    }

    /// Keys may be written no longer, or again.
    pub fn set_writes(&mut self, writes: Writes) {
        self.writes = writes;
        self.finish_step();
    }

    /// The settings change.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        self.manager.configure(change);
        self.finish_step();
    }

    /// The server becomes a replica, and a primary again: nobody waits any more, each was
    /// told once, and nothing is held as far as is known.
    pub fn demote(&mut self) {
        let now = self.now();
        self.manager.demoted(now);
        let waiting = self.waiting();
        let mut told = 0;
        while let Some((_, answer)) = self.manager.outbox().take_reply() {
            told += usize::from(answer == WaitReply::Error(CommandError::Unblocked));
        }
        self.require(Law::Tidiness, told == waiting, "each waiter is told once");
        self.queue = Queue::default();
        let is_empty =
            self.manager.queues().is_empty() && self.manager.table().held() == 0;
        self.require(Law::Tidiness, is_empty, "nothing is held, nobody waits");
        self.shown_free = [false; KEYS.len()];
        self.holds = Default::default();
        self.manager.promoted(now);
        self.finish_step();
    }
}
