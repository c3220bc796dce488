//! A linked list threaded through the locks: those with their own counters in the order of their
//! last use. Adding and removing take constant time.

use std::marker::PhantomData;

use crate::state::arena::{Arena, Id};

/// The neighbours of a lock in a list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    older: Option<Id>,
    newer: Option<Id>,
}

impl Links {
    /// The next older lock.
    pub(crate) fn older(self) -> Option<Id> {
        self.older
    }
}

/// A kind of list: where an item stores its links.
pub(crate) trait Linked {
    /// The items.
    type Item;

    /// The links; none when the item cannot be in this kind of list.
    fn links(item: &mut Self::Item) -> Option<&mut Links>;
}

/// A list of items in the order in which they were added.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgeList<K> {
    oldest: Option<Id>,
    newest: Option<Id>,
    kind: PhantomData<K>,
}

impl<K: Linked> AgeList<K> {
    /// The lock added first.
    pub(crate) fn oldest(&self) -> Option<Id> {
        self.oldest
    }

    /// The lock added last.
    pub(crate) fn newest(&self) -> Option<Id> {
        self.newest
    }

    /// Adds a lock at the newest end.
    pub(crate) fn push(&mut self, items: &mut Arena<K::Item>, id: Id) {
        let Some(links) = items.get_mut(id).and_then(K::links) else { return };
        *links = Links { older: self.newest, newer: None };
        match self.newest.and_then(|newest| K::links(items.get_mut(newest)?)) {
            Some(neighbour) => neighbour.newer = Some(id),
            None => self.oldest = Some(id),
        }
        self.newest = Some(id);
    }

    /// Removes a lock from this list.
    pub(crate) fn remove(&mut self, items: &mut Arena<K::Item>, id: Id) {
        let Some(links) = items.get_mut(id).and_then(K::links) else { return };
        let links = std::mem::take(links);
        match links.older.and_then(|older| K::links(items.get_mut(older)?)) {
            Some(older) => older.newer = links.newer,
            None => self.oldest = links.newer,
        }
        match links.newer.and_then(|newer| K::links(items.get_mut(newer)?)) {
            Some(newer) => newer.older = links.older,
            None => self.newest = links.older,
        }
    }
}
