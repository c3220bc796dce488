//! The tags that holds had which have ended: which lock has which tag, and which was left first. They
//! are remembered for the newest locks only. A lock is known here by the hash of its name, so the
//! memory for one is bounded, whatever the length of its key: less than 200 bytes. Two locks whose
//! hashes are equal share a tag, which does no harm: a tag says only what to prefer.

use std::collections::BTreeMap;

/// A tag.
pub type Tag = Box<[u8]>;

/// The number of tags above a lower limit that are forgotten at a time.
const PORTION: usize = 512;

/// The tags of the locks that were left last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tags {
    by_lock: BTreeMap<u64, Left>,
    /// The locks in the order in which they were left.
    by_age: BTreeMap<u64, u64>,
    last_number: u64,
    limit: usize,
}

/// The tag of a lock that was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// The tag.
    pub(crate) tag: Tag,
    /// Its number in the order in which locks were left.
    pub(crate) number: u64,
}

impl Tags {
    /// Whether no tag is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_lock.is_empty()
    }

    /// Sets the largest number of tags. Of those above it, the oldest are forgotten in portions.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.forget_surplus();
    }

    /// The last hold of a lock had this tag.
    pub(crate) fn remember(&mut self, lock: u64, tag: Tag) {
        self.forget(lock);
        if self.limit == 0 {
            return;
        }
        self.last_number = self.last_number.saturating_add(1);
        self.by_age.insert(self.last_number, lock);
        self.by_lock.insert(lock, Left { tag, number: self.last_number });
        if self.by_lock.len() > self.limit {
            self.forget_oldest();
        }
    }

    /// The last hold of a lock had no tag.
    pub(crate) fn forget(&mut self, lock: u64) {
        if let Some(left) = self.by_lock.remove(&lock) {
            self.by_age.remove(&left.number);
        }
    }

    /// The tag of a lock.
    pub(crate) fn get(&self, lock: u64) -> Option<&Left> {
        self.by_lock.get(&lock).filter(|_| self.limit > 0)
    }

    /// After the limit was lowered: forgets a portion of the oldest.
    pub(crate) fn forget_surplus(&mut self) {
        let surplus = self.by_lock.len().saturating_sub(self.limit);
        for _ in 0..surplus.min(PORTION) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, lock)) = self.by_age.pop_first() {
            self.by_lock.remove(&lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(limit: u64) -> Tags {
        let mut tags = Tags::default();
        tags.set_limit(limit);
        tags
    }

    /// The tags of the first ten locks, in order.
    fn shown(tags: &Tags) -> String {
        let text = |left: &Left| String::from_utf8_lossy(&left.tag).into_owned();
        let tags = (0..10).map(|lock| tags.get(lock).map_or("-".to_owned(), text));
        tags.collect()
    }

    #[test]
    fn the_newest_tags_are_remembered() {
        let mut tags = tags(3);
        for (lock, tag) in [(0, b"a"), (1, b"b"), (2, b"c"), (0, b"d"), (3, b"e")] {
            tags.remember(lock, Box::from(&tag[..]));
        }
        // Lock 1 was left longest ago; lock 0 has been used since.
        assert_eq!(shown(&tags), "d-ce------");
        tags.forget(0);
        assert_eq!(shown(&tags), "--ce------");
        tags.remember(4, Box::from(&b"f"[..]));
        assert_eq!(shown(&tags), "--cef-----", "there is room for it");
        assert_eq!((tags.by_age.len(), tags.by_lock.len()), (3, 3));
    }

    #[test]
    fn with_a_lower_limit_the_oldest_are_forgotten_in_portions() {
        let mut tags = tags(10_000);
        for lock in (0..2_000).rev() {
            tags.remember(lock, Box::from(&b"a"[..]));
        }
        let mut lengths = Vec::new();
        tags.set_limit(5);
        for _ in 0..4 {
            lengths.push(tags.by_lock.len());
            tags.forget_surplus();
        }
        assert_eq!(lengths, [1_488, 976, 464, 5]);
        assert_eq!(shown(&tags), "aaaaa-----");
        tags.set_limit(0);
        assert!(tags.is_empty() && tags.by_age.is_empty());
    }

    #[test]
    fn without_a_limit_above_zero_nothing_is_remembered() {
        let mut tags = tags(10_000);
        (0..2_000).for_each(|lock| tags.remember(lock, Box::from(&b"a"[..])));
        tags.set_limit(0);
        assert_eq!(shown(&tags), "----------", "at once, although some are left");
        tags.remember(1, Box::from(&b"b"[..]));
        tags.set_limit(10_000);
        assert_eq!(tags.get(1), None);
    }
}
