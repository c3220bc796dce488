//! All locks that the manager knows, and their indexes: by name, by age, by lease end, by session,
//! and by last use. Every change that an index depends on goes through a method of [`Table`], so
//! the indexes cannot disagree with the locks.
//!
//! With a million locks, what a command reads is in no cache of the processor. So a command that
//! acquires or releases a lock that no client waits for reads one entry of the index, the lock
//! itself (three cache lines), and the group of its hold in the order by age; no other lock and no
//! ordered tree.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

use crate::state::age_list::{AgeList, Linked, Links};
use crate::state::arena::{Arena, Id};
use crate::state::counters::{Counters, bump};
use crate::state::hold_details::{AllDetails, HoldDetails};
use crate::state::hold_order::HoldOrder;
use crate::state::index::Index;
use crate::state::lock::{Hold, Lock, NO_END, Name, Own, Session};

/// Locks with longer keys have no counters of their own: METRICS repeats the key in each of the
/// lock's lines, up to 74.
pub const TRACKED_KEY_MAX: usize = 128;

/// How long before the end of a hold under notice its lock is probed, in ms. An extension by other
/// clients must be noticed in time: after the end, the key might as well have been set again by the
/// same owner.
const BEFORE_END_MS: u64 = 5;

/// The number of locks in use that are skipped before a new lock goes without its own counters.
const TRIES: usize = 8;

/// The number of locks that lose stale or surplus counters at a time: 100,000 of them would stall
/// the server.
const UNTRACKED_AT_A_TIME: usize = 256;

/// The number of locks whose counters are reset at once. With the default `tracked-keys` these are
/// all.
const RESET_AT_ONCE: usize = 1_024;

/// The capacity that the list of locks to forget keeps.
const IDLE_CAPACITY: usize = 1_024;

/// Lists of locks with their own counters.
#[derive(Clone, Debug, Default)]
struct Tracked;

impl Linked for Tracked {
    type Item = Lock;

    fn links(lock: &mut Lock) -> Option<&mut Links> {
        lock.own.as_deref_mut().map(|own| &mut own.links)
    }
}

/// Totals of the tracked locks and of all others, so that METRICS does not have to visit 100,000
/// tracked locks to tell them apart.
#[derive(Clone, Debug, Default)]
struct Totals {
    /// The counters of the server less those of all tracked locks.
    untracked: Counters,
    /// The number of tracked locks that are held.
    tracked_held: u64,
    /// The number of connected waiters in the queues of tracked locks.
    tracked_connected: u64,
}

/// The locks.
#[derive(Clone, Debug)]
pub struct Table {
    locks: Arena<Lock>,
    index: Index,
    /// The random constants of the hash. With the library's fixed ones, clients could choose names
    /// whose hashes are equal whatever the seed is.
    hash_seeds: SharedSeed,
    hash_seed: u64,
    /// Locks that the module granted.
    granted: HoldOrder,
    /// What only some holds have.
    details: AllDetails,
    /// Adopted locks, whose beginning is unknown.
    adopted: HoldOrder,
    /// The locks with their own counters, the least recently used first, without the stale ones.
    tracked: AgeList<Tracked>,
    tracked_limit: u64,
    /// The locks with their own counters by the number that each got when its tracking began. A
    /// lock that is tracked again gets a new number.
    numbered: BTreeMap<u64, Id>,
    /// The last number given; 0: none yet.
    last_number: u64,
    /// The last number given before the last reset: the counters of locks up to it are stale. They
    /// count as untracked until [`Table::refresh`] has reset them, because resetting 100,000 of
    /// them at once would stall the server.
    stale_up_to: u64,
    /// There may be stale counters.
    has_stale: bool,
    totals: Totals,
    /// The number of locks in `tracked` that are neither held nor waited for.
    tracked_idle: u64,
    /// The lease ends that have to be noticed, each as (ms since the epoch, lock).
    alarms: BTreeSet<(u64, Id)>,
    /// The locks tied to a client's connection, each as (client, lock).
    tied: BTreeSet<(u64, Id)>,
    /// Locks that may have become idle since the last [`Table::forget_idle`].
    maybe_idle: Vec<Id>,
}

impl Table {
    /// An empty table. `seed` keeps clients from choosing names that collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            locks: Arena::default(),
            index: Index::default(),
            hash_seeds: SharedSeed::from_u64(seed),
            hash_seed: seed,
            granted: HoldOrder::default(),
            details: AllDetails::default(),
            adopted: HoldOrder::default(),
            tracked: AgeList::default(),
            tracked_limit: 0,
            numbered: BTreeMap::new(),
            last_number: 0,
            stale_up_to: 0,
            has_stale: false,
            totals: Totals::default(),
            tracked_idle: 0,
            alarms: BTreeSet::new(),
            tied: BTreeSet::new(),
            maybe_idle: Vec::new(),
        }
    }

    /// The number of held locks.
    pub fn held(&self) -> u64 {
        self.granted.len().saturating_add(self.adopted.len())
    }

    // ---- By name

    /// The hash of a name, for a caller that looks the name up more than once.
    #[inline]
    pub(crate) fn hash(&self, name: Name<'_>) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.hash_seed, &self.hash_seeds);
        hasher.write(name.key);
        hasher.write_u32(name.db);
        hasher.finish()
    }

    /// The lock of this name, if the table has it.
    #[inline]
    pub fn find(&self, name: Name<'_>) -> Option<Id> {
        self.find_hashed(self.hash(name), name)
    }

    /// The same for a name whose hash is known.
    pub(crate) fn find_hashed(&self, hash: u64, name: Name<'_>) -> Option<Id> {
        self.index.find(hash, |id| self.is_named(id, name))
    }

    /// The lock of this name, created if the table does not have it. A new lock gets counters of
    /// its own unless its key is long. The tracked locks may exceed the limit after this:
    /// untracking a lock here could free an id that a caller still uses. [`Table::forget_idle`]
    /// removes the surplus.
    #[inline]
    pub(crate) fn find_or_create(&mut self, name: Name<'_>) -> Option<Id> {
        self.find_or_create_hashed(self.hash(name), name)
    }

    /// The same for a name whose hash is known.
    pub(crate) fn find_or_create_hashed(
        &mut self,
        hash: u64,
        name: Name<'_>,
    ) -> Option<Id> {
        if let Some(id) = self.find_hashed(hash, name) {
            return Some(id);
        }
        let is_tracked = name.key.len() <= TRACKED_KEY_MAX && self.has_room_to_track();
        let mut lock = Lock::new(name);
        let number = self.last_number.saturating_add(1);
        lock.own = is_tracked.then(|| Box::new(Own { number, ..Own::default() }));
        let id = self.locks.insert(lock)?;
        self.index.insert(hash, id);
        if is_tracked {
            self.last_number = number;
            self.numbered.insert(number, id);
            self.tracked.push(&mut self.locks, id);
            self.tracked_idle = self.tracked_idle.saturating_add(1);
        } else {
            self.maybe_idle.push(id);
        }
        Some(id)
    }

    fn is_named(&self, id: Id, name: Name<'_>) -> bool {
        self.locks.get(id).is_some_and(|lock| lock.name() == name)
    }

    /// Reads a lock; see [`crate::LockManager::look_ahead`].
    pub(crate) fn look_ahead(&self, name: Name<'_>) {
        let hold = self.find(name).and_then(|id| self.hold(id));
        std::hint::black_box(hold.map(|hold| hold.until_ms));
    }

    /// A lock.
    pub fn get(&self, id: Id) -> Option<&Lock> {
        self.locks.get(id)
    }

    /// The hold of a lock.
    pub(crate) fn hold(&self, id: Id) -> Option<&Hold> {
        self.locks.get(id)?.hold.as_ref()
    }

    // ---- Holds

    /// Begins a hold of a lock that has none.
    pub(crate) fn begin_hold(&mut self, id: Id, hold: Hold) {
        self.refresh(id);
        let Some(lock) = self.locks.get_mut(id) else { return };
        debug_assert!(lock.hold.is_none(), "the lock is held already");
        let adopted = hold.adopted;
        if let Session::Tied { client, .. } = hold.session {
            self.tied.insert((client, id));
        }
        if lock.own.is_some() && lock.is_idle() {
            self.tracked_idle = self.tracked_idle.saturating_sub(1);
        }
        lock.hold = Some(hold);
        lock.reserved = false;
        if lock.own.is_some() {
            bump(&mut self.totals.tracked_held);
        }
        let order = if adopted { &mut self.adopted } else { &mut self.granted };
        lock.place = order.push(id).unwrap_or_default();
        self.rearm(id);
    }

    /// Ends the hold of a lock and returns it with its details. The lock stays in the table until
    /// [`Table::forget_idle`].
    pub(crate) fn end_hold(
        &mut self,
        id: Id,
    ) -> Option<(Hold, Option<Box<HoldDetails>>)> {
        self.refresh(id);
        let lock = self.locks.get_mut(id)?;
        let hold = lock.hold.take()?;
        let details = if hold.has_details { self.details.take(id) } else { None };
        if lock.own.is_some() {
            drop_from(&mut self.totals.tracked_held, 1);
        }
        if lock.is_idle() {
            match lock.own {
                Some(_) => self.tracked_idle = self.tracked_idle.saturating_add(1),
                None => self.maybe_idle.push(id),
            }
        }
        let order = if hold.adopted { &mut self.adopted } else { &mut self.granted };
        order.remove(lock.place);
        if let Session::Tied { client, .. } = hold.session {
            self.tied.remove(&(client, id));
        }
        self.rearm(id);
        Some((hold, details))
    }

    /// Changes the hold of a lock, if there is one: anything but its session.
    pub(crate) fn change_hold<T>(
        &mut self,
        id: Id,
        change: impl FnOnce(&mut Hold) -> T,
    ) -> Option<T> {
        let hold = self.locks.get_mut(id)?.hold.as_mut()?;
        let session = hold.session;
        let changed = change(hold);
        debug_assert!(hold.session == session, "sessions change in set_session");
        self.rearm(id);
        Some(changed)
    }

    /// What only some holds have, of the hold of a lock.
    pub fn details(&self, id: Id) -> Option<&HoldDetails> {
        self.hold(id).filter(|hold| hold.has_details).and_then(|_| self.details.get(id))
    }

    /// Changes the details of a hold, if there is one.
    pub(crate) fn change_details(
        &mut self,
        id: Id,
        change: impl FnOnce(&mut HoldDetails),
    ) {
        if let Some(hold) = self.locks.get_mut(id).and_then(|lock| lock.hold.as_mut()) {
            hold.has_details = self.details.change(id, change);
        }
        self.rearm(id);
    }

    /// Changes the session of a hold, if there is one.
    pub(crate) fn set_session(&mut self, id: Id, session: Session) {
        let Some(hold) = self.locks.get_mut(id).and_then(|lock| lock.hold.as_mut())
        else {
            return;
        };
        if let Session::Tied { client, .. } =
            std::mem::replace(&mut hold.session, session)
        {
            self.tied.remove(&(client, id));
        }
        if let Session::Tied { client, .. } = session {
            self.tied.insert((client, id));
        }
        self.rearm(id);
    }

    /// The first lock that is tied to a client's connection.
    pub(crate) fn first_tied(&self, client: u64) -> Option<Id> {
        let first = self.tied.range((client, Id::FIRST)..).next();
        first.filter(|(tied_to, _)| *tied_to == client).map(|(_, id)| *id)
    }

    // ---- Queues

    /// Counts a new position in the queue of a lock.
    pub(crate) fn add_position(&mut self, id: Id, is_connected: bool) {
        self.refresh(id);
        let Some(lock) = self.locks.get_mut(id) else { return };
        if lock.own.is_some() && lock.is_idle() {
            self.tracked_idle = self.tracked_idle.saturating_sub(1);
        }
        lock.positions = lock.positions.saturating_add(1);
        lock.connected = lock.connected.saturating_add(u32::from(is_connected));
        if is_connected && lock.own.is_some() {
            bump(&mut self.totals.tracked_connected);
        }
        self.rearm(id);
    }

    /// Counts a position that is gone from the queue of a lock.
    pub(crate) fn remove_position(&mut self, id: Id, is_connected: bool) {
        self.refresh(id);
        let Some(lock) = self.locks.get_mut(id) else { return };
        lock.positions = lock.positions.saturating_sub(1);
        lock.connected = lock.connected.saturating_sub(u32::from(is_connected));
        if is_connected && lock.own.is_some() {
            drop_from(&mut self.totals.tracked_connected, 1);
        }
        if lock.is_idle() {
            match lock.own {
                Some(_) => self.tracked_idle = self.tracked_idle.saturating_add(1),
                None => self.maybe_idle.push(id),
            }
        }
        self.rearm(id);
    }

    /// Reserves a lock that has no hold. Returns whether it was not reserved before.
    pub(crate) fn reserve(&mut self, id: Id) -> bool {
        let Some(lock) = self.locks.get_mut(id) else { return false };
        lock.hold.is_none() && !std::mem::replace(&mut lock.reserved, true)
    }

    /// Reserves a lock no longer.
    pub(crate) fn unreserve(&mut self, id: Id) {
        if let Some(lock) = self.locks.get_mut(id) {
            lock.reserved = false;
        }
    }

    // ---- Lease ends

    /// Sets the alarm of a lock to the end of its lease, if a waiter, a grace period or a notice
    /// depends on it. With a notice there is an earlier one ([`BEFORE_END_MS`]).
    fn rearm(&mut self, id: Id) {
        let Self { locks, details, .. } = self;
        let Some(lock) = locks.get_mut(id) else { return };
        let wanted = match lock.hold.as_ref().filter(|hold| hold.until_ms != NO_END) {
            Some(hold) => {
                let details = if hold.has_details { details.get(id) } else { None };
                // A key lives through the millisecond in which it expires.
                let end_ms = hold.until_ms.saturating_add(1);
                match details.and_then(|details| details.notice.as_ref()) {
                    Some(notice) if notice.probed_before_ms != hold.until_ms => {
                        end_ms.saturating_sub(BEFORE_END_MS).max(1)
                    }
                    Some(_) => end_ms,
                    None if lock.connected > 0 => end_ms,
                    None if hold.session == Session::Closed => end_ms,
                    None => 0,
                }
            }
            None => 0,
        };
        let armed = std::mem::replace(&mut lock.alarm_ms, wanted);
        if armed == wanted {
            return;
        }
        self.alarms.remove(&(armed, id));
        if wanted != 0 {
            self.alarms.insert((wanted, id));
        }
    }

    /// The first alarm, in ms since the epoch.
    pub(crate) fn next_alarm(&self) -> Option<u64> {
        self.alarms.first().map(|(ms, _)| *ms)
    }

    /// The locks whose alarm is due, the earliest first.
    pub(crate) fn due_alarms(&self, now_ms: u64) -> impl Iterator<Item = Id> {
        self.alarms.range(..=(now_ms, Id::LAST)).map(|(_, id)| *id)
    }

    // ---- Locks that are no longer needed

    /// Forgets the locks that have become idle, and removes a portion of the stale counters and of
    /// those above the limit. Called after each command and event, when no caller holds the id of an
    /// idle lock.
    #[inline]
    pub(crate) fn forget_idle(&mut self) {
        if !self.maybe_idle.is_empty() {
            self.forget_listed();
        }
        if self.has_stale || self.tracked_count() > self.tracked_limit {
            self.untrack_portion(UNTRACKED_AT_A_TIME);
        }
    }

    fn forget_listed(&mut self) {
        while let Some(id) = self.maybe_idle.pop() {
            self.forget_if_idle(id);
        }
        if self.maybe_idle.capacity() > IDLE_CAPACITY {
            self.maybe_idle = Vec::new();
        }
    }

    /// Forgets a lock that is neither held nor waited for. A tracked lock is kept for its counters.
    fn forget_if_idle(&mut self, id: Id) {
        let Some(lock) = self.locks.get(id).filter(|lock| lock.is_idle()) else { return };
        if lock.own.is_some() {
            return;
        }
        let hash = self.hash(lock.name());
        self.index.remove(hash, id);
        self.locks.remove(id);
    }

    // ---- Tracked locks

    /// Sets how many locks may have counters of their own.
    pub(crate) fn set_tracked_limit(&mut self, limit: u64) {
        self.tracked_limit = limit;
        self.forget_idle();
    }

    /// Whether a new lock gets counters of its own: there is room, or an idle lock gives way.
    fn has_room_to_track(&mut self) -> bool {
        // As many as `forget_idle` removes after the call may be above the limit until then.
        let most = self.tracked_limit.saturating_add(UNTRACKED_AT_A_TIME as u64);
        // Stale counters give way as well; see `untrack_portion`.
        self.tracked_count() < self.tracked_limit
            || self.tracked_limit > 0
                && self.tracked_count() < most
                && (self.has_stale
                    || self.tracked_idle > 0 && self.least_used().is_some())
    }

    /// Counts what belongs to the lock: in its own counters, or else in those of all untracked
    /// locks.
    pub(crate) fn tally(&mut self, lock: Option<Id>, change: impl Fn(&mut Counters)) {
        match lock.and_then(|id| self.use_counters(id)) {
            Some(own) => change(own),
            None => change(&mut self.totals.untracked),
        }
    }

    /// The counters of a tracked lock, which counts as used now.
    pub(crate) fn use_counters(&mut self, id: Id) -> Option<&mut Counters> {
        self.mark_used(id);
        Some(&mut self.locks.get_mut(id)?.own.as_deref_mut()?.counters)
    }

    fn mark_used(&mut self, id: Id) {
        self.refresh(id);
        if self.tracked.newest() != Some(id)
            && self.locks.get(id).is_some_and(|lock| lock.own.is_some())
        {
            self.tracked.remove(&mut self.locks, id);
            self.tracked.push(&mut self.locks, id);
        }
    }

    /// The number of locks with counters of their own.
    fn tracked_count(&self) -> u64 {
        u64::try_from(self.numbered.len()).unwrap_or(u64::MAX)
    }

    /// Removes the counters of at most `count` locks: stale ones of idle locks, and then those above
    /// the limit. Resets stale ones of locks in use.
    #[cold]
    fn untrack_portion(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(id) = self.first_stale() {
                match self.locks.get(id).is_some_and(Lock::is_idle) {
                    true => self.untrack(id),
                    false => self.refresh(id),
                }
            } else if self.tracked_count() > self.tracked_limit {
                let newest = self.tracked.newest();
                let Some(id) = self.least_used().or(newest) else { return };
                self.untrack(id);
            } else {
                return;
            }
        }
    }

    fn first_stale(&mut self) -> Option<Id> {
        if !self.has_stale {
            return None;
        }
        let first = self.numbered.first_key_value();
        let stale = first.filter(|(number, _)| **number <= self.stale_up_to);
        self.has_stale = stale.is_some();
        stale.map(|(_, id)| *id)
    }

    /// Whether a lock has counters from before the last reset.
    fn is_stale(&self, id: Id) -> bool {
        let own = self.locks.get(id).and_then(|lock| lock.own.as_deref());
        own.is_some_and(|own| own.number <= self.stale_up_to)
    }

    /// Resets the counters of a lock if they are from before the last reset. Called before the lock
    /// or its counters change, so it is held now if it was held at the reset.
    #[inline]
    pub(crate) fn refresh(&mut self, id: Id) {
        if self.has_stale && self.is_stale(id) {
            self.reset_own(id);
        }
    }

    #[cold]
    fn reset_own(&mut self, id: Id) {
        let Some(lock) = self.locks.get_mut(id) else { return };
        let (held, connected) = (u64::from(lock.hold.is_some()), lock.connected);
        let Some(own) = lock.own.as_deref_mut() else { return };
        self.numbered.remove(&own.number);
        self.last_number = self.last_number.saturating_add(1);
        own.number = self.last_number;
        own.counters = Counters { adopted: held, ..Counters::default() };
        self.numbered.insert(own.number, id);
        let totals = &mut self.totals;
        drop_from(&mut totals.untracked.adopted, held);
        totals.tracked_held = totals.tracked_held.saturating_add(held);
        totals.tracked_connected =
            totals.tracked_connected.saturating_add(u64::from(connected));
        if lock.is_idle() {
            self.tracked_idle = self.tracked_idle.saturating_add(1);
        }
        self.tracked.push(&mut self.locks, id);
    }

    /// Removes or resets the counters of a lock if they are from before the last reset, so that they
    /// can be read.
    pub(crate) fn settle_counters(&mut self, id: Id) {
        if self.is_stale(id) {
            match self.locks.get(id).is_some_and(Lock::is_idle) {
                true => self.untrack(id),
                false => self.refresh(id),
            }
        }
    }

    /// The least recently used tracked lock that is idle. Each lock in use that it meets counts as
    /// used now; after [`TRIES`] of them it gives up.
    fn least_used(&mut self) -> Option<Id> {
        for _ in 0..TRIES {
            let id = self.tracked.oldest()?;
            if self.locks.get(id)?.is_idle() {
                return Some(id);
            }
            self.mark_used(id);
        }
        None
    }

    fn untrack(&mut self, id: Id) {
        let is_stale = self.is_stale(id);
        if !is_stale {
            self.tracked.remove(&mut self.locks, id);
        }
        if let Some(lock) = self.locks.get_mut(id)
            && let Some(own) = lock.own.take()
        {
            self.numbered.remove(&own.number);
            if !is_stale {
                if lock.is_idle() {
                    self.tracked_idle = self.tracked_idle.saturating_sub(1);
                }
                let totals = &mut self.totals;
                totals.untracked.add(&own.counters);
                drop_from(&mut totals.tracked_held, u64::from(lock.hold.is_some()));
                drop_from(&mut totals.tracked_connected, u64::from(lock.connected));
            }
        }
        self.forget_if_idle(id);
    }

    /// The counters of what belongs to no tracked lock. With those of the tracked locks they add up
    /// to the counters of the server.
    pub fn untracked(&self) -> &Counters {
        &self.totals.untracked
    }

    /// The number of tracked locks that are held.
    pub fn tracked_held(&self) -> u64 {
        self.totals.tracked_held
    }

    /// The number of connected waiters in the queues of tracked locks.
    pub fn tracked_connected(&self) -> u64 {
        self.totals.tracked_connected
    }

    /// The last number that a lock got when its tracking began; 0: there was none yet.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// The tracked locks with a number below this one, the highest number first. A lock keeps its
    /// number while it is tracked and gets a higher one when it is tracked again. So a walk that
    /// goes on below the last number it saw never meets a lock twice, and meets each one that is
    /// tracked all the time.
    pub fn tracked_below(&self, number: u64) -> impl Iterator<Item = (u64, Id)> {
        let first = self.stale_up_to.saturating_add(1).min(number);
        self.numbered.range(first..number).rev().map(|(number, id)| (*number, *id))
    }

    /// The locks with counters of their own, the most recently used first.
    pub fn tracked(&self) -> impl Iterator<Item = Id> {
        self.tracked_from(self.tracked.newest())
    }

    /// The same, from this one on.
    pub fn tracked_from(&self, id: Option<Id>) -> impl Iterator<Item = Id> {
        std::iter::successors(id, |id| self.tracked_after(*id))
    }

    /// The next less recently used tracked lock.
    pub fn tracked_after(&self, id: Id) -> Option<Id> {
        self.locks.get(id)?.own.as_deref()?.links.older()
    }

    /// Zeroes all counters. Locks held now count as adopted. Idle locks lose their counters. Of many
    /// locks with their own counters, only some are reset at once; the others are stale until then.
    pub(crate) fn reset_counters(&mut self) {
        let untracked = Counters { adopted: self.held(), ..Counters::default() };
        self.totals = Totals { untracked, ..Totals::default() };
        self.tracked = AgeList::default();
        self.tracked_idle = 0;
        self.stale_up_to = self.last_number;
        self.has_stale = true;
        self.untrack_portion(RESET_AT_ONCE);
    }

    // ---- By age, and by page

    /// The first of the held locks by age: the granted locks, the one held longest first, then
    /// the adopted ones.
    pub fn oldest(&self) -> Option<Id> {
        self.granted.oldest().or(self.adopted.oldest())
    }

    /// The first of the adopted locks.
    pub fn oldest_adopted(&self) -> Option<Id> {
        self.adopted.oldest()
    }

    /// The held lock that follows this one by age.
    pub fn after(&self, id: Id) -> Option<Id> {
        let lock = self.locks.get(id)?;
        match &lock.hold {
            Some(hold) if hold.adopted => self.adopted.after(lock.place),
            Some(_) => self.granted.after(lock.place).or(self.adopted.oldest()),
            None => None,
        }
    }

    /// All held locks by age.
    pub fn by_age(&self) -> impl Iterator<Item = Id> {
        std::iter::successors(self.oldest(), |id| self.after(*id))
    }

    /// The locks of one page; see [`Arena::page`].
    pub fn page(&self, number: usize) -> impl Iterator<Item = (Id, &Lock)> {
        self.locks.page(number)
    }

    /// The ids of the next locks; see [`Arena::next_ids`].
    pub fn next_ids(&self, count: usize) -> impl Iterator<Item = Id> {
        self.locks.next_ids(count)
    }

    /// The number of pages.
    pub fn pages(&self) -> usize {
        self.locks.pages()
    }
}

/// Decreases a number of locks or waiters.
fn drop_from(number: &mut u64, by: u64) {
    *number = number.saturating_sub(by);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Vec<u8> {
        format!("gpu_lock:{n}").into_bytes()
    }

    fn hold(n: u32) -> Hold {
        Hold::new(&key(n), (!n.is_multiple_of(3)).then_some(1), 0, 1)
    }

    #[test]
    fn locks_are_found_by_database_and_key_until_they_are_forgotten() {
        let mut table = Table::new(42);
        for n in 0..20_000u32 {
            let name = Name { db: n % 2, key: &key(n) };
            let id = table.find_or_create(name).unwrap();
            table.begin_hold(id, hold(n));
        }
        assert_eq!(table.held(), 20_000);
        for n in 0..20_000u32 {
            let key = key(n);
            assert_eq!(table.find(Name { db: (n + 1) % 2, key: &key }), None);
            let id = table.find(Name { db: n % 2, key: &key }).unwrap();
            assert_eq!(table.get(id).unwrap().hold, Some(hold(n)));
            table.end_hold(id);
            table.forget_idle();
            assert_eq!(table.find(Name { db: n % 2, key: &key }), None);
        }
        assert_eq!(table.held(), 0);
        assert_eq!(table.by_age().count(), 0);
        assert_eq!(table.index.largest(), 8, "the index has returned its memory");
    }

    #[test]
    fn names_that_collide_with_the_fixed_constants_of_the_hash_do_not() {
        // The second half of these names is the constant with which the library multiplies.
        let constant = 0x3f84_d5b5_b547_0917_u64.to_le_bytes();
        let table = Table::new(0x9e37_79b9_7f4a_7c15);
        let hashes = (0..1_000_u64).map(|n| {
            let key = [n.to_le_bytes(), constant].concat();
            table.hash(Name { db: 0, key: &key })
        });
        assert_eq!(hashes.collect::<BTreeSet<_>>().len(), 1_000);
    }

    #[test]
    fn by_age_returns_granted_locks_first_and_no_released_ones() {
        let mut table = Table::new(1);
        for n in 0..10u32 {
            let id = table.find_or_create(Name { db: 0, key: &key(n) }).unwrap();
            table.begin_hold(id, hold(n));
        }
        for n in [1, 5, 9] {
            let id = table.find(Name { db: 0, key: &key(n) }).unwrap();
            table.end_hold(id);
        }
        let keys: Vec<_> =
            table.by_age().map(|id| table.get(id).unwrap().key.to_vec()).collect();
        assert_eq!(keys, [2, 4, 7, 8, 0, 3, 6].map(key));
    }

    fn tracking(limit: u64) -> Table {
        let mut table = Table::new(1);
        table.set_tracked_limit(limit);
        table
    }

    fn use_lock(table: &mut Table, n: u32) -> Id {
        let id = table.find_or_create(Name { db: 0, key: &key(n) }).unwrap();
        table.mark_used(id);
        table.begin_hold(id, hold(1));
        id
    }

    fn release(table: &mut Table, id: Id) {
        table.end_hold(id);
        table.forget_idle();
    }

    fn tracked(table: &Table) -> Vec<Vec<u8>> {
        table.tracked().map(|id| table.get(id).unwrap().key.to_vec()).collect()
    }

    #[test]
    fn a_new_lock_takes_the_counters_of_the_least_recently_used_idle_lock() {
        let mut table = tracking(4);
        for n in 0..4 {
            let id = use_lock(&mut table, n);
            release(&mut table, id);
        }
        // 0 is used again and 1 is held, so 2 loses its counters first, then 3.
        let id = use_lock(&mut table, 0);
        release(&mut table, id);
        let held = use_lock(&mut table, 1);
        assert_eq!(tracked(&table), [1, 0, 3, 2].map(key));
        let id = use_lock(&mut table, 5);
        release(&mut table, id);
        assert_eq!(tracked(&table), [5, 1, 0, 3].map(key));
        assert_eq!(table.find(Name { db: 0, key: &key(2) }), None);
        for n in [6, 7, 8] {
            let id = use_lock(&mut table, n);
            release(&mut table, id);
        }
        // The held lock is skipped, and counts as used when that was necessary.
        let mut remaining = tracked(&table);
        remaining.sort();
        assert_eq!(remaining, [1, 6, 7, 8].map(key));
        release(&mut table, held);
        assert_eq!(tracked(&table).len(), 4);
    }

    #[test]
    fn a_lock_in_use_keeps_its_counters_and_a_new_lock_gets_none() {
        let mut table = tracking(4);
        let held: Vec<Id> = (0..4).map(|n| use_lock(&mut table, n)).collect();
        let surplus = use_lock(&mut table, 4);
        table.forget_idle();
        assert!(table.get(surplus).unwrap().own.is_none());
        assert!(held.iter().all(|id| table.get(*id).unwrap().own.is_some()));
        // After its release the surplus lock is forgotten; it is tracked when it is acquired again.
        release(&mut table, surplus);
        release(&mut table, held[2]);
        use_lock(&mut table, 4);
        table.forget_idle();
        let mut remaining = tracked(&table);
        remaining.sort();
        assert_eq!(remaining, [0, 1, 3, 4].map(key));
    }

    #[test]
    fn the_search_for_an_idle_lock_stops_after_a_few_locks_in_use() {
        let mut table = tracking(100);
        let held: Vec<Id> = (0..100).map(|n| use_lock(&mut table, n)).collect();
        assert_eq!(table.tracked.oldest(), Some(held[0]));
        // With none that is idle there is no search.
        use_lock(&mut table, 100);
        table.forget_idle();
        assert_eq!(table.tracked.oldest(), Some(held[0]));
        release(&mut table, held[50]);
        use_lock(&mut table, 101);
        table.forget_idle();
        assert!(held.iter().all(|id| table.get(*id).unwrap().own.is_some()));
        assert_eq!(table.tracked.oldest(), Some(held[TRIES]));
    }

    #[test]
    fn the_idle_tracked_locks_are_counted() {
        let mut table = tracking(16);
        let mut random = 1_u32;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = key((random >> 16) % 40);
            let name = Name { db: 0, key: &key };
            let id = table.find_or_create(name).unwrap();
            let (is_held, positions) = {
                let lock = table.get(id).unwrap();
                (lock.hold.is_some(), lock.positions)
            };
            match random >> 28 {
                0..6 if is_held => drop(table.end_hold(id)),
                0..6 => table.begin_hold(id, hold(random >> 20)),
                6..10 if positions > 0 => table.remove_position(id, true),
                6..10 => table.add_position(id, true),
                10..14 => table.mark_used(id),
                14 => table.set_tracked_limit(u64::from(random >> 16) % 20),
                _ => table.reset_counters(),
            }
            if random & 1 << 12 != 0 {
                table.forget_idle();
            }
            let is_idle = |id: &Id| table.get(*id).unwrap().is_idle();
            let idle = table.tracked().filter(is_idle).count();
            assert_eq!(table.tracked_idle, idle as u64);
        }
    }

    #[test]
    fn no_lock_is_removed_before_the_end_of_the_call() {
        let mut table = tracking(1);
        let id = use_lock(&mut table, 0);
        release(&mut table, id);
        let found = table.find(Name { db: 0, key: &key(0) }).unwrap();
        table.find_or_create(Name { db: 0, key: &key(1) }).unwrap();
        assert_eq!(&*table.get(found).unwrap().key, key(0));
        assert_eq!(tracked(&table), [1, 0].map(key));
        table.forget_idle();
        assert_eq!(tracked(&table), [1].map(key));
    }

    #[test]
    fn a_lower_limit_and_a_reset_untrack_idle_locks_first() {
        let mut table = tracking(4);
        let ids: Vec<Id> = (0..4).map(|n| use_lock(&mut table, n)).collect();
        release(&mut table, ids[1]);
        release(&mut table, ids[3]);
        table.set_tracked_limit(3);
        assert!(!tracked(&table).contains(&key(1)));
        table.reset_counters();
        let mut remaining = tracked(&table);
        remaining.sort();
        assert_eq!(remaining, [0, 2].map(key));
        table.set_tracked_limit(0);
        assert_eq!(tracked(&table), [0; 0].map(key));
        assert!(table.get(ids[0]).is_some_and(|lock| lock.hold.is_some()));
        assert_eq!(table.find(Name { db: 0, key: &key(3) }), None);
    }

    #[test]
    fn a_walk_meets_each_lock_once_while_others_come_and_go() {
        let mut table = tracking(4);
        for n in 0..4 {
            let id = use_lock(&mut table, n);
            release(&mut table, id);
        }
        let met = |table: &Table, below| {
            let next = table.tracked_below(below).next();
            next.map(|(number, id)| (number, table.get(id).unwrap().key.to_vec()))
        };
        let (number, first) = met(&table, u64::MAX).unwrap();
        assert_eq!(first, key(3));
        // 3 is used again, and 0 gives way to 4. Neither is met again, nor displaces another.
        let id = use_lock(&mut table, 3);
        release(&mut table, id);
        use_lock(&mut table, 4);
        table.forget_idle();
        let (number, second) = met(&table, number).unwrap();
        assert_eq!(second, key(2));
        // The lock at which the walk stopped gives way to 0, which is not met in this walk.
        let id = table.find(Name { db: 0, key: &key(2) }).unwrap();
        table.untrack(id);
        use_lock(&mut table, 0);
        let (number, third) = met(&table, number).unwrap();
        assert_eq!(third, key(1));
        assert_eq!(met(&table, number), None);
        let (last, newest) = met(&table, u64::MAX).unwrap();
        assert_eq!((last, newest), (table.last_number(), key(0)));
    }

    #[test]
    fn the_totals_follow_locks_that_lose_their_counters() {
        let mut table = tracking(2);
        let held = use_lock(&mut table, 0);
        let idle = use_lock(&mut table, 1);
        let without = use_lock(&mut table, 2);
        assert!(table.get(without).unwrap().own.is_none());
        for id in [held, idle, without] {
            table.add_position(id, true);
            table.tally(Some(id), |counters| bump(&mut counters.acquired));
        }
        assert_eq!(table.untracked().acquired, 1);
        assert_eq!((table.tracked_held(), table.tracked_connected()), (2, 2));
        table.remove_position(idle, true);
        table.end_hold(idle);
        assert_eq!((table.tracked_held(), table.tracked_connected()), (1, 1));
        table.set_tracked_limit(0);
        assert_eq!(table.untracked().acquired, 3);
        assert_eq!((table.tracked_held(), table.tracked_connected()), (0, 0));
        table.reset_counters();
        assert_eq!((table.untracked().acquired, table.untracked().adopted), (0, 2));
    }

    /// The sum of a counter over all tracked locks and the others.
    fn sum(table: &Table, counter: fn(&Counters) -> u64) -> u64 {
        let own = table.tracked().filter_map(|id| table.get(id)?.counters());
        own.map(counter).sum::<u64>() + counter(table.untracked())
    }

    #[test]
    fn many_counters_are_reset_at_once_and_refreshed_in_portions() {
        let locks = 2 * RESET_AT_ONCE as u32;
        let mut table = tracking(u64::from(locks));
        let ids: Vec<Id> = (0..locks).map(|n| use_lock(&mut table, n)).collect();
        for id in &ids {
            table.add_position(*id, true);
            table.tally(Some(*id), |counters| bump(&mut counters.acquired));
        }
        // Every second lock is idle.
        for id in ids.iter().step_by(2) {
            table.remove_position(*id, true);
            release(&mut table, *id);
        }
        let held = u64::from(locks / 2);
        table.reset_counters();
        let check = |table: &Table| {
            assert_eq!(
                (sum(table, |it| it.acquired), sum(table, |it| it.adopted)),
                (0, held)
            );
            let connected = |id: Id| u64::from(table.get(id).unwrap().connected);
            let listed = table.tracked().map(connected).sum::<u64>();
            assert_eq!(table.tracked_connected(), listed);
            assert_eq!(table.tracked_held(), table.tracked().count() as u64);
            let walk = table.tracked_below(u64::MAX).count();
            assert_eq!(walk, table.tracked().count());
        };
        check(&table);
        assert!(table.has_stale, "half of them are stale");
        // A stale lock that is used counts from the reset on.
        let (idle, last) = (ids[ids.len() - 2], ids[ids.len() - 1]);
        assert!(table.is_stale(idle) && table.is_stale(last));
        table.tally(Some(last), |counters| bump(&mut counters.renewed));
        let own = table.get(last).unwrap().counters().unwrap();
        assert_eq!((own.acquired, own.renewed, own.adopted), (0, 1, 1));
        check(&table);
        // Reading the counters of a stale idle lock shows that it has none.
        table.settle_counters(idle);
        assert_eq!(table.find(Name { db: 0, key: &key(locks - 2) }), None);
        check(&table);
        table.reset_counters();
        for _ in 0..=RESET_AT_ONCE / UNTRACKED_AT_A_TIME {
            table.forget_idle();
            check(&table);
        }
        assert!(!table.has_stale);
        assert_eq!(table.tracked().count() as u64, held);
    }

    #[test]
    fn a_stale_lock_that_ends_or_loses_a_waiter_adds_up() {
        let locks = RESET_AT_ONCE as u32 + 2;
        let mut table = tracking(u64::from(locks));
        let ids: Vec<Id> = (0..locks).map(|n| use_lock(&mut table, n)).collect();
        let [.., waited, held] = ids[..] else { unreachable!() };
        table.add_position(waited, true);
        table.reset_counters();
        table.end_hold(held);
        table.tally(Some(held), |counters| bump(&mut counters.releases));
        let own = table.get(held).unwrap().counters().unwrap();
        assert_eq!(own.expected_held(), 0);
        table.remove_position(waited, true);
        assert_eq!(table.get(waited).unwrap().counters().unwrap().expected_held(), 1);
        assert_eq!(table.tracked_connected(), 0);
        assert_eq!(sum(&table, Counters::expected_held), table.held());
    }

    #[test]
    fn the_counters_above_a_lower_limit_are_removed_in_portions() {
        let mut table = tracking(10_000);
        for n in 0..1_000 {
            let id = use_lock(&mut table, n);
            release(&mut table, id);
        }
        table.set_tracked_limit(0);
        assert_eq!(table.tracked().count(), 1_000 - UNTRACKED_AT_A_TIME);
        // A new lock has none.
        let id = use_lock(&mut table, 1_000);
        assert!(table.get(id).unwrap().own.is_none());
        for _ in 0..4 {
            table.forget_idle();
        }
        assert_eq!(table.tracked().count(), 0);
    }

    #[test]
    fn a_call_for_many_locks_tracks_few_above_the_limit() {
        let mut table = tracking(1_000);
        for _ in 0..4 {
            for n in 0..1_000 {
                let id = use_lock(&mut table, n);
                table.end_hold(id);
            }
            table.forget_idle();
            for n in 1_000..3_000 {
                use_lock(&mut table, n);
            }
            assert!(table.tracked_count() <= 1_000 + UNTRACKED_AT_A_TIME as u64);
            for n in 1_000..3_000 {
                let id = table.find(Name { db: 0, key: &key(n) }).unwrap();
                table.end_hold(id);
            }
            table.forget_idle();
        }
    }

    #[test]
    fn locks_with_long_keys_are_not_tracked() {
        let mut table = tracking(4);
        for (len, is_tracked) in [(TRACKED_KEY_MAX, true), (TRACKED_KEY_MAX + 1, false)] {
            let key = vec![b'k'; len];
            let id = table.find_or_create(Name { db: 0, key: &key }).unwrap();
            assert_eq!(table.get(id).unwrap().own.is_some(), is_tracked);
        }
    }
}
