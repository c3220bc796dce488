//! The worker processes in Python (`bench/workers`) that compete for a lock.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use gpulock_testkit::workspace;
use serde::de::DeserializeOwned;
use serde_json::json;

/// A period in which a worker held the lock, in nanoseconds of the monotonic clock that all
/// processes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hold {
    /// When the worker had the lock.
    pub acquired: u64,
    /// When it started to release it.
    pub releasing: u64,
    /// The worker.
    pub worker: usize,
}

/// Worker processes. Dropping them kills the processes.
pub(crate) struct Workers(Vec<Worker>);

impl Workers {
    /// Starts `count` workers for the server at `port`.
    pub(crate) fn start(python: &Path, port: u16, count: usize) -> Result<Self> {
        (0..count)
            .map(|number| Worker::start(python, port, number))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The number of workers.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Makes all workers connect and prepare a lock. Returns the clock when the last one is
    /// ready.
    pub(crate) fn prepare(&mut self, lock: &str) -> Result<u64> {
        self.send(&json!({ "lock": lock }))?;
        let clocks: Vec<u64> = self.replies()?;
        clocks.into_iter().max().context("no workers")
    }

    /// Makes all workers acquire and release the lock from `begin` to `end`, and returns
    /// all holds in order.
    pub(crate) fn work(&mut self, begin: u64, end: u64) -> Result<Vec<Hold>> {
        self.send(&json!({ "begin": begin, "end": end }))?;
        let replies: Vec<Vec<(u64, u64)>> = self.replies()?;
        let mut holds: Vec<Hold> = replies
            .into_iter()
            .enumerate()
            .flat_map(|(worker, holds)| {
                holds.into_iter().map(move |(acquired, releasing)| Hold {
                    acquired,
                    releasing,
                    worker,
                })
            })
            .collect();
        holds.sort_unstable();
        Ok(holds)
    }

    fn send(&mut self, order: &serde_json::Value) -> Result<()> {
        self.0.iter_mut().try_for_each(|worker| Ok(writeln!(worker.orders, "{order}")?))
    }

    fn replies<T: DeserializeOwned>(&mut self) -> Result<Vec<T>> {
        self.0.iter_mut().map(Worker::reply).collect()
    }
}

struct Worker {
    process: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Worker {
    fn start(python: &Path, port: u16, number: usize) -> Result<Self> {
        let mut process = Command::new(python)
            // Writes no compiled files beside the sources.
            .arg("-B")
            .arg(workspace().join("bench/workers/worker.py"))
            .args([port.to_string(), number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", python.display()))?;
        let orders = process.stdin.take().context("stdin is not piped")?;
        let replies = process.stdout.take().context("stdout is not piped")?;
        Ok(Self { process, orders, replies: BufReader::new(replies) })
    }

    fn reply<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        serde_json::from_str(&line).context("a worker failed; see its output above")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may wait for a lock indefinitely. Fails if it has exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
