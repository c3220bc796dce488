//! Checks small windows with stateright's linearizability checker, independently of the
//! other rules: the history of a short-lived lock must match that of a trivial sequential
//! lock.

use std::collections::BTreeMap;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::exemptions::Exemptions;
use super::{Rule, Violation};
use crate::clock::Nanos;
use crate::history::{Call, Lock, Owner, Reply, Request};
use crate::locks::Kind;

/// Limit of calls per window, because the search is exponential.
const MAX_CALLS: usize = 14;

/// Checks the windows of all short-lived locks, and returns their number.
pub(crate) fn check(
    calls: &[&Call],
    exemptions: &Exemptions,
    violations: &mut Vec<Violation>,
) -> usize {
    let mut windows: BTreeMap<Lock, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        if let [lock] = call.request.locks()
            && lock.kind() == Kind::ShortLived
        {
            windows.entry(*lock).or_default().push(call);
        }
    }
    let mut checked = 0;
    for (lock, window) in windows {
        let from = window.first().map_or(0, |call| call.sent);
        let to = window.iter().map(|call| call.received).max().unwrap_or(0);
        let is_plain =
            !exemptions.modified(lock, from, to) && !exemptions.state_lost(from, to);
        if !(2..=MAX_CALLS).contains(&window.len()) || !is_plain {
            continue;
        }
        checked += 1;
        if !is_linearizable(&window) {
            violations.push(Violation {
                rule: Rule::Linearizable,
                at: to,
                what: format!("no order explains {lock}: {window:?}"),
            });
        }
    }
    checked
}

fn is_linearizable(window: &[&Call]) -> bool {
    // A call with an error reply had no effect.
    let had_effect = |call: &&&Call| !matches!(call.reply, Reply::Error(_));
    let calls: Vec<&Call> = window.iter().filter(had_effect).copied().collect();
    let mut steps: Vec<(Nanos, Phase, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        steps.push((call.sent, Phase::Sent, at));
        // A call without a reply may take effect at any later time.
        if !call.reply.is_unknown() {
            steps.push((call.received, Phase::Received, at));
        }
    }
    steps.sort_unstable();
    let mut tester = LinearizabilityTester::new(PlainLock::default());
    for (_, step, at) in steps {
        let (op, ret) = (Op::of(&calls[at].request), Ret::of(&calls[at].reply));
        // Each call is modelled as its own thread; the order follows from the times.
        let result = match (step, op, ret) {
            (Phase::Sent, Some(op), _) => tester.on_invoke(at, op),
            (Phase::Received, _, Some(ret)) => tester.on_return(at, ret),
            _ => return false,
        };
        result.expect("each call is sent once and then received once");
    }
    tester.is_consistent()
}

/// Ordered so that calls which meet at the same time count as concurrent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Sent,
    Received,
}

/// An operation on the lock.
#[derive(Clone, Debug, PartialEq)]
enum Op {
    Acquire(Owner),
    Release(Owner),
    Extend(Owner),
}

/// A result.
#[derive(Clone, Debug, PartialEq)]
enum Ret {
    Token(u64),
    Null,
    Released(bool),
}

impl Op {
    fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Acquire { owner, .. } => Some(Self::Acquire(*owner)),
            Request::Release { owner, .. } => Some(Self::Release(*owner)),
            Request::Extend { owner, .. } => Some(Self::Extend(*owner)),
            _ => None,
        }
    }
}

impl Ret {
    fn of(reply: &Reply) -> Option<Self> {
        match reply {
            Reply::Token(token) => Some(Self::Token(*token)),
            Reply::Null => Some(Self::Null),
            Reply::Released(done) => Some(Self::Released(*done)),
            _ => None,
        }
    }
}

/// A lock without leases or a queue: a waiter acquires it at the time of its grant, and a
/// waiter that times out finds it held.
#[derive(Clone, Debug, Default)]
struct PlainLock {
    holder: Option<(Owner, u64)>,
    last_token: u64,
}

impl PlainLock {
    fn is_held_by(&self, owner: Owner) -> bool {
        self.holder.is_some_and(|(holder, _)| holder == owner)
    }
}

impl SequentialSpec for PlainLock {
    type Op = Op;
    type Ret = Ret;

    /// For calls without a reply, where any token is allowed.
    fn invoke(&mut self, op: &Op) -> Ret {
        match *op {
            Op::Acquire(owner) if self.holder.is_none() => {
                // Not the real token, but smaller than all that follow.
                self.holder = Some((owner, self.last_token));
                Ret::Token(self.last_token)
            }
            Op::Acquire(_) => Ret::Null,
            Op::Release(owner) if self.is_held_by(owner) => {
                self.holder = None;
                Ret::Released(true)
            }
            Op::Release(_) => Ret::Released(false),
            Op::Extend(owner) => match self.holder {
                Some((holder, token)) if holder == owner => Ret::Token(token),
                _ => Ret::Null,
            },
        }
    }

    /// The server may choose any token that is larger than all before.
    fn is_valid_step(&mut self, op: &Op, ret: &Ret) -> bool {
        match (op, ret) {
            (Op::Acquire(owner), Ret::Token(token)) => {
                let is_valid = self.holder.is_none() && *token > self.last_token;
                self.holder = Some((*owner, *token));
                self.last_token = *token;
                is_valid
            }
            _ => self.invoke(op) == *ret,
        }
    }
}
