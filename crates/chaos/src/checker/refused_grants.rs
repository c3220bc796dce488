//! While the server refuses the writes of all clients, or of one user, nothing is granted
//! to them. A grant counts as a violation only if it cannot have begun before.

use super::per_owner::PerOwner;
use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::{Connection, Event};

/// `began` is the earliest start of each grant.
pub(crate) fn check(
    per_owner: &PerOwner<'_>,
    began: &[Nanos],
    events: &[&Event],
    violations: &mut Vec<Violation>,
) {
    let refusals: Vec<Refusal<'_>> =
        events.iter().filter_map(|event| Refusal::of(event)).collect();
    for (grant, began) in per_owner.grants.iter().zip(began) {
        let connection = per_owner.history(grant).calls[grant.call].connection;
        let refusal = refusals.iter().find(|refusal| {
            refusal.from < *began
                && grant.received < refusal.to
                && refusal.connections.is_none_or(|of| of.contains(&connection))
        });
        violations.extend(refusal.map(|refusal| Violation {
            rule: refusal.rule,
            at: grant.received,
            what: format!(
                "{} got {} with token {} at {began} or later, over {connection}, in spite \
                 of {} from {} to {}",
                grant.owner, grant.lock, grant.token, refusal.by, refusal.from, refusal.to
            ),
        }));
    }
}

/// A period in which nothing may be granted.
struct Refusal<'h> {
    rule: Rule,
    by: &'h str,
    /// Affected connections; none means all.
    connections: Option<&'h [Connection]>,
    from: Nanos,
    to: Nanos,
}

impl<'h> Refusal<'h> {
    fn of(event: &'h Event) -> Option<Self> {
        match event {
            Event::WritesRefused { by, from, to } => Some(Self {
                rule: Rule::NoGrantWhileWritesRefused,
                by,
                connections: None,
                from: *from,
                to: *to,
            }),
            Event::PermissionRevoked { connections, from, to } => Some(Self {
                rule: Rule::NoGrantWithoutPermission,
                by: "missing rights",
                connections: Some(connections),
                from: *from,
                to: *to,
            }),
            _ => None,
        }
    }
}
