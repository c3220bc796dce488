//! What every rule begins with: what is known of a lock is brought in line with what its
//! key shows. Other clients may delete, overwrite or renew a key at any time, and nobody
//! tells us; so a hold is over when its key says so.
//!
//! | known | the key shows | then |
//! |---|---|---|
//! | a hold | its owner | it goes on, with the lease that the key shows |
//! | a hold whose lease is over | its owner, with another lease | it goes on if others lengthened the lease before its end; it ended if the key was set anew by an equal name. The caller tells one from the other ([`Keeper::may_be_another_hold`]) |
//! | a hold | nothing | it ended: `expired` at or after its lease's end, else `removed`; the end of a grace is its session's |
//! | a hold | nothing, the slot is gone | it `moved` |
//! | a hold | something else | it ended likewise; another owner in place of a granted lock is adopted |
//! | no hold | anything | nothing: whether it is adopted is for each rule to say |

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::keeper::{Caller, Keeper};
use crate::lock::{Name, Session};
use crate::seen::{Expires, Seen, can_own};

/// How a hold ends whose lease is over.
fn over(session: Session) -> End {
    match session {
        Session::Closed => End::SessionClosed,
        _ => End::Expired,
    }
}

impl Keeper {
    /// Brings a lock in line with what its key shows. What is known of it afterwards may be
    /// nothing; [`crate::table::Table::forget_if_idle`] is left to the caller.
    pub(crate) fn settle(&mut self, id: Id, seen: &Seen<'_>, now: Now) {
        let Some(lock) = self.table.get_mut(id) else { return };
        lock.set_aside &= matches!(seen, Seen::Absent);
        let Some(hold) = lock.hold.as_mut() else { return };
        let is_over = hold.is_over(now.ms());
        let end = if is_over { over(hold.session) } else { End::Removed };
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

    /// The lock, when its key shows the owner of a hold whose lease was over, with another
    /// lease: others may have lengthened it in time, or set the key anew after its end. The
    /// clock is read only when that is in question. Only
    /// the key can tell; if it was set anew, [`Keeper::key_was_set_anew`] is to be called
    /// before the rule.
    pub fn may_be_another_hold(
        &self,
        name: Name<'_>,
        expires: Expires,
        now: impl FnOnce() -> Now,
    ) -> Option<Id> {
        let id = self.table.find(name)?;
        let hold = self.table.get(id)?.hold.as_ref()?;
        let is_other_lease = expires.end().is_some_and(|end| end != hold.until_ms);
        (is_other_lease && hold.is_over(now().ms())).then_some(id)
    }

    /// The key of a lock was set anew, by an equal name, after the lease of its hold was over:
    /// that hold ended, and the lock is adopted if the module had granted it.
    pub fn key_was_set_anew(&mut self, id: Id, expires: Expires, now: Now) {
        let Some(hold) = self.table.get(id).and_then(|lock| lock.hold.as_ref()) else {
            return;
        };
        let (owner, granted) = (hold.owner.clone(), !hold.adopted);
        self.end(id, over(hold.session), Caller::default(), now);
        if granted {
            self.adopt(id, &owner, expires, now);
        }
        self.table.forget_if_idle(id);
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
