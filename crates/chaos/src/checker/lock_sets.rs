//! All or none: the reply to ACQUIREANY names COUNT different locks of the call, with
//! GROUPS that number of each of as many groups as requested, and no lock of another one.

use std::collections::HashSet;

use super::{Rule, Violation};
use crate::history::{Call, Groups, Lock, Reply, Request};

/// Checks all granted sets, and returns their number.
pub(crate) fn check(calls: &[&Call], violations: &mut Vec<Violation>) -> usize {
    let mut checked = 0;
    for call in calls {
        let (Request::AcquireAny { locks, count, groups, .. }, Reply::Tokens(tokens)) =
            (&call.request, &call.reply)
        else {
            continue;
        };
        checked += 1;
        let granted: HashSet<Lock> = tokens.iter().map(|(lock, _)| *lock).collect();
        let is_valid = granted.len() == tokens.len()
            && granted_of(locks, &granted) == granted.len()
            && is_complete(locks, *count, groups.as_ref(), &granted);
        if !is_valid {
            violations.push(Violation {
                rule: Rule::CompleteLockSets,
                at: call.received,
                what: format!("{:?} got {tokens:?}", call.request),
            });
        }
    }
    checked
}

fn is_complete(
    locks: &[Lock],
    count: usize,
    groups: Option<&Groups>,
    granted: &HashSet<Lock>,
) -> bool {
    let Some(groups) = groups else { return granted_of(locks, granted) == count };
    let (mut left, mut complete) = (locks, 0);
    for size in &groups.sizes {
        let (group, others) = left.split_at((*size).min(left.len()));
        left = others;
        match granted_of(group, granted) {
            0 => {}
            of_group if of_group == count => complete += 1,
            _ => return false,
        }
    }
    complete == groups.wanted
}

/// How many of these locks were granted.
fn granted_of(locks: &[Lock], granted: &HashSet<Lock>) -> usize {
    locks.iter().filter(|lock| granted.contains(lock)).count()
}
