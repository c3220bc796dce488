//! The lines: who waits for which lock, in which order, since when and until when. A line
//! knows places; a place is a client that waits, or one kept for a UNIQUE owner that is
//! away. What a place is for is decided by the rules, not here.
//!
//! Every step is O(log n) in all waiters of the server, whatever the length of a line:
//!
//! ```text
//!   by_ticket   ticket ──────────────► Waiter { locks, turn, owner, … }
//!   places      (lock, turn) ────────► ticket     all places of a line, in order
//!   present     (lock, turn) ────────► ticket     those whose client is waiting now
//!   by_owner    (owner, lock) ───────► ticket     UNIQUE owners only: one place a line
//!   by_client   client ──────────────► ticket     a client waits in one call at a time
//!   deadlines   (ms, ticket)                      when a wait, or a kept place, is over
//! ```
//!
//! Who waits for several locks stands in the line of each, with the same turn. So of any
//! two the same one is earlier wherever they meet, and no two can wait for each other.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::arena::Id;
use crate::lock::Bytes;

/// Names one call that waits; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A place in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The locks that are waited for, the one liked best first.
    pub locks: Locks,
    /// How many of them it wants, all at once.
    pub wants: usize,
    /// It asked for locks of a set, and is told which ones it got.
    pub of_set: bool,
    /// Where it stands: smaller is earlier.
    pub turn: u64,
    /// Who waits.
    pub owner: Bytes,
    /// The owner's name is one holder's.
    pub unique: bool,
    /// The lease in ms that the grant will have.
    pub lease_ms: u64,
    /// Ties the grant to the connection, with this grace in ms.
    pub session_grace_ms: Option<u64>,
    /// Since when the place is held, in ms since the epoch.
    pub since_ms: u64,
    /// The client that waits; none: it is away, and its place is kept.
    pub client: Option<u64>,
    /// When the wait, or the keeping of the place, is over; none: never.
    pub deadline_ms: Option<u64>,
    /// At least so many locks must still come free before its share is complete: what
    /// makes it needless to count them all each time.
    pub(crate) lacks: usize,
}

/// The locks that somebody waits for; one or a few, and so nearly always, need no memory of
/// their own.
pub type Locks = SmallVec<[Id; 4]>;

/// All lines.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    by_ticket: BTreeMap<Ticket, Waiter>,
    places: BTreeMap<(Id, u64), Ticket>,
    present: BTreeMap<(Id, u64), Ticket>,
    by_owner: BTreeMap<(Bytes, Id), Ticket>,
    by_client: BTreeMap<u64, Ticket>,
    deadlines: BTreeSet<(u64, Ticket)>,
    last: u64,
}

impl Lines {
    /// How many places there are, kept ones included.
    pub fn len(&self) -> usize {
        self.by_ticket.len()
    }

    /// True when nobody stands anywhere.
    pub fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// How many clients wait now.
    pub fn clients(&self) -> usize {
        self.by_client.len()
    }

    /// A number that is later than all before: a ticket's, and the turn of a new place.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// Adds a place.
    pub(crate) fn add(&mut self, waiter: Waiter) -> Ticket {
        let ticket = Ticket(self.next_number());
        for lock in &waiter.locks {
            let place = (*lock, waiter.turn);
            self.places.insert(place, ticket);
            if waiter.client.is_some() {
                self.present.insert(place, ticket);
            }
            if waiter.unique {
                self.by_owner.insert((waiter.owner.clone(), *lock), ticket);
            }
        }
        if let Some(client) = waiter.client {
            self.by_client.insert(client, ticket);
        }
        if let Some(ms) = waiter.deadline_ms {
            self.deadlines.insert((ms, ticket));
        }
        self.by_ticket.insert(ticket, waiter);
        ticket
    }

    /// Takes a place out.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.by_ticket.remove(&ticket)?;
        for lock in &waiter.locks {
            let place = (*lock, waiter.turn);
            self.places.remove(&place);
            self.present.remove(&place);
            if waiter.unique {
                self.by_owner.remove(&(waiter.owner.clone(), *lock));
            }
        }
        if let Some(client) = waiter.client {
            self.by_client.remove(&client);
        }
        if let Some(ms) = waiter.deadline_ms {
            self.deadlines.remove(&(ms, ticket));
        }
        Some(waiter)
    }

    /// A place.
    pub fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.by_ticket.get(&ticket)
    }

    /// What a place lacks, to change it.
    pub(crate) fn lacks_mut(&mut self, ticket: Ticket) -> Option<&mut usize> {
        self.by_ticket.get_mut(&ticket).map(|waiter| &mut waiter.lacks)
    }

    /// The first client of a line that is not this one.
    pub(crate) fn first_other(&self, lock: Id, own: Option<Ticket>) -> Option<Ticket> {
        let mut clients = self.present.range(line(lock)).map(|(_, ticket)| *ticket);
        clients.find(|ticket| Some(*ticket) != own)
    }

    /// The first client of a line.
    pub(crate) fn first_present(&self, lock: Id) -> Option<Ticket> {
        #[cfg(feature = "break-rules")]
        if crate::broken::is("newest-first") {
            return self.present.range(line(lock)).next_back().map(|(_, ticket)| *ticket);
        }
        self.present.range(line(lock)).next().map(|(_, ticket)| *ticket)
    }

    /// The first place of a line.
    pub(crate) fn first_place(&self, lock: Id) -> Option<Ticket> {
        self.places.range(line(lock)).next().map(|(_, ticket)| *ticket)
    }

    /// The places of a line, in order.
    pub fn places(&self, lock: Id) -> impl Iterator<Item = (Ticket, &Waiter)> {
        let tickets = self.places.range(line(lock));
        tickets.filter_map(|(_, ticket)| Some((*ticket, self.by_ticket.get(ticket)?)))
    }

    /// The place of a UNIQUE owner in a line.
    pub(crate) fn place_of(&self, owner: &[u8], lock: Id) -> Option<Ticket> {
        self.by_owner.get(&(Bytes::from_slice(owner), lock)).copied()
    }

    /// The places of a UNIQUE owner in all lines, each once.
    pub(crate) fn places_of(&self, owner: &[u8]) -> impl Iterator<Item = &Waiter> {
        let owner = Bytes::from_slice(owner);
        let tickets = self.by_owner.range((owner.clone(), Id::FIRST)..);
        let of_owner = tickets.take_while(move |((name, _), _)| *name == owner);
        of_owner.filter_map(|((_, lock), ticket)| {
            let place = self.by_ticket.get(ticket)?;
            (place.locks.first() == Some(lock)).then_some(place)
        })
    }

    /// The call in which a client waits.
    pub(crate) fn of_client(&self, client: u64) -> Option<Ticket> {
        self.by_client.get(&client).copied()
    }

    /// The place whose time is over first, if that is not later than `now_ms`.
    pub(crate) fn over(&self, now_ms: u64) -> Option<Ticket> {
        let (ms, ticket) = self.deadlines.first()?;
        (*ms <= now_ms).then_some(*ticket)
    }

    /// When the next time is over, in ms since the epoch.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(ms, _)| *ms)
    }

    /// The first lock after this one that has a line with a client in it; from the start
    /// when there is none.
    pub(crate) fn next_line(&self, after: Option<Id>) -> Option<Id> {
        let from = after.map(|id| (id, u64::MAX));
        let later = from.and_then(|from| self.present.range(from..).next());
        later.or_else(|| self.present.first_key_value()).map(|((lock, _), _)| *lock)
    }

    /// The first lock that has a line.
    pub(crate) fn first_lock(&self) -> Option<Id> {
        self.places.first_key_value().map(|((lock, _), _)| *lock)
    }

    /// The locks that have a line, each once.
    pub fn locks(&self) -> impl Iterator<Item = Id> {
        std::iter::successors(self.first_lock(), |lock| {
            let next = self.places.range((*lock, u64::MAX)..).next();
            next.map(|((lock, _), _)| *lock)
        })
    }
}

/// The keys of one line.
fn line(lock: Id) -> std::ops::RangeInclusive<(Id, u64)> {
    (lock, 0)..=(lock, u64::MAX)
}
