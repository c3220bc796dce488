//! Looking at many locks: the held ones in the order of their age. Each is looked at
//! before it is shown, so that a list never shows what its key does not.

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::Keeper;
use crate::lease::Left;
use crate::lock::{Bytes, Hold, Lock, NO_END};
use crate::seen::Seen;

/// What LIST tells of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The lock.
    pub key: Bytes,
    /// Who holds it; none: somebody who can be no owner, or nobody.
    pub owner: Option<Bytes>,
    /// The fencing token.
    pub token: Option<u64>,
    /// What is left of the lease.
    pub lease: Left,
    /// For how long it is held, in ms.
    pub held_ms: Option<u64>,
    /// How many places its line has.
    pub waiting: u64,
}

/// What became of a lock that is being listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is to be shown.
    Row(Row),
    /// It is neither held nor waited for any more.
    Gone,
    /// What holds it now was adopted just then, so that it stands last in the order.
    Adopted,
}

impl Keeper {
    /// The locks that have a line although nobody is known to hold them: what stands under
    /// their key can be no owner.
    pub fn only_waited_for(&self) -> Vec<Id> {
        let held = |id: &Id| self.table.get(*id).is_none_or(|lock| lock.hold.is_some());
        self.lines.locks().filter(|id| !held(id)).collect()
    }

    /// Looks at a lock that is being listed.
    pub fn list_row(&mut self, id: Id, seen: &Seen<'_>, now: Now) -> Listed {
        let adopted = |lock: &Lock| lock.hold.as_ref().map(|hold| hold.adopted);
        let before = self.table.get(id).and_then(adopted);
        self.settle(id, seen, now);
        self.table.forget_if_idle(id);
        let Some(lock) = self.table.get(id) else { return Listed::Gone };
        if before == Some(false) && adopted(lock) == Some(true) {
            return Listed::Adopted;
        }
        if let Some(hold) = &lock.hold {
            return Listed::Row(row(lock, hold, now));
        }
        if lock.places == 0 {
            return Listed::Gone;
        }
        let lease = match seen {
            Seen::Text { expires, .. } => {
                Left::of(expires.end().unwrap_or(NO_END), now.ms())
            }
            _ => Left::NotHeld,
        };
        Listed::Row(Row {
            key: lock.key.clone(),
            owner: None,
            token: None,
            lease,
            held_ms: None,
            waiting: u64::from(lock.places),
        })
    }
}

fn row(lock: &Lock, hold: &Hold, now: Now) -> Row {
    Row {
        key: lock.key.clone(),
        owner: Some(hold.owner.clone()),
        token: hold.token(),
        lease: Left::of(hold.until_ms, now.ms()),
        held_ms: hold.held_ms(now),
        waiting: u64::from(lock.places),
    }
}
