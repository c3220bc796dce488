//! The law of the counters: what was taken is what ended and what is held. And at the end, when
//! all is given up, nothing is.

use super::{Rule, Violation};
use crate::history::Counted;

/// The ways in which a hold ends, and the holds that did not.
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

pub(crate) fn check(looks: &[&Counted], violations: &mut Vec<Violation>) {
    for look in looks {
        let of = |name: &str| look.counters.get(name).copied().unwrap_or(0);
        let mut broken = |rule, what| {
            violations.push(Violation { rule, at: look.at, what });
        };
        let begun = of("acquired") + of("adopted");
        let ended: i64 = ENDS.iter().map(|name| of(name)).sum();
        if begun != ended || begun == 0 && look.at_the_end {
            let what = format!("{begun} begun, {ended} ended or held: {look:?}");
            broken(Rule::CountersAddUp, what);
        }
        if of("internal_errors") != 0 {
            let what = format!("{} panics were caught", of("internal_errors"));
            broken(Rule::ServerLives, what);
        }
        let (held, waiting) = (of("locks_held"), of("clients_waiting"));
        if look.at_the_end && (held, waiting) != (0, 0) {
            broken(Rule::NobodyLeft, format!("{held} held, {waiting} waiting"));
        }
    }
}
