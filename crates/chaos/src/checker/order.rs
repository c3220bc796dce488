//! The order of the queues, and accuracy of INSPECT. The time when a call joined its queue
//! is not visible from outside, but INSPECT shows the queue: each waiter in its reply is
//! ahead of all waiters shown behind it. If those are granted the lock, their tokens are
//! larger. A call sent after that reply is behind them as well (`newcomers`).
//!
//! Calls with GROUPS reserve locks in some of their groups only, so others may pass them.

use std::collections::HashMap;

use super::exemptions::Exemptions;
use super::newcomers::{self, QueueGrant};
use super::per_owner::{Grant, PerOwner};
use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::{Call, Inspection, Lock, Owner, Reply, Request};

/// What was checked.
pub(crate) struct Checked {
    /// Number of known queue positions.
    pub(crate) positions: usize,
    /// Number of grants compared with earlier waiters of a lower priority.
    pub(crate) bounded: usize,
}

/// Checks the rules. `began` is the earliest start of each grant, with the number of
/// grants in a round of the queues.
pub(crate) fn check(
    per_owner: &PerOwner<'_>,
    began: (&[Nanos], u64),
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) -> Checked {
    let mut checked = Checked { positions: 0, bounded: 0 };
    let mut queue_grants: HashMap<Lock, Vec<QueueGrant>> = HashMap::new();
    for inspection in &per_owner.inspections {
        let (Request::Inspect { lock }, Reply::Inspection(result)) =
            (&inspection.request, &inspection.reply)
        else {
            continue;
        };
        check_holder(per_owner, inspection, *lock, result, violations);
        let queue = result
            .queue
            .iter()
            .filter_map(|owner| grant_of_waiter(per_owner, *lock, *owner, inspection));
        let mut last: Option<&Grant> = None;
        for grant in queue {
            checked.positions += 1;
            if let Some(before) = last.filter(|before| before.token > grant.token) {
                violations.push(overtaken(grant, before, inspection));
            }
            let call = per_owner.granting_call(grant);
            let (Some(options), false) =
                (call.request.options(), call.request.has_groups())
            else {
                continue;
            };
            last = last.filter(|last| last.token > grant.token).or(Some(grant));
            queue_grants.entry(*lock).or_default().push(QueueGrant {
                inspected: inspection.received,
                token: grant.token,
                priority: options.priority,
                share: options.share,
            });
        }
    }
    for (lock, queue_grants) in queue_grants {
        checked.bounded += newcomers::check(
            per_owner,
            lock,
            queue_grants,
            began,
            exemptions,
            violations,
        );
    }
    checked
}

/// The grant that ended the wait in which an inspection found an owner. None if the owner
/// was not granted the lock, or if the grant may belong to another wait.
fn grant_of_waiter<'s>(
    per_owner: &'s PerOwner<'_>,
    lock: Lock,
    owner: Owner,
    inspection: &Call,
) -> Option<&'s Grant> {
    let history = per_owner.histories.get(&(lock, owner))?;
    history.grants.iter().map(|at| &per_owner.grants[*at]).find(|grant| {
        let call = history.calls[grant.call];
        let before = &history.calls[..grant.call];
        call.request.options().is_some()
            && call.sent < inspection.sent
            && call.received > inspection.received
            && !before.iter().any(|call| call.may_have_acquired())
    })
}

fn overtaken(grant: &Grant, before: &Grant, inspection: &Call) -> Violation {
    Violation {
        rule: Rule::FifoOrder,
        at: before.received.max(grant.received),
        what: format!(
            "{} was behind {} in the queue of {} at {}, and got {} before the other's {}",
            grant.owner,
            before.owner,
            grant.lock,
            inspection.sent,
            grant.token,
            before.token
        ),
    }
}

/// The holder shown by an inspection must be able to hold the lock at that time.
fn check_holder(
    per_owner: &PerOwner<'_>,
    inspection: &Call,
    lock: Lock,
    result: &Inspection,
    violations: &mut Vec<Violation>,
) {
    let (Some(owner), Some(token)) = (result.owner, result.token) else { return };
    let why = match per_owner.by_token.get(&token).map(|at| &per_owner.grants[*at]) {
        Some(grant) if (grant.lock, grant.owner) != (lock, owner) => {
            "another owner's token"
        }
        Some(grant) if grant.sent > inspection.received => "a grant not yet requested",
        Some(grant) if was_released(per_owner, grant, inspection) => {
            "a hold released before"
        }
        Some(_) => return,
        None if may_hold_without_reply(per_owner, lock, owner) => return,
        None => "a hold without a grant",
    };
    violations.push(Violation {
        rule: Rule::AccurateInspect,
        at: inspection.received,
        what: format!("INSPECT of {lock} shows {owner} with token {token}: {why}"),
    });
}

fn was_released(per_owner: &PerOwner<'_>, grant: &Grant, inspection: &Call) -> bool {
    let calls = &per_owner.history(grant).calls[grant.call..];
    calls.iter().any(|call| {
        matches!(call.request, Request::Release { .. })
            && call.reply == Reply::Released(true)
            && call.received < inspection.sent
    })
}

/// Whether an owner may have been granted a lock without receiving the reply.
fn may_hold_without_reply(per_owner: &PerOwner<'_>, lock: Lock, owner: Owner) -> bool {
    let history = per_owner.histories.get(&(lock, owner));
    history
        .is_some_and(|history| history.calls.iter().any(|call| call.reply.is_unknown()))
}
