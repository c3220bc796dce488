//! The lines: who waits for which lock, in which order, since when and until when. A line
//! knows places; a place is a client that waits, or one kept for a UNIQUE owner that is
//! away. What a place is for is decided by the rules, not here.
//!
//! Every step is O(log n) in all waiters of the server, whatever the length of a line:
//!
//! ```text
//!   by_ticket   ticket ──────────────► Waiter { locks, turn, owner, … }
//!   present     (lock, turn) ────────► ticket     places of a line whose client waits, in order
//!   kept        (lock, turn) ────────► ticket     places of a line whose client is away, in order
//!   owners      owner ───────────────► number, and the calls in which it waits: UNIQUE owners only
//!   by_owner    (number, lock) ──────► ticket     UNIQUE owners only: one place a line
//!   by_client   client ──────────────► ticket     a client waits in one call at a time
//!   deadlines   (ms, ticket)                      when a wait, or a kept place, is over
//!   left        ticket                            places that are over and not removed yet
//! ```
//!
//! Removing a place takes a step for each of its locks. A place of many locks, or one that ends
//! while others are being removed, is only marked (`Left`), and its deadline is set to the
//! beginning of time: no rule serves a waiter whose deadline is over. [`Keeper::end_waits`]
//! removes it.
//!
//! [`Keeper::end_waits`]: crate::Keeper::end_waits
//!
//! Who waits for several locks stands in the line of each, with the same turn. So of any
//! two the same one is earlier wherever they meet, and no two can wait for each other.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::arena::Id;
use crate::clock::Now;
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
    /// A count of what it has is owed already.
    pub(crate) is_count_owed: bool,
    /// Its wait is over and was counted and answered, but it is not removed yet.
    pub(crate) left: Option<Left>,
}

/// A waiter that has left and is not removed from its lines yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Its place is to be kept for its owner until then, in ms since the epoch; none: nothing of
    /// it counts any more.
    pub(crate) kept_until_ms: Option<u64>,
}

impl Left {
    fn keeps_place(self) -> bool {
        self.kept_until_ms.is_some()
    }
}

impl Waiter {
    /// Whether its client is away, and its place was kept long enough.
    pub(crate) fn is_kept_no_longer(&self, now: Now) -> bool {
        let until_ms = match (self.left, self.client) {
            (Some(left), _) => left.kept_until_ms,
            (None, None) => self.deadline_ms,
            (None, Some(_)) => return false,
        };
        until_ms.is_none_or(|ms| ms <= now.ms())
    }
}

/// The locks that somebody waits for; one or a few, and so nearly always, need no memory of
/// their own.
pub type Locks = SmallVec<[Id; 4]>;

/// All lines.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    by_ticket: BTreeMap<Ticket, Waiter>,
    present: BTreeMap<(Id, u64), Ticket>,
    kept: BTreeMap<(Id, u64), Ticket>,
    owners: BTreeMap<Bytes, Owner>,
    by_owner: BTreeMap<(u64, Id), Ticket>,
    by_client: BTreeMap<u64, Ticket>,
    deadlines: BTreeSet<(u64, Ticket)>,
    last: u64,
    /// Marked places.
    left: BTreeSet<Ticket>,
    /// How many of them keep no place.
    given_up: usize,
}

/// A UNIQUE owner that has a place in a line.
#[derive(Clone, Debug)]
struct Owner {
    /// Stands for its name in `by_owner`.
    number: u64,
    /// How many places it has, each once.
    places: usize,
    /// The calls in which it waits now.
    calls: BTreeSet<Ticket>,
}

impl Lines {
    /// How many places there are, kept ones included.
    pub fn len(&self) -> usize {
        self.by_ticket.len().saturating_sub(self.given_up)
    }

    /// True when nobody stands anywhere.
    pub fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// How many clients wait now.
    pub fn clients(&self) -> usize {
        self.by_client.len()
    }

    /// How many waiters have left and are not removed yet.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    /// The first of them.
    pub(crate) fn first_left(&self) -> Option<Ticket> {
        self.left.first().copied()
    }

    /// A number that is later than all before: a ticket's, and the turn of a new place.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// Adds a place.
    pub(crate) fn add(&mut self, waiter: Waiter) -> Ticket {
        let number = self.next_number();
        let ticket = Ticket(number);
        let is_present = waiter.client.is_some();
        if waiter.unique {
            let new = || Owner { number, places: 0, calls: BTreeSet::new() };
            let owner = self.owners.entry(waiter.owner.clone()).or_insert_with(new);
            owner.places = owner.places.saturating_add(1);
            if is_present {
                owner.calls.insert(ticket);
            }
            let number = owner.number;
            let of_owner = waiter.locks.iter().map(|lock| ((number, *lock), ticket));
            self.by_owner.extend(of_owner);
        }
        let line = if is_present { &mut self.present } else { &mut self.kept };
        line.extend(waiter.locks.iter().map(|lock| ((*lock, waiter.turn), ticket)));
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
        let is_present = waiter.client.is_some();
        let line = if is_present { &mut self.present } else { &mut self.kept };
        for lock in &waiter.locks {
            line.remove(&(*lock, waiter.turn));
        }
        if waiter.unique {
            self.remove_of_owner(ticket, &waiter);
        }
        match (waiter.left, waiter.client) {
            (Some(left), _) => {
                self.left.remove(&ticket);
                self.given_up =
                    self.given_up.saturating_sub(usize::from(!left.keeps_place()));
            }
            (None, Some(client)) => drop(self.by_client.remove(&client)),
            (None, None) => {}
        }
        if let Some(ms) = waiter.deadline_ms.filter(|_| waiter.left.is_none()) {
            self.deadlines.remove(&(ms, ticket));
        }
        Some(waiter)
    }

    fn remove_of_owner(&mut self, ticket: Ticket, waiter: &Waiter) {
        let Some(owner) = self.owners.get_mut(&*waiter.owner) else { return };
        owner.calls.remove(&ticket);
        owner.places = owner.places.saturating_sub(1);
        for lock in &waiter.locks {
            // A later call of the owner may have taken the place of one that has left.
            if let Entry::Occupied(place) = self.by_owner.entry((owner.number, *lock))
                && *place.get() == ticket
            {
                place.remove();
            }
        }
        if owner.places == 0 {
            self.owners.remove(&*waiter.owner);
        }
    }

    /// Marks a place as left: it is found no longer by its client or as a call of its owner, and
    /// its time is over. What it was is answered.
    pub(crate) fn mark_left(&mut self, ticket: Ticket, left: Left) {
        let Some(waiter) = self.by_ticket.get_mut(&ticket) else { return };
        waiter.left = Some(left);
        if let Some(ms) = waiter.deadline_ms.replace(0) {
            self.deadlines.remove(&(ms, ticket));
        }
        if let Some(client) = waiter.client {
            self.by_client.remove(&client);
        }
        if let Some(owner) = self.owners.get_mut(&*waiter.owner) {
            owner.calls.remove(&ticket);
        }
        self.left.insert(ticket);
        self.given_up = self.given_up.saturating_add(usize::from(!left.keeps_place()));
    }

    /// Keeps no place of one that is marked as left.
    pub(crate) fn give_up_left(&mut self, ticket: Ticket) {
        let left = self.by_ticket.get_mut(&ticket).and_then(|it| it.left.as_mut());
        if let Some(left) = left.filter(|left| left.keeps_place()) {
            left.kept_until_ms = None;
            self.given_up = self.given_up.saturating_add(1);
        }
    }

    /// A place.
    pub fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.by_ticket.get(&ticket)
    }

    /// A place, to change what it lacks.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        self.by_ticket.get_mut(&ticket)
    }

    /// The first client of a line that is not this one. Those who have left are passed over, of
    /// many only the first ones: the others stand for somebody who waits until they are removed.
    pub(crate) fn first_other(&self, lock: Id, own: Option<Ticket>) -> Option<Ticket> {
        let clients = self.present.range(line(lock)).map(|(_, ticket)| *ticket);
        let mut others = clients.filter(|ticket| Some(*ticket) != own);
        if self.left.is_empty() {
            return others.next();
        }
        let mut passed = 0;
        others.find(|ticket| {
            passed = usize::saturating_add(passed, 1);
            passed > PASSED || !self.left.contains(ticket)
        })
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
        self.places_by_turn(lock).next()
    }

    /// The places of a line, in order.
    pub fn places(&self, lock: Id) -> impl Iterator<Item = (Ticket, &Waiter)> {
        let places = self.places_by_turn(lock);
        let known = places.filter_map(|it| Some((it, self.by_ticket.get(&it)?)));
        known.filter(|(_, waiter)| waiter.left.is_none_or(Left::keeps_place))
    }

    /// How many places were kept long enough: those given up are not among them.
    pub(crate) fn kept_no_longer(&self, now: Now) -> usize {
        let is_over = |waiter: &&Waiter| {
            waiter.left.is_none_or(Left::keeps_place) && waiter.is_kept_no_longer(now)
        };
        self.by_ticket.values().filter(is_over).count()
    }

    /// As [`Lines::places`], those included of which nothing is kept.
    pub(crate) fn all_places(&self, lock: Id) -> impl Iterator<Item = (Ticket, &Waiter)> {
        let places = self.places_by_turn(lock);
        places.filter_map(|it| Some((it, self.by_ticket.get(&it)?)))
    }

    /// Both kinds of places of a line, merged.
    fn places_by_turn(&self, lock: Id) -> impl Iterator<Item = Ticket> {
        let mut present = self.present.range(line(lock)).peekable();
        let mut kept = self.kept.range(line(lock)).peekable();
        std::iter::from_fn(move || {
            let first = match (present.peek(), kept.peek()) {
                (Some((place, _)), Some((other, _))) if place > other => kept.next(),
                (Some(_), _) => present.next(),
                (None, _) => kept.next(),
            };
            first.map(|(_, ticket)| *ticket)
        })
    }

    /// The place of a UNIQUE owner in a line.
    pub(crate) fn place_of(&self, owner: &[u8], lock: Id) -> Option<Ticket> {
        let number = self.owners.get(owner)?.number;
        let place = self.by_owner.get(&(number, lock)).copied();
        place.filter(|ticket| !self.is_given_up(*ticket))
    }

    fn is_given_up(&self, ticket: Ticket) -> bool {
        let left = || self.by_ticket.get(&ticket).and_then(|waiter| waiter.left);
        self.given_up > 0 && left().is_some_and(|left| !left.keeps_place())
    }

    /// The calls in which a UNIQUE owner waits.
    pub(crate) fn calls_of(&self, owner: &[u8]) -> impl Iterator<Item = Ticket> {
        let owner = self.owners.get(owner);
        owner.into_iter().flat_map(|owner| owner.calls.iter().copied())
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
        self.first_lock_from((Id::FIRST, 0))
    }

    /// The locks that have a line, each once.
    pub fn locks(&self) -> impl Iterator<Item = Id> {
        std::iter::successors(self.first_lock(), |lock| {
            self.first_lock_from((*lock, u64::MAX))
        })
    }

    fn first_lock_from(&self, from: (Id, u64)) -> Option<Id> {
        let first = |line: &BTreeMap<(Id, u64), Ticket>| {
            line.range(from..).next().map(|((lock, _), _)| *lock)
        };
        let (present, kept) = (first(&self.present), first(&self.kept));
        present.into_iter().chain(kept).min()
    }
}

/// How many who have left are passed over in a line.
const PASSED: usize = 16;

/// The keys of one line.
fn line(lock: Id) -> std::ops::RangeInclusive<(Id, u64)> {
    (lock, 0)..=(lock, u64::MAX)
}
