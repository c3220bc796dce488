//! Exemptions that faults grant, as recorded in the history: which locks other commands
//! may have modified and when, when the server lost its state, which connections closed.

use std::collections::{HashMap, HashSet};

use super::TOLERANCE;
use crate::clock::{MS, Nanos};
use crate::history::{Call, Connection, Event, Lock, Owner, Reply, Request};

/// A stalled server may still execute, this much later, a command sent over a connection
/// that was cut.
const DELAYED_EXECUTION: Nanos = 2_000 * MS;

/// A period, including both ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Nanos,
    to: Nanos,
}

/// All exemptions of a history.
#[derive(Debug, Default)]
pub(crate) struct Exemptions {
    all: Spans,
    by_lock: HashMap<Lock, Spans>,
    forgot: Spans,
    stepped: Spans,
    closed: HashMap<Connection, Nanos>,
    unblocked: HashMap<Connection, Spans>,
    subscribed: HashSet<Connection>,
    /// Data lost by a killed server, with the one lock that is known to be on disk, if
    /// any.
    lost: Vec<(Option<Lock>, Span)>,
    lease_changes: HashMap<(Lock, Owner), Vec<LeaseChanged>>,
    refuses: Vec<(Vec<String>, Span)>,
}

/// A lease change by another client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseChanged {
    when: Span,
    lease_ms: Option<u64>,
}

impl LeaseChanged {
    /// Whether the change may have happened before `time`.
    pub(crate) fn is_before(&self, time: Nanos) -> bool {
        self.when.from <= time
    }

    /// The hold cannot have ended with its lease before this time.
    pub(crate) fn earliest_end(&self) -> Nanos {
        let lease = self.lease_ms.map(|ms| (ms * MS).saturating_sub(TOLERANCE));
        lease.map_or(Nanos::MAX, |lease| self.when.from + lease)
    }

    /// The latest end of the lease.
    pub(crate) fn latest_end(&self) -> Option<Nanos> {
        self.lease_ms.map(|ms| self.when.to + ms * MS)
    }
}

impl Exemptions {
    pub(crate) fn of(events: &[&Event], calls: &[&Call]) -> Self {
        let mut exemptions = Self::default();
        for event in events {
            exemptions.add(event);
        }
        for call in calls {
            exemptions.add_lost_force(call);
        }
        exemptions.all.tidy();
        exemptions.forgot.tidy();
        exemptions.stepped.tidy();
        exemptions.by_lock.values_mut().for_each(Spans::tidy);
        exemptions.unblocked.values_mut().for_each(Spans::tidy);
        for of_hold in exemptions.lease_changes.values_mut() {
            of_hold.sort_by_key(|lease_changes| lease_changes.when.from);
        }
        exemptions
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
            Event::KeysModified { locks, from, to, .. } => {
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
            Event::StateLost { from, to, .. } => {
                self.forgot.0.push(Span { from: *from, to: *to });
            }
            Event::ClockStepped { from, to } => {
                self.stepped.0.push(Span { from: *from, to: *to });
            }
            Event::DataLost { but, from, to } => {
                self.lost.push((*but, Span { from: *from, to: *to }));
            }
            Event::LeaseChanged { lock, owner, lease_ms, from, to } => {
                let when = Span { from: *from, to: *to };
                let of_hold = self.lease_changes.entry((*lock, *owner)).or_default();
                of_hold.push(LeaseChanged { when, lease_ms: *lease_ms });
            }
            Event::Subscribed { connection } => {
                self.subscribed.insert(*connection);
            }
            // These exempt nothing.
            Event::QueueRound { .. }
            | Event::WritesRefused { .. }
            | Event::PermissionRevoked { .. }
            | Event::ScriptReads { .. } => {}
            Event::ErrorsExpected { codes, from, to } => {
                self.refuses.push((codes.clone(), Span { from: *from, to: *to }));
            }
        }
    }

    /// A FORCERELEASE without a reply may have released the lock of any owner, with AFTER
    /// at the end of the notice.
    fn add_lost_force(&mut self, call: &Call) {
        if let (
            Request::ForceRelease { lock, after_ms, .. },
            Reply::Lost | Reply::Timeout,
        ) = (&call.request, &call.reply)
        {
            let notice = after_ms.unwrap_or(0) * MS;
            let to = call.received + DELAYED_EXECUTION + notice;
            let span = Span { from: call.sent, to };
            self.by_lock.entry(*lock).or_default().0.push(span);
        }
    }

    /// The earliest time at or after `from` when other commands may have modified a lock.
    pub(crate) fn modified_after(&self, lock: Lock, from: Nanos) -> Option<Nanos> {
        let own = self.by_lock.get(&lock).and_then(|spans| spans.first(from));
        let of_all = self.all.first(from);
        let hit =
            |(but, span): &&(Option<Lock>, Span)| *but != Some(lock) && span.to >= from;
        let lost = self.lost.iter().filter(hit).map(|(_, span)| span.from.max(from));
        own.into_iter().chain(of_all).chain(lost).min()
    }

    /// Whether other commands may have modified a lock in this period.
    pub(crate) fn modified(&self, lock: Lock, from: Nanos, to: Nanos) -> bool {
        self.modified_after(lock, from).is_some_and(|at| at <= to)
    }

    /// Whether the server lost its state (all but the keys) in this period.
    pub(crate) fn state_lost(&self, from: Nanos, to: Nanos) -> bool {
        self.forgot.first(from).is_some_and(|at| at <= to)
    }

    /// Whether the server's clock was stepped in this period.
    pub(crate) fn clock_stepped(&self, from: Nanos, to: Nanos) -> bool {
        self.stepped.first(from).is_some_and(|at| at <= to)
    }

    /// Changes of the lease of an owner's hold by other clients, in chronological order.
    pub(crate) fn lease_changes(&self, lock: Lock, owner: Owner) -> &[LeaseChanged] {
        self.lease_changes.get(&(lock, owner)).map_or(&[], Vec::as_slice)
    }

    /// Whether a connection has subscriptions.
    pub(crate) fn subscribed(&self, connection: Connection) -> bool {
        self.subscribed.contains(&connection)
    }

    /// The earliest time when a connection was closed.
    pub(crate) fn closed(&self, connection: Connection) -> Option<Nanos> {
        self.closed.get(&connection).copied()
    }

    /// Whether another client may have unblocked a wait in this period.
    pub(crate) fn unblocked(
        &self,
        connection: Connection,
        from: Nanos,
        to: Nanos,
    ) -> bool {
        let first = self.unblocked.get(&connection).and_then(|spans| spans.first(from));
        first.is_some_and(|at| at <= to)
    }

    /// Whether calls in this period may fail with an error.
    pub(crate) fn expects_error(&self, error: &str, from: Nanos, to: Nanos) -> bool {
        self.refuses.iter().any(|(codes, span)| {
            span.from <= to
                && from <= span.to
                && codes.iter().any(|code| error.starts_with(code.as_str()))
        })
    }
}

/// A set of periods.
#[derive(Debug, Default)]
struct Spans(Vec<Span>);

impl Spans {
    /// Sorts the periods and merges those that overlap.
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

    /// The earliest time at or after `from` in any period.
    fn first(&self, from: Nanos) -> Option<Nanos> {
        let at = self.0.partition_point(|span| span.to < from);
        self.0.get(at).map(|span| span.from.max(from))
    }
}
