//! Small windows through stateright's linearizability checker, which knows nothing of the other
//! rules: locks that were used for a moment by a few clients are held against the plainest
//! lock there is, used by one client after the other.

use std::collections::BTreeMap;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::excuses::Excuses;
use super::{Rule, Violation};
use crate::client::FIRST_BRIEF;
use crate::clock::Nanos;
use crate::history::{Answer, Ask, Call, Lock, Owner};

/// The search is exponential: no more calls than this.
const MOST: usize = 14;

/// Checks the histories of brief locks, and answers how many.
pub(crate) fn check(
    calls: &[&Call],
    excuses: &Excuses,
    violations: &mut Vec<Violation>,
) -> usize {
    let mut windows: BTreeMap<Lock, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        if let [lock] = call.ask.locks()
            && lock.1 >= FIRST_BRIEF
        {
            windows.entry(*lock).or_default().push(call);
        }
    }
    let mut checked = 0;
    for (lock, window) in windows {
        let from = window.first().map_or(0, |call| call.asked);
        let to = window.iter().map(|call| call.heard).max().unwrap_or(0);
        let is_plain = !excuses.touched(lock, from, to) && !excuses.forgot(from, to);
        if !(2..=MOST).contains(&window.len()) || !is_plain {
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
    // A call that was refused did nothing.
    let refused = |call: &&&Call| !matches!(call.answer, Answer::Refused(_));
    let calls: Vec<&Call> = window.iter().filter(refused).copied().collect();
    let mut steps: Vec<(Nanos, Step, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        steps.push((call.asked, Step::Asked, at));
        // What was lost may still be done.
        if !call.answer.is_unknown() {
            steps.push((call.heard, Step::Heard, at));
        }
    }
    steps.sort_unstable();
    let mut tester = LinearizabilityTester::new(PlainLock::default());
    for (_, step, at) in steps {
        let (op, ret) = (Op::of(&calls[at].ask), Ret::of(&calls[at].answer));
        // Each call is a thread of its own: which came after which, the times say.
        let told = match (step, op, ret) {
            (Step::Asked, Some(op), _) => tester.on_invoke(at, op),
            (Step::Heard, _, Some(ret)) => tester.on_return(at, ret),
            _ => return false,
        };
        told.expect("each call is asked once, and then heard once");
    }
    tester.is_consistent()
}

/// In the order in which those of one instant are told, so that they count as concurrent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Asked,
    Heard,
}

/// What is asked of one lock.
#[derive(Clone, Debug, PartialEq)]
enum Op {
    Acquire(Owner),
    Release(Owner),
    Extend(Owner),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
enum Ret {
    Token(u64),
    Null,
    Released(bool),
}

impl Op {
    fn of(ask: &Ask) -> Option<Self> {
        match ask {
            Ask::Acquire { owner, .. } => Some(Self::Acquire(*owner)),
            Ask::Release { owner, .. } => Some(Self::Release(*owner)),
            Ask::Extend { owner, .. } => Some(Self::Extend(*owner)),
            _ => None,
        }
    }
}

impl Ret {
    fn of(answer: &Answer) -> Option<Self> {
        match answer {
            Answer::Token(token) => Some(Self::Token(*token)),
            Answer::Null => Some(Self::Null),
            Answer::Released(done) => Some(Self::Released(*done)),
            _ => None,
        }
    }
}

/// A lock without leases or lines: whoever waits takes it in the moment of its grant, and
/// whoever waits in vain finds it held.
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

    /// For calls whose answers were lost: any token will do.
    fn invoke(&mut self, op: &Op) -> Ret {
        match *op {
            Op::Acquire(owner) if self.holder.is_none() => {
                // Not the number that it was, but smaller than all that follow.
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

    /// Which number a token is, is the server's choice, as long as it rises.
    fn is_valid_step(&mut self, op: &Op, ret: &Ret) -> bool {
        match (op, ret) {
            (Op::Acquire(owner), Ret::Token(token)) => {
                let may = self.holder.is_none() && *token > self.last_token;
                self.holder = Some((*owner, *token));
                self.last_token = *token;
                may
            }
            _ => self.invoke(op) == *ret,
        }
    }
}
