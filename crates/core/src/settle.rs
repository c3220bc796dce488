//! What every rule begins with: what is known of a lock is brought in line with what its
//! key shows. Other clients may delete, overwrite or renew a key at any time, and nobody
//! tells us; so a hold is over when its key says so.
//!
//! | known | the key shows | then |
//! |---|---|---|
//! | a hold | its owner | it goes on, with the lease that the key shows, also when the lease that was known is over: others may have lengthened it |
//! | a hold | nothing | it ended: `expired` at or after its lease's end, else `removed`; the end of a grace is its session's |
//! | a hold | nothing, the slot is gone | it `moved` |
//! | a hold | something else | it ended likewise; another owner in place of a granted lock is adopted |
//! | no hold | anything | nothing: whether it is adopted is for each rule to say |

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::keeper::{Caller, Keeper};
use crate::lock::Session;
use crate::seen::{Expires, Seen, can_own};

impl Keeper {
    /// Brings a lock in line with what its key shows. What is known of it afterwards may be
    /// nothing; [`crate::table::Table::forget_if_idle`] is left to the caller.
    pub(crate) fn settle(&mut self, id: Id, seen: &Seen<'_>, now: Now) {
        let Some(lock) = self.table.get_mut(id) else { return };
        lock.set_aside &= matches!(seen, Seen::Absent);
        let Some(hold) = lock.hold.as_mut() else { return };
        let is_over = hold.is_over(now.ms());
        let end = match hold.session {
            _ if !is_over => End::Removed,
            Session::Closed => End::SessionClosed,
            _ => End::Expired,
        };
        let granted = !hold.adopted;
        match *seen {
            Seen::Text { value, expires } if value == &*hold.owner => {
                hold.until_ms = expires.end().unwrap_or(hold.until_ms);
                self.rearm(id);
            }
            Seen::Text { value, expires } => {
                self.end(id, end, Caller::default(), now);
                if granted && can_own(value) {
                    self.adopt(id, value, expires, now);
                }
            }
            Seen::Absent | Seen::Other => self.end(id, end, Caller::default(), now),
            Seen::Elsewhere => self.end(id, End::Moved, Caller::default(), now),
        }
    }

    /// Adopts the lock unless its hold is known. For a lock that is settled, and whose key
    /// shows an owner.
    pub(crate) fn adopt_unless_known(
        &mut self,
        id: Id,
        owner: &[u8],
        expires: Expires,
        now: Now,
    ) {
        if self.table.hold_mut(id).is_none() {
            self.adopt(id, owner, expires, now);
        }
    }
}
