//! The rule of renewing: compare and set the lease anew, counted from now.

use crate::clock::Now;
use crate::fault::Fault;
use crate::keeper::Keeper;
use crate::lease;
use crate::lock::Name;
use crate::request::Extend;
use crate::seen::Seen;

/// What became of a call, and so what is to be done to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// Let the key live until then.
    Renewed {
        /// The fencing token.
        token: u64,
        /// When the lease is over, in ms since the epoch.
        until_ms: u64,
    },
    /// Nothing: the caller does not hold the lock.
    NotHeld,
}

impl Keeper {
    /// Renews a lease.
    ///
    /// # Errors
    /// When the key is no lock, or the lease too long.
    pub fn extend(
        &mut self,
        name: Name<'_>,
        ask: &Extend<'_>,
        seen: &Seen<'_>,
        now: Now,
    ) -> Result<Extended, Fault> {
        let lease_ms = lease::asked(ask.lease_ms, &self.settings)?;
        let mut known = self.table.find(name);
        if let Some(id) = known {
            self.settle(id, seen, now);
        }
        let outcome = match *seen {
            Seen::Other => Err(Fault::WrongType),
            Seen::Text { value, expires }
                if value == ask.owner && self.is_hold(known, ask.token) =>
            {
                let id = self.table.find_or_make(name).ok_or(Fault::OutOfMemory)?;
                known = Some(id);
                self.adopt_unless_known(id, value, expires, now);
                let (token, until_ms) = self.renew(id, lease_ms, now)?;
                self.count(known, |counters| &mut counters.extends);
                Ok(Extended::Renewed { token, until_ms })
            }
            _ => {
                self.count(known, |counters| &mut counters.extend_failures);
                Ok(Extended::NotHeld)
            }
        };
        if let Some(id) = known {
            self.table.forget_if_idle(id);
        }
        outcome
    }
}
