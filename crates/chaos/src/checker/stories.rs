//! The history cut into stories: what one owner asked about one lock, in order, and which
//! grants came of it. An owner is used by one client, which asks one thing after another, so
//! a story needs no guessing; only FORCERELEASE comes in from the side.

use std::collections::HashMap;

use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::{Answer, Ask, Call, Lock, Owner};

/// A token that somebody heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) token: u64,
    pub(crate) lock: Lock,
    pub(crate) owner: Owner,
    /// When it was asked for, at the earliest: by the first call that may have got it.
    pub(crate) asked: Nanos,
    pub(crate) heard: Nanos,
    pub(crate) lease_ms: u64,
    /// Where in its story the call stands that heard it first.
    pub(crate) place: usize,
    /// It was heard by an EXTEND: no hold began with it.
    pub(crate) by_extend: bool,
}

/// What one owner asked about one lock.
#[derive(Debug, Default)]
pub(crate) struct Story<'h> {
    /// Its own calls, in the order in which they were asked.
    pub(crate) calls: Vec<&'h Call>,
    /// FORCERELEASE that took the lock from it, likewise.
    pub(crate) taken: Vec<&'h Call>,
    /// The tokens that it heard, in the order in which it heard them first.
    pub(crate) grants: Vec<usize>,
}

/// All stories of a history.
#[derive(Debug, Default)]
pub(crate) struct Stories<'h> {
    pub(crate) of: HashMap<(Lock, Owner), Story<'h>>,
    /// Each token once, in the order in which they were asked for.
    pub(crate) grants: Vec<Grant>,
    /// The grants of each lock, by token.
    pub(crate) by_lock: HashMap<Lock, Vec<usize>>,
    pub(crate) by_token: HashMap<u64, usize>,
    /// Looks at a lock, in the order in which they were asked.
    pub(crate) looks: Vec<&'h Call>,
}

impl<'h> Stories<'h> {
    /// `calls` are in the order in which they were asked.
    pub(crate) fn of(calls: &[&'h Call], violations: &mut Vec<Violation>) -> Self {
        let mut stories = Self::default();
        for call in calls {
            stories.add(call, violations);
        }
        for (at, grant) in stories.grants.iter().enumerate() {
            stories.by_lock.entry(grant.lock).or_default().push(at);
        }
        let Self { by_lock, grants, .. } = &mut stories;
        for of_lock in by_lock.values_mut() {
            of_lock.sort_by_key(|at| grants[*at].token);
        }
        stories
    }

    fn add(&mut self, call: &'h Call, violations: &mut Vec<Violation>) {
        match &call.ask {
            Ask::Inspect { .. } => self.looks.push(call),
            Ask::Force { lock, .. } => {
                if let Answer::Taken(from) = &call.answer
                    && let Ok(owner) = from.parse()
                {
                    self.of.entry((*lock, owner)).or_default().taken.push(call);
                }
            }
            ask => {
                let Some(owner) = ask.owner() else { return };
                for lock in ask.locks() {
                    self.of.entry((*lock, owner)).or_default().calls.push(call);
                }
                for (lock, token) in call.tokens() {
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
                && call.ask.how().is_none_or(|how| how.unique);
            if !is_renewal {
                let Grant { owner: other, lock: of, .. } = first;
                violations.push(Violation {
                    rule: Rule::TokensDiffer,
                    at: call.heard,
                    what: format!("{owner} got {token} for {lock}, and {other} for {of}"),
                });
            }
            return;
        }
        let story = self.of.entry((lock, owner)).or_default();
        let (lease_ms, by_extend) = match call.ask {
            Ask::Extend { lease_ms, .. } => (lease_ms, true),
            _ => (call.ask.how().map_or(0, |how| how.lease_ms), false),
        };
        let grant = Grant {
            token,
            lock,
            owner,
            asked: story.may_have_been_asked(call),
            heard: call.heard,
            lease_ms,
            place: story.calls.len().saturating_sub(1),
            by_extend,
        };
        let at = self.grants.len();
        story.grants.push(at);
        self.by_token.insert(token, at);
        self.grants.push(grant);
    }

    pub(crate) fn story(&self, grant: &Grant) -> &Story<'h> {
        &self.of[&(grant.lock, grant.owner)]
    }
}

impl Story<'_> {
    /// When the lock that a call got was asked for, at the earliest: by itself, or by one
    /// before it whose answer was lost.
    fn may_have_been_asked(&self, call: &Call) -> Nanos {
        let lost = self.calls.iter().find(|earlier| earlier.may_have_begun());
        lost.map_or(call.asked, |earlier| earlier.asked.min(call.asked))
    }
}

impl Call {
    /// Whether a hold may have begun with it that nobody heard of.
    pub(crate) fn may_have_begun(&self) -> bool {
        self.answer.is_unknown() && self.ask.how().is_some()
    }
}
