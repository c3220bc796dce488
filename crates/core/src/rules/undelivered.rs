//! Grants that did not reach their waiter: they are taken back, and the lock passes on.

use crate::manager::{Caller, LockManager};
use crate::rules::session::DeferredOutcome;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::deferred::Lost;
use crate::state::event::End;
use crate::state::lock::{Bytes, Name};
use crate::state::outbox::Grant;
use crate::state::wait_queue::{Locks, Waiter};

impl LockManager {
    /// A waiter was gone before it received its grants: they are taken back.
    pub fn undelivered(&mut self, grants: &[Grant], waiter: &Waiter, set: &[Bytes]) {
        self.deferred.take_back(grants, waiter.clone(), set);
    }

    /// A waiter may not have its grants, because its user has lost the permission: they are taken
    /// back, and its position is not restored.
    pub fn not_permitted(&mut self, grants: &[Grant], waiter: &Waiter) {
        let waiter = Waiter { unique: false, ..waiter.clone() };
        self.deferred.take_back(grants, waiter, &[]);
    }

    /// Takes a grant back, unless its owner has acquired the lock again meanwhile and so got the
    /// token.
    pub(crate) fn take_back(
        &mut self,
        id: Id,
        token: u64,
        lost: &Lost,
        now: Now,
    ) -> DeferredOutcome {
        let hold = self.table.hold(id);
        if hold.is_none_or(|hold| hold.token() != Some(token) || hold.renewed) {
            return DeferredOutcome::Nothing;
        }
        self.restore_position(id, lost, now);
        self.end(id, End::Undelivered, Caller::default(), now);
        DeferredOutcome::Ended(self.hand_off_next(id, now))
    }

    /// Restores the position of a UNIQUE waiter whose grant is taken back, unless that was done for
    /// another lock of its set, or its owner has a newer position in one of these queues.
    fn restore_position(&mut self, id: Id, lost: &Lost, now: Now) {
        let Lost { waiter, set } = lost;
        let Some(db) = self.table.get(id).map(|lock| lock.db) else { return };
        if !waiter.unique || self.settings.place_keep == 0 {
            return;
        }
        let is_queued = |lock: &Id| self.queues.position_of(&waiter.owner, *lock);
        let find = |key: &Bytes| self.table.find(Name { db, key });
        let mut locks: Locks = set.iter().filter_map(find).collect();
        if set.is_empty() {
            locks.clone_from(&waiter.locks);
        }
        if locks.iter().any(|lock| is_queued(lock).is_some()) {
            return;
        }
        if !set.is_empty() {
            let mut make = |key| self.table.find_or_make(Name { db, key });
            locks = set.iter().filter_map(|key| make(key.as_slice())).collect();
        }
        self.keep_position(&Waiter { locks, ..waiter.clone() }, now);
    }
}
