//! The index by name: a thousand small hash tables with open addressing. An entry has a part of the
//! hash beside the id, so that a search reads one cache line, and then only the lock that it looks
//! for. A table grows without reading any lock, and one at a time: no insertion takes long.

use std::num::NonZeroU32;

use crate::state::arena::Id;

/// The number of hash tables: with a million locks, each has a thousand entries.
const SHARDS: usize = 1024;

/// The smallest number of slots. A table shrinks when at most an eighth of its slots is used, but
/// not below this.
const SMALL: usize = 8;

/// The part of a hash that an entry has: its highest bits say where a search begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(NonZeroU32);

impl Tag {
    /// From the low half of a hash: the shard comes from the high one.
    fn of(hash: u64) -> Self {
        let low = u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0);
        Self(NonZeroU32::MIN | low)
    }

    /// Where a search in a table of so many slots begins, a power of two.
    fn home(self, slots: usize) -> usize {
        let shift = u32::BITS.saturating_sub(slots.trailing_zeros());
        usize::try_from(self.0.get().checked_shr(shift).unwrap_or(0)).unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: Tag,
    id: Id,
}

/// A hash table. An entry is at its home or in one of the next slots, without a gap in between.
#[derive(Clone, Debug, Default)]
struct Shard {
    /// None, or a power of two.
    slots: Box<[Option<Entry>]>,
    len: usize,
}

impl Shard {
    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }

    /// The slot of the entry with this tag for which `is_match` holds, and its id.
    fn find(&self, tag: Tag, is_match: impl Fn(Id) -> bool) -> Option<(usize, Id)> {
        let mask = self.mask();
        let mut slot = tag.home(self.slots.len());
        while let Some(Some(entry)) = self.slots.get(slot) {
            if entry.tag == tag && is_match(entry.id) {
                return Some((slot, entry.id));
            }
            slot = slot.wrapping_add(1) & mask;
        }
        None
    }

    /// Adds an entry. At most three quarters of the slots are used, so that each search ends soon.
    fn insert(&mut self, entry: Entry) {
        let most = self.slots.len().wrapping_sub(self.slots.len() / 4);
        if self.len >= most {
            self.resize(self.slots.len().saturating_mul(2).max(SMALL));
        }
        self.put(entry);
        self.len = self.len.saturating_add(1);
    }

    fn put(&mut self, entry: Entry) {
        let mask = self.mask();
        let mut slot = entry.tag.home(self.slots.len());
        while let Some(Some(_)) = self.slots.get(slot) {
            slot = slot.wrapping_add(1) & mask;
        }
        if let Some(free) = self.slots.get_mut(slot) {
            *free = Some(entry);
        }
    }

    /// Removes the entry in a slot: entries that follow move up, so that no gap is left between an
    /// entry and its home.
    fn remove(&mut self, slot: usize) {
        let mask = self.mask();
        let mut gap = slot;
        let mut next = slot.wrapping_add(1) & mask;
        while let Some(Some(entry)) = self.slots.get(next).copied() {
            let home = entry.tag.home(self.slots.len());
            let is_past_gap =
                next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask;
            if is_past_gap && let Some(free) = self.slots.get_mut(gap) {
                *free = Some(entry);
                gap = next;
            }
            next = next.wrapping_add(1) & mask;
        }
        if let Some(free) = self.slots.get_mut(gap) {
            *free = None;
        }
        self.len = self.len.saturating_sub(1);
        if self.slots.len() > SMALL && self.len <= self.slots.len() / 8 {
            self.resize((self.slots.len() / 4).max(SMALL));
        }
    }

    #[cold]
    fn resize(&mut self, slots: usize) {
        let new = std::iter::repeat_n(None, slots).collect();
        let old = std::mem::replace(&mut self.slots, new);
        for entry in old.iter().flatten() {
            self.put(*entry);
        }
    }
}

/// Finds ids by the hash of a name.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    shards: Vec<Shard>,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: std::iter::repeat_with(Shard::default).take(SHARDS).collect() }
    }
}

impl Index {
    /// The id with this hash for which `is_match` holds.
    pub(crate) fn find(&self, hash: u64, is_match: impl Fn(Id) -> bool) -> Option<Id> {
        let shard = self.shards.get(shard_of(hash))?;
        shard.find(Tag::of(hash), is_match).map(|(_, id)| id)
    }

    /// Adds an id that it does not have.
    pub(crate) fn insert(&mut self, hash: u64, id: Id) {
        if let Some(shard) = self.shards.get_mut(shard_of(hash)) {
            shard.insert(Entry { tag: Tag::of(hash), id });
        }
    }

    /// Removes an id.
    pub(crate) fn remove(&mut self, hash: u64, id: Id) {
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else { return };
        if let Some((slot, _)) = shard.find(Tag::of(hash), |other| other == id) {
            shard.remove(slot);
        }
    }

    /// The number of slots of the largest table.
    #[cfg(test)]
    pub(crate) fn largest(&self) -> usize {
        self.shards.iter().map(|shard| shard.slots.len()).max().unwrap_or(0)
    }
}

fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or(0) % SHARDS
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::state::arena::Arena;

    fn ids(count: usize) -> Vec<Id> {
        let mut arena = Arena::default();
        (0..count).map(|n| arena.insert(n).unwrap()).collect()
    }

    /// A hash of one shard, whose searches begin in one of a few slots.
    fn crowded(n: u64) -> u64 {
        (n % 7) << 29 | n << 8
    }

    #[test]
    fn an_id_is_found_by_its_hash_until_it_is_removed() {
        let mut index = Index::default();
        let mut expected = HashMap::new();
        for (n, id) in (0..).zip(ids(2_000)) {
            index.insert(crowded(n), id);
            expected.insert(n, id);
            if n % 3 != 0 {
                // Removes them in another order than that of insertion.
                let gone = n * 7 % (n + 1);
                if let Some(id) = expected.remove(&gone) {
                    index.remove(crowded(gone), id);
                }
            }
            if n % 64 == 0 {
                check(&index, &expected, n);
            }
        }
        let all: Vec<u64> = expected.keys().copied().collect();
        for n in all {
            let id = expected.remove(&n).unwrap();
            index.remove(crowded(n), id);
            if n % 16 == 0 {
                check(&index, &expected, 2_000);
            }
        }
        assert_eq!(index.largest(), SMALL);
    }

    fn check(index: &Index, expected: &HashMap<u64, Id>, up_to: u64) {
        for n in 0..=up_to {
            let id = expected.get(&n).copied();
            assert_eq!(index.find(crowded(n), |other| Some(other) == id), id, "{n}");
        }
    }

    #[test]
    fn ids_with_equal_hashes_are_told_apart() {
        let mut index = Index::default();
        let ids = ids(100);
        ids.iter().for_each(|id| index.insert(42, *id));
        for id in &ids {
            assert_eq!(index.find(42, |other| other == *id), Some(*id));
        }
        for (n, id) in ids.iter().enumerate() {
            index.remove(42, *id);
            assert_eq!(index.find(42, |other| other == *id), None);
            let last = ids.last().filter(|_| n < 99).copied();
            assert_eq!(index.find(42, |other| Some(other) == last), last);
        }
    }

    #[test]
    fn a_search_begins_in_any_slot_of_a_table_and_in_no_other() {
        for bits in 3..20 {
            let slots = 1_usize << bits;
            assert_eq!(Tag::of(0).home(slots), 0);
            assert_eq!(Tag::of(u64::MAX).home(slots), slots - 1);
        }
    }

    #[test]
    fn an_entry_takes_eight_bytes() {
        assert_eq!(size_of::<Option<Entry>>(), 8);
    }
}
