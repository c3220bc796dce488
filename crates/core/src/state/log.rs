//! The log of what went wrong, newest first, bounded; a repetition is counted, not
//! written again. Who sees which entry is not decided here.

use std::collections::VecDeque;

use crate::state::clock::Now;
use crate::state::event::Text;

/// Keys and owners are cut to this many bytes.
const CUT: usize = 128;

/// An entry equal to the newest is folded into it within this time, in ms.
const FOLD_MS: u64 = 60_000;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A release by somebody who does not hold the lock.
    OwnershipViolation,
    /// A release of a lock that nobody holds.
    StaleRelease,
    /// A lease ran out while the lock was held.
    Expired,
    /// A forced release.
    Forced,
    /// The connection that a lock was tied to closed.
    Disconnected,
    /// Another command, or the server, took the key away.
    Removed,
    /// A wait that would have closed a circle.
    Deadlock,
    /// A lock is held for long.
    LongHold,
    /// The server is set so that locks are in danger.
    Warning,
}

impl Kind {
    /// As the reply says it.
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

/// What an entry is about; everything that makes two entries the same is in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What went wrong.
    pub kind: Kind,
    /// Database and key; none for a warning about the server.
    pub lock: Option<(u32, Box<[u8]>)>,
    /// Who held the lock.
    pub holder: Option<Box<[u8]>>,
    /// The owner that the caller gave.
    pub caller: Option<Box<[u8]>>,
    /// The reason given, or why the entry was written.
    pub reason: Text,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub subject: Subject,
    /// The fencing token of the hold.
    pub token: Option<u64>,
    /// How long the lock had been held, in ms.
    pub held_ms: Option<u64>,
    /// When it happened last, in ms since the epoch.
    pub unix_ms: u64,
    /// How often it happened.
    pub count: u64,
    /// The client that did it; none in scripts and where no client did it.
    pub client: Option<u64>,
    /// That client's line as in `CLIENT LIST`, once the server has told it.
    pub client_line: Option<Box<[u8]>>,
}

/// Cuts a name to what the log keeps of it.
pub(crate) fn cut(bytes: &[u8]) -> Box<[u8]> {
    bytes.iter().take(CUT).copied().collect()
}

/// The entries, the newest in front.
#[derive(Clone, Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    limit: usize,
}

impl Log {
    /// Sets how many entries are kept.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.entries.truncate(self.limit);
        self.entries.shrink_to_fit();
    }

    /// Writes an entry. True when the newest entry now lacks the line of its client.
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
            .is_some_and(|e| e.client.is_some() && e.client_line.is_none())
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

    /// Some of the entries, newest first; `newer` is the number of newer ones to skip.
    pub fn budget(&self, newer: usize, len: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(newer).take(len)
    }

    /// An entry; `newer` is the number of newer ones.
    pub fn get(&self, newer: usize) -> Option<&Entry> {
        self.entries.get(newer)
    }

    /// Forgets all entries.
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
    fn a_log_of_no_entries_stays_empty() {
        let mut log = Log::default();
        log.set_limit(0);
        assert!(!log.write(entry(b"a", 0)));
        assert_eq!(counts(&log), []);
    }
}
