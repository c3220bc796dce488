//! The rule of taking away: for operators and watchdogs. With a guard only the very hold
//! that they looked at, never its successor's.

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::fault::Fault;
use crate::keeper::{Caller, Keeper};
use crate::lock::Name;
use crate::request::ForceRelease;
use crate::seen::{Seen, can_own};
use crate::serve::Next;

/// What became of a call, and so what is to be done to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forced {
    /// The key is the next one's.
    Freed {
        /// Who held it.
        owner: Box<[u8]>,
        /// Who is next.
        next: Next,
    },
    /// Nothing: free, or not the hold that the guard names.
    NotTaken,
}

impl Keeper {
    /// Takes a lock from whoever holds it.
    ///
    /// # Errors
    /// When the key is no lock.
    pub fn force_release(
        &mut self,
        name: Name<'_>,
        ask: ForceRelease<'_>,
        seen: &Seen<'_>,
        client: Option<u64>,
        now: Now,
    ) -> Result<Forced, Fault> {
        let mut known = self.table.find(name);
        if let Some(id) = known {
            self.settle(id, seen, now);
        }
        let outcome = match *seen {
            Seen::Other => Err(Fault::WrongType),
            Seen::Text { value, expires }
                if can_own(value) && self.passes_guard(known, &ask, value) =>
            {
                known = known.or_else(|| self.table.find_or_make(name));
                let next = known.map_or(Next::Nobody, |id| {
                    let caller = Caller { owner: ask.owner, client };
                    self.adopt_unless_known(id, value, expires, now);
                    self.end_and_serve(id, End::Forced(ask.reason), caller, now)
                });
                Ok(Forced::Freed { owner: value.into(), next })
            }
            _ => Ok(Forced::NotTaken),
        };
        if let Some(id) = known {
            self.table.forget_if_idle(id);
        }
        outcome
    }

    /// True when the holder is the one that the call names. A lock without a token passes
    /// TOKEN only beside its OWNER: a token alone would name nobody.
    fn passes_guard(
        &self,
        known: Option<Id>,
        ask: &ForceRelease<'_>,
        holder: &[u8],
    ) -> bool {
        let hold = known.and_then(|id| self.table.get(id)?.hold.as_ref());
        let has_token = hold.is_some_and(|hold| hold.token().is_some());
        ask.owner.is_none_or(|owner| owner == holder)
            && self.is_hold(known, ask.token)
            && (ask.token.is_none() || ask.owner.is_some() || has_token)
    }
}
