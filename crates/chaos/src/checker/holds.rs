//! Holds do not overlap, do not disappear, and end with their owner's release or their
//! lease.
//!
//! For each grant, `began` is the earliest time when it can have begun, and
//! `earliest_end` the earliest time when it can have ended unless a rule was broken. The
//! next grant of the lock begins after that end; if its reply arrived earlier, two owners
//! held the lock. Both bounds are conservative, so there are no false positives.

use super::exemptions::{Exemptions, LeaseChanged};
use super::per_owner::{Grant, OwnerHistory, PerOwner};
use super::{Rule, TOLERANCE, Violation, notices};
use crate::clock::{MS, Nanos};
use crate::history::{Call, Reply, Request};

/// Checks the rules, and returns the earliest start of each grant.
pub(crate) fn check(
    per_owner: &PerOwner<'_>,
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) -> Vec<Nanos> {
    let mut began = vec![0; per_owner.grants.len()];
    for of_lock in per_owner.by_lock.values() {
        let mut before: Option<Held<'_>> = None;
        for at in of_lock {
            let grant = &per_owner.grants[*at];
            let held = Held {
                grant,
                history: per_owner.history(grant),
                began: begin(before, grant, exemptions, violations),
                exemptions,
            };
            began[*at] = held.began;
            before = Some(held);
        }
    }
    for history in per_owner.histories.values() {
        check_owner(per_owner, history, &began, exemptions, violations);
    }
    began
}

/// The earliest start of a grant, given the previous grant of the lock.
fn begin(
    before: Option<Held<'_>>,
    grant: &Grant,
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) -> Nanos {
    let Some(before) = before else { return grant.sent };
    let is_same = before.grant.owner == grant.owner;
    // The same hold, with a token that the server had lost. If it had not lost it,
    // `check_owner` reports a violation.
    if is_same && (grant.by_extend || exemptions.state_lost(before.began, grant.received))
    {
        return grant.sent.max(before.began);
    }
    let earliest_end = before.earliest_end();
    if earliest_end <= grant.received {
        return grant.sent.max(earliest_end);
    }
    violations.push(Violation {
        rule: Rule::MutualExclusion,
        at: grant.received,
        what: format!(
            "{} got {} with token {}, but {} held it with token {} for another {} µs",
            grant.owner,
            grant.lock,
            grant.token,
            before.grant.owner,
            before.grant.token,
            (earliest_end - grant.received) / 1_000
        ),
    });
    grant.sent
}

/// A grant with the history of its owner.
#[derive(Clone, Copy)]
struct Held<'h> {
    grant: &'h Grant,
    history: &'h OwnerHistory<'h>,
    began: Nanos,
    exemptions: &'h Exemptions,
}

impl Held<'_> {
    /// The owner's calls from the one that acquired the lock on.
    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.history.calls[self.grant.call..].iter().copied()
    }

    /// The earliest time when the hold can have ended.
    fn earliest_end(&self) -> Nanos {
        let causes = [
            Some(self.lease_end()),
            self.released_at(),
            self.force_released(),
            notices::earliest_end(self.history, self.began),
            self.session_end(),
            self.exemptions.modified_after(self.grant.lock, self.began),
        ];
        causes.into_iter().flatten().min().unwrap_or(0).max(self.began)
    }

    fn lease_end(&self) -> Nanos {
        let lease = |ms: u64| (ms * MS).saturating_sub(TOLERANCE);
        let mut earliest_end = self.began + lease(self.grant.lease_ms);
        let Grant { lock, owner, .. } = *self.grant;
        let lease_changes = self.exemptions.lease_changes(lock, owner).iter();
        let mut lease_changes =
            lease_changes.skip_while(|it| it.is_before(self.began)).peekable();
        for call in self.calls().skip(1) {
            while let Some(by) = lease_changes.next_if(|it| it.is_before(call.sent)) {
                earliest_end = by.earliest_end();
            }
            if let Some(lease_ms) = renews(call) {
                let renewed = call.sent + lease(lease_ms);
                match &call.reply {
                    _ if self.renewed_by(call) => earliest_end = renewed,
                    reply if reply.is_unknown() => {
                        earliest_end = earliest_end.min(renewed)
                    }
                    _ => {}
                }
            }
        }
        lease_changes.last().map_or(earliest_end, LeaseChanged::earliest_end)
    }

    fn renewed_by(&self, call: &Call) -> bool {
        call.tokens().contains(&(self.grant.lock, self.grant.token))
    }

    fn released_at(&self) -> Option<Nanos> {
        let may_free = |call: &&Call| {
            matches!(call.request, Request::Release { .. })
                && (call.reply == Reply::Released(true) || call.reply.is_unknown())
        };
        self.calls().find(may_free).map(|call| call.sent)
    }

    fn force_released(&self) -> Option<Nanos> {
        let calls = self.history.force_released.iter();
        calls.filter(|call| call.received >= self.began).map(|call| call.sent).min()
    }

    /// The end of the session that the hold is tied to, or may be tied to.
    fn session_end(&self) -> Option<Nanos> {
        let mut session_end = None;
        for call in self.calls() {
            let Some(grace_ms) =
                call.request.options().and_then(|options| options.grace_ms)
            else {
                continue;
            };
            let closed = self.exemptions.closed(call.connection);
            let end = closed.map(|at| (at + grace_ms * MS).saturating_sub(TOLERANCE));
            if self.renewed_by(call) {
                session_end = end;
            } else if call.reply.is_unknown() {
                session_end = session_end.into_iter().chain(end).min();
            }
        }
        session_end
    }
}

/// The lease that a call sets if its reply is the token of the hold.
fn renews(call: &Call) -> Option<u64> {
    match call.request {
        Request::Extend { lease_ms, .. } => Some(lease_ms),
        _ => call
            .request
            .options()
            .filter(|options| options.unique)
            .map(|options| options.lease_ms),
    }
}

/// Checks that the replies to an owner match the holds that it had.
fn check_owner(
    per_owner: &PerOwner<'_>,
    history: &OwnerHistory<'_>,
    began: &[Nanos],
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) {
    let mut state = OwnerState::default();
    let mut grants = history.grants.iter().copied().peekable();
    let mut lease_changes =
        lease_changes(per_owner, history, exemptions).iter().peekable();
    for (index, call) in history.calls.iter().enumerate() {
        while let Some(by) = lease_changes.next_if(|it| it.is_before(call.sent)) {
            state.latest_end = by.latest_end();
        }
        state.check_call(call, exemptions, violations);
        state.begins += usize::from(call.may_have_acquired());
        if let (Some(options), false) = (call.request.options(), call.tokens().is_empty())
        {
            state.latest_end = Some(call.received + options.lease_ms * MS);
        }
        while let Some(at) = grants.next_if(|at| per_owner.grants[*at].call == index) {
            let grant = &per_owner.grants[at];
            state.begins += usize::from(!grant.by_extend);
            state.held = Some(Held { grant, history, began: began[at], exemptions });
            state.latest_end = Some(call.received + grant.lease_ms * MS);
        }
    }
    let ends = state.ends + history.force_released.len();
    let Some(last) = history.calls.last() else { return };
    let end = history
        .force_released
        .iter()
        .map(|call| call.received)
        .fold(last.received, Nanos::max);
    if ends > state.begins && !is_modified(last, history.calls[0].sent, end, exemptions) {
        violations.push(Violation {
            rule: Rule::OnlyOwnerReleases,
            at: end,
            what: format!("{ends} ends of {} holds: {}", state.begins, describe(last)),
        });
    }
}

/// Lease changes of the owner's holds by other clients.
fn lease_changes<'e>(
    per_owner: &PerOwner<'_>,
    history: &OwnerHistory<'_>,
    exemptions: &'e Exemptions,
) -> &'e [LeaseChanged] {
    let first = history.grants.first().map(|at| &per_owner.grants[*at]);
    first.map_or(&[], |grant| exemptions.lease_changes(grant.lock, grant.owner))
}

/// The state of an owner at some point in its history.
#[derive(Default)]
struct OwnerState<'h> {
    /// The current hold, unless it is known to have ended.
    held: Option<Held<'h>>,
    /// The latest end of its lease.
    latest_end: Option<Nanos>,
    /// Number of holds that may have begun.
    begins: usize,
    /// Number of RELEASE calls with the reply 1.
    ends: usize,
}

/// A broken rule and a description.
type Finding = Option<(Rule, &'static str)>;

impl OwnerState<'_> {
    fn check_call(
        &mut self,
        call: &Call,
        exemptions: &Exemptions,
        violations: &mut Vec<Violation>,
    ) {
        let finding = match (&call.request, &call.reply) {
            (Request::Release { token, .. }, Reply::Released(true)) => {
                self.released(*token, call, exemptions)
            }
            (Request::Release { token, .. }, Reply::Released(false)) => {
                self.not_released(*token, call)
            }
            (Request::Extend { .. }, Reply::Null) => self.check_lost(call),
            (Request::Acquire { options, .. }, Reply::Null) if options.unique => {
                self.check_lost(call)
            }
            (Request::Extend { lease_ms, .. }, Reply::Token(token)) => {
                self.extended(*lease_ms, *token, call, exemptions)
            }
            (_, reply) if reply.is_unknown() => {
                // The lock may have been released, or its lease renewed.
                self.latest_end = None;
                self.held.take_if(|_| matches!(call.request, Request::Release { .. }));
                None
            }
            _ => None,
        };
        violations.extend(finding.map(|(rule, what)| Violation {
            rule,
            at: call.received,
            what: format!("{what}: {}", describe(call)),
        }));
    }

    fn released(
        &mut self,
        token: Option<u64>,
        call: &Call,
        exemptions: &Exemptions,
    ) -> Finding {
        let outlived = self.outlived(call, exemptions);
        self.ends += 1;
        self.latest_end = None;
        let held = self.held.take();
        let is_wrong_token = held.zip(token).is_some_and(|(held, token)| {
            held.grant.token != token
                && !exemptions.state_lost(held.began, call.received)
                && !is_modified(call, held.began, call.received, exemptions)
        });
        if is_wrong_token {
            return Some((Rule::OnlyOwnerReleases, "released with another hold's token"));
        }
        outlived.then_some((Rule::LeaseExpiry, "released after the end of its lease"))
    }

    fn not_released(&mut self, token: Option<u64>, call: &Call) -> Finding {
        let is_wrong_token =
            |held: Held<'_>| token.is_some_and(|it| it != held.grant.token);
        if self.held.is_some_and(is_wrong_token) { None } else { self.check_lost(call) }
    }

    /// The reply says that the owner holds nothing.
    fn check_lost(&mut self, call: &Call) -> Finding {
        let lasts =
            self.held.take().is_some_and(|held| held.earliest_end() > call.received);
        lasts.then_some((Rule::HoldsPersist, "a hold was lost"))
    }

    fn extended(
        &mut self,
        lease_ms: u64,
        token: u64,
        call: &Call,
        exemptions: &Exemptions,
    ) -> Finding {
        let outlived = self.outlived(call, exemptions);
        self.latest_end = Some(call.received + lease_ms * MS);
        match self.held {
            Some(held)
                if held.grant.token != token
                    && !self.may_be_adopted(call, exemptions) =>
            {
                Some((Rule::HoldsPersist, "a hold changed its token"))
            }
            None if self.begins <= self.ends => {
                Some((Rule::OnlyOwnerReleases, "extended a lock that it did not hold"))
            }
            _ => outlived
                .then_some((Rule::LeaseExpiry, "extended after the end of its lease")),
        }
    }

    fn outlived(&self, call: &Call, exemptions: &Exemptions) -> bool {
        let Some(latest_end) = self.latest_end else { return false };
        let began = self.held.map_or(call.sent, |held| held.began);
        call.sent > latest_end + TOLERANCE
            && !is_modified(call, began, call.received, exemptions)
    }

    /// The server may have found the hold again as an adopted one.
    fn may_be_adopted(&self, call: &Call, exemptions: &Exemptions) -> bool {
        self.held.is_some_and(|held| {
            exemptions.state_lost(held.began, call.received)
                || is_modified(call, held.began, call.received, exemptions)
                || held.calls().any(Call::may_have_acquired)
        })
    }
}

fn is_modified(call: &Call, from: Nanos, to: Nanos, exemptions: &Exemptions) -> bool {
    call.request.locks().iter().any(|lock| exemptions.modified(*lock, from, to))
}

fn describe(call: &Call) -> String {
    let Call { connection, sent, received, request, reply } = call;
    let us = (received - sent) / 1_000;
    format!(
        "{request:?} over {connection}, sent at {sent}, reply {reply:?} after {us} µs"
    )
}
