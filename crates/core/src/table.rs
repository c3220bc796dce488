//! All locks that something is known of: found by name, walked by age or in portions.
//! Growing and shrinking never pause: a thousand small tables grow one at a time, where
//! one large one would be moved as a whole.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::age::{ByAge, Held, Tracked};
use crate::arena::{Arena, Id};
use crate::counters::Counters;
use crate::lock::{Hold, Lock, Name};

/// How many tables the index is split into: a million locks are a thousand in each, which
/// one insertion moves in a fifth of a millisecond.
const SHARDS: usize = 1024;

/// The index of a table is given back in part when no more than an eighth of it is used,
/// but never below this many places.
const SMALL: usize = 8;

/// Locks with longer keys have no counters of their own: METRICS repeats a key in each of
/// the lock's 73 lines.
pub const TRACKED_KEY_MAX: usize = 128;

/// How many locks in use are passed over before a new lock goes without counters of its own.
const TRIES: usize = 8;

/// The locks.
#[derive(Clone, Debug)]
pub struct Table {
    locks: Arena<Lock>,
    index: Vec<HashTable<Id>>,
    hasher: FixedState,
    /// Locks that the module granted.
    granted: ByAge<Held>,
    /// Locks that it adopted: nobody knows since when they are held.
    adopted: ByAge<Held>,
    /// The locks with counters of their own, the one used least recently first.
    tracked: ByAge<Tracked>,
    /// How many of them there may be.
    tracked_limit: u64,
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
            tracked: ByAge::default(),
            tracked_limit: 0,
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

    /// The lock of this name; created when nothing was known of it. A created lock gets
    /// counters of its own unless its key is long. There may be more tracked locks than the
    /// limit after this, because it must not remove a lock whose id a caller still uses:
    /// [`Table::trim_tracked`] does that once the call is over.
    pub(crate) fn find_or_make(&mut self, name: Name<'_>) -> Option<Id> {
        let hash = self.hasher.hash_one(name);
        let Self { locks, index, .. } = self;
        let shard = index.get_mut(shard_of(hash))?;
        let is_named = |id: &Id| locks.get(*id).is_some_and(|lock| lock.name() == name);
        if let Some(id) = shard.find(hash, is_named) {
            return Some(*id);
        }
        let is_tracked = name.key.len() <= TRACKED_KEY_MAX && self.has_room_to_track();
        let Self { locks, index, hasher, .. } = self;
        let shard = index.get_mut(shard_of(hash))?;
        let mut lock = Lock::new(name);
        lock.own = is_tracked.then(Box::default);
        let id = locks.insert(lock)?;
        shard.insert_unique(hash, id, |id| rehash(locks, hasher, *id));
        if is_tracked {
            self.tracked.push(&mut self.locks, id);
        }
        Some(id)
    }

    /// Whether a new lock gets counters of its own: there is room, or an idle lock gives way.
    fn has_room_to_track(&mut self) -> bool {
        self.tracked.len() < self.tracked_limit
            || self.tracked_limit > 0 && self.least_used().is_some()
    }

    /// Moves a tracked lock to the end of those used most recently.
    pub(crate) fn mark_used(&mut self, id: Id) {
        if self.tracked.newest() != Some(id)
            && self.locks.get(id).is_some_and(|lock| lock.own.is_some())
        {
            self.tracked.remove(&mut self.locks, id);
            self.tracked.push(&mut self.locks, id);
        }
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

    /// Forgets a lock that is neither held nor waited for. A tracked one stays known for
    /// its counters, but may give way to another.
    pub(crate) fn forget_if_idle(&mut self, id: Id) {
        let Some(lock) = self.locks.get(id).filter(|lock| lock.is_idle()) else { return };
        if lock.own.is_none() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: Id) {
        let Some(lock) = self.locks.get(id) else { return };
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

    /// Sets how many locks may have counters of their own.
    pub(crate) fn set_tracked_limit(&mut self, limit: u64) {
        self.tracked_limit = limit;
        self.trim_tracked();
    }

    /// Takes their own counters from the tracked locks above the limit. Removes locks, so no
    /// caller may hold the id of one that is neither held nor waited for.
    #[inline]
    pub(crate) fn trim_tracked(&mut self) {
        if self.tracked.len() > self.tracked_limit {
            self.untrack_surplus();
        }
    }

    #[cold]
    fn untrack_surplus(&mut self) {
        while self.tracked.len() > self.tracked_limit {
            let newest = self.tracked.newest();
            let Some(id) = self.least_used().or(newest) else { return };
            self.untrack(id);
        }
    }

    /// The tracked lock that was used least recently and is neither held nor waited for. One
    /// that is counts as used just now; after some of those the search ends.
    fn least_used(&mut self) -> Option<Id> {
        for _ in 0..TRIES {
            let id = self.tracked.oldest()?;
            if self.locks.get(id)?.is_idle() {
                return Some(id);
            }
            self.mark_used(id);
        }
        None
    }

    /// Takes their own counters from all tracked locks that are idle.
    pub(crate) fn untrack_idle(&mut self) {
        let is_idle = |id: &Id| self.locks.get(*id).is_some_and(Lock::is_idle);
        let idle: Vec<Id> = self.tracked().filter(is_idle).collect();
        for id in idle {
            self.untrack(id);
        }
    }

    fn untrack(&mut self, id: Id) {
        self.tracked.remove(&mut self.locks, id);
        if let Some(lock) = self.locks.get_mut(id) {
            lock.own = None;
        }
        self.forget_if_idle(id);
    }

    /// The locks that have counters of their own, the one used most recently first.
    pub fn tracked(&self) -> impl Iterator<Item = Id> {
        self.tracked_from(self.tracked.newest())
    }

    /// The same, from this one on.
    pub fn tracked_from(&self, id: Option<Id>) -> impl Iterator<Item = Id> {
        std::iter::successors(id, |id| self.tracked_after(*id))
    }

    /// The tracked lock that was used next before this one.
    pub fn tracked_after(&self, id: Id) -> Option<Id> {
        self.locks.get(id)?.own.as_deref()?.links.older()
    }

    /// Changes the counters of every lock that has its own; the flag tells whether the lock
    /// is held.
    pub(crate) fn for_each_tracked(
        &mut self,
        mut change: impl FnMut(&mut Counters, bool),
    ) {
        let ids: Vec<Id> = self.tracked().collect();
        for id in ids {
            if let Some(lock) = self.locks.get_mut(id)
                && let Some(own) = lock.own.as_deref_mut()
            {
                change(&mut own.counters, lock.hold.is_some());
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
            let id = table.find_or_make(name).unwrap();
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
            let id = table.find_or_make(Name { db: 0, key: &key(n) }).unwrap();
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

    fn tracking(limit: u64) -> Table {
        let mut table = Table::new(1);
        table.set_tracked_limit(limit);
        table
    }

    fn use_lock(table: &mut Table, n: u32) -> Id {
        let id = table.find_or_make(Name { db: 0, key: &key(n) }).unwrap();
        table.mark_used(id);
        table.begin_hold(id, hold(1));
        id
    }

    fn give_back(table: &mut Table, id: Id) {
        table.end_hold(id);
        table.forget_if_idle(id);
        table.trim_tracked();
    }

    fn tracked(table: &Table) -> Vec<Vec<u8>> {
        table.tracked().map(|id| table.get(id).unwrap().key.to_vec()).collect()
    }

    #[test]
    fn a_new_lock_takes_the_counters_of_the_idle_one_used_least_recently() {
        let mut table = tracking(4);
        for n in 0..4 {
            let id = use_lock(&mut table, n);
            give_back(&mut table, id);
        }
        // 0 is used again, 1 is held: 2 is the one to give way, then 3.
        let id = use_lock(&mut table, 0);
        give_back(&mut table, id);
        let held = use_lock(&mut table, 1);
        assert_eq!(tracked(&table), [1, 0, 3, 2].map(key));
        let id = use_lock(&mut table, 5);
        give_back(&mut table, id);
        assert_eq!(tracked(&table), [5, 1, 0, 3].map(key));
        assert_eq!(table.find(Name { db: 0, key: &key(2) }), None);
        for n in [6, 7, 8] {
            let id = use_lock(&mut table, n);
            give_back(&mut table, id);
        }
        // It is passed over, and counts as used when that was needed.
        let mut left = tracked(&table);
        left.sort();
        assert_eq!(left, [1, 6, 7, 8].map(key));
        give_back(&mut table, held);
        assert_eq!(tracked(&table).len(), 4);
    }

    #[test]
    fn a_lock_in_use_keeps_its_counters_and_a_new_one_gets_none() {
        let mut table = tracking(4);
        let held: Vec<Id> = (0..4).map(|n| use_lock(&mut table, n)).collect();
        let surplus = use_lock(&mut table, 4);
        table.trim_tracked();
        assert!(table.get(surplus).unwrap().own.is_none());
        assert!(held.iter().all(|id| table.get(*id).unwrap().own.is_some()));
        // Given back, the surplus lock is forgotten, and tracked when it is taken again.
        give_back(&mut table, surplus);
        give_back(&mut table, held[2]);
        use_lock(&mut table, 4);
        table.trim_tracked();
        let mut left = tracked(&table);
        left.sort();
        assert_eq!(left, [0, 1, 3, 4].map(key));
    }

    #[test]
    fn however_many_are_in_use_a_few_are_looked_at() {
        let mut table = tracking(100);
        let held: Vec<Id> = (0..100).map(|n| use_lock(&mut table, n)).collect();
        let oldest = table.tracked.oldest();
        use_lock(&mut table, 100);
        table.trim_tracked();
        assert!(held.iter().all(|id| table.get(*id).unwrap().own.is_some()));
        assert_eq!(oldest, Some(held[0]));
        assert_eq!(table.tracked.oldest(), Some(held[TRIES]));
    }

    #[test]
    fn nothing_is_removed_before_the_call_is_over() {
        let mut table = tracking(1);
        let id = use_lock(&mut table, 0);
        give_back(&mut table, id);
        let found = table.find(Name { db: 0, key: &key(0) }).unwrap();
        table.find_or_make(Name { db: 0, key: &key(1) }).unwrap();
        assert_eq!(&*table.get(found).unwrap().key, key(0));
        assert_eq!(tracked(&table), [1, 0].map(key));
        table.trim_tracked();
        assert_eq!(tracked(&table), [1].map(key));
    }

    #[test]
    fn a_smaller_limit_and_a_reset_drop_idle_locks_first() {
        let mut table = tracking(4);
        let ids: Vec<Id> = (0..4).map(|n| use_lock(&mut table, n)).collect();
        give_back(&mut table, ids[1]);
        give_back(&mut table, ids[3]);
        table.set_tracked_limit(3);
        assert!(!tracked(&table).contains(&key(1)));
        table.untrack_idle();
        let mut left = tracked(&table);
        left.sort();
        assert_eq!(left, [0, 2].map(key));
        table.set_tracked_limit(0);
        assert_eq!(tracked(&table), [0; 0].map(key));
        assert!(table.get(ids[0]).is_some_and(|lock| lock.hold.is_some()));
        assert_eq!(table.find(Name { db: 0, key: &key(3) }), None);
    }

    #[test]
    fn locks_with_long_keys_are_not_tracked() {
        let mut table = tracking(4);
        for (len, is_tracked) in [(TRACKED_KEY_MAX, true), (TRACKED_KEY_MAX + 1, false)] {
            let key = vec![b'k'; len];
            let id = table.find_or_make(Name { db: 0, key: &key }).unwrap();
            assert_eq!(table.get(id).unwrap().own.is_some(), is_tracked);
        }
    }
}
