//! Sessions: a hold that ends with the connection that acquired it. Also the other deferred work on
//! single locks: grants that did not arrive, and reserved locks that pass on.

use crate::manager::{Caller, LockManager};
use crate::rules::hand_off::HandOff;
use crate::rules::wait::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::deferred::{Deferred, Lost};
use crate::state::event::End;
use crate::state::key_state::KeyState;
use crate::state::lock::{Bytes, Name, Session};
use crate::state::outbox::Grant;
use crate::state::wait_queue::{Locks, Waiter};

/// What to write to the key of a lock with deferred work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeferredOutcome {
    /// Nothing: the lock has changed hands meanwhile.
    Nothing,
    /// The hold is over: the lock passes on.
    Ended(HandOff),
    /// The lock was free: it passes on.
    Free(HandOff),
    /// Set the expiry of the key.
    Shortened {
        /// The end of the grace period, in ms since the epoch.
        until_ms: u64,
    },
}

impl LockManager {
    /// A client's connection closed: its wait ends, and the locks tied to it end as deferred work.
    pub fn client_gone(&mut self, client: u64, now: Now) {
        if let Some(ticket) = self.queues.of_client(client) {
            self.end_wait_within_budget(ticket, LeaveReason::Disconnected, now);
        }
        if self.table.first_tied(client).is_some() {
            self.deferred.end_session(client, self.budget.of_session(), now);
        }
    }

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

    /// The lock, or one of the locks, of the next deferred work.
    pub fn next_deferred_lock(&mut self) -> Option<Id> {
        self.deferred.next_lock(&self.table, &self.queues)
    }

    /// The next deferred work that is due at once.
    pub fn take_deferred(&mut self) -> Option<Deferred> {
        self.deferred.take(&mut self.table, &mut self.queues)
    }

    /// The next lock of a session that ends in portions.
    pub fn take_session_end(&mut self) -> Option<Deferred> {
        self.deferred.take_session_end(&mut self.table)
    }

    /// Whether a hold with this session is about to end because its connection closed.
    pub fn is_ending(&self, session: Session) -> bool {
        self.deferred.is_ending(session)
    }

    /// Carries out deferred work on one lock, if the lock has not changed hands meanwhile. A lock that
    /// is free passes on in any case.
    pub fn run_deferred(
        &mut self,
        work: Deferred,
        state: &KeyState<'_>,
        now: Now,
    ) -> DeferredOutcome {
        let Some(id) = work.lock() else { return DeferredOutcome::Nothing };
        self.reconcile(id, state, now);
        if *state == KeyState::Absent {
            return DeferredOutcome::Free(self.hand_off_next(id, now));
        }
        match work {
            Deferred::Undelivered { token, lost, .. } => {
                self.take_back(id, token, &lost, now)
            }
            Deferred::SessionEnd { client, closed_ms, .. } => {
                self.end_session_hold(id, client, closed_ms, now)
            }
            Deferred::HandOff { .. }
            | Deferred::Session(_)
            | Deferred::Recount { .. } => DeferredOutcome::Nothing,
        }
    }

    /// Takes a grant back, unless its owner has acquired the lock again meanwhile and so got the
    /// token.
    fn take_back(
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

    /// Ends a hold whose connection closed, or leaves it its grace period.
    fn end_session_hold(
        &mut self,
        id: Id,
        client: u64,
        closed_ms: u64,
        now: Now,
    ) -> DeferredOutcome {
        let session = self.table.hold(id).map(|hold| hold.session);
        let Some(Session::Ending { client: tied_to, grace_ms }) = session else {
            return DeferredOutcome::Nothing;
        };
        if tied_to != client {
            return DeferredOutcome::Nothing;
        }
        let until_ms = closed_ms.saturating_add(grace_ms);
        // Without a grace period it ends now, even if the clock was stepped back since.
        if grace_ms > 0 && until_ms > now.ms() {
            return self.shorten_to_grace(id, until_ms);
        }
        self.end(id, End::SessionClosed, Caller::default(), now);
        DeferredOutcome::Ended(self.hand_off_next(id, now))
    }

    /// Shortens a lease to the grace period. A lease that ends before it stays as it is.
    fn shorten_to_grace(&mut self, id: Id, until_ms: u64) -> DeferredOutcome {
        let is_longer = self.table.hold(id).is_some_and(|hold| hold.until_ms > until_ms);
        if !is_longer {
            self.table.set_session(id, Session::None);
            return DeferredOutcome::Nothing;
        }
        self.table.change_hold(id, |hold| hold.until_ms = until_ms);
        self.table.set_session(id, Session::Closed);
        DeferredOutcome::Shortened { until_ms }
    }
}
