//! What the faults excuse, as the history says it: which locks other commands may have
//! touched and when, when the server forgot, which connections closed.

use std::collections::{HashMap, HashSet};

use super::TOLERANCE;
use crate::clock::{MS, Nanos};
use crate::history::{Answer, Ask, Call, Connection, Event, Lock, Owner};

/// A server that stands still may carry out what was sent over a connection that is cut this
/// much later.
const AFTERMATH: Nanos = 2_000 * MS;

/// A stretch of time, both ends included.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Nanos,
    to: Nanos,
}

/// What is excused.
#[derive(Debug, Default)]
pub(crate) struct Excuses {
    all: Spans,
    by_lock: HashMap<Lock, Spans>,
    forgot: Spans,
    stepped: Spans,
    closed: HashMap<Connection, Nanos>,
    unblocked: HashMap<Connection, Spans>,
    subscribed: HashSet<Connection>,
    /// What a server that was killed lost: all but one lock, if one is named.
    lost: Vec<(Option<Lock>, Span)>,
    lengthened: HashMap<(Lock, Owner), Vec<Lengthened>>,
    refuses: Vec<(Vec<String>, Span)>,
}

/// Another client set the lease of a hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengthened {
    when: Span,
    lease_ms: Option<u64>,
}

impl Lengthened {
    /// Whether this may have happened before some time.
    pub(crate) fn is_before(&self, time: Nanos) -> bool {
        self.when.from <= time
    }

    /// Before this the hold cannot have ended with its lease.
    pub(crate) fn earliest_end(&self) -> Nanos {
        let lease = self.lease_ms.map(|ms| (ms * MS).saturating_sub(TOLERANCE));
        lease.map_or(Nanos::MAX, |lease| self.when.from + lease)
    }

    /// When the lease is over, at the latest.
    pub(crate) fn latest_end(&self) -> Option<Nanos> {
        self.lease_ms.map(|ms| self.when.to + ms * MS)
    }
}

impl Excuses {
    pub(crate) fn of(events: &[&Event], calls: &[&Call]) -> Self {
        let mut excuses = Self::default();
        for event in events {
            excuses.add(event);
        }
        for call in calls {
            excuses.add_lost_force(call);
        }
        excuses.all.tidy();
        excuses.forgot.tidy();
        excuses.stepped.tidy();
        excuses.by_lock.values_mut().for_each(Spans::tidy);
        excuses.unblocked.values_mut().for_each(Spans::tidy);
        for of_hold in excuses.lengthened.values_mut() {
            of_hold.sort_by_key(|lengthened| lengthened.when.from);
        }
        excuses
    }

    fn add(&mut self, event: &Event) {
        match event {
            Event::Closed { connection, at } => {
                let closed = self.closed.entry(*connection).or_insert(*at);
                *closed = (*closed).min(*at);
            }
            Event::Unblocked { connection, from, to } => {
                let spans = self.unblocked.entry(*connection).or_default();
                spans.0.push(Span { from: *from, to: *to });
            }
            Event::Touched { locks, from, to, .. } => {
                let span = Span { from: *from, to: *to };
                match locks {
                    None => self.all.0.push(span),
                    Some(locks) => {
                        for lock in locks {
                            self.by_lock.entry(*lock).or_default().0.push(span);
                        }
                    }
                }
            }
            Event::Forgot { from, to, .. } => {
                self.forgot.0.push(Span { from: *from, to: *to });
            }
            Event::Stepped { from, to } => {
                self.stepped.0.push(Span { from: *from, to: *to });
            }
            Event::Lost { but, from, to } => {
                self.lost.push((*but, Span { from: *from, to: *to }));
            }
            Event::Lengthened { lock, owner, lease_ms, from, to } => {
                let when = Span { from: *from, to: *to };
                let of_hold = self.lengthened.entry((*lock, *owner)).or_default();
                of_hold.push(Lengthened { when, lease_ms: *lease_ms });
            }
            Event::Subscribed { connection } => {
                self.subscribed.insert(*connection);
            }
            // These excuse nothing.
            Event::WritesRefused { .. }
            | Event::Withdrawn { .. }
            | Event::ReadTwice { .. } => {}
            Event::Refuses { codes, from, to } => {
                self.refuses.push((codes.clone(), Span { from: *from, to: *to }));
            }
        }
    }

    /// Nobody knows from whom, if from anybody, a lost FORCERELEASE took its lock.
    fn add_lost_force(&mut self, call: &Call) {
        if let (Ask::Force { lock, .. }, Answer::Lost | Answer::Silence) =
            (&call.ask, &call.answer)
        {
            let span = Span { from: call.asked, to: call.heard + AFTERMATH };
            self.by_lock.entry(*lock).or_default().0.push(span);
        }
    }

    /// The first time, not before `from`, at which other commands may have touched a lock.
    pub(crate) fn touched_after(&self, lock: Lock, from: Nanos) -> Option<Nanos> {
        let own = self.by_lock.get(&lock).and_then(|spans| spans.first(from));
        let of_all = self.all.first(from);
        let hit =
            |(but, span): &&(Option<Lock>, Span)| *but != Some(lock) && span.to >= from;
        let lost = self.lost.iter().filter(hit).map(|(_, span)| span.from.max(from));
        own.into_iter().chain(of_all).chain(lost).min()
    }

    /// Whether other commands may have touched a lock in this time.
    pub(crate) fn touched(&self, lock: Lock, from: Nanos, to: Nanos) -> bool {
        self.touched_after(lock, from).is_some_and(|at| at <= to)
    }

    /// Whether the server forgot what the keys do not show in this time.
    pub(crate) fn forgot(&self, from: Nanos, to: Nanos) -> bool {
        self.forgot.first(from).is_some_and(|at| at <= to)
    }

    /// Whether the server counted waits by another clock in this time.
    pub(crate) fn stepped(&self, from: Nanos, to: Nanos) -> bool {
        self.stepped.first(from).is_some_and(|at| at <= to)
    }

    /// How others set the lease of an owner's hold, in order of time.
    pub(crate) fn lengthened(&self, lock: Lock, owner: Owner) -> &[Lengthened] {
        self.lengthened.get(&(lock, owner)).map_or(&[], Vec::as_slice)
    }

    /// Whether a connection has subscriptions.
    pub(crate) fn subscribed(&self, connection: Connection) -> bool {
        self.subscribed.contains(&connection)
    }

    /// When a connection was closed, at the earliest.
    pub(crate) fn closed(&self, connection: Connection) -> Option<Nanos> {
        self.closed.get(&connection).copied()
    }

    /// Whether a wait may have been ended from outside in this time.
    pub(crate) fn unblocked(
        &self,
        connection: Connection,
        from: Nanos,
        to: Nanos,
    ) -> bool {
        let first = self.unblocked.get(&connection).and_then(|spans| spans.first(from));
        first.is_some_and(|at| at <= to)
    }

    /// Whether an error is one that calls of this time may meet.
    pub(crate) fn refuses(&self, error: &str, from: Nanos, to: Nanos) -> bool {
        self.refuses.iter().any(|(codes, span)| {
            span.from <= to
                && from <= span.to
                && codes.iter().any(|code| error.starts_with(code.as_str()))
        })
    }
}

/// Stretches of time.
#[derive(Debug, Default)]
struct Spans(Vec<Span>);

impl Spans {
    /// Puts them in order, and makes one of those that meet.
    fn tidy(&mut self) {
        self.0.sort_by_key(|span| span.from);
        let mut tidy: Vec<Span> = Vec::new();
        for span in self.0.drain(..) {
            match tidy.last_mut() {
                Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
                _ => tidy.push(span),
            }
        }
        self.0 = tidy;
    }

    /// The first time in any of them that is not before `from`.
    fn first(&self, from: Nanos) -> Option<Nanos> {
        let at = self.0.partition_point(|span| span.to < from);
        self.0.get(at).map(|span| span.from.max(from))
    }
}
