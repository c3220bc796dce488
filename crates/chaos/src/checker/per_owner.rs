//! The history grouped by lock and owner: the calls in order, and the resulting grants.
//! An owner is used by one client, which sends one call after another, so the order
//! within a group is known; only FORCERELEASE comes from other clients.

use std::collections::HashMap;

use super::{Rule, Violation};
use crate::clock::{MS, Nanos};
use crate::history::{Call, Lock, Owner, Reply, Request};

/// A token received by a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) token: u64,
    pub(crate) lock: Lock,
    pub(crate) owner: Owner,
    /// The earliest time when it was requested: by the first call that may have acquired
    /// it.
    pub(crate) sent: Nanos,
    pub(crate) received: Nanos,
    pub(crate) lease_ms: u64,
    /// Index in the owner's history of the first call whose reply had the token.
    pub(crate) call: usize,
    /// The token was received by an EXTEND, so no hold began with it.
    pub(crate) by_extend: bool,
}

/// The calls of one owner on one lock.
#[derive(Debug, Default)]
pub(crate) struct OwnerHistory<'h> {
    /// Its own calls, in the order they were sent.
    pub(crate) calls: Vec<&'h Call>,
    /// Calls of FORCERELEASE without AFTER that released its lock, in the order they were sent.
    pub(crate) force_released: Vec<&'h Call>,
    /// Notices that it was given by FORCERELEASE with AFTER, in the order they were sent.
    pub(crate) notices: Vec<Notice<'h>>,
    /// The tokens that it received, in the order they were received first.
    pub(crate) grants: Vec<usize>,
}

/// A FORCERELEASE with AFTER that an owner's hold was given notice by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notice<'h> {
    pub(crate) call: &'h Call,
    pub(crate) after: Nanos,
}

/// All groups of a history.
#[derive(Debug, Default)]
pub(crate) struct PerOwner<'h> {
    pub(crate) histories: HashMap<(Lock, Owner), OwnerHistory<'h>>,
    /// Each token once, in the order they were requested.
    pub(crate) grants: Vec<Grant>,
    /// The grants of each lock, ordered by token.
    pub(crate) by_lock: HashMap<Lock, Vec<usize>>,
    pub(crate) by_token: HashMap<u64, usize>,
    /// Calls of INSPECT, in the order they were sent.
    pub(crate) inspections: Vec<&'h Call>,
}

impl<'h> PerOwner<'h> {
    /// Groups calls that are in the order they were sent.
    pub(crate) fn of(calls: &[&'h Call], violations: &mut Vec<Violation>) -> Self {
        let mut per_owner = Self::default();
        for call in calls {
            per_owner.add(call, violations);
        }
        for (at, grant) in per_owner.grants.iter().enumerate() {
            per_owner.by_lock.entry(grant.lock).or_default().push(at);
        }
        let Self { by_lock, grants, .. } = &mut per_owner;
        for of_lock in by_lock.values_mut() {
            of_lock.sort_by_key(|at| grants[*at].token);
        }
        per_owner
    }

    fn add(&mut self, call: &'h Call, violations: &mut Vec<Violation>) {
        match &call.request {
            Request::Inspect { .. } => self.inspections.push(call),
            Request::ForceRelease { lock, after_ms, .. } => {
                if let Reply::ForceReleased(from) = &call.reply
                    && let Ok(owner) = from.parse()
                {
                    let history = self.histories.entry((*lock, owner)).or_default();
                    match after_ms {
                        None => history.force_released.push(call),
                        Some(ms) => {
                            history.notices.push(Notice { call, after: ms * MS });
                        }
                    }
                }
            }
            request => {
                let Some(owner) = request.owner() else { return };
                for lock in request.locks() {
                    self.histories.entry((*lock, owner)).or_default().calls.push(call);
                }
                // `lock_sets` reports a lock that the call did not name.
                let mut tokens = call.tokens();
                tokens.retain(|(lock, _)| request.locks().contains(lock));
                for (lock, token) in tokens {
                    self.add_token(lock, owner, token, call, violations);
                }
            }
        }
    }

    fn add_token(
        &mut self,
        lock: Lock,
        owner: Owner,
        token: u64,
        call: &'h Call,
        violations: &mut Vec<Violation>,
    ) {
        if let Some(first) = self.by_token.get(&token) {
            let first = &self.grants[*first];
            let is_renewal = (first.lock, first.owner) == (lock, owner)
                && call.request.options().is_none_or(|options| options.unique);
            if !is_renewal {
                let Grant { owner: other, lock: of, .. } = first;
                violations.push(Violation {
                    rule: Rule::UniqueTokens,
                    at: call.received,
                    what: format!("{owner} got {token} for {lock}, and {other} for {of}"),
                });
            }
            return;
        }
        let history = self.histories.entry((lock, owner)).or_default();
        let (lease_ms, by_extend) = match call.request {
            Request::Extend { lease_ms, .. } => (lease_ms, true),
            _ => (call.request.options().map_or(0, |options| options.lease_ms), false),
        };
        let grant = Grant {
            token,
            lock,
            owner,
            sent: history.earliest_request(call),
            received: call.received,
            lease_ms,
            call: history.calls.len().saturating_sub(1),
            by_extend,
        };
        let at = self.grants.len();
        history.grants.push(at);
        self.by_token.insert(token, at);
        self.grants.push(grant);
    }

    pub(crate) fn history(&self, grant: &Grant) -> &OwnerHistory<'h> {
        &self.histories[&(grant.lock, grant.owner)]
    }

    /// The first call whose reply had the token.
    pub(crate) fn granting_call(&self, grant: &Grant) -> &'h Call {
        self.history(grant).calls[grant.call]
    }
}

impl OwnerHistory<'_> {
    /// The earliest time when the lock was requested: by this call, or by an earlier one
    /// without a reply.
    fn earliest_request(&self, call: &Call) -> Nanos {
        let lost = self.calls.iter().find(|earlier| earlier.may_have_acquired());
        lost.map_or(call.sent, |earlier| earlier.sent.min(call.sent))
    }
}

impl Call {
    /// Whether a hold may have begun with this call although no reply was received.
    pub(crate) fn may_have_acquired(&self) -> bool {
        self.reply.is_unknown() && self.request.options().is_some()
    }
}
