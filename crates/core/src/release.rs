//! The rule of giving back: compare and delete. Whoever does not hold the lock changes
//! nothing, and is counted and logged.

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::fault::Fault;
use crate::keeper::{Caller, Incident, Keeper};
use crate::lock::{Hold, Name};
use crate::log::Kind;
use crate::request::Release;
use crate::seen::{Seen, can_own};
use crate::serve::Next;

/// What became of a call, and so what is to be done to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The key is the next one's.
    Freed(Next),
    /// Nothing: the caller does not hold the lock.
    NotHeld,
}

impl Keeper {
    /// Gives a lock back.
    ///
    /// # Errors
    /// When the key is no lock.
    pub fn release(
        &mut self,
        name: Name<'_>,
        ask: Release<'_>,
        seen: &Seen<'_>,
        client: Option<u64>,
        now: Now,
    ) -> Result<Released, Fault> {
        let caller = Caller { owner: Some(ask.owner), client };
        let mut known = self.table.find(name);
        if let Some(id) = known {
            self.settle(id, seen, now);
        }
        let outcome = match *seen {
            Seen::Other => {
                self.release_failed(name);
                Err(Fault::WrongType)
            }
            Seen::Text { value, expires }
                if value == ask.owner && self.is_hold(known, ask.token) =>
            {
                known = known.or_else(|| self.table.find_or_make(name));
                let next = known.map_or(Next::Nobody, |id| {
                    self.adopt_unless_known(id, value, expires, now);
                    self.end_and_serve(id, End::Released(ask.reason), caller, now)
                });
                Ok(Released::Freed(next))
            }
            _ => {
                self.violation(name, ask, seen, caller, now);
                Ok(Released::NotHeld)
            }
        };
        if let Some(id) = known {
            self.table.forget_if_idle(id);
        }
        outcome
    }

    /// Counts a RELEASE that is answered with an error.
    pub fn release_failed(&mut self, name: Name<'_>) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.release_script_errors);
        self.count(known, |counters| &mut counters.normal_release_failures);
    }

    /// True when the token is that of the hold, or cannot be told from it.
    pub(crate) fn is_hold(&self, id: Option<Id>, token: Option<u64>) -> bool {
        let hold = id.and_then(|id| self.table.get(id)?.hold.as_ref());
        hold.is_none_or(|hold| hold.matches(token))
    }

    /// Counts and logs a release by somebody who does not hold the lock.
    fn violation(
        &mut self,
        name: Name<'_>,
        ask: Release<'_>,
        seen: &Seen<'_>,
        caller: Caller<'_>,
        now: Now,
    ) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.ownership_violations);
        self.count(known, |counters| &mut counters.normal_release_failures);
        let holder = match *seen {
            Seen::Text { value, .. } => Some(value),
            _ => {
                self.count(known, |counters| &mut counters.stale_releases);
                None
            }
        };
        let hold = known.and_then(|id| self.table.get(id)?.hold.as_ref());
        let incident = Incident {
            name,
            kind: match holder {
                Some(_) => Kind::OwnershipViolation,
                None => Kind::StaleRelease,
            },
            holder: holder.filter(|holder| can_own(holder)),
            token: hold.and_then(Hold::token),
            held_ms: hold.and_then(|hold| hold.held_ms(now)),
            reason: ask.reason,
            caller,
        };
        self.log_incident(incident, now);
    }
}
