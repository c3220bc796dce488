//! While the server refuses the writes of all clients, or of one client's user, nothing is
//! granted to them. A grant is held against that when it cannot have begun before.

use super::stories::Stories;
use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::{Connection, Event};

/// `began` is when each grant began, at the earliest.
pub(crate) fn check(
    stories: &Stories<'_>,
    began: &[Nanos],
    events: &[&Event],
    violations: &mut Vec<Violation>,
) {
    let refusals: Vec<Refusal<'_>> =
        events.iter().filter_map(|event| Refusal::of(event)).collect();
    for (grant, began) in stories.grants.iter().zip(began) {
        let connection = stories.story(grant).calls[grant.place].connection;
        let refusal = refusals.iter().find(|refusal| {
            refusal.from < *began
                && grant.heard < refusal.to
                && refusal.connections.is_none_or(|of| of.contains(&connection))
        });
        violations.extend(refusal.map(|refusal| Violation {
            rule: refusal.rule,
            at: grant.heard,
            what: format!(
                "{} got {} with token {} at {began} or later, over {connection}, in spite \
                 of {} from {} to {}",
                grant.owner, grant.lock, grant.token, refusal.by, refusal.from, refusal.to
            ),
        }));
    }
}

/// A time in which nothing may be granted.
struct Refusal<'h> {
    rule: Rule,
    by: &'h str,
    /// To whom; none: to anybody.
    connections: Option<&'h [Connection]>,
    from: Nanos,
    to: Nanos,
}

impl<'h> Refusal<'h> {
    fn of(event: &'h Event) -> Option<Self> {
        match event {
            Event::WritesRefused { by, from, to } => Some(Self {
                rule: Rule::RefusalsHold,
                by,
                connections: None,
                from: *from,
                to: *to,
            }),
            Event::Withdrawn { connections, from, to } => Some(Self {
                rule: Rule::RightsHold,
                by: "missing rights",
                connections: Some(connections),
                from: *from,
                to: *to,
            }),
            _ => None,
        }
    }
}
