//! LIST with CURSOR: reports all locks in portions. The order is that of the table, in which a lock
//! keeps its place as long as it is known, so a scan misses no lock that exists from its beginning
//! to its end. A portion ends when its work is used up.

use std::collections::VecDeque;

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::report::list::{Filter, Steps};
use crate::state::arena::Id;
use crate::state::lock::Bytes;

/// The steps for a slot of a page that contains locks.
const STEPS_OF_SLOT: u64 = 24;

/// The steps for a page without locks.
const STEPS_OF_EMPTY_PAGE: u64 = 8;

/// The number of slots in a page, for its price.
const SLOTS: u64 = 256;

/// A portion of a scan.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    filter: Filter<'a>,
    /// The work that is left for this portion.
    pub steps: Steps,
    /// The index of the next slot to visit; none: all have been visited.
    next: Option<usize>,
    /// The locks found and not reported yet.
    found: VecDeque<Id>,
    /// A page has been visited.
    has_visited: bool,
    /// A lock has been returned, so the next portion begins after it.
    has_returned: bool,
}

impl Scan<'_> {
    /// Where the next portion begins; 0: the scan is complete.
    pub fn cursor(&self) -> u64 {
        let first = self.found.front().map(|id| id.index());
        let next = first.or(self.next).unwrap_or(0);
        u64::try_from(next).unwrap_or(0)
    }
}

impl LockManager {
    /// Begins a portion of a scan over the locks of a database whose keys match the pattern.
    pub fn scan<'a>(&self, db: u32, pattern: Option<&'a [u8]>, cursor: u64) -> Scan<'a> {
        let next = usize::try_from(cursor).unwrap_or(usize::MAX);
        Scan {
            filter: Filter { db, pattern },
            steps: Steps::of_portion(),
            next: Some(next),
            found: VecDeque::new(),
            has_visited: false,
            has_returned: false,
        }
    }

    /// The next lock of a scan, with its key; none when all locks have been visited or the work of
    /// the portion is used up. The lock may change before the scan goes on.
    ///
    /// # Errors
    /// When matching a single key takes more than the work of a whole portion.
    pub fn scan_on(
        &self,
        scan: &mut Scan<'_>,
    ) -> Result<Option<(Id, Bytes)>, CommandError> {
        while scan.found.is_empty()
            && !scan.steps.are_used_up()
            && let Some(from) = scan.next
        {
            self.scan_page(scan, from)?;
        }
        if scan.steps.are_used_up() && scan.has_returned {
            return Ok(None);
        }
        scan.has_returned = true;
        let found = scan.found.pop_front();
        Ok(found.and_then(|id| Some((id, self.table.get(id)?.key.clone()))))
    }

    /// Finds the matching locks of a page, beginning with a slot.
    fn scan_page(&self, scan: &mut Scan<'_>, from: usize) -> Result<(), CommandError> {
        let page = Id::page_of(from);
        let is_first = !std::mem::replace(&mut scan.has_visited, true);
        let mut has_locks = false;
        for (id, lock) in self.table.page(page) {
            has_locks = true;
            if id.index() < from || lock.is_idle() {
                continue;
            }
            match scan.filter.is_match(lock, &mut scan.steps) {
                Some(true) => scan.found.push_back(id),
                Some(false) => {}
                // This lock is the first of the next portion, which has more steps for it.
                None if !is_first || id.index() > from => {
                    scan.next = Some(id.index());
                    return Ok(());
                }
                None => return Err(CommandError::ListWork),
            }
        }
        let following = page.saturating_add(1);
        scan.next = (following < self.table.pages()).then(|| Id::first_of(following));
        let price = if has_locks {
            STEPS_OF_SLOT.saturating_mul(SLOTS)
        } else {
            STEPS_OF_EMPTY_PAGE
        };
        scan.steps.pay_as_far_as_possible(price);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{held, id, manager};
    use crate::state::lock::Name;

    /// The keys that a whole scan returns, and its number of portions. Each portion has `steps`.
    fn scan_all(
        manager: &LockManager,
        pattern: Option<&[u8]>,
        steps: u64,
    ) -> Result<(Vec<String>, usize), CommandError> {
        let (mut keys, mut portions, mut cursor) = (Vec::new(), 0, 0);
        loop {
            let mut scan = manager.scan(0, pattern, cursor);
            scan.steps.limit(steps);
            while let Some((_, key)) = manager.scan_on(&mut scan)? {
                keys.push(String::from_utf8_lossy(&key).into_owned());
                scan.steps.pay_for_denied(b"");
            }
            (cursor, portions) = (scan.cursor(), portions + 1);
            if cursor == 0 {
                return Ok((keys, portions));
            }
        }
    }

    fn names(numbers: impl Iterator<Item = usize>) -> Vec<String> {
        numbers.map(|n| n.to_string()).collect()
    }

    #[test]
    fn a_scan_returns_each_lock_once_however_small_its_portions_are() {
        let mut manager = manager();
        for n in 0..1_000 {
            held(&mut manager, &n.to_string(), "me");
        }
        let other = Name { db: 1, key: b"other" };
        manager.table.find_or_create(other).unwrap();
        for (steps, portions) in [(1, 1_000), (7_344, 250), (2_000_000, 1)] {
            let (mut keys, count) = scan_all(&manager, None, steps).unwrap();
            keys.sort_by_key(|key| key.parse::<usize>().unwrap());
            assert_eq!(keys, names(0..1_000), "{steps} steps");
            assert!(count.abs_diff(portions) <= 4, "{steps} steps: {count} portions");
        }
        let (keys, _) = scan_all(&manager, Some(b"99*"), 2_000_000).unwrap();
        assert_eq!(keys.len(), 11);
    }

    #[test]
    fn a_scan_returns_locks_that_only_have_a_queue_and_no_idle_ones() {
        let mut manager = manager();
        let lock = manager.table.find_or_create(Name { db: 0, key: b"waited" }).unwrap();
        manager.table.add_position(lock, true);
        manager.table.find_or_create(Name { db: 0, key: b"idle" }).unwrap();
        let (keys, _) = scan_all(&manager, None, 2_000_000).unwrap();
        assert_eq!(keys, ["waited"]);
    }

    #[test]
    fn locks_that_end_during_a_scan_do_not_hide_others() {
        let mut manager = manager();
        for n in 0..600 {
            held(&mut manager, &n.to_string(), "me");
        }
        let mut scan = manager.scan(0, None, 0);
        let (first, _) = manager.scan_on(&mut scan).unwrap().unwrap();
        let cursor = scan.cursor();
        for n in 0..300 {
            let lock = id(&manager, &n.to_string());
            manager.table.end_hold(lock);
            manager.forget_idle();
        }
        assert_eq!(first.index(), 0);
        let mut scan = manager.scan(0, None, cursor);
        let rest = std::iter::from_fn(|| manager.scan_on(&mut scan).unwrap());
        assert_eq!(rest.count(), 300);
        assert_eq!(scan.cursor(), 0);
        // A cursor behind the last lock.
        let mut scan = manager.scan(0, None, 1 << 50);
        assert_eq!(manager.scan_on(&mut scan), Ok(None));
        assert_eq!(scan.cursor(), 0);
    }

    #[test]
    fn a_pattern_that_one_portion_cannot_match_is_an_error() {
        let mut manager = manager();
        held(&mut manager, &"b".repeat(100), "me");
        held(&mut manager, &"a".repeat(10_000), "me");
        let pattern = b"*[ab][ab][ab][ab]c";
        // The first portion ends before the long key, the second has too few steps for it.
        let error = scan_all(&manager, Some(pattern), 5_000);
        assert_eq!(error, Err(CommandError::ListWork));
        assert!(scan_all(&manager, Some(pattern), 2_000_000).is_ok());
    }
}
