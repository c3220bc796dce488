//! A script runs as one step: it reads the same key twice, and sees the same twice.

use super::{Rule, Violation};
use crate::history::Event;

pub(crate) fn check(events: &[&Event], violations: &mut Vec<Violation>) {
    for event in events {
        if let Event::ReadTwice { lock, first, last, from, to } = event
            && first != last
        {
            violations.push(Violation {
                rule: Rule::OneStep,
                at: *to,
                what: format!(
                    "a script since {from} read {first:?} and then {last:?} of {lock}"
                ),
            });
        }
    }
}
