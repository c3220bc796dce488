//! Tokens rise in real time, over all locks and over restarts: a grant that was asked for
//! after another was heard of has the larger one. One walk over the grants in the order in
//! which they were asked for, beside one in the order in which they were heard.

use super::stories::{Grant, Stories};
use super::{Rule, Violation};

pub(crate) fn check(stories: &Stories<'_>, violations: &mut Vec<Violation>) {
    let mut asked: Vec<&Grant> = stories.grants.iter().collect();
    asked.sort_by_key(|grant| grant.asked);
    let mut heard: Vec<&Grant> = stories.grants.iter().collect();
    heard.sort_by_key(|grant| grant.heard);
    let mut heard = heard.into_iter().peekable();
    let mut largest: Option<&Grant> = None;
    for grant in asked {
        while let Some(earlier) = heard.next_if(|earlier| earlier.heard < grant.asked) {
            if largest.is_none_or(|largest| largest.token < earlier.token) {
                largest = Some(earlier);
            }
        }
        if let Some(largest) = largest.filter(|largest| largest.token >= grant.token) {
            violations.push(Violation {
                rule: Rule::TokensRise,
                at: grant.heard,
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
