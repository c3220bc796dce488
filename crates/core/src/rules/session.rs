//! Sessions: a hold that ends with the connection that acquired it. Its end is deferred work, which is
//! dispatched here.

use crate::manager::{Caller, LockManager};
use crate::rules::hand_off::HandOff;
use crate::rules::wait::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::deferred::Deferred;
use crate::state::event::End;
use crate::state::key_state::KeyState;
use crate::state::lock::Session;

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
