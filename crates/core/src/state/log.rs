//! The log of problems with locks, newest first, with a limited length. Repeated entries are folded
//! into one. The module decides which entries a user may read.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::state::clock::Now;

/// Text from a client, or a constant of the module.
pub type Text = Cow<'static, [u8]>;

/// Keys and owners are truncated to this length, in bytes.
const NAME_MAX: usize = 128;

/// An entry with the same subject as the newest is folded into it within this time, in ms.
const FOLD_MS: u64 = 60_000;

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A release by an owner that does not hold the lock.
    OwnershipViolation,
    /// A release of a free lock.
    StaleRelease,
    /// A lease expired while the lock was held.
    Expired,
    /// A forced release.
    Forced,
    /// The connection of a session closed.
    Disconnected,
    /// Another command, or the server, removed the key.
    Removed,
    /// A wait that would have closed a cycle.
    Deadlock,
    /// A lock has been held for longer than `warn-hold`.
    LongHold,
    /// A setting of the server puts locks at risk.
    Warning,
}

impl Kind {
    /// Its name in the reply of LOG.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::OwnershipViolation => "ownership_violation",
            Kind::StaleRelease => "stale_release",
            Kind::Expired => "expired",
            Kind::Forced => "forced",
            Kind::Disconnected => "disconnected",
            Kind::Removed => "removed",
            Kind::Deadlock => "deadlock",
            Kind::LongHold => "long_hold",
            Kind::Warning => "warning",
        }
    }
}

/// The subject of an entry. Two entries with equal subjects are repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The kind of problem.
    pub kind: Kind,
    /// The database and the key; none for a warning about the server.
    pub lock: Option<(u32, Box<[u8]>)>,
    /// The owner that held the lock.
    pub holder: Option<Box<[u8]>>,
    /// The owner that the caller gave.
    pub caller: Option<Box<[u8]>>,
    /// The REASON of the command, or the cause of the entry.
    pub reason: Text,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its subject.
    pub subject: Subject,
    /// The fencing token of the hold.
    pub token: Option<u64>,
    /// How long the lock had been held, in ms.
    pub held_ms: Option<u64>,
    /// The time of the last occurrence, in ms since the epoch.
    pub unix_ms: u64,
    /// The number of occurrences.
    pub count: u64,
    /// The client that caused it; none for scripts, and when no client caused it.
    pub client: Option<u64>,
    /// The client's line of `CLIENT LIST`, once the server has returned it.
    pub client_line: Option<Box<[u8]>>,
}

/// Truncates a key or an owner to the length that the log keeps.
pub(crate) fn truncate(bytes: &[u8]) -> Box<[u8]> {
    bytes.iter().take(NAME_MAX).copied().collect()
}

/// The number of deleted entries whose memory is freed at a time: freeing 100,000 of them takes as
/// long as many commands.
const FREED_AT_A_TIME: usize = 512;

/// The memory of the list is given back when at most a quarter of it is used, but not below this
/// number of entries.
const SMALL: usize = 128;

/// The log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Newest first. Those after the first `len` are deleted, and freed in portions.
    entries: VecDeque<Box<Entry>>,
    len: usize,
    limit: usize,
}

impl Log {
    /// Sets the maximum number of entries.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.len = self.len.min(self.limit);
        self.free_deleted();
    }

    /// Writes an entry. Returns whether the newest entry now lacks its client's line.
    pub(crate) fn write(&mut self, entry: Entry) -> bool {
        if let Some(newest) = self.newest()
            && newest.subject == entry.subject
            && Now::from_ms(entry.unix_ms).ms_since(newest.unix_ms) <= FOLD_MS
        {
            let line = newest.client_line.take_if(|_| newest.client == entry.client);
            let count = newest.count.saturating_add(1);
            *newest = Entry { count, client_line: line, ..entry };
        } else if self.limit > 0 {
            self.entries.push_front(Box::new(entry));
            self.len = self.len.saturating_add(1).min(self.limit);
            self.free_deleted();
        }
        self.newest()
            .is_some_and(|entry| entry.client.is_some() && entry.client_line.is_none())
    }

    fn newest(&mut self) -> Option<&mut Entry> {
        let newest = self.entries.front_mut().filter(|_| self.len > 0);
        newest.map(|entry| &mut **entry)
    }

    /// Adds the client's line to the newest entry.
    pub fn identify_newest(&mut self, line: &[u8]) {
        if let Some(newest) = self.newest() {
            newest.client_line = Some(line.into());
        }
    }

    /// The entries, newest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.range(0, self.len)
    }

    /// At most `len` entries, newest first, after skipping the `newer` newest ones.
    pub fn range(&self, newer: usize, len: usize) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.iter().take(self.len);
        entries.skip(newer).take(len).map(|entry| &**entry)
    }

    /// The entry that has `newer` newer ones.
    pub fn get(&self, newer: usize) -> Option<&Entry> {
        let entry = self.entries.get(newer).filter(|_| newer < self.len);
        entry.map(|entry| &**entry)
    }

    /// Deletes all entries.
    pub fn reset(&mut self) {
        self.len = 0;
        self.free_deleted();
    }

    /// Frees some of the deleted entries, if there are any.
    #[inline]
    pub(crate) fn free_deleted(&mut self) {
        if self.entries.len() > self.len {
            self.free_portion();
        }
    }

    fn free_portion(&mut self) {
        let deleted = self.entries.len().saturating_sub(self.len);
        let left = self.entries.len().saturating_sub(deleted.min(FREED_AT_A_TIME));
        self.entries.truncate(left);
        let used = left.max(SMALL);
        if self.entries.capacity() / 4 >= used {
            self.entries.shrink_to(used.saturating_mul(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(caller: &[u8], unix_ms: u64) -> Entry {
        Entry {
            subject: Subject {
                kind: Kind::StaleRelease,
                lock: Some((0, b"k"[..].into())),
                holder: None,
                caller: Some(caller.into()),
                reason: Text::Borrowed(b"normal"),
            },
            token: None,
            held_ms: None,
            unix_ms,
            count: 1,
            client: Some(7),
            client_line: None,
        }
    }

    fn counts(log: &Log) -> Vec<u64> {
        log.entries().map(|entry| entry.count).collect()
    }

    #[test]
    fn a_repetition_within_a_minute_is_folded_and_keeps_the_client_line() {
        let mut log = Log::default();
        log.set_limit(4);
        assert!(log.write(entry(b"a", 0)));
        log.identify_newest(b"id=7");
        assert!(!log.write(entry(b"a", 60_000)));
        assert_eq!(counts(&log), [2]);
        assert!(log.write(entry(b"a", 120_001)));
        assert!(log.write(entry(b"b", 120_001)));
        assert!(log.write(entry(b"a", 120_001)));
        assert_eq!(counts(&log), [1, 1, 1, 2]);
        log.write(entry(b"c", 120_001));
        assert_eq!(counts(&log), [1, 1, 1, 1]);
    }

    #[test]
    fn deleted_entries_are_gone_at_once_and_freed_in_portions() {
        let delete: [fn(&mut Log); 2] = [Log::reset, |log| log.set_limit(0)];
        for delete in delete {
            let mut log = Log::default();
            log.set_limit(10_000);
            for n in 0..2_000u64 {
                log.write(entry(&n.to_be_bytes(), n));
            }
            delete(&mut log);
            assert_eq!((counts(&log).len(), log.range(0, 9).count()), (0, 0));
            assert!(log.get(0).is_none() && log.newest().is_none());
            assert_eq!(log.entries.len(), 2_000 - FREED_AT_A_TIME);
            // A higher limit and new entries do not bring them back.
            log.set_limit(10_000);
            log.write(entry(b"new", 0));
            assert_eq!(counts(&log), [1]);
            (0..4).for_each(|_| log.free_deleted());
            assert_eq!(log.entries.len(), 1);
            assert!(log.entries.capacity() <= 4 * SMALL);
        }
    }

    #[test]
    fn a_log_with_limit_zero_stays_empty() {
        let mut log = Log::default();
        log.set_limit(0);
        assert!(!log.write(entry(b"a", 0)));
        assert_eq!(counts(&log), []);
    }
}
