//! Reconciliation: every rule first brings the record of a lock in line with what its key shows.
//! Other clients may delete, overwrite or renew a key at any time without notice, so a hold is over
//! when its key says so.
//!
//! | the record | the key shows | then |
//! |---|---|---|
//! | a hold | its owner | the hold goes on, with the lease that the key shows |
//! | a hold whose lease is over | its owner, with another lease | the hold goes on if others extended the lease before its end; it ended if the key was set again by the same owner. The caller finds out which ([`LockManager::other_lease`]) |
//! | a hold | nothing | the hold ended: `expired` at or after the end of its lease, otherwise `removed`; after a grace period, its session ended |
//! | a hold | nothing, and the slot is gone | the hold `moved` |
//! | a hold | anything else | the hold ended likewise; another owner in place of a granted hold is adopted |
//! | no hold | anything | nothing: each rule decides for itself whether to adopt it |

use crate::manager::{Caller, LockManager};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::key_state::{Expires, KeyState, is_valid_owner};
use crate::state::lock::{Name, Session};

/// How a hold ends whose lease is over.
fn end_of_lease(session: Session) -> End {
    match session {
        Session::Closed => End::SessionClosed,
        _ => End::Expired,
    }
}

impl LockManager {
    /// Reconciles the lock of this name, if it is known.
    pub(crate) fn reconcile_named(
        &mut self,
        name: Name<'_>,
        state: &KeyState<'_>,
        now: Now,
    ) -> Option<Id> {
        let known = self.table.find(name);
        if let Some(id) = known {
            self.reconcile(id, state, now);
        }
        known
    }

    /// Reconciles a lock.
    pub(crate) fn reconcile(&mut self, id: Id, state: &KeyState<'_>, now: Now) {
        let Some(lock) = self.table.get(id) else { return };
        let is_reserved = lock.reserved;
        let Some(hold) = &lock.hold else {
            if is_reserved && !matches!(state, KeyState::Absent) {
                self.table.unreserve(id);
            }
            return;
        };
        let is_over = hold.is_over(now.ms());
        let end = if is_over { end_of_lease(hold.session) } else { End::Removed };
        let granted = !hold.adopted;
        match *state {
            KeyState::String { value, expires } if *value == *hold.owner => {
                let until_ms = expires.end().filter(|ms| *ms != hold.until_ms);
                if let Some(until_ms) = until_ms {
                    self.table.change_hold(id, |hold| hold.until_ms = until_ms);
                }
            }
            KeyState::String { value, expires } => {
                self.end(id, end, Caller::default(), now);
                if granted && is_valid_owner(value) {
                    self.adopt(id, value, expires, now);
                }
            }
            KeyState::Absent | KeyState::OtherType => {
                self.end(id, end, Caller::default(), now);
            }
            KeyState::Elsewhere => self.end(id, End::Moved, Caller::default(), now),
        }
    }

    /// The lock of this name, if its key shows another lease than its hold has. When that lease is
    /// over as well ([`LockManager::is_lease_over`]), others may have extended it in time, or set
    /// the key again after its end. Only the key can tell which; if it was set again,
    /// [`LockManager::key_was_set_again`] must be called before the rule.
    pub fn other_lease(&self, name: Name<'_>, expires: Expires) -> Option<Id> {
        let id = self.table.find(name)?;
        let hold = self.table.hold(id)?;
        let is_other = expires.end().is_some_and(|end| end != hold.until_ms);
        is_other.then_some(id)
    }

    /// Whether the lease of a hold is over, as far as is known.
    pub fn is_lease_over(&self, id: Id, now: Now) -> bool {
        self.table.hold(id).is_some_and(|hold| hold.is_over(now.ms()))
    }

    /// The key of a lock was set again, by the same owner, after the lease of its hold was over:
    /// that hold ended, and the lock is adopted if the module had granted it.
    pub fn key_was_set_again(&mut self, id: Id, expires: Expires, now: Now) {
        let Some(hold) = self.table.hold(id) else { return };
        let (owner, granted) = (hold.owner.clone(), !hold.adopted);
        let end = end_of_lease(hold.session);
        self.end(id, end, Caller::default(), now);
        if granted {
            self.adopt(id, &owner, expires, now);
        }
    }
}
