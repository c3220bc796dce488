//! The wait queues: which waiter waits for which lock, in which order, since when and until when.
//! A queue consists of positions. A position belongs to a connected waiter, or is kept for a
//! UNIQUE owner whose client is away. What a position is good for is decided by the rules.
//!
//! Every step is O(log n) in all waiters of the server, whatever the length of a queue:
//!
//! ```text
//!   by_ticket   ticket ──────────────► Waiter { locks, turn, owner, … }
//!   connected   (lock, turn) ────────► ticket     positions of connected waiters, in order
//!   grouped     (lock, turn) ────────► ticket, …  those of connected waiters with GROUPS, in order
//!   kept        (lock, turn) ────────► ticket     kept positions, in order
//!   owners      owner ───────────────► number, and the calls in which it waits: UNIQUE owners only
//!   by_owner    (number, lock) ──────► ticket     UNIQUE owners only: one position a queue
//!   by_client   client ──────────────► ticket     a client waits in one call at a time
//!   deadlines   (ms, ticket)                      when a wait, or a kept position, expires
//!   left        ticket                            waiters that have left and are not removed yet
//!   counts      lock ────────────────► grants     of queues that have seen any
//!   shares      (lock, share, priority) ► count   positions of waiters with a SHARE
//!   kept_order  number ──────────────► ticket     kept positions, the one kept longest first
//! ```
//!
//! A waiter with GROUPS takes a lock only while it collects the lock's group. Only then its position is
//! in `connected` as well. So the first position in `connected` is always that of the waiter that takes
//! the lock when it becomes free.
//!
//! Removing a waiter takes a step for each of its locks. A waiter with many locks, or one that
//! leaves while others are being removed, is only marked ([`Left`]). Its deadline is set to 0. That
//! has passed, so no rule grants it a lock. [`LockManager::expire_waits`] removes it.
//!
//! A waiter for several locks has a position in the queue of each, with the same turn.
//! Two waiters have the same order in every queue that they share, so they never wait for each
//! other.
//!
//! [`LockManager::expire_waits`]: crate::LockManager::expire_waits

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use smallvec::SmallVec;

use crate::request::Groups;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::grant_counts::GrantCounts;
use crate::state::lock::Bytes;
use crate::state::lock_groups::LockGroups;
use crate::state::share_positions::SharePositions;
use crate::state::tags::Tag;
use crate::state::turn::Turn;

/// Identifies one waiting call. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A waiter, or the kept position of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The locks that it waits for, the preferred one first.
    pub locks: Locks,
    /// How many of them it wants, all at once.
    pub wants: usize,
    /// The groups that it wants locks of, with GROUPS.
    pub groups: Option<Box<LockGroups>>,
    /// It named a lock set, and its reply names the locks that it got.
    pub of_set: bool,
    /// Its turn, the same in every queue.
    pub turn: Turn,
    /// The grants that were counted when it joined.
    pub counted: u64,
    /// The grants that each of its queues had counted when it was removed; none: not any. If it comes
    /// back, they do not count less.
    pub counted_at_end: Option<Box<[u64]>>,
    /// The owner.
    pub owner: Bytes,
    /// The owner's name identifies exactly one holder.
    pub unique: bool,
    /// Moves it ahead of others in its queues, or back if negative.
    pub priority: i64,
    /// The share under which it waits.
    pub share: Option<Bytes>,
    /// The tag of its holds.
    pub tag: Option<Tag>,
    /// How long its position is kept while the client is away, in ms; none: `place-keep`.
    pub keep_ms: Option<u64>,
    /// The lease of the grant, in ms.
    pub lease_ms: u64,
    /// Ties the grant to the connection, with this grace period in ms.
    pub session_grace_ms: Option<u64>,
    /// When the owner took the position, in ms since the epoch.
    pub since_ms: u64,
    /// The client that waits; none: the position is kept while it is away.
    pub client: Option<u64>,
    /// When the wait, or the kept position, expires; none: never.
    pub deadline_ms: Option<u64>,
    /// Its number in the order in which positions began to be kept; 0: it is not kept.
    pub(crate) kept_number: u64,
    /// A lower bound of the locks that must still become free: it saves counting them each time.
    pub(crate) missing: usize,
    /// A recount of its lock set is deferred already.
    pub(crate) recount_deferred: bool,
    /// Its wait is over, counted and replied to, but it is not removed yet.
    pub(crate) left: Option<Left>,
}

/// The locks that a call waits for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The number of the database.
    pub db: u32,
    /// The keys, the preferred one first.
    pub keys: &'a [&'a [u8]],
    /// How many of them, all at once.
    pub count: usize,
    /// The groups that the keys stand in; each of the wanted groups has an equal part of `count`.
    pub groups: Option<&'a Groups>,
    /// The call names a lock set.
    pub of_set: bool,
    /// The tag of the holds.
    pub near: Option<&'a [u8]>,
    /// Indexes into `keys`: the free locks for which no waiter is ahead of the caller.
    pub free: &'a [usize],
}

impl Default for Wanted<'_> {
    /// One lock, which is not free.
    fn default() -> Self {
        Self {
            db: 0,
            keys: &[],
            count: 1,
            groups: None,
            of_set: false,
            near: None,
            free: &[],
        }
    }
}

/// A waiter that has left and is not removed from its queues yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Until when its position is kept for its owner, in ms since the epoch; none: it is not kept.
    pub(crate) kept_until_ms: Option<u64>,
}

impl Left {
    fn keeps_position(self) -> bool {
        self.kept_until_ms.is_some()
    }
}

impl Waiter {
    /// Whether its client is away and its position is no longer kept.
    pub(crate) fn is_keep_over(&self, now: Now) -> bool {
        let until_ms = match (self.left, self.client) {
            (Some(left), _) => left.kept_until_ms,
            (None, None) => self.deadline_ms,
            (None, Some(_)) => return false,
        };
        until_ms.is_none_or(|ms| ms <= now.ms())
    }

    /// Whether its client still waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.client.is_some() && self.left.is_none()
    }

    /// Whether its deadline has passed.
    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now.ms())
    }
}

/// The locks that a waiter waits for. Up to four need no allocation; more are rare.
pub type Locks = SmallVec<[Id; 4]>;

/// The number of waiters that have left and that [`WaitQueues::first_other`] skips at most.
const SKIPPED: usize = 16;

/// The largest number of locks whose positions leave their share before they are removed.
const LEAVE_SHARE_AT_ONCE: usize = 4;

/// The number of positions that [`WaitQueues::positions`] visits at most: those that have left and
/// are not removed yet can be many.
const VISITED: usize = 4_096;

/// All queues.
#[derive(Clone, Debug, Default)]
pub struct WaitQueues {
    by_ticket: BTreeMap<Ticket, Waiter>,
    connected: BTreeMap<(Id, Turn), Ticket>,
    grouped: BTreeMap<(Id, Turn), GroupPosition>,
    kept: BTreeMap<(Id, Turn), Ticket>,
    owners: BTreeMap<Bytes, Owner>,
    by_owner: BTreeMap<(u64, Id), Ticket>,
    by_client: BTreeMap<u64, Ticket>,
    deadlines: BTreeSet<(u64, Ticket)>,
    last: u64,
    /// Waiters marked as left.
    left: BTreeSet<Ticket>,
    /// How many of them keep no position.
    given_up: usize,
    counts: GrantCounts,
    shares: SharePositions,
    /// Kept positions, also those of waiters marked as left.
    kept_order: BTreeMap<u64, Ticket>,
}

/// The position of a connected waiter with GROUPS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupPosition {
    pub(crate) ticket: Ticket,
    /// The place of the lock in the waiter's list.
    place: u16,
    /// The lock is free for the waiter: no waiter before it takes it.
    pub(crate) is_free: bool,
}

/// A UNIQUE owner that has a position in a queue.
#[derive(Clone, Debug)]
struct Owner {
    /// Stands for its name in `by_owner`.
    number: u64,
    /// The number of its waiters and kept positions.
    waiters: usize,
    /// The calls in which it waits now.
    calls: BTreeSet<Ticket>,
}

impl WaitQueues {
    /// The number of waiters, kept positions included.
    pub fn len(&self) -> usize {
        self.by_ticket.len().saturating_sub(self.given_up)
    }

    /// Whether all queues are empty.
    pub fn is_empty(&self) -> bool {
        self.by_ticket.is_empty()
    }

    /// The number of clients that wait now.
    pub fn clients(&self) -> usize {
        self.by_client.len()
    }

    /// The position that has been kept longest.
    pub(crate) fn kept_longest(&self) -> Option<Ticket> {
        self.kept_order.first_key_value().map(|(_, ticket)| *ticket)
    }

    /// The number of waiters that have left, keep no position and are not removed yet.
    pub(crate) fn given_up(&self) -> usize {
        self.given_up
    }

    /// The number of waiters that have left and are not removed yet.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    /// The first of them.
    pub(crate) fn first_left(&self) -> Option<Ticket> {
        self.left.first().copied()
    }

    /// A number larger than all before: a ticket, or the arrival of a new position.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// Adds a waiter to the queues of its locks.
    #[inline]
    pub(crate) fn add(&mut self, mut waiter: Waiter) -> Ticket {
        let number = self.next_number();
        let ticket = Ticket(number);
        let is_connected = waiter.client.is_some();
        if let Some(groups) = &mut waiter.groups {
            groups.reset();
        }
        if !is_connected {
            // That of one which was only marked as left began to be kept earlier.
            waiter.kept_number = match waiter.kept_number {
                0 => number,
                earlier => earlier,
            };
            self.kept_order.insert(waiter.kept_number, ticket);
        }
        if waiter.unique {
            let new = || Owner { number, waiters: 0, calls: BTreeSet::new() };
            let owner = self.owners.entry(waiter.owner.clone()).or_insert_with(new);
            owner.waiters = owner.waiters.saturating_add(1);
            if is_connected {
                owner.calls.insert(ticket);
            }
            let number = owner.number;
            let of_owner = waiter.locks.iter().map(|lock| ((number, *lock), ticket));
            self.by_owner.extend(of_owner);
        }
        if is_connected && waiter.groups.is_some() {
            let positions = (0..).zip(&waiter.locks).map(|(place, lock)| {
                let position = GroupPosition { ticket, place, is_free: false };
                ((*lock, waiter.turn), position)
            });
            self.grouped.extend(positions);
        } else {
            let positions =
                if is_connected { &mut self.connected } else { &mut self.kept };
            let new = waiter.locks.iter().map(|lock| ((*lock, waiter.turn), ticket));
            positions.extend(new);
        }
        if let Some(client) = waiter.client {
            self.by_client.insert(client, ticket);
        }
        if let Some(ms) = waiter.deadline_ms {
            self.deadlines.insert((ms, ticket));
        }
        if waiter.counted > 0 {
            waiter.locks.iter().for_each(|lock| self.counts.raise(*lock, waiter.counted));
        }
        for (lock, counted) in
            waiter.locks.iter().zip(waiter.counted_at_end.iter().flatten())
        {
            self.counts.raise(*lock, *counted);
        }
        if waiter.share.is_some() {
            self.shares.add(&waiter);
        }
        self.by_ticket.insert(ticket, waiter);
        ticket
    }

    /// Removes a waiter from the queues of its locks.
    #[inline]
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let mut waiter = self.by_ticket.remove(&ticket)?;
        let is_connected = waiter.client.is_some();
        let positions = if is_connected { &mut self.connected } else { &mut self.kept };
        for lock in &waiter.locks {
            positions.remove(&(*lock, waiter.turn));
        }
        if is_connected && waiter.groups.is_some() {
            for lock in &waiter.locks {
                self.grouped.remove(&(*lock, waiter.turn));
            }
        }
        if waiter.unique {
            self.remove_of_owner(ticket, &waiter);
        }
        self.kept_order.remove(&waiter.kept_number);
        match (waiter.left, waiter.client) {
            (Some(left), _) => {
                self.left.remove(&ticket);
                let was_given_up = usize::from(!left.keeps_position());
                self.given_up = self.given_up.saturating_sub(was_given_up);
            }
            (None, Some(client)) => drop(self.by_client.remove(&client)),
            (None, None) => {}
        }
        if let Some(ms) = waiter.deadline_ms.filter(|_| waiter.left.is_none()) {
            self.deadlines.remove(&(ms, ticket));
        }
        if waiter.share.is_some() {
            self.shares.remove(&waiter);
        }
        if waiter.unique {
            waiter.counted_at_end = self.counts.get_all(&waiter.locks);
        }
        Some(waiter)
    }

    fn remove_of_owner(&mut self, ticket: Ticket, waiter: &Waiter) {
        let Some(owner) = self.owners.get_mut(&*waiter.owner) else { return };
        owner.calls.remove(&ticket);
        owner.waiters = owner.waiters.saturating_sub(1);
        for lock in &waiter.locks {
            // A later call of the owner may have replaced the position of one that has left.
            if let Entry::Occupied(position) = self.by_owner.entry((owner.number, *lock))
                && *position.get() == ticket
            {
                position.remove();
            }
        }
        if owner.waiters == 0 {
            self.owners.remove(&*waiter.owner);
        }
    }

    /// Marks a waiter as left: neither its client nor its owner's calls find it any longer, and its
    /// deadline has passed. Its reply is given already.
    pub(crate) fn mark_left(&mut self, ticket: Ticket, left: Left) {
        let number = self.next_number();
        let Some(waiter) = self.by_ticket.get_mut(&ticket) else { return };
        waiter.left = Some(left);
        self.kept_order.remove(&waiter.kept_number);
        waiter.kept_number = 0;
        if left.keeps_position() {
            waiter.kept_number = number;
            self.kept_order.insert(number, ticket);
        }
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
        if !left.keeps_position() {
            self.given_up = self.given_up.saturating_add(1);
            self.leave_share(ticket);
        }
    }

    /// A waiter that gives up its position no longer belongs to its share. One with many locks does
    /// until it is removed, which is when there is time for them.
    fn leave_share(&mut self, ticket: Ticket) {
        let Some(waiter) = self.by_ticket.get_mut(&ticket) else { return };
        if waiter.share.is_some() && waiter.locks.len() <= LEAVE_SHARE_AT_ONCE {
            self.shares.remove(waiter);
            waiter.share = None;
        }
    }

    /// Gives up the kept position of a waiter that is marked as left.
    pub(crate) fn give_up_left(&mut self, ticket: Ticket) {
        let Some(waiter) = self.by_ticket.get_mut(&ticket) else { return };
        if let Some(left) = waiter.left.as_mut().filter(|left| left.keeps_position()) {
            left.kept_until_ms = None;
            self.kept_order.remove(&waiter.kept_number);
            waiter.kept_number = 0;
            self.given_up = self.given_up.saturating_add(1);
            self.leave_share(ticket);
        }
    }

    /// All waiters, also those that have left.
    pub(crate) fn tickets(&self) -> Vec<Ticket> {
        self.by_ticket.keys().copied().collect()
    }

    /// A waiter.
    pub fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.by_ticket.get(&ticket)
    }

    /// A waiter, to change `missing`, `recount_deferred` or `groups`.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Waiter> {
        self.by_ticket.get_mut(&ticket)
    }

    /// The number of queues that a waiter has a position in.
    pub(crate) fn positions_of(&self, ticket: Ticket) -> usize {
        self.get(ticket).map_or(0, |waiter| waiter.locks.len())
    }

    /// The grants of a queue since it began.
    pub fn counted(&self, lock: Id) -> u64 {
        self.counts.get(lock)
    }

    /// The grants of some queues since they began; none if there are not any.
    pub(crate) fn counted_of_all(&self, locks: &[Id]) -> Option<Box<[u64]>> {
        self.counts.get_all(locks)
    }

    /// Counts a grant of a lock that has a queue.
    pub(crate) fn count_grant(&mut self, lock: Id) {
        self.counts.bump(lock);
    }

    /// The last position in the queue of a lock is gone.
    pub(crate) fn queue_ended(&mut self, lock: Id) {
        self.counts.forget(lock);
    }

    /// Whether neither grants nor positions of shares are counted.
    #[cfg(test)]
    pub(crate) fn has_no_counts_and_shares(&self) -> bool {
        self.counts.is_empty() && self.shares.is_empty()
    }

    /// The number of positions under a share, with this priority or a higher one, in the queue that
    /// has most of them. Those of a UNIQUE owner are left out. Waiters for many locks that have left
    /// and are not removed yet are counted.
    pub(crate) fn places_of_share(
        &self,
        locks: &[Id],
        share: &[u8],
        priority: i64,
        without: Option<&[u8]>,
    ) -> u64 {
        let Some(number) = self.shares.find(share) else { return 0 };
        let owner = without.and_then(|owner| self.owners.get(owner));
        let is_own = |lock: Id| {
            let own = owner.and_then(|owner| self.by_owner.get(&(owner.number, lock)));
            let own = own.and_then(|ticket| self.by_ticket.get(ticket));
            own.is_some_and(|own| {
                own.priority >= priority && own.share.as_deref() == Some(share)
            })
        };
        let places = locks.iter().map(|lock| {
            let all = self.shares.count(*lock, number, priority);
            all.saturating_sub(u64::from(is_own(*lock)))
        });
        places.max().unwrap_or(0)
    }

    /// Whether any waiter with GROUPS waits.
    pub(crate) fn has_any_groups(&self) -> bool {
        !self.grouped.is_empty()
    }

    /// Whether waiters with GROUPS wait for a lock.
    #[inline]
    pub(crate) fn has_groups(&self, lock: Id) -> bool {
        !self.grouped.is_empty() && self.next_group_position(lock, Turn::FIRST).is_some()
    }

    /// The first position of a waiter with GROUPS after this turn.
    pub(crate) fn next_group_position(
        &self,
        lock: Id,
        after: Turn,
    ) -> Option<(Turn, GroupPosition)> {
        let range = (Bound::Excluded((lock, after)), Bound::Included((lock, Turn::LAST)));
        let next = self.grouped.range(range).next();
        next.map(|((_, turn), position)| (*turn, *position))
    }

    /// Sets whether a lock is free for the waiter with GROUPS that has this position, and counts it.
    /// Returns the number of the lock's group.
    pub(crate) fn set_free(
        &mut self,
        lock: Id,
        turn: Turn,
        is_free: bool,
    ) -> Option<usize> {
        let position = self.grouped.get_mut(&(lock, turn))?;
        let was_free = std::mem::replace(&mut position.is_free, is_free);
        let groups = self.by_ticket.get_mut(&position.ticket)?.groups.as_mut()?;
        let number = groups.group_of(usize::from(position.place));
        let group = groups.groups.get_mut(number)?;
        group.free = match (was_free, is_free) {
            (false, true) => group.free.saturating_add(1),
            (true, false) => group.free.saturating_sub(1),
            _ => group.free,
        };
        Some(number)
    }

    /// Whether a lock is free for the waiter with GROUPS that has this position.
    pub(crate) fn is_free_for(&self, lock: Id, turn: Turn) -> bool {
        self.grouped.get(&(lock, turn)).is_some_and(|position| position.is_free)
    }

    /// Whether a lock is free for the last waiter with GROUPS before this turn, if there is one: else
    /// it is not counted as free for those after it.
    pub(crate) fn is_free_before(&self, lock: Id, turn: Turn) -> bool {
        let before = self.grouped.range((lock, Turn::FIRST)..(lock, turn)).next_back();
        before.is_none_or(|(_, position)| position.is_free)
    }

    /// Whether the waiter with this position takes the lock when it becomes free.
    pub(crate) fn takes(&self, lock: Id, turn: Turn) -> bool {
        self.connected.contains_key(&(lock, turn))
    }

    /// Sets whether a waiter with GROUPS takes a lock when it becomes free.
    pub(crate) fn set_takes(
        &mut self,
        lock: Id,
        turn: Turn,
        ticket: Ticket,
        takes: bool,
    ) {
        match takes {
            true => drop(self.connected.insert((lock, turn), ticket)),
            false => drop(self.connected.remove(&(lock, turn))),
        }
    }

    /// The first connected waiter of a queue that takes its lock.
    pub(crate) fn first_taker(&self, lock: Id) -> Option<Ticket> {
        #[cfg(feature = "break-rules")]
        if crate::broken::is("newest-first") {
            return self.connected.range(queue(lock)).next_back().map(|(_, it)| *it);
        }
        self.connected.range(queue(lock)).next().map(|(_, ticket)| *ticket)
    }

    /// The first connected waiter of a queue other than `own`. To bound the time, at most
    /// [`SKIPPED`] waiters that have left are skipped; the next one is returned even if it has
    /// left.
    pub(crate) fn first_other(&self, lock: Id, own: Option<Ticket>) -> Option<Ticket> {
        let waiters = self.connected.range(queue(lock)).map(|(_, ticket)| *ticket);
        let mut others = waiters.filter(|ticket| Some(*ticket) != own);
        if self.left.is_empty() {
            return others.next();
        }
        let mut skipped = 0;
        others.find(|ticket| {
            skipped = usize::saturating_add(skipped, 1);
            skipped > SKIPPED || !self.left.contains(ticket)
        })
    }

    /// How many clients among the first positions of a queue have left and are not removed yet. It
    /// visits at most [`VISITED`] positions.
    pub(crate) fn left_in(&self, lock: Id) -> usize {
        if self.left.is_empty() {
            return 0;
        }
        let waiters = self.all_positions(lock).take(VISITED);
        waiters.filter(|(_, it)| it.left.is_some() && it.client.is_some()).count()
    }

    /// The first position of a queue.
    pub(crate) fn first_position(&self, lock: Id) -> Option<Ticket> {
        self.by_turn(lock).next()
    }

    /// The positions of a queue, in order.
    pub fn positions(&self, lock: Id) -> impl Iterator<Item = (Ticket, &Waiter)> {
        let positions = self.all_positions(lock).take(VISITED);
        positions.filter(|(_, waiter)| waiter.left.is_none_or(Left::keeps_position))
    }

    /// The same, with the waiters that have left and keep no position.
    pub(crate) fn all_positions(
        &self,
        lock: Id,
    ) -> impl Iterator<Item = (Ticket, &Waiter)> {
        self.by_turn(lock).filter_map(|it| Some((it, self.by_ticket.get(&it)?)))
    }

    /// All positions of a queue, merged. A position may be in `connected` and in `grouped`.
    fn by_turn(&self, lock: Id) -> impl Iterator<Item = Ticket> {
        let turn_and_ticket =
            |((_, turn), ticket): (&(Id, Turn), &Ticket)| (*turn, *ticket);
        let mut connected =
            self.connected.range(queue(lock)).map(turn_and_ticket).peekable();
        let mut kept = self.kept.range(queue(lock)).map(turn_and_ticket).peekable();
        let mut grouped = self.grouped.range(queue(lock)).peekable();
        std::iter::from_fn(move || {
            let grouped_first = grouped.peek().map(|((_, turn), it)| (*turn, it.ticket));
            let heads = [connected.peek().copied(), kept.peek().copied(), grouped_first];
            let first = heads.into_iter().flatten().min()?;
            connected.next_if_eq(&first);
            kept.next_if_eq(&first);
            grouped.next_if(|((_, turn), _)| *turn == first.0);
            Some(first.1)
        })
    }

    /// The number of kept waiters whose time is over and that are not removed yet. Given-up ones do
    /// not count.
    pub(crate) fn count_keeps_over(&self, now: Now) -> usize {
        let is_over = |waiter: &&Waiter| {
            waiter.left.is_none_or(Left::keeps_position) && waiter.is_keep_over(now)
        };
        self.by_ticket.values().filter(is_over).count()
    }

    /// The position of a UNIQUE owner in a queue.
    pub(crate) fn position_of(&self, owner: &[u8], lock: Id) -> Option<Ticket> {
        let number = self.owners.get(owner)?.number;
        let position = self.by_owner.get(&(number, lock)).copied();
        position.filter(|ticket| !self.is_given_up(*ticket))
    }

    fn is_given_up(&self, ticket: Ticket) -> bool {
        let left = || self.by_ticket.get(&ticket).and_then(|waiter| waiter.left);
        self.given_up > 0 && left().is_some_and(|left| !left.keeps_position())
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

    /// The waiter whose deadline passed first, if it has passed.
    pub(crate) fn first_expired(&self, now_ms: u64) -> Option<Ticket> {
        let (ms, ticket) = self.deadlines.first()?;
        (*ms <= now_ms).then_some(*ticket)
    }

    /// The next deadline, in ms since the epoch.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(ms, _)| *ms)
    }

    /// The next lock after this one whose queue has a connected waiter; without a lock, the first.
    pub(crate) fn next_queue(&self, after: Option<Id>) -> Option<Id> {
        let from = after.map_or((Id::FIRST, Turn::FIRST), |id| (id, Turn::LAST));
        let connected = self.connected.range(from..).next().map(|((lock, _), _)| *lock);
        let grouped = self.grouped.range(from..).next().map(|((lock, _), _)| *lock);
        connected.into_iter().chain(grouped).min()
    }

    /// The first lock that has a queue.
    pub(crate) fn first_lock(&self) -> Option<Id> {
        self.first_lock_from((Id::FIRST, Turn::FIRST))
    }

    /// The locks that have a queue, each once.
    pub fn locks(&self) -> impl Iterator<Item = Id> {
        std::iter::successors(self.first_lock(), |lock| {
            self.first_lock_from((*lock, Turn::LAST))
        })
    }

    fn first_lock_from(&self, from: (Id, Turn)) -> Option<Id> {
        let first = |positions: &BTreeMap<(Id, Turn), Ticket>| {
            positions.range(from..).next().map(|((lock, _), _)| *lock)
        };
        let (connected, kept) = (first(&self.connected), first(&self.kept));
        let grouped = self.grouped.range(from..).next().map(|((lock, _), _)| *lock);
        connected.into_iter().chain(kept).chain(grouped).min()
    }
}

/// The keys of one queue in `connected` and `kept`.
fn queue(lock: Id) -> std::ops::RangeInclusive<(Id, Turn)> {
    (lock, Turn::FIRST)..=(lock, Turn::LAST)
}
