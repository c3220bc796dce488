//! FIFO order, and accuracy of INSPECT. The time when a call joined its queue is not
//! visible from outside, but INSPECT shows the queue: each waiter in its reply is ahead
//! of all waiters shown behind it, and of all calls sent after that reply. If those are
//! granted the lock, their tokens are larger.

use std::collections::HashMap;

use super::exemptions::Exemptions;
use super::per_owner::{Grant, PerOwner};
use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::{Call, Inspection, Lock, Owner, Reply, Request};

/// Checks the rules, and returns the number of known queue positions.
pub(crate) fn check(
    per_owner: &PerOwner<'_>,
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) -> usize {
    let mut positions = 0;
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
            positions += 1;
            if let Some(before) = last.filter(|before| before.token > grant.token) {
                violations.push(overtaken(grant, before, inspection));
            }
            last = last.filter(|last| last.token > grant.token).or(Some(grant));
        }
        if let Some(last) = last {
            let queue_grant =
                QueueGrant { inspected: inspection.received, token: last.token };
            queue_grants.entry(*lock).or_default().push(queue_grant);
        }
    }
    for (lock, queue_grants) in queue_grants {
        check_newcomers(per_owner, lock, queue_grants, exemptions, violations);
    }
    positions
}

/// A waiter of an inspected queue was granted the lock with this token or a larger one.
struct QueueGrant {
    inspected: Nanos,
    token: u64,
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

/// A call sent after an inspection is behind all waiters that it showed.
fn check_newcomers(
    per_owner: &PerOwner<'_>,
    lock: Lock,
    mut queue_grants: Vec<QueueGrant>,
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) {
    let Some(of_lock) = per_owner.by_lock.get(&lock) else { return };
    queue_grants.sort_by_key(|queue_grant| queue_grant.inspected);
    let mut grants: Vec<(Nanos, &Grant)> = of_lock
        .iter()
        .map(|at| &per_owner.grants[*at])
        .filter(|grant| !grant.by_extend)
        // A UNIQUE owner may have the position of an earlier call.
        .map(|grant| (per_owner.history(grant).calls[0].sent, grant))
        .collect();
    grants.sort_by_key(|(sent, _)| *sent);
    let mut queue_grants = queue_grants.into_iter().peekable();
    let mut largest = 0;
    for (sent, grant) in grants {
        while let Some(queue_grant) =
            queue_grants.next_if(|queue_grant| queue_grant.inspected < sent)
        {
            largest = largest.max(queue_grant.token);
        }
        if grant.token < largest && !may_be_renamed(per_owner, grant, exemptions) {
            let before = &per_owner.grants[per_owner.by_token[&largest]];
            violations.push(Violation {
                rule: Rule::FifoOrder,
                at: before.received,
                what: format!(
                    "{} called for {lock} while {} was waiting, and got {} before the other's {}",
                    grant.owner, before.owner, grant.token, before.token
                ),
            });
        }
    }
}

/// Whether another command such as RENAME may have moved a key of the owner to this lock.
/// A UNIQUE call of that owner is then a renewal, which does not wait.
fn may_be_renamed(
    per_owner: &PerOwner<'_>,
    grant: &Grant,
    exemptions: &Exemptions,
) -> bool {
    let call = per_owner.history(grant).calls[grant.call];
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
