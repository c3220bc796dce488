//! All locks that something is known of: found by name, walked by age or in portions.
//! Growing and shrinking never pause: a thousand small tables grow one at a time, where
//! one large one would be moved as a whole.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::age::ByAge;
use crate::arena::{Arena, Id};
use crate::counters::Counters;
use crate::lock::{Hold, Lock, Name};

/// How many tables the index is split into: a million locks are a thousand in each, which
/// one insertion moves in a fifth of a millisecond.
const SHARDS: usize = 1024;

/// The index of a table is given back in part when no more than an eighth of it is used,
/// but never below this many places.
const SMALL: usize = 8;

/// Locks with longer keys have no counters of their own: each key is told some seventy
/// times in the metrics.
const TRACKED_KEY_MAX: usize = 1024;

/// The locks.
#[derive(Clone, Debug)]
pub struct Table {
    locks: Arena<Lock>,
    index: Vec<HashTable<Id>>,
    hasher: FixedState,
    /// Locks that the module granted.
    granted: ByAge,
    /// Locks that it adopted: nobody knows since when they are held.
    adopted: ByAge,
    /// The locks that have counters of their own, in the order in which they got them.
    tracked: Vec<Id>,
}

impl Table {
    /// An empty table; `seed` is what keeps clients from choosing names that collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            locks: Arena::default(),
            index: std::iter::repeat_with(HashTable::new).take(SHARDS).collect(),
            hasher: FixedState::with_seed(seed),
            granted: ByAge::default(),
            adopted: ByAge::default(),
            tracked: Vec::new(),
        }
    }

    /// How many locks are held.
    pub fn held(&self) -> u64 {
        self.granted.len().saturating_add(self.adopted.len())
    }

    /// The lock of this name, if something is known of it.
    pub fn find(&self, name: Name<'_>) -> Option<Id> {
        let hash = self.hasher.hash_one(name);
        let shard = self.index.get(shard_of(hash))?;
        shard.find(hash, |id| self.is_named(*id, name)).copied()
    }

    /// The lock of this name; made when nothing was known of it, with counters of its own
    /// while there are fewer than `tracked_limit` of those and unless its key is long.
    pub(crate) fn find_or_make(
        &mut self,
        name: Name<'_>,
        tracked_limit: usize,
    ) -> Option<Id> {
        let hash = self.hasher.hash_one(name);
        let Self { locks, index, hasher, tracked, .. } = self;
        let shard = index.get_mut(shard_of(hash))?;
        let is_named = |id: &Id| locks.get(*id).is_some_and(|lock| lock.name() == name);
        if let Some(id) = shard.find(hash, is_named) {
            return Some(*id);
        }
        let mut lock = Lock::new(name);
        let is_tracked =
            tracked.len() < tracked_limit && name.key.len() <= TRACKED_KEY_MAX;
        lock.counters = is_tracked.then(Box::default);
        let id = locks.insert(lock)?;
        shard.insert_unique(hash, id, |id| rehash(locks, hasher, *id));
        if is_tracked {
            tracked.push(id);
        }
        Some(id)
    }

    fn is_named(&self, id: Id, name: Name<'_>) -> bool {
        self.locks.get(id).is_some_and(|lock| lock.name() == name)
    }

    /// What is known of a lock.
    pub fn get(&self, id: Id) -> Option<&Lock> {
        self.locks.get(id)
    }

    /// What is known of a lock, to change it.
    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Lock> {
        self.locks.get_mut(id)
    }

    /// The hold of a lock.
    pub(crate) fn hold_mut(&mut self, id: Id) -> Option<&mut Hold> {
        self.locks.get_mut(id)?.hold.as_mut()
    }

    /// Begins a hold of a lock that has none.
    pub(crate) fn begin_hold(&mut self, id: Id, hold: Hold) {
        let Some(lock) = self.locks.get_mut(id) else { return };
        let adopted = hold.adopted;
        lock.hold = Some(hold);
        lock.set_aside = false;
        let list = if adopted { &mut self.adopted } else { &mut self.granted };
        list.push(&mut self.locks, id);
    }

    /// Ends the hold of a lock, and hands it out. What is known of the lock stays until
    /// [`Table::forget_if_idle`].
    pub(crate) fn end_hold(&mut self, id: Id) -> Option<Hold> {
        let hold = self.locks.get_mut(id)?.hold.take()?;
        let list = if hold.adopted { &mut self.adopted } else { &mut self.granted };
        list.remove(&mut self.locks, id);
        Some(hold)
    }

    /// Forgets a lock that nobody holds or waits for and that has no counters of its own.
    pub(crate) fn forget_if_idle(&mut self, id: Id) {
        let Some(lock) = self.locks.get(id).filter(|lock| lock.is_idle()) else { return };
        let hash = self.hasher.hash_one(lock.name());
        let Self { locks, index, hasher, .. } = self;
        let Some(shard) = index.get_mut(shard_of(hash)) else { return };
        if let Ok(entry) = shard.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        locks.remove(id);
        if shard.capacity() > SMALL && shard.len() <= shard.capacity() / 8 {
            shard.shrink_to(SMALL, |id| rehash(locks, hasher, *id));
        }
    }

    /// Takes the counters of their own from all locks but the first `limit` that have
    /// them, and from all that nobody holds or waits for when `idle_too`.
    pub(crate) fn untrack(&mut self, limit: usize, idle_too: bool) {
        for id in std::mem::take(&mut self.tracked) {
            let room = self.tracked.len() < limit;
            let Some(lock) = self.locks.get_mut(id) else { continue };
            if room && !(idle_too && lock.hold.is_none() && lock.places == 0) {
                self.tracked.push(id);
            } else {
                lock.counters = None;
                self.forget_if_idle(id);
            }
        }
    }

    /// The locks that have counters of their own.
    pub fn tracked(&self) -> impl Iterator<Item = &Lock> {
        self.tracked.iter().filter_map(|id| self.locks.get(*id))
    }

    /// Changes the counters of every lock that has its own.
    pub(crate) fn for_each_tracked(
        &mut self,
        mut change: impl FnMut(&mut Counters, bool),
    ) {
        for id in &self.tracked {
            if let Some(lock) = self.locks.get_mut(*id)
                && let Some(counters) = lock.counters.as_deref_mut()
            {
                change(counters, lock.hold.is_some());
            }
        }
    }

    /// The first of the held locks in the order of their age: those granted, the one held
    /// longest first, then those adopted.
    pub fn oldest(&self) -> Option<Id> {
        self.granted.oldest().or(self.adopted.oldest())
    }

    /// The first of the adopted locks.
    pub fn oldest_adopted(&self) -> Option<Id> {
        self.adopted.oldest()
    }

    /// The held lock that follows this one.
    pub fn after(&self, id: Id) -> Option<Id> {
        let lock = self.locks.get(id)?;
        let last_granted = || {
            let granted = lock.hold.as_ref().is_some_and(|hold| !hold.adopted);
            self.adopted.oldest().filter(|_| granted)
        };
        lock.links.newer().or_else(last_granted)
    }

    /// All held locks in the order of their age.
    pub fn by_age(&self) -> impl Iterator<Item = Id> {
        std::iter::successors(self.oldest(), |id| self.after(*id))
    }

    /// The locks of one page; see [`Arena::page`].
    pub fn page(&self, number: usize) -> impl Iterator<Item = (Id, &Lock)> {
        self.locks.page(number)
    }

    /// Where the next locks will be kept; see [`Arena::next_ids`].
    pub fn next_ids(&self, count: usize) -> impl Iterator<Item = Id> {
        self.locks.next_ids(count)
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.locks.pages()
    }
}

/// The tables take their places from the low bits of a hash and their marks from the
/// high ones: between them, the shard.
fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or(0) % SHARDS
}

fn rehash(locks: &Arena<Lock>, hasher: &FixedState, id: Id) -> u64 {
    locks.get(id).map_or(0, |lock| hasher.hash_one(lock.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Vec<u8> {
        format!("gpu_lock:{n}").into_bytes()
    }

    fn hold(n: u32) -> Hold {
        Hold::new(&key(n), (!n.is_multiple_of(3)).then_some(1), 0, 1)
    }

    #[test]
    fn locks_are_found_by_database_and_key_until_they_are_forgotten() {
        let mut table = Table::new(42);
        for n in 0..20_000u32 {
            let name = Name { db: n % 2, key: &key(n) };
            let id = table.find_or_make(name, 0).unwrap();
            table.begin_hold(id, hold(n));
        }
        assert_eq!(table.held(), 20_000);
        for n in 0..20_000u32 {
            let key = key(n);
            assert_eq!(table.find(Name { db: (n + 1) % 2, key: &key }), None);
            let id = table.find(Name { db: n % 2, key: &key }).unwrap();
            assert_eq!(table.get(id).unwrap().hold, Some(hold(n)));
            table.end_hold(id);
            table.forget_if_idle(id);
            assert_eq!(table.find(Name { db: n % 2, key: &key }), None);
        }
        assert_eq!(table.held(), 0);
        assert_eq!(table.by_age().count(), 0);
        assert!(table.index.iter().all(|shard| shard.capacity() <= 2 * SMALL));
    }

    #[test]
    fn by_age_tells_the_granted_first_and_skips_what_was_given_back() {
        let mut table = Table::new(1);
        for n in 0..10u32 {
            let id = table.find_or_make(Name { db: 0, key: &key(n) }, 0).unwrap();
            table.begin_hold(id, hold(n));
        }
        for n in [1, 5, 9] {
            let id = table.find(Name { db: 0, key: &key(n) }).unwrap();
            table.end_hold(id);
        }
        let keys: Vec<_> =
            table.by_age().map(|id| table.get(id).unwrap().key.to_vec()).collect();
        assert_eq!(keys, [2, 4, 7, 8, 0, 3, 6].map(key));
    }

    #[test]
    fn only_the_first_locks_are_tracked() {
        let mut table = Table::new(1);
        for n in 0..10u32 {
            table.find_or_make(Name { db: 0, key: &key(n) }, 4);
        }
        let tracked = |table: &Table| {
            (0..10)
                .filter_map(|n| table.find(Name { db: 0, key: &key(n) }))
                .filter(|id| table.get(*id).unwrap().counters.is_some())
                .count()
        };
        assert_eq!(tracked(&table), 4);
        table.untrack(3, false);
        assert_eq!((tracked(&table), table.tracked.len()), (3, 3));
        table.untrack(3, true);
        assert_eq!((tracked(&table), table.tracked.len()), (0, 0));
        assert_eq!(table.find(Name { db: 0, key: &key(0) }), None);
    }
}
