//! What happens outside the module: other clients' commands, the clock, and the server's pauses and
//! role changes.

use gpulock_core::CommandError;
use gpulock_core::state::lock::Bytes;
use gpulock_core::state::outbox::WaitReply;
use gpulock_core::state::settings::Settings;

use crate::flaw::Flaw;
use crate::law::Law;
use crate::memory_keys::{KEYS, Value, name};
use crate::world::{World, Writes};

impl World {
    /// A command begins. While the lock manager listens, the server calls it. Postponed commands
    /// come first, except that the timer may be what ends a pause.
    pub(crate) fn command_begins(&mut self) {
        self.execute_postponed();
        if self.is_listening && self.flaw != Flaw::HearsNoCommand {
            self.manager.command_seen();
        }
    }

    /// `DEL key` while the server is paused: the command is heard, and executed after the pause.
    pub fn postpone_delete(&mut self, key: usize) {
        self.command_begins();
        self.postponed_delete = Some(key);
        self.finish_step();
    }

    /// Executes the postponed command once the server is no longer paused. It is not heard again.
    pub(crate) fn execute_postponed(&mut self) {
        if self.writes == Writes::Accepted
            && let Some(key) = self.postponed_delete.take()
        {
            self.put_external(key, None);
        }
    }

    /// `SET key value`, with or without `PX`.
    pub fn set(&mut self, key: usize, value: &[u8], ttl_ms: Option<u64>) {
        self.command_begins();
        let until_ms = ttl_ms.map(|ttl| self.now().ms() + ttl);
        let value = Value::Text(Bytes::from_slice(value), until_ms);
        self.put_external(key, Some(value));
        self.finish_step();
    }

    /// A value of another type.
    pub fn set_other(&mut self, key: usize) {
        self.command_begins();
        self.put_external(key, Some(Value::Other));
        self.finish_step();
    }

    /// `DEL key`
    pub fn delete(&mut self, key: usize) {
        self.command_begins();
        self.put_external(key, None);
        self.finish_step();
    }

    /// `PEXPIRE`, or `PERSIST`. The hold continues with the new expiry.
    pub fn expire(&mut self, key: usize, ttl_ms: Option<u64>) {
        self.command_begins();
        let until_ms = ttl_ms.map(|ttl| self.now().ms() + ttl);
        self.keys.expire(key, until_ms);
        if let Some(notice) = &mut self.notices[key] {
            notice.is_changed = true;
        }
        // A session that is already ending still ends the hold.
        let is_ending = self.is_session_ending(key);
        if let Some(held) = self.holds[key].as_mut().filter(|_| !is_ending) {
            held.forget_closed_session();
        }
        self.finish_step();
    }

    fn is_session_ending(&self, key: usize) -> bool {
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

    /// Moves the clock; negative: it is stepped back.
    pub fn advance_clock(&mut self, ms: i64) {
        self.keys.step_clock(ms);
        // By the new time, an ended lease may not be over.
        if ms < 0 {
            self.holds.iter_mut().flatten().for_each(|held| held.set_after_end = false);
        }
        self.finish_step();
    }

    /// Changes whether keys may be written.
    pub fn set_writes(&mut self, writes: Writes) {
        self.writes = writes;
        self.finish_step();
    }

    /// Changes the settings.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        self.command_begins();
        self.manager.configure(change);
        self.finish_step();
    }

    /// Changes `max-waiters`. The timer lets kept positions give way at once, before it hands off
    /// locks.
    pub fn set_max_waiters(&mut self, waiters: u64) {
        self.command_begins();
        self.manager.configure(|settings| settings.max_waiters = waiters);
        self.manager.expire_waits(self.now());
        self.remove_ended_waits();
        self.finish_step();
    }

    /// The server becomes a replica and then a primary again. Each waiter gets one reply, and the
    /// lock manager has no record of queues and holds.
    pub fn demote(&mut self) {
        let now = self.now();
        self.manager.demoted(now);
        let waiting = self.waiting();
        let mut replied = 0;
        while let Some((_, reply)) = self.manager.outbox().take_reply() {
            replied += usize::from(reply == WaitReply::Error(CommandError::Unblocked));
        }
        self.require(Law::Bookkeeping, replied == waiting, "each waiter gets one reply");
        self.queue.retain(|_| false);
        // Positions that are marked as left are removed later.
        let positions = self.manager.queues().len();
        let is_empty = positions == 0 && self.manager.table().held() == 0;
        self.require(Law::Bookkeeping, is_empty, "a demotion clears queues and holds");
        self.known_free = [false; KEYS.len()];
        self.holds = Default::default();
        self.notices = Default::default();
        self.manager.promoted(now);
        self.finish_step();
    }
}
