//! Counter consistency: the holds that began equal those that ended plus those that
//! exist; after the cleanup nothing is left.

use super::{Rule, Violation};
use crate::history::StatsSample;

/// The counters of ended holds, and of current ones.
const ENDS: [&str; 9] = [
    "releases",
    "emergency_releases",
    "expired",
    "session_releases",
    "removed",
    "evicted",
    "moved",
    "undelivered",
    "locks_held",
];

pub(crate) fn check(samples: &[&StatsSample], violations: &mut Vec<Violation>) {
    for sample in samples {
        let of = |name: &str| sample.counters.get(name).copied().unwrap_or(0);
        let mut violation = |rule, what| {
            violations.push(Violation { rule, at: sample.at, what });
        };
        let begun = of("acquired") + of("adopted");
        let ended: i64 = ENDS.iter().map(|name| of(name)).sum();
        if begun != ended || begun == 0 && sample.is_final {
            let what = format!("{begun} begun, {ended} ended or held: {sample:?}");
            violation(Rule::ConsistentCounters, what);
        }
        if of("internal_errors") != 0 {
            let what = format!("{} internal errors", of("internal_errors"));
            violation(Rule::ServerAlive, what);
        }
        let (held, waiting) = (of("locks_held"), of("clients_waiting"));
        if sample.is_final && (held, waiting) != (0, 0) {
            violation(Rule::NothingLeft, format!("{held} held, {waiting} waiting"));
        }
    }
}
