//! `gpulock log --follow`: prints log entries as they are written, oldest first, until it is
//! interrupted or nothing reads its output. The server has no notification of entries, so it is
//! asked at an interval.

use std::io;
use std::os::fd::AsFd;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::connection::Connection;
use crate::exit;
use crate::replies::{self, LogEntry};
use crate::server::Address;

/// How often the server is asked, in milliseconds.
const INTERVAL_MS: u16 = 1000;

/// The number of entries that are compared with those read before: the most that one call returns.
const WINDOW: usize = 500;

/// The log of a server, read again and again.
struct Followed<'a> {
    address: &'a Address,
    /// None after an error.
    connection: Option<Connection>,
    /// The newest entries, newest first.
    seen: Vec<LogEntry>,
}

/// Prints the last `count` entries, and then new ones, with `print`.
///
/// # Errors
/// If the log cannot be read at the start, or the output cannot be written. Later errors of the
/// server are reported, and the log is read again when that is possible.
pub(super) fn follow(
    address: &Address,
    count: usize,
    mut print: impl FnMut(&[LogEntry]) -> Result<()>,
) -> Result<()> {
    let mut connection = address.connect()?;
    let mut seen = replies::log(&mut connection, count.max(WINDOW))?;
    print(&oldest_first(&seen, count))?;
    seen.truncate(WINDOW);
    let mut log = Followed { address, connection: Some(connection), seen };
    let mut error = None;
    while !is_reader_gone() {
        match log.new_entries() {
            Ok(entries) => {
                if error.take().is_some() {
                    exit::note("connected again");
                }
                print(&entries)?;
            }
            Err(why) => report_once(&mut error, &why),
        }
    }
    Ok(())
}

/// Waits until the next query. Returns true as soon as nothing can read standard output.
fn is_reader_gone() -> bool {
    let stdout = io::stdout();
    // Errors and hang-ups are always reported.
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::from(INTERVAL_MS)).is_ok_and(|ready| ready > 0)
}

fn report_once(reported: &mut Option<String>, error: &anyhow::Error) {
    let message = exit::message(error);
    if reported.as_ref() != Some(&message) {
        exit::note(&format!("{message}; retrying"));
        *reported = Some(message);
    }
}

impl Followed<'_> {
    /// The entries since the last call, oldest first.
    fn new_entries(&mut self) -> Result<Vec<LogEntry>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.address.connect()?,
        };
        let newest = replies::newest(&mut connection, 1)?;
        let is_known = match (newest.first(), self.seen.first()) {
            (Some(newest), Some(seen)) => is_same(newest, seen),
            (newest, seen) => newest.is_none() && seen.is_none(),
        };
        let mut entries = Vec::new();
        if !is_known {
            let log = replies::log(&mut connection, WINDOW)?;
            let new = count_new(&self.seen, &log);
            if is_gap_likely(&self.seen, &log, new) {
                exit::note("entries may be missing here: the log was full");
            }
            entries = oldest_first(&log, new);
            self.seen = log;
        }
        self.connection = Some(connection);
        Ok(entries)
    }
}

/// The number of entries of the log that were written since `seen` was read. The newest entry that
/// was read counts again if it has been repeated, because the server counts repetitions there.
fn count_new(seen: &[LogEntry], log: &[LogEntry]) -> usize {
    let Some((newest, older)) = seen.split_first() else { return log.len() };
    let meets = |new: &usize| match log.get(*new..).and_then(<[_]>::split_first) {
        None => true,
        Some((entry, rest)) => {
            has_same_subject(entry, newest)
                && entry.count >= newest.count
                && rest.iter().zip(older).all(|(a, b)| is_same(a, b))
        }
    };
    let new = (0..=log.len()).find(meets).unwrap_or(log.len());
    match log.get(new) {
        Some(entry) if !is_same(entry, newest) => new + 1,
        _ => new,
    }
}

/// Whether the log has probably dropped entries that were not read. After a RESET, all entries are
/// new as well, but they are usually fewer than before.
fn is_gap_likely(seen: &[LogEntry], log: &[LogEntry], new: usize) -> bool {
    !seen.is_empty() && new == log.len() && log.len() >= seen.len()
}

/// Whether two entries are one that has not been repeated. The server adds the client to an entry
/// later.
fn is_same(a: &LogEntry, b: &LogEntry) -> bool {
    (a.unix_ms, a.count) == (b.unix_ms, b.count) && has_same_subject(a, b)
}

/// Whether the server counts one entry as a repetition of the other.
fn has_same_subject(a: &LogEntry, b: &LogEntry) -> bool {
    let subject =
        |it: &LogEntry| (it.kind.clone(), it.db, it.key.clone(), it.reason.clone());
    subject(a) == subject(b) && a.holder == b.holder && a.caller == b.caller
}

/// The newest `count` entries of a log that begins with the newest, oldest first.
fn oldest_first(log: &[LogEntry], count: usize) -> Vec<LogEntry> {
    log.iter().take(count).rev().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    fn entry(key: &str, unix_ms: u64, count: u64) -> LogEntry {
        LogEntry {
            kind: "expired".to_owned(),
            db: Some(0),
            key: Some(Text(key.into())),
            holder: None,
            token: None,
            caller: None,
            client: None,
            held_ms: None,
            reason: None,
            unix_ms,
            count,
        }
    }

    #[test]
    fn new_entries_are_those_before_the_last_known_one() {
        let seen = [entry("b", 2, 1), entry("a", 1, 1)];
        #[rustfmt::skip]
        let cases: [(&[LogEntry], usize); 8] = [
            (&[entry("b", 2, 1), entry("a", 1, 1)],                  0),
            (&[entry("c", 3, 1), entry("b", 2, 1), entry("a", 1, 1)], 1),
            // Repeated, and repeated before another entry.
            (&[entry("b", 3, 2), entry("a", 1, 1)],                  1),
            (&[entry("c", 4, 1), entry("b", 3, 2), entry("a", 1, 1)], 2),
            // The same subject again, after more than a minute.
            (&[entry("b", 9, 1), entry("b", 2, 1), entry("a", 1, 1)], 1),
            // The oldest was dropped, or the log was cleared.
            (&[entry("c", 3, 1), entry("b", 2, 1)],                  1),
            (&[entry("b", 7, 1)],                                    1),
            (&[],                                                    0),
        ];
        for (log, new) in cases {
            assert_eq!(count_new(&seen, log), new, "{log:?}");
        }
        assert_eq!(count_new(&[], &seen), 2);
    }

    #[test]
    fn unknown_entries_are_all_new() {
        let seen = [entry("b", 2, 1), entry("a", 1, 1)];
        let log = [entry("z", 9, 1), entry("y", 8, 1), entry("x", 7, 1)];
        assert_eq!(count_new(&seen, &log), 3);
    }
}
