//! How many grants each queue has seen since it began: the clock of the turns (`rules/turn`).

use std::collections::BTreeMap;

use crate::state::arena::Id;

/// The grants of each queue. A queue without an entry has seen none, so that the first waiter of a
/// lock, which is often the only one, costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct GrantCounts {
    by_lock: BTreeMap<Id, u64>,
}

impl GrantCounts {
    /// The grants of a queue.
    pub(crate) fn get(&self, lock: Id) -> u64 {
        self.by_lock.get(&lock).copied().unwrap_or(0)
    }

    /// The grants of the queues of some locks; none if there are not any.
    pub(crate) fn get_all(&self, locks: &[Id]) -> Option<Box<[u64]>> {
        let is_counted = |lock: &Id| self.get(*lock) > 0;
        (!self.by_lock.is_empty() && locks.iter().any(is_counted))
            .then(|| locks.iter().map(|lock| self.get(*lock)).collect())
    }

    /// Counts a grant of a lock that has a queue.
    pub(crate) fn bump(&mut self, lock: Id) {
        let count = self.by_lock.entry(lock).or_default();
        *count = count.saturating_add(1);
    }

    /// Raises the count of a queue, if it is lower.
    pub(crate) fn raise(&mut self, lock: Id, to: u64) {
        if to > 0 {
            let count = self.by_lock.entry(lock).or_default();
            *count = to.max(*count);
        }
    }

    /// The queue of a lock is empty: the next one begins at 0.
    pub(crate) fn forget(&mut self, lock: Id) {
        if !self.by_lock.is_empty() {
            self.by_lock.remove(&lock);
        }
    }

    /// Whether nothing is stored.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_lock.is_empty()
    }
}
