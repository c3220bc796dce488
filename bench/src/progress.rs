//! How far the run is: one bar for all of it on a terminal, else one line for each part.
//! Nothing here knows what the parts do.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Every part has the same length of the bar, however many rounds it takes.
const PART: u64 = 10_000;

/// The progress of one run.
pub(crate) struct Progress {
    bar: ProgressBar,
    part: Cell<&'static str>,
    round: Cell<u64>,
}

impl Progress {
    /// A run of so many parts.
    pub(crate) fn new(parts: usize) -> Result<Self> {
        let bar = ProgressBar::new(parts as u64 * PART);
        let shown = "{elapsed_precise} {wide_bar} {percent:>3} %  {msg}";
        bar.set_style(ProgressStyle::with_template(shown)?);
        // Some rounds take a while: the time that goes on shows that all is well.
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Self { bar, part: Cell::new(""), round: Cell::new(0) })
    }

    /// A part begins, the first being 0.
    pub(crate) fn begin(&self, number: usize, part: &'static str) {
        self.part.set(part);
        self.bar.set_position(number as u64 * PART);
        self.bar.set_message(part);
        if !stderr().is_terminal() {
            eprintln!("{part}");
        }
    }

    /// How many rounds the part has. Called by the part before its first round.
    pub(crate) fn rounds(&self, rounds: usize) {
        self.round.set(PART / rounds.max(1) as u64);
    }

    /// What runs now.
    pub(crate) fn doing(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.part.get()));
    }

    /// A round is over.
    pub(crate) fn step(&self) {
        self.bar.inc(self.round.get());
    }

    /// Says something that is to stay: a part that is left out, and why.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// All is done.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
