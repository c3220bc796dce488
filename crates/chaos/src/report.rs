//! The output of a run: a line per round, and a summary.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::run::Round;

/// Totals of all rounds.
#[derive(Default)]
pub struct Summary {
    /// Rounds.
    pub rounds: usize,
    /// Rounds with violations.
    pub failed: usize,
    /// Calls.
    pub calls: usize,
    /// Calls without a reply.
    pub lost: usize,
    /// Grants.
    pub grants: usize,
    /// Queue positions compared with the order of grants.
    pub positions: usize,
    /// Grants compared with earlier waiters of a lower priority.
    pub bounded: usize,
    /// Complete lock sets.
    pub lock_sets: usize,
    /// Calls checked against the deadline of a notice.
    pub after_notice: usize,
    /// Windows checked for linearizability.
    pub windows: usize,
    /// Samples of the counters.
    pub stats_samples: usize,
    /// How often each fault was injected.
    pub injected: BTreeMap<&'static str, u64>,
    /// Faults that were not possible, and why.
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
        self.positions += verdict.positions;
        self.bounded += verdict.bounded;
        self.lock_sets += verdict.lock_sets;
        self.after_notice += verdict.after_notice;
        self.windows += verdict.windows;
        self.stats_samples += verdict.stats_samples;
        for (name, times) in &round.injected {
            *self.injected.entry(name).or_default() += times;
        }
        for (name, why) in &round.skipped {
            self.skipped.insert(name, why.clone());
        }
    }

    /// A line about the latest round.
    pub fn progress(&self, round: &Round, duration: Duration) -> String {
        format!(
            "round {} seed {}: {} calls in {:.1} s, {} in all, {} violations",
            self.rounds,
            round.seed,
            round.verdict.calls,
            duration.as_secs_f64(),
            self.calls,
            round.verdict.violations.len()
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = [
            ("rounds", self.rounds),
            ("rounds with violations", self.failed),
            ("calls", self.calls),
            ("replies lost", self.lost),
            ("locks granted", self.grants),
            ("queue positions checked", self.positions),
            ("priorities checked", self.bounded),
            ("lock sets checked", self.lock_sets),
            ("calls after a notice", self.after_notice),
            ("windows linearized", self.windows),
            ("samples of the counters", self.stats_samples),
        ];
        for (name, total) in totals {
            writeln!(out, "{name:<26} {total:>10}")?;
        }
        for (name, times) in &self.injected {
            writeln!(out, "fault {name:<20} {times:>10}")?;
        }
        for (name, why) in &self.skipped {
            writeln!(out, "fault {name:<20}    SKIPPED: {why}")?;
        }
        Ok(())
    }
}
