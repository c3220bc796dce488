//! FORCERELEASE: takes a lock from its holder, for operators and watchdogs. OWNER and TOKEN limit it
//! to the hold that the caller looked at, so that it never takes the lock of a successor.

use crate::error::CommandError;
use crate::manager::{Caller, LockManager};
use crate::request::ForceRelease;
use crate::rules::hand_off::HandOff;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lock::Name;

/// What became of a call, and what to write to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forced {
    /// The lock passes on.
    Freed {
        /// The last holder.
        owner: Box<[u8]>,
        /// What to write to the key.
        next: HandOff,
    },
    /// Nothing: the lock is free, or OWNER or TOKEN do not match.
    NotTaken,
}

impl LockManager {
    /// Takes a lock from its holder.
    ///
    /// # Errors
    /// When the key is not a string.
    pub fn force_release(
        &mut self,
        name: Name<'_>,
        request: ForceRelease<'_>,
        state: &KeyState<'_>,
        client: Option<u64>,
        now: Now,
    ) -> Result<Forced, CommandError> {
        let known = self.reconcile_named(name, state, now);
        match *state {
            KeyState::OtherType => Err(CommandError::WrongType),
            KeyState::String { value, expires }
                if is_valid_owner(value) && self.is_meant(known, &request, value) =>
            {
                let owner = value.into();
                let Some(id) = known.or_else(|| self.table.find_or_make(name)) else {
                    return Ok(Forced::Freed { owner, next: HandOff::NoWaiter });
                };
                let caller = Caller { owner: request.owner, client };
                self.adopt_unless_held(id, value, expires, now);
                self.end(id, End::Forced(request.reason), caller, now);
                Ok(Forced::Freed { owner, next: self.hand_off_next(id, now) })
            }
            _ => Ok(Forced::NotTaken),
        }
    }

    /// Whether the hold matches OWNER and TOKEN. A hold without a token matches TOKEN only together
    /// with its OWNER: a token alone would identify no hold.
    fn is_meant(
        &self,
        known: Option<Id>,
        request: &ForceRelease<'_>,
        holder: &[u8],
    ) -> bool {
        let hold = known.and_then(|id| self.table.hold(id));
        let has_token = hold.is_some_and(|hold| hold.token().is_some());
        request.owner.is_none_or(|owner| owner == holder)
            && self.token_matches(known, request.token)
            && (request.token.is_none() || request.owner.is_some() || has_token)
    }
}
