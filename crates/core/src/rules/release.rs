//! RELEASE: compare and delete. A caller that does not hold the lock changes nothing; the call is
//! counted and logged.

use crate::error::CommandError;
use crate::manager::{Caller, Incident, LockManager};
use crate::request::Release;
use crate::rules::hand_off::HandOff;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lock::{Hold, Name};
use crate::state::log::Kind;

/// What became of a call, and what to write to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The lock passes on.
    Freed(HandOff),
    /// Nothing: the caller does not hold the lock.
    NotHeld,
}

impl LockManager {
    /// Releases a lock; `known` is what the table has of it.
    ///
    /// # Errors
    /// When the key is not a string.
    pub fn release(
        &mut self,
        name: Name<'_>,
        known: Option<Id>,
        request: Release<'_>,
        state: &KeyState<'_>,
        client: Option<u64>,
        now: Now,
    ) -> Result<Released, CommandError> {
        let caller = Caller { owner: Some(request.owner), client };
        if let Some(id) = known {
            self.reconcile(id, state, now);
        }
        match *state {
            KeyState::OtherType => {
                self.count_failed_release(name);
                Err(CommandError::WrongType)
            }
            KeyState::String { value, expires }
                if value == request.owner && self.token_matches(known, request.token) =>
            {
                let Some(id) = known.or_else(|| self.table.find_or_make(name)) else {
                    return Ok(Released::Freed(HandOff::NoWaiter));
                };
                self.adopt_unless_held(id, value, expires, now);
                self.end(id, End::Released(request.reason), caller, now);
                Ok(Released::Freed(self.hand_off_next(id, now)))
            }
            _ => {
                self.log_violation(name, request, state, caller, now);
                Ok(Released::NotHeld)
            }
        }
    }

    /// Counts a RELEASE that gets an error.
    pub fn count_failed_release(&mut self, name: Name<'_>) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.release_script_errors);
        self.count(known, |counters| &mut counters.normal_release_failures);
    }

    /// Counts and logs a release by a caller that does not hold the lock.
    fn log_violation(
        &mut self,
        name: Name<'_>,
        request: Release<'_>,
        state: &KeyState<'_>,
        caller: Caller<'_>,
        now: Now,
    ) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.ownership_violations);
        self.count(known, |counters| &mut counters.normal_release_failures);
        let (kind, holder) = match *state {
            KeyState::String { value, .. } => (Kind::OwnershipViolation, Some(value)),
            _ => {
                self.count(known, |counters| &mut counters.stale_releases);
                (Kind::StaleRelease, None)
            }
        };
        let hold = known.and_then(|id| self.table.hold(id));
        let incident = Incident {
            name,
            kind,
            holder: holder.filter(|holder| is_valid_owner(holder)),
            token: hold.and_then(Hold::token),
            held_ms: hold.and_then(|hold| hold.held_ms(now)),
            reason: request.reason,
            caller,
        };
        self.log_incident(incident, now);
    }
}
