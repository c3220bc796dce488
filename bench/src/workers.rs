//! The worker processes in Python (`bench/workers`): started, told what to do, asked what
//! they held. What a hand-off is worth stands in `hand_off`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use gpulock_testkit::workspace;
use serde::de::DeserializeOwned;
use serde_json::json;

/// How long somebody had the lock, by the clock that all processes of a machine share
/// (monotonic, nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hold {
    /// When the holder knew that it has it.
    pub taken: u64,
    /// When it began to give it back.
    pub giving: u64,
    /// Who it was.
    pub worker: usize,
}

/// Processes that want one lock. Dropping ends them.
pub(crate) struct Workers(Vec<Worker>);

impl Workers {
    /// Starts so many workers for the server at a port.
    pub(crate) fn start(python: &Path, port: u16, count: usize) -> Result<Self> {
        (0..count)
            .map(|number| Worker::start(python, port, number))
            .collect::<Result<_>>()
            .map(Self)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Makes all of them connect and stand ready for a lock, and returns when the last
    /// was: no round waits for the start of a worker.
    pub(crate) fn ready(&mut self, lock: &str) -> Result<u64> {
        self.tell(&json!({ "lock": lock }))?;
        let clocks: Vec<u64> = self.answers()?;
        clocks.into_iter().max().context("there are no workers")
    }

    /// Makes them take and give back the lock between two moments, and returns all holds
    /// in the order of their beginnings.
    pub(crate) fn work(&mut self, begin: u64, end: u64) -> Result<Vec<Hold>> {
        self.tell(&json!({ "begin": begin, "end": end }))?;
        let answers: Vec<Vec<(u64, u64)>> = self.answers()?;
        let mut holds: Vec<Hold> = answers
            .into_iter()
            .enumerate()
            .flat_map(|(worker, holds)| {
                holds.into_iter().map(move |(taken, giving)| Hold {
                    taken,
                    giving,
                    worker,
                })
            })
            .collect();
        holds.sort_unstable();
        Ok(holds)
    }

    fn tell(&mut self, order: &serde_json::Value) -> Result<()> {
        self.0.iter_mut().try_for_each(|worker| Ok(writeln!(worker.orders, "{order}")?))
    }

    fn answers<T: DeserializeOwned>(&mut self) -> Result<Vec<T>> {
        self.0.iter_mut().map(Worker::answer).collect()
    }
}

struct Worker {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(python: &Path, port: u16, number: usize) -> Result<Self> {
        let mut process = Command::new(python)
            // Leaves no compiled files beside the sources.
            .arg("-B")
            .arg(workspace().join("bench/workers/worker.py"))
            .args([port.to_string(), number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", python.display()))?;
        let orders = process.stdin.take().context("a worker without input")?;
        let answers = process.stdout.take().context("a worker without output")?;
        Ok(Self { process, orders, answers: BufReader::new(answers) })
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("a worker ended, see above what it said")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may wait for a lock for ever. That it is gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
