//! The rule of taking: free, the lock is granted; held by the same UNIQUE owner, renewed;
//! held by anyone else, refused.

use crate::arena::Id;
use crate::clock::Now;
use crate::fault::Fault;
use crate::keeper::Keeper;
use crate::lease;
use crate::lock::Name;
use crate::request::Acquire;
use crate::seen::{Seen, can_own};

/// What became of a call, and so what is to be done to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Set the key to the owner, until then.
    Granted {
        /// The fencing token.
        token: u64,
        /// When the lease is over, in ms since the epoch.
        until_ms: u64,
    },
    /// Let the key live until then.
    Renewed {
        /// The fencing token, the same as before.
        token: u64,
        /// When the lease is over, in ms since the epoch.
        until_ms: u64,
    },
    /// Nothing.
    Refused,
}

impl Keeper {
    /// Asks for a lock. `room` is false when the server is out of memory.
    ///
    /// # Errors
    /// When the key is no lock, the lease too long, or a new hold would need memory.
    pub fn acquire(
        &mut self,
        name: Name<'_>,
        ask: &Acquire<'_>,
        seen: &Seen<'_>,
        room: bool,
        now: Now,
    ) -> Result<Acquired, Fault> {
        let lease_ms = match self.acceptable(ask, seen, room) {
            Ok(lease_ms) => lease_ms,
            Err(fault) => {
                let known = self.acquire_failed(name);
                if let Some(id) = known {
                    self.settle(id, seen, now);
                    self.table.forget_if_idle(id);
                }
                return Err(fault);
            }
        };
        let limit = self.tracked_limit();
        let id = self.table.find_or_make(name, limit).ok_or(Fault::OutOfMemory)?;
        self.count(Some(id), |counters| &mut counters.acquire_requests);
        self.settle(id, seen, now);
        let Seen::Text { value, expires } = *seen else {
            let (token, until_ms) = self.grant(id, ask.owner, lease_ms, ask.unique, now);
            return Ok(Acquired::Granted { token, until_ms });
        };
        if can_own(value) {
            self.adopt_unless_known(id, value, expires, now);
        }
        if ask.unique && value == ask.owner {
            let (token, until_ms) = self.renew(id, lease_ms, now)?;
            if let Some(hold) = self.table.hold_mut(id) {
                hold.unique = true;
            }
            self.count(Some(id), |counters| &mut counters.renewed);
            return Ok(Acquired::Renewed { token, until_ms });
        }
        self.count(Some(id), |counters| &mut counters.refused);
        self.table.forget_if_idle(id);
        Ok(Acquired::Refused)
    }

    /// Counts a call that is answered with an error.
    pub fn acquire_failed(&mut self, name: Name<'_>) -> Option<Id> {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.acquire_requests);
        known
    }

    /// The lease in ms of a call that is not refused out of hand.
    fn acceptable(
        &self,
        ask: &Acquire<'_>,
        seen: &Seen<'_>,
        room: bool,
    ) -> Result<u64, Fault> {
        match seen {
            Seen::Other => Err(Fault::WrongType),
            Seen::Absent if !room => Err(Fault::OutOfMemory),
            _ => lease::asked(ask.lease_ms, &self.settings),
        }
    }

    /// Sets the lease of a known hold anew, and answers its token and its end. An adopted
    /// lock gets its token here.
    pub(crate) fn renew(
        &mut self,
        id: Id,
        lease_ms: u64,
        now: Now,
    ) -> Result<(u64, u64), Fault> {
        let Self { table, tokens, settings, .. } = self;
        let hold = table.hold_mut(id).ok_or(Fault::Internal)?;
        let token = hold.token().unwrap_or_else(|| tokens.next(now));
        hold.set_token(token);
        hold.until_ms = lease::end(lease_ms, hold.since_ms, now.ms(), settings);
        Ok((token, hold.until_ms))
    }
}
