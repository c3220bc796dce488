//! What the server itself does to locks: it becomes a primary or a replica, or evicts a key.

use crate::manager::{Caller, LockManager};
use crate::rules::wait::LeaveReason;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::lock::Name;

impl LockManager {
    /// This server became a primary: tokens start ahead of the clock again.
    pub fn promoted(&mut self, now: Now) {
        self.is_primary = true;
        self.tokens.begin(now);
    }

    /// This server became a replica: all holds and waits end here.
    pub fn demoted(&mut self, now: Now) {
        self.is_primary = false;
        while let Some(id) = self.queues.first_lock() {
            while let Some(ticket) = self.queues.first_position(id) {
                self.end_wait(ticket, LeaveReason::RoleChanged, now);
            }
        }
        self.deferred.clear();
        while let Some(id) = self.table.oldest() {
            self.end(id, End::Removed, Caller::default(), now);
        }
    }

    /// The server evicted a key.
    pub fn evicted(&mut self, name: Name<'_>, now: Now) {
        if let Some(id) = self.table.find(name) {
            self.end(id, End::Evicted, Caller::default(), now);
        }
    }
}
