//! Notices: after FORCERELEASE with AFTER, the hold ends at the deadline, whatever its
//! owner does. Until then INSPECT shows the time that is left.
//!
//! A notice names the owner. It was given to the hold with a token if the owner received
//! that token before the notice was sent, and the hold still lasts afterwards.

use std::collections::HashMap;

use super::exemptions::Exemptions;
use super::per_owner::{Grant, Notice, OwnerHistory, PerOwner};
use super::{Rule, TOLERANCE, Violation};
use crate::clock::{MS, Nanos};
use crate::history::{Call, Inspection, Lock, Reply, Request};

/// The earliest end of a hold by any notice to its owner.
pub(crate) fn earliest_end(history: &OwnerHistory<'_>, began: Nanos) -> Option<Nanos> {
    let notices = history.notices.iter().filter(|notice| notice.call.received >= began);
    let end =
        |notice: &Notice<'_>| (notice.call.sent + notice.after).saturating_sub(TOLERANCE);
    notices.map(end).min()
}

/// Checks all calls after a notice, and returns their number.
pub(crate) fn check(
    calls: &[&Call],
    per_owner: &PerOwner<'_>,
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) -> usize {
    let mut checked = 0;
    let mut report = |call: &Call, why| {
        violations.push(Violation {
            rule: Rule::NoticeDeadline,
            at: call.received,
            what: format!(
                "{why}: {:?} over {}, sent at {}, reply {:?}",
                call.request, call.connection, call.sent, call.reply
            ),
        });
    };
    let requested = first_requests(calls);
    for inspection in &per_owner.inspections {
        let (Request::Inspect { lock }, Reply::Inspection(result)) =
            (&inspection.request, &inspection.reply)
        else {
            continue;
        };
        let first = requested.get(lock);
        if result.revoked_ms.is_some() && first.is_none_or(|at| *at > inspection.received)
        {
            report(inspection, "no notice was given");
        }
        let Some(left) = latest_end(per_owner, exemptions, *lock, result, inspection)
        else {
            continue;
        };
        checked += 1;
        // The server answered at the time of the INSPECT or later.
        let most = left.saturating_sub(inspection.sent) + TOLERANCE;
        if inspection.sent > left + TOLERANCE {
            report(inspection, "held after the deadline of the notice");
        } else if result.revoked_ms.is_none_or(|ms| ms * MS > most) {
            report(inspection, "the notice is not shown");
        }
    }
    for history in per_owner.histories.values().filter(|it| !it.notices.is_empty()) {
        for (call, grant) in uses(history, per_owner) {
            let Some(end) = deadline(history, grant, call, exemptions) else { continue };
            checked += 1;
            if call.sent > end + TOLERANCE {
                report(call, "held after the deadline of the notice");
            }
        }
    }
    checked
}

/// When FORCERELEASE with AFTER was first sent for each lock.
fn first_requests(calls: &[&Call]) -> HashMap<Lock, Nanos> {
    let mut first = HashMap::new();
    for call in calls {
        if let Request::ForceRelease { lock, after_ms: Some(_), .. } = &call.request {
            first.entry(*lock).or_insert(call.sent);
        }
    }
    first
}

/// The latest end of the hold that an inspection shows, if it was given notice.
fn latest_end(
    per_owner: &PerOwner<'_>,
    exemptions: &Exemptions,
    lock: Lock,
    result: &Inspection,
    inspection: &Call,
) -> Option<Nanos> {
    let grant = &per_owner.grants[*per_owner.by_token.get(&result.token?)?];
    if (grant.lock, Some(grant.owner)) != (lock, result.owner) {
        return None;
    }
    deadline(per_owner.history(grant), grant, inspection, exemptions)
}

/// The latest end of a hold that lasts at the time of a call, if it was given notice
/// before. None if the server may have forgotten the notice or another command may have
/// modified the lock.
fn deadline(
    history: &OwnerHistory<'_>,
    grant: &Grant,
    call: &Call,
    exemptions: &Exemptions,
) -> Option<Nanos> {
    let notices = history.notices.iter().filter(|notice| {
        grant.received <= notice.call.sent && notice.call.received <= call.sent
    });
    let end = notices.map(|notice| notice.call.received + notice.after).min()?;
    let Grant { lock, owner, received, .. } = *grant;
    let is_certain = !exemptions.modified(lock, received, call.received)
        && !exemptions.state_lost(received, call.received)
        && exemptions.lease_changes(lock, owner).is_empty();
    is_certain.then_some(end)
}

/// The calls of an owner that its hold must have lasted for, with the hold.
fn uses<'a>(
    history: &'a OwnerHistory<'a>,
    per_owner: &'a PerOwner<'_>,
) -> Vec<(&'a Call, &'a Grant)> {
    let mut uses = Vec::new();
    let mut last: Option<&Grant> = None;
    let mut grants = history.grants.iter().map(|at| &per_owner.grants[*at]).peekable();
    // Such a call may have acquired the lock again.
    let has_lost_calls = history.calls.iter().any(|call| call.may_have_acquired());
    for (index, call) in history.calls.iter().enumerate() {
        let is_release = matches!(call.request, Request::Release { .. });
        if is_release && call.reply == Reply::Released(true) && !has_lost_calls {
            uses.extend(last.map(|grant| (*call, grant)));
        }
        let renewed =
            last.filter(|grant| call.tokens().contains(&(grant.lock, grant.token)));
        uses.extend(renewed.map(|grant| (*call, grant)));
        while let Some(grant) = grants.next_if(|grant| grant.call == index) {
            last = Some(grant);
        }
    }
    uses
}
