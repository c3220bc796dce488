//! What is told of a run: a line while it goes on, and a table at its end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::run::Round;

/// The sum of rounds.
#[derive(Default)]
pub struct Summary {
    /// How many.
    pub rounds: usize,
    /// How many of them broke a promise.
    pub failed: usize,
    /// Calls made.
    pub calls: usize,
    /// Calls whose answer was lost.
    pub lost: usize,
    /// Locks granted.
    pub grants: usize,
    /// Places in lines that were held against the order of grants.
    pub places: usize,
    /// Short histories that went through the linearizability checker.
    pub windows: usize,
    /// Looks at the counters.
    pub looks: usize,
    /// How often each fault struck.
    pub struck: BTreeMap<&'static str, u64>,
    /// Which could not, and why.
    pub skipped: BTreeMap<&'static str, String>,
}

impl Summary {
    /// Adds a round.
    pub fn add(&mut self, round: &Round) {
        let verdict = &round.verdict;
        self.rounds += 1;
        self.failed += usize::from(!verdict.violations.is_empty());
        self.calls += verdict.calls;
        self.lost += verdict.lost;
        self.grants += verdict.grants;
        self.places += verdict.places;
        self.windows += verdict.windows;
        self.looks += verdict.looks_at_counters;
        for (name, times) in &round.struck {
            *self.struck.entry(name).or_default() += times;
        }
        for (name, why) in &round.skipped {
            self.skipped.insert(name, why.clone());
        }
    }

    /// A line about the latest round.
    pub fn progress(&self, round: &Round, took: Duration) -> String {
        format!(
            "round {} seed {}: {} calls in {:.1} s, {} in all, {} violations",
            self.rounds,
            round.seed,
            round.verdict.calls,
            took.as_secs_f64(),
            self.calls,
            round.verdict.violations.len()
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("rounds", self.rounds),
            ("rounds with violations", self.failed),
            ("calls", self.calls),
            ("answers lost", self.lost),
            ("locks granted", self.grants),
            ("places in lines checked", self.places),
            ("windows linearized", self.windows),
            ("looks at the counters", self.looks),
        ];
        for (name, figure) in figures {
            writeln!(out, "{name:<26} {figure:>10}")?;
        }
        for (name, times) in &self.struck {
            writeln!(out, "fault {name:<20} {times:>10}")?;
        }
        for (name, why) in &self.skipped {
            writeln!(out, "fault {name:<20}    SKIPPED: {why}")?;
        }
        Ok(())
    }
}
