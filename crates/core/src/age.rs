//! The held locks in the order in which they were taken: a list threaded through them, so
//! that taking and giving back cost the same with one lock and with a million.

use crate::arena::{Arena, Id};
use crate::lock::Lock;

/// A lock's neighbours in its list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    older: Option<Id>,
    newer: Option<Id>,
}

impl Links {
    /// The lock taken next after this one.
    pub(crate) fn newer(self) -> Option<Id> {
        self.newer
    }
}

/// A list of locks, the one held longest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByAge {
    oldest: Option<Id>,
    newest: Option<Id>,
    len: u64,
}

impl ByAge {
    /// How many locks are in the list.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The lock held longest.
    pub(crate) fn oldest(&self) -> Option<Id> {
        self.oldest
    }

    /// Adds a lock that is held from now on.
    pub(crate) fn push(&mut self, locks: &mut Arena<Lock>, id: Id) {
        if let Some(lock) = locks.get_mut(id) {
            lock.links = Links { older: self.newest, newer: None };
        }
        match self.newest.and_then(|newest| locks.get_mut(newest)) {
            Some(neighbour) => neighbour.links.newer = Some(id),
            None => self.oldest = Some(id),
        }
        self.newest = Some(id);
        self.len = self.len.saturating_add(1);
    }

    /// Takes a lock of this list out of it.
    pub(crate) fn remove(&mut self, locks: &mut Arena<Lock>, id: Id) {
        let Some(lock) = locks.get_mut(id) else { return };
        let links = std::mem::take(&mut lock.links);
        match links.older.and_then(|older| locks.get_mut(older)) {
            Some(older) => older.links.newer = links.newer,
            None => self.oldest = links.newer,
        }
        match links.newer.and_then(|newer| locks.get_mut(newer)) {
            Some(newer) => newer.links.older = links.older,
            None => self.newest = links.older,
        }
        self.len = self.len.saturating_sub(1);
    }
}
