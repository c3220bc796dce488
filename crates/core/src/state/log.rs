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

/// The log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Newest first.
    entries: VecDeque<Entry>,
    limit: usize,
}

impl Log {
    /// Sets the maximum number of entries.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.entries.truncate(self.limit);
        self.entries.shrink_to_fit();
    }

    /// Writes an entry. Returns whether the newest entry now lacks its client's line.
    pub(crate) fn write(&mut self, entry: Entry) -> bool {
        if let Some(newest) = self.entries.front_mut()
            && newest.subject == entry.subject
            && Now::from_ms(entry.unix_ms).ms_since(newest.unix_ms) <= FOLD_MS
        {
            let line = newest.client_line.take_if(|_| newest.client == entry.client);
            let count = newest.count.saturating_add(1);
            *newest = Entry { count, client_line: line, ..entry };
        } else if self.limit > 0 {
            self.entries.truncate(self.limit.saturating_sub(1));
            self.entries.push_front(entry);
        }
        self.entries
            .front()
            .is_some_and(|entry| entry.client.is_some() && entry.client_line.is_none())
    }

    /// Adds the client's line to the newest entry.
    pub fn identify_newest(&mut self, line: &[u8]) {
        if let Some(newest) = self.entries.front_mut() {
            newest.client_line = Some(line.into());
        }
    }

    /// The entries, newest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// At most `len` entries, newest first, after skipping the `newer` newest ones.
    pub fn range(&self, newer: usize, len: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(newer).take(len)
    }

    /// The entry that has `newer` newer ones.
    pub fn get(&self, newer: usize) -> Option<&Entry> {
        self.entries.get(newer)
    }

    /// Deletes all entries.
    pub fn reset(&mut self) {
        self.entries = VecDeque::new();
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
    fn a_log_with_limit_zero_stays_empty() {
        let mut log = Log::default();
        log.set_limit(0);
        assert!(!log.write(entry(b"a", 0)));
        assert_eq!(counts(&log), []);
    }
}
