//! EXTEND: compare and renew. The new lease counts from now.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::Extend;
use crate::state::clock::Now;
use crate::state::key_state::KeyState;
use crate::state::lease;
use crate::state::lock::Name;

/// What became of a call, and what to write to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// Set the expiry of the key.
    Renewed {
        /// The fencing token.
        token: u64,
        /// When the lease expires, in ms since the epoch.
        until_ms: u64,
    },
    /// Nothing: the caller does not hold the lock.
    NotHeld,
}

impl LockManager {
    /// Renews a lease.
    ///
    /// # Errors
    /// When the key is not a string, or the lease is too long.
    pub fn extend(
        &mut self,
        name: Name<'_>,
        request: &Extend<'_>,
        state: &KeyState<'_>,
        now: Now,
    ) -> Result<Extended, CommandError> {
        let lease_ms = lease::asked(request.lease_ms, &self.settings)?;
        let known = self.reconcile_named(name, state, now);
        match *state {
            KeyState::OtherType => Err(CommandError::WrongType),
            KeyState::String { value, expires }
                if value == request.owner && self.token_matches(known, request.token) =>
            {
                let id =
                    self.table.find_or_make(name).ok_or(CommandError::OutOfMemory)?;
                self.adopt_unless_held(id, value, expires, now);
                let (token, until_ms) = self.renew(id, lease_ms, now)?;
                self.count(Some(id), |counters| &mut counters.extends);
                Ok(Extended::Renewed { token, until_ms })
            }
            _ => {
                self.count(known, |counters| &mut counters.extend_failures);
                Ok(Extended::NotHeld)
            }
        }
    }
}
