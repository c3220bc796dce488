//! How many positions each share has in each queue. Only waiters with a SHARE are in it.

use std::collections::BTreeMap;

use crate::state::arena::Id;
use crate::state::lock::Bytes;
use crate::state::wait_queue::Waiter;

/// The positions of the shares. The name of a share is stored once, however many wait under it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharePositions {
    names: BTreeMap<Bytes, Share>,
    /// The number of positions of a share with a priority in the queue of a lock.
    positions: BTreeMap<(Id, ShareNumber, i64), u64>,
    last: u64,
}

/// Stands for the name of a share while calls wait under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShareNumber(u64);

#[derive(Clone, Debug)]
struct Share {
    number: ShareNumber,
    /// The number of its waiters and kept positions.
    waiters: u64,
}

impl SharePositions {
    /// The share of this name, if any call waits under it.
    pub(crate) fn find(&self, name: &[u8]) -> Option<ShareNumber> {
        self.names.get(name).map(|share| share.number)
    }

    /// The number of positions that a share has in the queue of a lock with this priority or a
    /// higher one. Visits an entry for each of these priorities that is in use.
    pub(crate) fn count(&self, lock: Id, share: ShareNumber, priority: i64) -> u64 {
        let positions = (lock, share, priority)..=(lock, share, i64::MAX);
        let counts = self.positions.range(positions).map(|(_, count)| *count);
        counts.fold(0, u64::saturating_add)
    }

    /// Adds the positions of a waiter.
    pub(crate) fn add(&mut self, waiter: &Waiter) {
        let Some(name) = &waiter.share else { return };
        let last = self.last.saturating_add(1);
        let new = || Share { number: ShareNumber(last), waiters: 0 };
        let share = self.names.entry(name.clone()).or_insert_with(new);
        share.waiters = share.waiters.saturating_add(1);
        let number = share.number;
        self.last = last.max(self.last);
        for lock in &waiter.locks {
            let count = self.positions.entry((*lock, number, waiter.priority));
            let count = count.or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Removes the positions of a waiter that was added.
    pub(crate) fn remove(&mut self, waiter: &Waiter) {
        let Some(share) =
            waiter.share.as_ref().and_then(|name| self.names.get_mut(&**name))
        else {
            return;
        };
        share.waiters = share.waiters.saturating_sub(1);
        let (number, is_last) = (share.number, share.waiters == 0);
        for lock in &waiter.locks {
            let position = (*lock, number, waiter.priority);
            if let Some(count) = self.positions.get_mut(&position) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.positions.remove(&position);
                }
            }
        }
        if is_last && let Some(name) = &waiter.share {
            self.names.remove(&**name);
        }
    }

    /// Whether nothing is stored.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.positions.is_empty()
    }
}
