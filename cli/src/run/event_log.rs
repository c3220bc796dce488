//! `--events`: the events of a run as JSON lines, for programs. docs/cli.md describes the fields.
//!
//! A separate thread writes them: the reader of a pipe may be slow, and nothing else may block
//! on that. Lines that the reader does not accept in time are dropped and counted.

use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::{self, Moment};
use crate::locks::{Lock, LockRequest};
use crate::run::stderr::Stderr;
use crate::text::Text;

/// Number of lines that may be pending; further lines are dropped.
const MAX_PENDING: usize = 256;

/// How long the end of a run waits at most for a slow reader.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause between two attempts to write the last line to a slow reader.
const PAUSE: Duration = Duration::from_millis(10);

/// The events of a run, shared by threads. Without `--events`, all of it does nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventLog(Option<Arc<Log>>);

#[derive(Debug)]
struct Log {
    state: Mutex<State>,
    writer: SyncSender<Job>,
}

#[derive(Debug, Default)]
struct State {
    /// None until the locks are known.
    owner: Option<String>,
    /// Whether the wait was reported and is not over.
    is_waiting: bool,
    /// None if the command was not started.
    command_status: Option<u8>,
    /// Number of lines dropped since the last one that was not.
    dropped: u64,
}

/// A job of the writer thread.
#[derive(Debug)]
enum Job {
    Write(String),
    /// Send a message back once all earlier jobs are done.
    Flush(SyncSender<()>),
}

/// A line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    event: &'a str,
    unix_ms: u64,
    owner: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    dropped: u64,
    #[serde(flatten)]
    details: &'a Value,
}

impl EventLog {
    /// Starts the writer.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(sink: Option<File>, stderr: &Stderr) -> Result<Self> {
        let Some(file) = sink else { return Ok(Self::default()) };
        let (writer, jobs) = sync_channel(MAX_PENDING);
        let stderr = stderr.clone();
        let thread = thread::Builder::new().name("events".to_owned());
        let write = move || write_all(file, &jobs, &stderr);
        thread.spawn(write).context("failed to start a thread")?;
        Ok(Self(Some(Arc::new(Log { state: Mutex::default(), writer }))))
    }

    /// Sets the owner of all events from now on.
    pub(crate) fn set_owner(&self, owner: &str) {
        self.with(|_, state| state.owner = Some(owner.to_owned()));
    }

    /// The locks are not free: the run has waited since this moment.
    pub(crate) fn waiting(&self, request: &LockRequest, since: Moment) {
        self.with(|log, state| {
            state.is_waiting = true;
            let groups = request.groups.as_ref().map_or(1, |groups| groups.wanted);
            let (keys, count) = (&request.keys, request.count.saturating_mul(groups));
            let waited = clock::millis(clock::now().saturating_sub(since));
            let since = unix_ms().saturating_sub(waited);
            let details = json!({ "keys": keys, "count": count, "since_unix_ms": since });
            log.emit(state, "waiting", &details);
        });
    }

    /// Whether it is open, and the wait is not over.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.as_ref().is_some_and(|log| log.lock().is_waiting)
    }

    /// The position in the queue or the holders of the locks have changed. Returns
    /// [`EventLog::is_waiting`].
    pub(crate) fn position(&self, position: &impl Serialize) -> bool {
        let mut is_waiting = false;
        self.with(|log, state| {
            is_waiting = state.is_waiting;
            if is_waiting && let Ok(details) = serde_json::to_value(position) {
                log.emit(state, "position", &details);
            }
        });
        is_waiting
    }

    /// The locks were granted, this long after they were requested.
    pub(crate) fn granted(&self, locks: &[Lock], waited: Duration, lease: Duration) {
        self.with(|log, state| {
            state.is_waiting = false;
            let keys: Vec<_> = locks.iter().map(|lock| &lock.key).collect();
            let tokens: Vec<_> = locks.iter().map(|lock| lock.token).collect();
            let (waited, lease) = (clock::millis(waited), clock::millis(lease));
            let details = json!({
                "keys": keys, "tokens": tokens, "waited_ms": waited, "lease_ms": lease
            });
            log.emit(state, "granted", &details);
        });
    }

    /// The leases were renewed, and have this length again.
    pub(crate) fn renewed(&self, lease: Duration) {
        self.with(|log, state| {
            log.emit(state, "renewed", &json!({ "lease_ms": clock::millis(lease) }));
        });
    }

    /// The holder was given notice: the locks end at this moment at the latest.
    pub(crate) fn revoked(&self, end: Moment, reason: &Text) {
        self.with(|log, state| {
            let left = clock::millis(end.saturating_sub(clock::now()));
            let end = unix_ms().saturating_add(left);
            let details =
                json!({ "until_unix_ms": end, "left_ms": left, "reason": reason });
            log.emit(state, "revoked", &details);
        });
    }

    /// The locks were lost, or may be: the command is terminated.
    pub(crate) fn lost(&self, reason: &str) {
        self.with(|log, state| {
            log.emit(state, "lost", &json!({ "reason": reason }));
        });
    }

    /// Sets the command's own status for the last event.
    pub(crate) fn set_command_status(&self, status: u8) {
        self.with(|_, state| state.command_status = Some(status));
    }

    /// The run ends with this status. Waits until everything is written, but not indefinitely.
    pub(crate) fn end(&self, status: u8) {
        let Some(log) = &self.0 else { return };
        let mut state = log.lock();
        state.is_waiting = false;
        let details = json!({ "status": status, "command_status": state.command_status });
        let give_up_at = clock::now().saturating_add(FLUSH_TIMEOUT);
        while !log.emit(&mut state, "ended", &details) && clock::now() < give_up_at {
            sleep(PAUSE);
        }
        log.flush(give_up_at);
    }

    fn with(&self, act: impl FnOnce(&Log, &mut State)) {
        if let Some(log) = &self.0 {
            act(log, &mut log.lock());
        }
    }
}

impl Log {
    /// A poisoned mutex is harmless: a panic ends this process.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line, or drops it if too many are pending. Returns whether it was not dropped.
    fn emit(&self, state: &mut State, event: &str, details: &Value) -> bool {
        let (unix_ms, owner, dropped) =
            (unix_ms(), state.owner.as_deref(), state.dropped);
        let line = Line { event, unix_ms, owner, dropped, details };
        let Ok(line) = serde_json::to_string(&line) else { return true };
        let is_full = matches!(
            self.writer.try_send(Job::Write(line + "\n")),
            Err(TrySendError::Full(_))
        );
        state.dropped = if is_full { dropped.saturating_add(1) } else { 0 };
        !is_full
    }

    fn flush(&self, give_up_at: Moment) {
        let (done, is_done) = sync_channel(1);
        if self.writer.try_send(Job::Flush(done)).is_ok() {
            let left = give_up_at.saturating_sub(clock::now());
            let _timed_out = is_done.recv_timeout(left);
        }
    }
}

/// Each line is one call, so that runs can share a file.
fn write_all(mut file: File, jobs: &Receiver<Job>, stderr: &Stderr) {
    let mut has_failed = false;
    for job in jobs {
        match job {
            Job::Write(_) if has_failed => {}
            Job::Write(line) => {
                if let Err(error) = file.write_all(line.as_bytes()) {
                    has_failed = true;
                    stderr.error(&format!(
                        "failed to write to --events: {error}; no more events are written"
                    ));
                }
            }
            // The receiver may have timed out.
            Job::Flush(done) => drop(done.send(())),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn unix_ms() -> u64 {
    clock::millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufRead, BufReader};
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn lines_that_a_slow_reader_misses_are_counted() -> Result<()> {
        const EVENTS: u64 = 5_000;
        let (reader, writer) = io::pipe()?;
        let file = File::from(OwnedFd::from(writer));
        let log = EventLog::start(Some(file), &Stderr::start(true)?)?;
        for lease in 0..EVENTS {
            log.renewed(Duration::from_millis(lease));
        }
        let mut lines = BufReader::new(reader).lines();
        let mut dropped = 0;
        for _ in 0..EVENTS {
            // The next line after the gap reports it.
            log.renewed(Duration::ZERO);
            let line: Value = serde_json::from_str(&lines.next().context("a line")??)?;
            dropped = line.get("dropped").and_then(Value::as_u64).unwrap_or(0);
            if dropped > 0 {
                break;
            }
        }
        assert!((1..EVENTS).contains(&dropped), "{dropped}");
        // The writer ends before the reader.
        drop(log);
        lines.for_each(drop);
        Ok(())
    }
}
