//! Checks a history. Each rule has its own module and makes one pass over its data, so
//! checking takes O(n) after sorting. The history itself records what faults exempt
//! (`exemptions`); everything else must conform to the command reference.
//!
//! A call that was sent at `a` and whose reply was received at `b` took effect at some
//! time in between. A violation is reported only if no choice of times satisfies the
//! rule.

mod counters;
mod exemptions;
mod holds;
mod linearizable;
mod lock_sets;
mod newcomers;
mod notices;
mod order;
mod per_owner;
mod refused_grants;
mod replies;
mod scripts;
mod tokens;
mod wakes;

use std::fmt;

use crate::clock::{MS, Nanos};
use crate::history::{Call, Entry, Event, StatsSample};

use exemptions::Exemptions;
use per_owner::PerOwner;

/// Tolerance for the server's clock, which measures leases in whole milliseconds.
const TOLERANCE: Nanos = 4 * MS;

/// `gpulock.round` of a history that does not name it.
const DEFAULT_ROUND: u64 = 16;

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Each grant has its own token.
    UniqueTokens,
    /// A grant requested after the reply to another grant has a larger token.
    IncreasingTokens,
    /// A lock is granted only after its previous hold has ended.
    MutualExclusion,
    /// A hold ends only by its owner, its lease, its session, a forced release, or
    /// another command.
    HoldsPersist,
    /// Only the owner releases a lock, and only once.
    OnlyOwnerReleases,
    /// A hold ends with its lease.
    LeaseExpiry,
    /// Locks are granted in order of arrival. PRIORITY and SHARE move a call, but never
    /// past a plain call that is earlier, and by a limited number of grants.
    FifoOrder,
    /// The reply to ACQUIREANY names as many locks as requested: all or none.
    CompleteLockSets,
    /// A hold that was given notice ends at the deadline, and INSPECT shows that.
    NoticeDeadline,
    /// A free lock is granted to a waiter.
    NoLostWakeup,
    /// Every call gets a reply in time.
    EveryCallReplied,
    /// A wait lasts for the requested time.
    FullWait,
    /// Errors occur only for a known cause.
    NoUnexpectedErrors,
    /// INSPECT shows the actual state.
    AccurateInspect,
    /// The counted grants equal the ended and the current holds.
    ConsistentCounters,
    /// After the cleanup, no lock is held and no client waits.
    NothingLeft,
    /// The replies for a lock are those of a sequentially used lock.
    Linearizable,
    /// Nothing is granted while the server refuses writes.
    NoGrantWhileWritesRefused,
    /// Nothing is granted to a user without permission.
    NoGrantWithoutPermission,
    /// A script sees no change between its commands.
    AtomicScripts,
    /// The server does not crash.
    ServerAlive,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::UniqueTokens => "each token is granted once",
            Self::IncreasingTokens => "tokens increase",
            Self::MutualExclusion => "one owner per lock",
            Self::HoldsPersist => "a hold ends only for a known cause",
            Self::OnlyOwnerReleases => "only the owner releases a lock, once",
            Self::LeaseExpiry => "a hold ends with its lease",
            Self::FifoOrder => "first come, first served",
            Self::CompleteLockSets => "lock sets are granted as a whole",
            Self::NoticeDeadline => "a hold ends at the deadline of a notice",
            Self::NoLostWakeup => "no lost wake-up",
            Self::EveryCallReplied => "every call gets a reply in time",
            Self::FullWait => "a wait lasts for the requested time",
            Self::NoUnexpectedErrors => "no unexpected errors",
            Self::AccurateInspect => "INSPECT shows the actual state",
            Self::ConsistentCounters => "the counters add up",
            Self::NothingLeft => "nothing is held and no client waits at the end",
            Self::Linearizable => "linearizable",
            Self::NoGrantWhileWritesRefused => "no grant while writes are refused",
            Self::NoGrantWithoutPermission => "no grant without permission",
            Self::AtomicScripts => "scripts are atomic",
            Self::ServerAlive => "the server does not crash",
        })
    }
}

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The latest time of the violation.
    pub at: Nanos,
    /// Description.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {} (at {} ns)", self.rule, self.what, self.at)
    }
}

/// The result of a check, with the amount of data it covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In chronological order.
    pub violations: Vec<Violation>,
    /// Number of calls.
    pub calls: usize,
    /// Number of calls without a reply.
    pub lost: usize,
    /// Number of grants with a reply.
    pub grants: usize,
    /// Number of grants compared with a queue position shown by INSPECT.
    pub positions: usize,
    /// Number of grants compared with earlier waiters of a lower priority.
    pub bounded: usize,
    /// Number of complete lock sets.
    pub lock_sets: usize,
    /// Number of calls checked against the deadline of a notice.
    pub after_notice: usize,
    /// Number of windows checked for linearizability.
    pub windows: usize,
    /// Number of samples of the counters.
    pub stats_samples: usize,
}

/// Checks a history.
pub fn check(entries: &[Entry]) -> Verdict {
    let mut calls: Vec<&Call> = Vec::new();
    let mut samples: Vec<&StatsSample> = Vec::new();
    let mut events = Vec::new();
    for entry in entries {
        match entry {
            Entry::Call(call) => calls.push(call),
            Entry::Stats(sample) => samples.push(sample),
            Entry::Event(event) => events.push(event),
            Entry::Description(_) => {}
        }
    }
    calls.sort_by_key(|call| call.sent);
    let exemptions = Exemptions::of(&events, &calls);
    let mut violations = Vec::new();
    let per_owner = PerOwner::of(&calls, &mut violations);
    tokens::check(&per_owner, &mut violations);
    let began = holds::check(&per_owner, &exemptions, &mut violations);
    refused_grants::check(&per_owner, &began, &events, &mut violations);
    scripts::check(&events, &mut violations);
    let round = events.iter().find_map(|event| match event {
        Event::QueueRound { grants } => Some(*grants),
        _ => None,
    });
    let began = (&began[..], round.unwrap_or(DEFAULT_ROUND));
    let order::Checked { positions, bounded } =
        order::check(&per_owner, began, &exemptions, &mut violations);
    let lock_sets = lock_sets::check(&calls, &mut violations);
    let after_notice = notices::check(&calls, &per_owner, &exemptions, &mut violations);
    replies::check(&calls, &exemptions, &mut violations);
    wakes::check(&calls, &samples, &exemptions, &mut violations);
    counters::check(&samples, &mut violations);
    let windows = linearizable::check(&calls, &exemptions, &mut violations);
    violations.sort_by_key(|violation| violation.at);
    Verdict {
        violations,
        calls: calls.len(),
        lost: calls.iter().filter(|call| call.reply.is_unknown()).count(),
        grants: per_owner.grants.len(),
        positions,
        bounded,
        lock_sets,
        after_notice,
        windows,
        stats_samples: samples.len(),
    }
}
