//! Linked lists threaded through the locks: the held locks in the order of their acquisition, and
//! the locks with their own counters in the order of their last use. Adding and removing take
//! constant time.

use std::marker::PhantomData;

use crate::state::arena::{Arena, Id};
use crate::state::lock::Lock;

/// The neighbours of a lock in a list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    older: Option<Id>,
    newer: Option<Id>,
}

impl Links {
    /// The next newer lock.
    pub(crate) fn newer(self) -> Option<Id> {
        self.newer
    }

    /// The next older lock.
    pub(crate) fn older(self) -> Option<Id> {
        self.older
    }
}

/// A kind of list: where a lock stores its links.
pub(crate) trait Linked {
    /// The links; none when the lock cannot be in this kind of list.
    fn links(lock: &mut Lock) -> Option<&mut Links>;
}

/// Lists of held locks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held;

impl Linked for Held {
    fn links(lock: &mut Lock) -> Option<&mut Links> {
        Some(&mut lock.links)
    }
}

/// Lists of locks with their own counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracked;

impl Linked for Tracked {
    fn links(lock: &mut Lock) -> Option<&mut Links> {
        lock.own.as_deref_mut().map(|own| &mut own.links)
    }
}

/// A list of locks in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgeList<K> {
    oldest: Option<Id>,
    newest: Option<Id>,
    len: u64,
    kind: PhantomData<K>,
}

impl<K: Linked> AgeList<K> {
    /// The number of locks in the list.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The lock added first.
    pub(crate) fn oldest(&self) -> Option<Id> {
        self.oldest
    }

    /// The lock added last.
    pub(crate) fn newest(&self) -> Option<Id> {
        self.newest
    }

    /// Adds a lock at the newest end.
    pub(crate) fn push(&mut self, locks: &mut Arena<Lock>, id: Id) {
        let Some(links) = locks.get_mut(id).and_then(K::links) else { return };
        *links = Links { older: self.newest, newer: None };
        match self.newest.and_then(|newest| K::links(locks.get_mut(newest)?)) {
            Some(neighbour) => neighbour.newer = Some(id),
            None => self.oldest = Some(id),
        }
        self.newest = Some(id);
        self.len = self.len.saturating_add(1);
    }

    /// Removes a lock from this list.
    pub(crate) fn remove(&mut self, locks: &mut Arena<Lock>, id: Id) {
        let Some(links) = locks.get_mut(id).and_then(K::links) else { return };
        let links = std::mem::take(links);
        match links.older.and_then(|older| K::links(locks.get_mut(older)?)) {
            Some(older) => older.newer = links.newer,
            None => self.oldest = links.newer,
        }
        match links.newer.and_then(|newer| K::links(locks.get_mut(newer)?)) {
            Some(newer) => newer.older = links.older,
            None => self.newest = links.older,
        }
        self.len = self.len.saturating_sub(1);
    }
}
