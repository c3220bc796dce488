//! Looking at many locks: the held ones in the order of their age. Each is looked at
//! before it is shown, so that a list never shows what its key does not.

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::Keeper;
use crate::lock::{Bytes, Lock, NO_END};
use crate::seen::Seen;

/// What LIST tells of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The lock.
    pub key: Bytes,
    /// Who holds it.
    pub owner: Bytes,
    /// The fencing token.
    pub token: Option<u64>,
    /// What is left of the lease, in ms; none: it has no end.
    pub lease_ms: Option<u64>,
    /// For how long it is held, in ms.
    pub held_ms: Option<u64>,
}

impl Keeper {
    /// Looks at a lock that is being listed. None when it is not held any more, or when
    /// what holds it now was adopted just then: it comes again, among the adopted.
    pub fn list_row(&mut self, id: Id, seen: &Seen<'_>, now: Now) -> Option<Row> {
        let adopted = |lock: &Lock| lock.hold.as_ref().map(|hold| hold.adopted);
        let before = self.table.get(id).and_then(adopted);
        self.settle(id, seen, now);
        self.table.forget_if_idle(id);
        let lock = self.table.get(id).filter(|lock| adopted(lock) == before)?;
        let hold = lock.hold.as_ref()?;
        Some(Row {
            key: lock.key.clone(),
            owner: hold.owner.clone(),
            token: hold.token(),
            lease_ms: (hold.until_ms != NO_END)
                .then(|| hold.until_ms.saturating_sub(now.ms())),
            held_ms: hold.held_ms(now),
        })
    }
}
