//! Judges a history. Each rule is a file beside this one and takes one walk over what it is
//! about, so that the whole is O(n) once the entries are in order of time; what a fault
//! excuses is said by the history itself (`excuses`), and everything else is held to the
//! contract.
//!
//! Times are never taken for more than they say: what was asked at `a` and heard at `b`
//! happened somewhere between. A rule is broken only when no choice within these spans would
//! keep it.

mod answers;
mod counters;
mod excuses;
mod holds;
mod linearizable;
mod order;
mod refusals;
mod scripts;
mod stories;
mod tokens;
mod wakes;

use std::fmt;

use crate::clock::{MS, Nanos};
use crate::history::{Call, Counted, Entry};

use excuses::Excuses;
use stories::Stories;

/// By how much the server's clock of leases, which counts whole milliseconds, may be off.
const TOLERANCE: Nanos = 4 * MS;

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Two grants have two tokens.
    TokensDiffer,
    /// A grant that was asked for after another was heard of has the larger token.
    TokensRise,
    /// A lock passes on after its holder gave it up or lost it, not before.
    OneOwner,
    /// A hold ends by its owner, its lease, force, its session, or another command.
    HoldsLast,
    /// Only the owner gives a lock back, and only once.
    OnlyTheOwner,
    /// A hold is over when its lease is.
    LeasesEnd,
    /// First come, first served.
    Order,
    /// A lock that is free goes to those who wait.
    NoLostWakeUp,
    /// Every call is answered in time.
    Answered,
    /// A wait lasts as long as it was asked to.
    WaitsLast,
    /// No errors without a cause.
    NoErrors,
    /// INSPECT shows what is.
    Shown,
    /// What was taken is what ended and what is held.
    CountersAddUp,
    /// When all is given up, nobody holds and nobody waits.
    NobodyLeft,
    /// The answers of a lock are those of a lock used by one client after the other.
    Linearizable,
    /// Nothing is granted while the server refuses the writes of clients.
    RefusalsHold,
    /// Nothing is granted to a user without the right to it.
    RightsHold,
    /// A script sees no change between two of its own steps.
    OneStep,
    /// The server lives.
    ServerLives,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::TokensDiffer => "a token is given once",
            Self::TokensRise => "tokens rise",
            Self::OneOwner => "one owner per lock",
            Self::HoldsLast => "a hold ends for a cause",
            Self::OnlyTheOwner => "only the owner gives a lock back, once",
            Self::LeasesEnd => "a hold ends with its lease",
            Self::Order => "first come, first served",
            Self::NoLostWakeUp => "no lost wake-up",
            Self::Answered => "every call is answered in time",
            Self::WaitsLast => "a wait lasts as long as it was asked to",
            Self::NoErrors => "no errors without a cause",
            Self::Shown => "INSPECT shows what is",
            Self::CountersAddUp => "the counters add up",
            Self::NobodyLeft => "nobody is left holding or waiting",
            Self::Linearizable => "linearizable",
            Self::RefusalsHold => "no grant while writes are refused",
            Self::RightsHold => "no grant without the right to it",
            Self::OneStep => "a script is one step",
            Self::ServerLives => "the server lives",
        })
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When, at the latest.
    pub at: Nanos,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {} (at {} ns)", self.rule, self.what, self.at)
    }
}

/// What was found in a history, and how much of it could have been found wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In order of time.
    pub violations: Vec<Violation>,
    /// How many calls were made.
    pub calls: usize,
    /// How many were lost.
    pub lost: usize,
    /// How many locks were granted, as far as anybody heard.
    pub grants: usize,
    /// How many of the grants were held against a place in a line that INSPECT had shown.
    pub places: usize,
    /// How many short histories went through the linearizability checker.
    pub windows: usize,
    /// How many looks at the counters.
    pub looks_at_counters: usize,
}

/// Judges a history.
pub fn check(entries: &[Entry]) -> Verdict {
    let mut calls: Vec<&Call> = Vec::new();
    let mut counted: Vec<&Counted> = Vec::new();
    let mut events = Vec::new();
    for entry in entries {
        match entry {
            Entry::Call(call) => calls.push(call),
            Entry::Counted(look) => counted.push(look),
            Entry::Event(event) => events.push(event),
            Entry::About(_) => {}
        }
    }
    calls.sort_by_key(|call| call.asked);
    let excuses = Excuses::of(&events, &calls);
    let mut violations = Vec::new();
    let stories = Stories::of(&calls, &mut violations);
    tokens::check(&stories, &mut violations);
    let began = holds::check(&stories, &excuses, &mut violations);
    refusals::check(&stories, &began, &events, &mut violations);
    scripts::check(&events, &mut violations);
    let places = order::check(&stories, &excuses, &mut violations);
    answers::check(&calls, &excuses, &mut violations);
    wakes::check(&calls, &excuses, &mut violations);
    counters::check(&counted, &mut violations);
    let windows = linearizable::check(&calls, &excuses, &mut violations);
    violations.sort_by_key(|violation| violation.at);
    Verdict {
        violations,
        calls: calls.len(),
        lost: calls.iter().filter(|call| call.answer.is_unknown()).count(),
        grants: stories.grants.len(),
        places,
        windows,
        looks_at_counters: counted.len(),
    }
}
