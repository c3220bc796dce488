//! A call sent after an inspection is behind the waiters that it showed, unless PRIORITY
//! moves it forward or SHARE had moved the waiter back. The turn of a call, fixed when it
//! joins, is
//!
//! ```text
//! grants counted + round × (places and holds of its share − PRIORITY)
//! ```
//!
//! and the lowest turn is served first. The queue counts its grants while the waiter is in
//! it. So a call passes the waiter only if the history cannot prove that many grants
//! between the inspection and the call:
//!
//! ```text
//! round × (priority of the call − priority of the waiter + places of the waiter's share)
//! ```

use std::collections::BTreeMap;

use super::exemptions::Exemptions;
use super::per_owner::{Grant, PerOwner};
use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::Lock;

/// A waiter of an inspected queue, which was granted the lock.
pub(crate) struct QueueGrant {
    /// When the inspection was received.
    pub(crate) inspected: Nanos,
    pub(crate) token: u64,
    pub(crate) priority: i64,
    pub(crate) share: Option<u32>,
}

/// Checks the grants of a lock, and returns how many of them were compared with waiters
/// of a lower priority.
pub(crate) fn check(
    per_owner: &PerOwner<'_>,
    lock: Lock,
    queue_grants: Vec<QueueGrant>,
    (began, round): (&[Nanos], u64),
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) -> usize {
    let Some(of_lock) = per_owner.by_lock.get(&lock) else { return 0 };
    let mut bounded = 0;
    let counted = Counted::of(per_owner, of_lock, began);
    let waiters = Waiters::of(queue_grants);
    for grant in of_lock.iter().map(|at| &per_owner.grants[*at]) {
        let Some(options) = per_owner.granting_call(grant).request.options() else {
            continue;
        };
        // A UNIQUE owner may have the position of an earlier call.
        let sent = per_owner.history(grant).calls[0].sent;
        for (priority, of_priority) in &waiters.0 {
            let ahead = options.priority.saturating_sub(*priority).max(0).unsigned_abs();
            let joined_before = match round.saturating_mul(ahead) {
                0 => sent,
                grants => match counted.before(sent, grants) {
                    Some(time) => time,
                    None => continue,
                },
            };
            let Some(token) = of_priority.largest_token(joined_before) else { continue };
            bounded += usize::from(ahead > 0);
            if grant.token < token && !may_be_renamed(per_owner, grant, exemptions) {
                violations.push(passed(per_owner, grant, token));
            }
        }
    }
    bounded
}

fn passed(per_owner: &PerOwner<'_>, grant: &Grant, token: u64) -> Violation {
    let before = &per_owner.grants[per_owner.by_token[&token]];
    Violation {
        rule: Rule::FifoOrder,
        at: before.received,
        what: format!(
            "{} called for {} while {} was waiting, and got {} before the other's {token}",
            grant.owner, grant.lock, before.owner, grant.token
        ),
    }
}

/// The waiters of a lock by priority.
struct Waiters(BTreeMap<i64, Inspected>);

impl Waiters {
    /// Those with a share may have been moved back by the others of their share, which the
    /// history does not show exactly.
    fn of(mut queue_grants: Vec<QueueGrant>) -> Self {
        queue_grants.sort_by_key(|waiter| waiter.inspected);
        let mut by_priority: BTreeMap<i64, Inspected> = BTreeMap::new();
        for waiter in queue_grants.iter().filter(|waiter| waiter.share.is_none()) {
            by_priority.entry(waiter.priority).or_default().add(waiter);
        }
        Self(by_priority)
    }
}

/// The waiters of one priority: the times of the inspections, and the largest token of all
/// waiters inspected until then.
#[derive(Default)]
struct Inspected(Vec<(Nanos, u64)>);

impl Inspected {
    /// Adds a waiter that was inspected later than all before.
    fn add(&mut self, waiter: &QueueGrant) {
        let largest = self.0.last().map_or(0, |(_, token)| *token);
        self.0.push((waiter.inspected, largest.max(waiter.token)));
    }

    /// The largest token of the waiters inspected before this time.
    fn largest_token(&self, time: Nanos) -> Option<u64> {
        let at = self.0.partition_point(|(inspected, _)| *inspected < time);
        Some(self.0.get(at.checked_sub(1)?)?.1)
    }
}

/// The grants of a lock that its queue counts for certain, in order: the earliest start
/// and the latest end of the call of each.
struct Counted(Vec<(Nanos, Nanos)>);

impl Counted {
    fn of(per_owner: &PerOwner<'_>, of_lock: &[usize], began: &[Nanos]) -> Self {
        // EXTEND, and UNIQUE calls, may have given a token to a lock that was held already.
        let is_grant = |grant: &Grant| {
            let options = per_owner.granting_call(grant).request.options();
            options.is_some_and(|options| !options.unique)
        };
        let mut counted: Vec<(Nanos, Nanos)> = of_lock
            .iter()
            .filter(|at| is_grant(&per_owner.grants[**at]))
            .map(|at| (began[*at], per_owner.grants[*at].received))
            .collect();
        let mut latest = 0;
        for (_, received) in &mut counted {
            latest = latest.max(*received);
            *received = latest;
        }
        let mut earliest = Nanos::MAX;
        for (began, _) in counted.iter_mut().rev() {
            earliest = earliest.min(*began);
            *began = earliest;
        }
        Self(counted)
    }

    /// The latest time after which the lock was granted that many times before `sent`.
    fn before(&self, sent: Nanos, grants: u64) -> Option<Nanos> {
        let end = self.0.partition_point(|(_, received)| *received < sent);
        let first = end.checked_sub(usize::try_from(grants).ok()?)?;
        Some(self.0.get(first)?.0)
    }
}

/// Whether another command such as RENAME may have moved a key of the owner to this lock.
/// A UNIQUE call of that owner is then a renewal, which does not wait.
fn may_be_renamed(
    per_owner: &PerOwner<'_>,
    grant: &Grant,
    exemptions: &Exemptions,
) -> bool {
    let call = per_owner.granting_call(grant);
    let of_owner = per_owner
        .grants
        .iter()
        .filter(|other| other.owner == grant.owner && other.lock != grant.lock);
    call.request.options().is_some_and(|options| options.unique)
        && of_owner.into_iter().any(|other| {
            other.token < grant.token
                && exemptions.modified(grant.lock, other.sent, grant.received)
        })
}
