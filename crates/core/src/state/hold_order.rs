//! The held locks in the order in which their holds began. Locks that were acquired one after the
//! other are in one group of up to 64, and only the groups are linked: removing a lock clears a bit
//! of its group, and reads no other lock, whereas its neighbours in a list of locks would be two
//! more accesses to memory that is in no cache. Adding and removing take constant time.

use crate::state::arena::{Arena, Id};

/// The most locks of a group.
const GROUP: usize = 64;

/// All numbers of a group, as bits.
const ALL: u64 = u64::MAX;

/// Where a held lock is in the order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    group: Id,
    /// Its number in the group.
    number: u8,
}

impl Place {
    /// 0 when the number is too large for a group.
    fn bit(self) -> u64 {
        1_u64.checked_shl(u32::from(self.number)).unwrap_or(0)
    }
}

/// Locks whose holds began one after the other.
#[derive(Clone, Debug, Default)]
struct Group {
    /// The numbers that are held.
    held: u64,
    /// The numbers whose ids are in `locks`, in this order.
    stored: u64,
    locks: Vec<Id>,
    older: Option<Id>,
    newer: Option<Id>,
}

impl Group {
    /// The first of the held locks with these numbers.
    fn first(&self, numbers: u64) -> Option<Id> {
        let from = self.held & numbers;
        let first = from & from.wrapping_neg();
        if first == 0 {
            return None;
        }
        let before = self.stored & first.wrapping_sub(1);
        self.locks.get(usize::try_from(before.count_ones()).ok()?).copied()
    }

    /// Returns memory when at most half of the stored locks are held.
    fn shrink(&mut self) {
        let held = usize::try_from(self.held.count_ones()).unwrap_or(GROUP);
        if held > self.locks.len() / 2 {
            return;
        }
        let mut locks = Vec::with_capacity(held);
        let mut left = self.held;
        while let Some(id) = self.first(left) {
            locks.push(id);
            left &= left.wrapping_sub(1);
        }
        self.locks = locks;
        self.stored = self.held;
    }
}

/// An order of held locks.
#[derive(Clone, Debug, Default)]
pub(crate) struct HoldOrder {
    groups: Arena<Group>,
    oldest: Option<Id>,
    /// The group that locks are added to. Only this one may be empty.
    newest: Option<Id>,
    len: u64,
}

impl HoldOrder {
    /// The number of locks.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The lock that was added first.
    pub(crate) fn oldest(&self) -> Option<Id> {
        self.groups.get(self.oldest?)?.first(ALL)
    }

    /// The lock that was added after the one at this place.
    pub(crate) fn after(&self, place: Place) -> Option<Id> {
        let group = self.groups.get(place.group)?;
        // All numbers after this one: the bits above it.
        let later = !(place.bit() | place.bit().wrapping_sub(1));
        group.first(later).or_else(|| self.groups.get(group.newer?)?.first(ALL))
    }

    /// Adds a lock as the newest one. None when there are 2^32 groups.
    pub(crate) fn push(&mut self, lock: Id) -> Option<Place> {
        if let Some(place) = self.push_to_newest(lock) {
            return Some(place);
        }
        self.begin_group()?;
        self.push_to_newest(lock)
    }

    /// None when the newest group is full, or there is none.
    fn push_to_newest(&mut self, lock: Id) -> Option<Place> {
        let id = self.newest?;
        let group = self.groups.get_mut(id)?;
        let number = u8::try_from(group.locks.len()).ok()?;
        let place = Place { group: id, number };
        let bit = place.bit();
        if bit == 0 {
            return None;
        }
        group.locks.push(lock);
        group.stored |= bit;
        group.held |= bit;
        self.len = self.len.saturating_add(1);
        Some(place)
    }

    #[cold]
    fn begin_group(&mut self) -> Option<()> {
        let older = self.newest;
        let id = self.groups.insert(Group { older, ..Group::default() })?;
        match older.and_then(|older| self.groups.get_mut(older)) {
            Some(older) => {
                older.newer = Some(id);
                older.shrink();
            }
            None => self.oldest = Some(id),
        }
        self.newest = Some(id);
        Some(())
    }

    /// Removes the lock at this place.
    pub(crate) fn remove(&mut self, place: Place) {
        let Some(group) = self.groups.get_mut(place.group) else { return };
        debug_assert!(group.held & place.bit() != 0, "the lock is not in the order");
        group.held &= !place.bit();
        self.len = self.len.saturating_sub(1);
        if self.newest == Some(place.group) {
            if group.held == 0 {
                // Its numbers begin again, so that a lock that is acquired and released repeatedly
                // needs no new groups.
                group.stored = 0;
                group.locks.clear();
            }
        } else if group.held == 0 {
            self.end_group(place.group);
        } else {
            group.shrink();
        }
    }

    /// Removes an empty group. It is not the newest one.
    fn end_group(&mut self, id: Id) {
        let Some(group) = self.groups.remove(id) else { return };
        match group.older.and_then(|older| self.groups.get_mut(older)) {
            Some(older) => older.newer = group.newer,
            None => self.oldest = group.newer,
        }
        if let Some(newer) = group.newer.and_then(|newer| self.groups.get_mut(newer)) {
            newer.older = group.older;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// An order, and the places of its locks in a plain list.
    #[derive(Default)]
    struct Both {
        locks: Arena<()>,
        order: HoldOrder,
        expected: Vec<(Id, Place)>,
    }

    impl Both {
        fn push(&mut self) {
            let id = self.locks.insert(()).unwrap();
            self.expected.push((id, self.order.push(id).unwrap()));
        }

        fn remove(&mut self, at: usize) {
            let (id, place) = self.expected.remove(at);
            self.order.remove(place);
            self.locks.remove(id);
        }

        fn check(&self) {
            let places: HashMap<Id, Place> = self.expected.iter().copied().collect();
            let first = self.order.oldest();
            let walk: Vec<Id> =
                std::iter::successors(first, |id| self.order.after(places[id])).collect();
            let expected: Vec<Id> = self.expected.iter().map(|(id, _)| *id).collect();
            assert_eq!(walk, expected);
            assert_eq!(self.order.len(), expected.len() as u64);
        }

        fn groups(&self) -> usize {
            let groups = &self.order.groups;
            (0..groups.pages()).map(|page| groups.page(page).count()).sum()
        }
    }

    #[test]
    fn locks_stay_in_order_whatever_is_removed() {
        for (pushes, factor) in [(1, 1), (2, 0), (2, 1), (2, 31), (3, 97), (4, 7_919)] {
            let mut both = Both::default();
            for step in 0..200_usize {
                (0..pushes).for_each(|_| both.push());
                both.remove(step * factor % both.expected.len());
                if step % 7 == 0 {
                    both.check();
                }
            }
            while !both.expected.is_empty() {
                both.remove(both.expected.len() * 2 / 3);
                if both.expected.len() % 5 == 0 {
                    both.check();
                }
            }
            assert_eq!(both.groups(), 1, "the newest one remains");
        }
    }

    #[test]
    fn a_lock_that_is_acquired_and_released_repeatedly_needs_one_group() {
        let mut both = Both::default();
        for _ in 0..1_000 {
            both.push();
            both.remove(0);
        }
        assert_eq!(both.groups(), 1);
    }

    #[test]
    fn the_memory_follows_the_number_of_held_locks() {
        let mut both = Both::default();
        (0..64 * GROUP).for_each(|_| both.push());
        // One of each group is left.
        for at in 0..64 {
            (1..GROUP).for_each(|_| both.remove(at));
        }
        both.push();
        both.check();
        let groups = &both.order.groups;
        let stored = (0..groups.pages()).flat_map(|page| groups.page(page));
        let stored: usize = stored.map(|(_, group)| group.locks.capacity()).sum();
        assert!(stored <= 64 + GROUP, "{stored}");
    }
}
