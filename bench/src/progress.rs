//! Progress of a run: a bar on a terminal, otherwise one line for each part.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Length of a part on the bar, independent of its number of rounds.
const PART: u64 = 10_000;

/// Progress of one run.
pub(crate) struct Progress {
    bar: ProgressBar,
    part: Cell<&'static str>,
    round: Cell<u64>,
}

impl Progress {
    /// Progress of a run with `parts` parts.
    pub(crate) fn new(parts: usize) -> Result<Self> {
        let bar = ProgressBar::new(parts as u64 * PART);
        let template = "{elapsed_precise} {wide_bar} {percent:>3} %  {msg}";
        bar.set_style(ProgressStyle::with_template(template)?);
        // Keeps the elapsed time running during long rounds.
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Self { bar, part: Cell::new(""), round: Cell::new(0) })
    }

    /// Starts a part; `number` counts from 0.
    pub(crate) fn begin(&self, number: usize, part: &'static str) {
        self.part.set(part);
        self.bar.set_position(number as u64 * PART);
        self.bar.set_message(part);
        if !stderr().is_terminal() {
            eprintln!("{part}");
        }
    }

    /// Sets the number of rounds of the part, before its first round.
    pub(crate) fn set_rounds(&self, rounds: usize) {
        self.round.set(PART / rounds.max(1) as u64);
    }

    /// Shows the current step.
    pub(crate) fn set_step(&self, step: &str) {
        self.bar.set_message(format!("{}: {step}", self.part.get()));
    }

    /// Advances the bar by one round.
    pub(crate) fn finish_round(&self) {
        self.bar.inc(self.round.get());
    }

    /// Prints a line above the bar.
    pub(crate) fn log(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
