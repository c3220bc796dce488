//! Looking at one lock. What its key shows is told as it is; nothing is adopted by being
//! looked at.

use crate::clock::Now;
use crate::fault::Fault;
use crate::keeper::Keeper;
use crate::lock::{Hold, Name};
use crate::seen::{Expires, Seen, can_own};

/// What INSPECT tells of a held lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Who holds it; none when the value can be no owner.
    pub owner: Option<Box<[u8]>>,
    /// The fencing token.
    pub token: Option<u64>,
    /// What is left of the lease, in ms; none: it has no end.
    pub lease_ms: Option<u64>,
    /// For how long it is held, in ms.
    pub held_ms: Option<u64>,
    /// The module did not grant it.
    pub adopted: bool,
}

impl Keeper {
    /// Looks at a lock; none when it is free.
    ///
    /// # Errors
    /// When the key is no lock.
    pub fn inspect(
        &mut self,
        name: Name<'_>,
        seen: &Seen<'_>,
        now: Now,
    ) -> Result<Option<Inspection>, Fault> {
        let known = self.table.find(name);
        if let Some(id) = known {
            self.settle(id, seen, now);
        }
        let hold = known.and_then(|id| self.table.get(id)?.hold.as_ref());
        let outcome = match *seen {
            Seen::Other => Err(Fault::WrongType),
            Seen::Absent | Seen::Elsewhere => Ok(None),
            Seen::Text { value, expires } => Ok(Some(Inspection {
                owner: can_own(value).then(|| value.into()),
                token: hold.and_then(Hold::token),
                lease_ms: match expires {
                    Expires::At(until) => Some(until.saturating_sub(now.ms())),
                    Expires::Never | Expires::Unread => None,
                },
                held_ms: hold.and_then(|hold| hold.held_ms(now)),
                adopted: hold.is_none_or(|hold| hold.adopted),
            })),
        };
        if let Some(id) = known {
            self.table.forget_if_idle(id);
        }
        outcome
    }
}
