//! The clients that have a process of their own: those that are killed are followed by others,
//! with numbers of their own.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::clock::{MS, Nanos, now};
use crate::dice::Dice;
use crate::record::Record;
use crate::worker::Worker;

/// Some clients.
pub(crate) struct Crew {
    program: PathBuf,
    /// What is run to start them; none: they are started themselves.
    through: Vec<String>,
    address: (Ipv4Addr, u16),
    record: Record,
    dice: Dice,
    next: u32,
    all: Vec<Worker>,
    /// Until when the newest is stopped in its tracks.
    frozen: Option<Nanos>,
}

impl Crew {
    /// Nobody yet; the first will have the number `first`.
    pub(crate) fn new(
        program: PathBuf,
        address: (Ipv4Addr, u16),
        record: Record,
        dice: Dice,
        first: u32,
    ) -> Self {
        Self {
            program,
            through: Vec::new(),
            address,
            record,
            dice,
            next: first,
            all: Vec::new(),
            frozen: None,
        }
    }

    /// Has them started through another program, which is given these words first.
    pub(crate) fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts so many more.
    pub(crate) fn start(&mut self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let mut words = self.through.clone();
            words.push(self.program.display().to_string());
            let (pen, seed) = (self.record.pen(), self.dice.seed());
            let worker = Worker::start(&words, self.address, self.next, seed, pen)
                .map_err(|error| format!("{words:?}: {error}"))?;
            self.next += 1;
            self.all.push(worker);
        }
        Ok(())
    }

    /// Kills the oldest, and starts another; false when there is none.
    pub(crate) fn kill_one(&mut self) -> Result<bool, String> {
        self.thaw();
        if self.all.is_empty() {
            return Ok(false);
        }
        self.all.remove(0).kill();
        self.start(1).map(|()| true)
    }

    /// Kills all, and answers how many.
    pub(crate) fn kill_all(&mut self) -> usize {
        self.thaw();
        let count = self.all.len();
        self.all.drain(..).for_each(|mut worker| worker.kill());
        count
    }

    /// Stops the newest in its tracks, for so long; false when it is already.
    pub(crate) fn freeze_one(&mut self, ms: u64) -> bool {
        let (None, Some(worker)) = (self.frozen, self.all.last()) else { return false };
        worker.freeze();
        self.frozen = Some(now() + ms * MS);
        true
    }

    /// Lets the one go on whose time is over.
    pub(crate) fn thaw_if_due(&mut self) {
        if self.frozen.is_some_and(|until| until <= now()) {
            self.thaw();
        }
    }

    fn thaw(&mut self) {
        self.all.iter().for_each(Worker::thaw);
        self.frozen = None;
    }

    /// Lets all come to their end.
    pub(crate) fn finish(&mut self) {
        self.thaw();
        self.all.drain(..).for_each(|mut worker| worker.finish());
    }
}
