//! Scripts are atomic: both reads of the same key in a script return the same value.

use super::{Rule, Violation};
use crate::history::Event;

pub(crate) fn check(events: &[&Event], violations: &mut Vec<Violation>) {
    for event in events {
        if let Event::ScriptReads { lock, first, last, from, to } = event
            && first != last
        {
            violations.push(Violation {
                rule: Rule::AtomicScripts,
                at: *to,
                what: format!(
                    "a script sent at {from} read {first:?} and then {last:?} from {lock}"
                ),
            });
        }
    }
}
