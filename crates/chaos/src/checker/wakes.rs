//! No lost wake-up: while somebody waits for a lock, something happens to it. A lease of the
//! load is short, so a lock about which nobody hears anything good for much longer is free
//! or lost; whoever waits all that time was forgotten.

use std::collections::HashMap;

use super::excuses::Excuses;
use super::{Rule, Violation};
use crate::client::{FIRST_BRIEF, LONGEST_LEASE_MS};
use crate::clock::{MS, Nanos};
use crate::history::{Answer, Ask, Call, Lock};

/// Longer than this no lock of the load stays with one who was never heard of: the longest
/// lease, a lost grant after it, and time to spare for a machine that is busy.
const STILL: Nanos = (2 * LONGEST_LEASE_MS + 2_000) * MS;

/// When nobody hears anything for so long, about any lock, it is the server that stands still.
const STALL: Nanos = 1_000 * MS;

pub(crate) fn check(calls: &[&Call], excuses: &Excuses, violations: &mut Vec<Violation>) {
    let (still, stalls) = (still_times(calls), stalls(calls));
    for call in calls {
        let Ask::Acquire { lock, how, .. } = &call.ask else { continue };
        let waited = how.block_ms.is_some() && call.heard - call.asked > STILL;
        if !waited || call.answer.is_unknown() || lock.1 >= FIRST_BRIEF {
            continue;
        }
        let forgotten = still.get(lock).into_iter().flatten().find(|(from, to)| {
            let (from, to) = ((*from).max(call.asked), (*to).min(call.heard));
            to > from + STILL + overlap(&stalls, from, to)
                && !excuses.touched(*lock, from, to)
        });
        if let Some((from, to)) = forgotten {
            violations.push(Violation {
                rule: Rule::NoLostWakeUp,
                at: call.heard,
                what: format!(
                    "{:?} waited over {} while nobody got or gave up {lock} from {from} to {to}",
                    call.ask, call.connection
                ),
            });
        }
    }
}

/// For each lock the long times in which nobody got it, gave it up or had it taken.
fn still_times(calls: &[&Call]) -> HashMap<Lock, Vec<(Nanos, Nanos)>> {
    let mut lively: HashMap<Lock, Vec<Nanos>> = HashMap::new();
    for call in calls {
        if matches!(
            call.answer,
            Answer::Token(_)
                | Answer::Tokens(_)
                | Answer::Released(true)
                | Answer::Taken(_)
        ) {
            for lock in call.ask.locks().iter().filter(|lock| lock.1 < FIRST_BRIEF) {
                lively.entry(*lock).or_default().push(call.heard);
            }
        }
    }
    let mut still = HashMap::new();
    for (lock, mut times) in lively {
        times.extend([0, Nanos::MAX]);
        times.sort_unstable();
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > STILL);
        still.insert(lock, long.map(|pair| (pair[0], pair[1])).collect());
    }
    still
}

/// The times in which nobody heard anything.
fn stalls(calls: &[&Call]) -> Vec<(Nanos, Nanos)> {
    let answered = calls.iter().filter(|call| !call.answer.is_unknown());
    let mut heard: Vec<Nanos> = answered.map(|call| call.heard).collect();
    heard.sort_unstable();
    let long = heard.windows(2).filter(|pair| pair[1] - pair[0] > STALL);
    long.map(|pair| (pair[0], pair[1])).collect()
}

/// How much of a time they take.
fn overlap(stalls: &[(Nanos, Nanos)], from: Nanos, to: Nanos) -> Nanos {
    let in_it =
        |&(begin, end): &(Nanos, Nanos)| end.min(to).saturating_sub(begin.max(from));
    stalls.iter().map(in_it).sum()
}
