//! No lost wake-up: while a client waits for a lock, the lock changes hands. Leases of
//! the load are short, so a lock without any activity for much longer is free or lost,
//! and a client that waited all that time was forgotten.
//!
//! A free GPU may be reserved for a call that waits for others. But all calls for GPUs of
//! a set wait within that set only, and the first of them is served when all are free. So
//! the set as a whole must change hands.

use std::collections::HashMap;

use super::exemptions::Exemptions;
use super::{Rule, Violation};
use crate::client::LONGEST_LEASE_MS;
use crate::clock::{MS, Nanos};
use crate::history::{Call, Lock, Reply, Request, StatsSample};
use crate::locks::{GpuSet, Kind};

/// Longest period without activity on a lock: the longest lease, another one for a grant
/// without a reply, and a margin for a busy machine.
const IDLE_LIMIT: Nanos = (2 * LONGEST_LEASE_MS + 2_000) * MS;

/// If no client receives any reply for this long, the server is stalled.
const STALL: Nanos = 1_000 * MS;

/// What must change hands while a client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Awaited {
    Lock(Lock),
    Set(GpuSet),
}

impl Awaited {
    /// None for a short-lived lock, whose leases are long.
    fn of(lock: Lock) -> Option<Self> {
        match lock.kind() {
            Kind::Contended => Some(Self::Lock(lock)),
            Kind::Gpu(set) => Some(Self::Set(set)),
            Kind::ShortLived => None,
        }
    }

    fn locks(self) -> Vec<Lock> {
        match self {
            Self::Lock(lock) => vec![lock],
            Self::Set(set) => set.locks(),
        }
    }
}

pub(crate) fn check(
    calls: &[&Call],
    samples: &[&StatsSample],
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) {
    let (idle, stalls) = (idle_periods(calls), stalls(calls, samples));
    for call in calls {
        let Some(awaited) = awaited(&call.request) else { continue };
        let options = call.request.options();
        let blocks = options.is_some_and(|options| options.block_ms.is_some());
        let waited = blocks && call.received - call.sent > IDLE_LIMIT;
        if !waited || call.reply.is_unknown() {
            continue;
        }
        let starved = idle.get(&awaited).into_iter().flatten().find(|(from, to)| {
            let (from, to) = ((*from).max(call.sent), (*to).min(call.received));
            to > from + IDLE_LIMIT + overlap(&stalls, from, to)
                && !awaited.locks().iter().any(|it| exemptions.modified(*it, from, to))
        });
        if let Some((from, to)) = starved {
            violations.push(Violation {
                rule: Rule::NoLostWakeup,
                at: call.received,
                what: format!(
                    "{:?} waited over {} although {awaited:?} was neither granted nor released from {from} to {to}",
                    call.request, call.connection
                ),
            });
        }
    }
}

/// What an acquire call waits for. None if it waits for several contended locks.
fn awaited(request: &Request) -> Option<Awaited> {
    request.options()?;
    let awaited = Awaited::of(*request.locks().first()?)?;
    let is_one = request.locks().iter().all(|lock| Awaited::of(*lock) == Some(awaited));
    is_one.then_some(awaited)
}

/// The long periods without a grant or a release.
fn idle_periods(calls: &[&Call]) -> HashMap<Awaited, Vec<(Nanos, Nanos)>> {
    let mut activity: HashMap<Awaited, Vec<Nanos>> = HashMap::new();
    for call in calls {
        if matches!(
            call.reply,
            Reply::Token(_)
                | Reply::Tokens(_)
                | Reply::Released(true)
                | Reply::ForceReleased(_)
        ) {
            for awaited in call.request.locks().iter().filter_map(|it| Awaited::of(*it)) {
                activity.entry(awaited).or_default().push(call.received);
            }
        }
    }
    let mut idle = HashMap::new();
    for (awaited, mut times) in activity {
        times.extend([0, Nanos::MAX]);
        times.sort_unstable();
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > IDLE_LIMIT);
        idle.insert(awaited, long.map(|pair| (pair[0], pair[1])).collect());
    }
    idle
}

/// The periods in which no client received a reply, nor the one that reads the counters.
fn stalls(calls: &[&Call], samples: &[&StatsSample]) -> Vec<(Nanos, Nanos)> {
    let replied = calls.iter().filter(|call| !call.reply.is_unknown());
    let mut received: Vec<Nanos> = replied.map(|call| call.received).collect();
    received.extend(samples.iter().map(|sample| sample.at));
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
