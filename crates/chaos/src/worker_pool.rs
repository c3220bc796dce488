//! Clients in separate processes. A killed one is replaced by a new one with another
//! number.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use fastrand::Rng;

use crate::clock::{MS, Nanos, now};
use crate::recorder::Recorder;
use crate::worker::Worker;

/// A pool of clients.
pub(crate) struct WorkerPool {
    program: PathBuf,
    /// The wrapper command that starts them, if any.
    through: Vec<String>,
    address: (Ipv4Addr, u16),
    recorder: Recorder,
    rng: Rng,
    next: u32,
    all: Vec<Worker>,
    /// How long the newest one stays stopped.
    frozen: Option<Nanos>,
}

impl WorkerPool {
    /// An empty pool; the first client will have the number `first`.
    pub(crate) fn new(
        program: PathBuf,
        address: (Ipv4Addr, u16),
        recorder: Recorder,
        rng: Rng,
        first: u32,
    ) -> Self {
        Self {
            program,
            through: Vec::new(),
            address,
            recorder,
            rng,
            next: first,
            all: Vec::new(),
            frozen: None,
        }
    }

    /// Sets a wrapper command.
    pub(crate) fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts `count` more clients.
    pub(crate) fn start(&mut self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let mut words = self.through.clone();
            words.push(self.program.display().to_string());
            let (writer, seed) = (self.recorder.writer(), self.rng.u64(..));
            let worker = Worker::start(&words, self.address, self.next, seed, writer)
                .map_err(|error| format!("{words:?}: {error}"))?;
            self.next += 1;
            self.all.push(worker);
        }
        Ok(())
    }

    /// Kills the oldest client and starts another; false if there is none.
    pub(crate) fn kill_one(&mut self) -> Result<bool, String> {
        self.thaw();
        if self.all.is_empty() {
            return Ok(false);
        }
        self.all.remove(0).kill();
        self.start(1).map(|()| true)
    }

    /// Kills all clients, and returns their number.
    pub(crate) fn kill_all(&mut self) -> usize {
        self.thaw();
        let count = self.all.len();
        self.all.drain(..).for_each(|mut worker| worker.kill());
        count
    }

    /// Stops the newest client for `ms`; false if one is stopped already.
    pub(crate) fn freeze_one(&mut self, ms: u64) -> bool {
        let (None, Some(worker)) = (self.frozen, self.all.last()) else { return false };
        worker.freeze();
        self.frozen = Some(now() + ms * MS);
        true
    }

    /// Continues the stopped client if its time is over.
    pub(crate) fn thaw_if_due(&mut self) {
        if self.frozen.is_some_and(|until| until <= now()) {
            self.thaw();
        }
    }

    fn thaw(&mut self) {
        self.all.iter().for_each(Worker::thaw);
        self.frozen = None;
    }

    /// Makes all clients finish.
    pub(crate) fn finish(&mut self) {
        self.thaw();
        self.all.drain(..).for_each(|mut worker| worker.finish());
    }
}
