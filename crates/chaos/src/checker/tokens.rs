//! Tokens increase over all locks and over restarts: a grant requested after the reply to
//! another grant has a larger token. One pass over the grants in the order they were
//! requested, in step with one in the order of their replies.

use super::per_owner::{Grant, PerOwner};
use super::{Rule, Violation};

pub(crate) fn check(per_owner: &PerOwner<'_>, violations: &mut Vec<Violation>) {
    let mut sent: Vec<&Grant> = per_owner.grants.iter().collect();
    sent.sort_by_key(|grant| grant.sent);
    let mut received: Vec<&Grant> = per_owner.grants.iter().collect();
    received.sort_by_key(|grant| grant.received);
    let mut received = received.into_iter().peekable();
    let mut largest: Option<&Grant> = None;
    for grant in sent {
        while let Some(earlier) =
            received.next_if(|earlier| earlier.received < grant.sent)
        {
            if largest.is_none_or(|largest| largest.token < earlier.token) {
                largest = Some(earlier);
            }
        }
        if let Some(largest) = largest.filter(|largest| largest.token >= grant.token) {
            violations.push(Violation {
                rule: Rule::IncreasingTokens,
                at: grant.received,
                what: format!(
                    "{} got {} for {} after {} had got {} for {}",
                    grant.owner,
                    grant.token,
                    grant.lock,
                    largest.owner,
                    largest.token,
                    largest.lock
                ),
            });
        }
    }
}
