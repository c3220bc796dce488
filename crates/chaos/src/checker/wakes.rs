//! No lost wake-up: while a client waits for a lock, the lock changes hands. Leases of
//! the load are short, so a lock without any activity for much longer is free or lost,
//! and a client that waited all that time was forgotten.

use std::collections::HashMap;

use super::exemptions::Exemptions;
use super::{Rule, Violation};
use crate::client::{FIRST_SHORT_LIVED, LONGEST_LEASE_MS};
use crate::clock::{MS, Nanos};
use crate::history::{Call, Lock, Reply, Request};

/// Longest period without activity on a lock: the longest lease, another one for a grant
/// without a reply, and a margin for a busy machine.
const IDLE_LIMIT: Nanos = (2 * LONGEST_LEASE_MS + 2_000) * MS;

/// If no client receives any reply for this long, the server is stalled.
const STALL: Nanos = 1_000 * MS;

pub(crate) fn check(
    calls: &[&Call],
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) {
    let (idle, stalls) = (idle_periods(calls), stalls(calls));
    for call in calls {
        let Request::Acquire { lock, options, .. } = &call.request else { continue };
        let waited = options.block_ms.is_some() && call.received - call.sent > IDLE_LIMIT;
        if !waited || call.reply.is_unknown() || lock.1 >= FIRST_SHORT_LIVED {
            continue;
        }
        let starved = idle.get(lock).into_iter().flatten().find(|(from, to)| {
            let (from, to) = ((*from).max(call.sent), (*to).min(call.received));
            to > from + IDLE_LIMIT + overlap(&stalls, from, to)
                && !exemptions.modified(*lock, from, to)
        });
        if let Some((from, to)) = starved {
            violations.push(Violation {
                rule: Rule::NoLostWakeup,
                at: call.received,
                what: format!(
                    "{:?} waited over {} although {lock} was neither granted nor released from {from} to {to}",
                    call.request, call.connection
                ),
            });
        }
    }
}

/// For each lock, the long periods without a grant or a release.
fn idle_periods(calls: &[&Call]) -> HashMap<Lock, Vec<(Nanos, Nanos)>> {
    let mut activity: HashMap<Lock, Vec<Nanos>> = HashMap::new();
    for call in calls {
        if matches!(
            call.reply,
            Reply::Token(_)
                | Reply::Tokens(_)
                | Reply::Released(true)
                | Reply::ForceReleased(_)
        ) {
            for lock in
                call.request.locks().iter().filter(|lock| lock.1 < FIRST_SHORT_LIVED)
            {
                activity.entry(*lock).or_default().push(call.received);
            }
        }
    }
    let mut idle = HashMap::new();
    for (lock, mut times) in activity {
        times.extend([0, Nanos::MAX]);
        times.sort_unstable();
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > IDLE_LIMIT);
        idle.insert(lock, long.map(|pair| (pair[0], pair[1])).collect());
    }
    idle
}

/// The periods in which no client received a reply.
fn stalls(calls: &[&Call]) -> Vec<(Nanos, Nanos)> {
    let replied = calls.iter().filter(|call| !call.reply.is_unknown());
    let mut received: Vec<Nanos> = replied.map(|call| call.received).collect();
    received.sort_unstable();
    let long = received.windows(2).filter(|pair| pair[1] - pair[0] > STALL);
    long.map(|pair| (pair[0], pair[1])).collect()
}

/// How much of a period they cover.
fn overlap(stalls: &[(Nanos, Nanos)], from: Nanos, to: Nanos) -> Nanos {
    let overlap_with =
        |&(begin, end): &(Nanos, Nanos)| end.min(to).saturating_sub(begin.max(from));
    stalls.iter().map(overlap_with).sum()
}
