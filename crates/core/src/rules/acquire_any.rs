//! ACQUIREANY: grants the first free locks of a set in the order in which they are named, all at
//! once or none. The locks that a UNIQUE owner holds already count first.
//!
//! Opening a key costs more than looking up the record of its lock. So the keys are looked at one
//! at a time, until the call is decided, and those of locks that the record shows as held come last:
//!
//! ```text
//!   ACQUIREANY 5 gpu:0 … gpu:4 me     gpu:0    gpu:1    gpu:2    gpu:3    gpu:4
//!   the record                        held     held     free     held     free
//!   the keys that are looked at                         free: the call is decided
//! ```
//!
//! The record may be older than the keys. So a call is refused, or waits, only after all its keys
//! were looked at.
//!
//! With GROUPS the call gets locks of each of several groups. Without, all keys are one group.
//!
//! NEAR changes the order in which the keys are looked at (`near`), and so which locks the call gets;
//! its reply names them in the order given.

use std::ops::Range;

use smallvec::SmallVec;

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::{Acquire, AcquireAny, Groups};
use crate::rules::acquire::CallerContext;
use crate::rules::hold::GrantParams;
use crate::rules::near::{Order, Preference, Preferences, number_of, preferred_first};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lease;
use crate::state::lock::Name;
use crate::state::lock_groups::LockGroups;
use crate::state::turn::Turn;
use crate::state::wait_queue::{Locks, Ticket};

/// What became of a call, and what to write to the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquiredAny {
    /// Set these keys, or their expiry.
    Granted(KeyGrants),
    /// Nothing: fewer locks are available than wanted.
    Contested {
        /// Indexes of the keys whose locks are available.
        free: Vec<usize>,
    },
}

/// The locks that a call gets, in the order in which they were named.
pub type KeyGrants = SmallVec<[KeyGrant; 1]>;

/// A lock that a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGrant {
    /// The index of its key.
    pub index: usize,
    /// The fencing token.
    pub token: u64,
    /// When the lease expires, in ms since the epoch.
    pub until_ms: u64,
    /// The owner held it before: only the expiry of the key changes.
    pub renewed: bool,
}

/// The search for the locks that a call gets. Opening a key may call back into the module, which may
/// forget a lock and use its id for another one, so locks are looked up again after that.
#[derive(Debug)]
pub struct Search<'a> {
    db: u32,
    names: &'a [&'a [u8]],
    /// The number of locks to get of each of the wanted groups.
    count: usize,
    /// The groups in the order of the keys.
    groups: SmallVec<[SearchedGroup; 1]>,
    /// The number of groups to get locks of.
    groups_wanted: usize,
    named_groups: Option<&'a Groups>,
    near: Option<&'a [u8]>,
    how: &'a Acquire<'a>,
    lease_ms: u64,
    keys: SmallVec<[SearchedKey; 8]>,
    stage: Stage,
    /// With NEAR: the indexes of the keys, those first whose locks it prefers. Else empty: the order
    /// in which they are named.
    order: Order,
    /// The place in the order of the next key in this stage.
    next: usize,
    /// The key that was looked at last, and its lock. No key was opened since.
    last: Option<(usize, Option<Id>)>,
    /// The calls in which the UNIQUE owner waits for any of the locks.
    own: Vec<Ticket>,
    /// The one of them whose position the call would take over.
    same: Option<Ticket>,
    /// The turn of the call. It is computed only if one of the locks has a waiter.
    turn: Option<Turn>,
}

/// A group of keys.
#[derive(Clone, Debug)]
struct SearchedGroup {
    /// The indexes of its keys.
    keys: Range<usize>,
    /// The number of locks found that the owner holds.
    held: usize,
    /// The number of locks found that are free for it.
    free: usize,
}

/// A key of the call.
#[derive(Clone, Copy, Debug)]
struct SearchedKey {
    hash: u64,
    found: Found,
    /// The last hold of its lock had the tag of NEAR.
    is_near: bool,
}

/// What is known of the lock of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing yet.
    Nothing,
    /// The record was looked up, and its key is looked at in this stage.
    Record(Stage),
    /// The key was looked at.
    Key(Availability),
}

/// The order in which the keys are looked at, by what the record says of their locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The UNIQUE owner of the call holds them: these count first.
    Own,
    /// Not held, or no longer. A key of these may show the UNIQUE owner all the same, for example
    /// after a restart, so for such an owner the stage does not end early.
    NotHeld,
    /// Another owner holds them.
    HeldByOther,
}

/// Whether the call can get a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Availability {
    /// Its owner holds it.
    Held,
    /// It is free, and no waiter comes first.
    Free,
    /// It cannot.
    Unavailable,
}

impl<'a> Search<'a> {
    /// The search of a call.
    pub fn new(db: u32, request: &'a AcquireAny<'_>) -> Self {
        Self {
            db,
            names: &request.keys,
            count: request.count,
            groups: groups_of(request),
            named_groups: request.groups.as_ref().filter(|_| request.wants() > 1),
            groups_wanted: request.groups.as_ref().map_or(1, |groups| groups.wanted),
            near: request.near,
            how: &request.how,
            lease_ms: 0,
            keys: SmallVec::new(),
            stage: if request.how.unique { Stage::Own } else { Stage::NotHeld },
            order: Order::new(),
            next: 0,
            last: None,
            own: Vec::new(),
            same: None,
            turn: None,
        }
    }

    /// The groups of the call as a waiter would have them.
    fn lock_groups(&self) -> Option<LockGroups> {
        self.named_groups.map(|groups| LockGroups::new(groups, self.count))
    }

    /// The number of locks to get in all.
    fn wants(&self) -> usize {
        self.count.saturating_mul(self.groups_wanted)
    }

    fn name(&self, index: usize) -> Name<'a> {
        Name { db: self.db, key: self.names.get(index).copied().unwrap_or_default() }
    }

    fn hash(&self, index: usize) -> u64 {
        self.keys.get(index).map_or(0, |key| key.hash)
    }

    /// Whether no key that is left can change what the call gets.
    fn is_decided(&self) -> bool {
        let may_show_owner = self.how.unique && self.stage != Stage::HeldByOther;
        let is_decided = |group: &&SearchedGroup| match may_show_owner {
            true => group.held >= self.count,
            false => group.is_enough(self.count),
        };
        self.groups.iter().filter(is_decided).count() >= self.groups_wanted
    }

    /// The groups that the call gets locks of, in the order of the keys: those of which the owner
    /// holds a lock first, then those near to the call, then the first named. None when too few of
    /// them have enough locks.
    fn chosen_groups(&self) -> Option<SmallVec<[SearchedGroup; 1]>> {
        let is_enough =
            |(_, group): &(usize, &SearchedGroup)| group.is_enough(self.count);
        let enough = self.groups.iter().enumerate().filter(is_enough);
        let mut chosen: SmallVec<[_; 1]> = enough
            .map(|(number, group)| {
                ((group.held == 0, !self.is_near(group), number), group)
            })
            .collect();
        if chosen.len() < self.groups_wanted {
            return None;
        }
        chosen.sort_unstable_by_key(|(preference, _)| *preference);
        chosen.truncate(self.groups_wanted);
        chosen.sort_unstable_by_key(|((.., number), _)| *number);
        Some(chosen.into_iter().map(|(_, group)| group.clone()).collect())
    }

    /// The locks that the call gets of a group: those that its owner holds first, then free ones; in
    /// the order of the keys, each with whether the owner holds it.
    fn chosen_of(&self, group: &SearchedGroup) -> SmallVec<[(usize, bool); 2]> {
        let mut held_left = group.held.min(self.count);
        let mut free_left = self.count.saturating_sub(held_left);
        let nearest = self.nearest_free(group, free_left);
        let mut chosen = SmallVec::new();
        let keys = self.keys.get(group.keys.clone()).unwrap_or_default();
        for (index, key) in group.keys.clone().zip(keys) {
            let (left, held) = match key.found {
                Found::Key(Availability::Held) => (&mut held_left, true),
                Found::Key(Availability::Free) => (&mut free_left, false),
                _ => continue,
            };
            let is_chosen = |it: &Order| it.binary_search(&number_of(index)).is_ok();
            if *left > 0 && (held || nearest.as_ref().is_none_or(is_chosen)) {
                *left = left.saturating_sub(1);
                chosen.push((index, held));
            }
            if chosen.len() == self.count {
                break;
            }
        }
        chosen
    }

    /// The group of a key.
    fn group_mut(&mut self, index: usize) -> Option<&mut SearchedGroup> {
        let number = self.groups.partition_point(|group| group.keys.end <= index);
        self.groups.get_mut(number)
    }

    /// Adds what a key showed.
    fn add(&mut self, index: usize, lock: Option<Id>, availability: Availability) {
        if let Some(group) = self.group_mut(index) {
            match availability {
                Availability::Held => group.held = group.held.saturating_add(1),
                Availability::Free => group.free = group.free.saturating_add(1),
                Availability::Unavailable => {}
            }
        }
        if let Some(key) = self.keys.get_mut(index) {
            key.found = Found::Key(availability);
        }
        self.last = Some((index, lock));
    }

    /// Whether a key showed a lock that is free for the call.
    fn is_free(&self, index: usize) -> bool {
        let key = self.keys.get(index);
        key.is_some_and(|key| key.found == Found::Key(Availability::Free))
    }

    /// A free lock is no longer available.
    fn lose(&mut self, index: usize) {
        if let Some(group) = self.group_mut(index) {
            group.free = group.free.saturating_sub(1);
        }
        if let Some(key) = self.keys.get_mut(index) {
            key.found = Found::Key(Availability::Unavailable);
        }
    }

    /// Whether the keys are not looked at in the order in which they are named. The locks that the
    /// owner holds already are.
    fn is_reordered(&self) -> bool {
        !self.order.is_empty() && self.stage != Stage::Own
    }

    /// Whether a group has a free lock whose last hold had the tag of NEAR.
    fn is_near(&self, group: &SearchedGroup) -> bool {
        let keys = self.keys.get(group.keys.clone()).unwrap_or_default();
        !self.order.is_empty()
            && keys
                .iter()
                .any(|key| key.found == Found::Key(Availability::Free) && key.is_near)
    }

    /// With NEAR: the indexes of the free locks of a group that the call gets, sorted.
    fn nearest_free(&self, group: &SearchedGroup, count: usize) -> Option<Order> {
        let found = |index: &u16| self.keys.get(usize::from(*index)).map(|key| key.found);
        let is_free = |index: &u16| {
            group.keys.contains(&usize::from(*index))
                && found(index) == Some(Found::Key(Availability::Free))
        };
        let free = self.order.iter().copied().filter(is_free);
        let mut nearest: Order = free.take(count).collect();
        nearest.sort_unstable();
        (!self.order.is_empty()).then_some(nearest)
    }

    /// Whether two of the keys are the same.
    fn has_key_twice(&self) -> bool {
        if self.names.len() < 2 {
            return false;
        }
        // A hash table with open addressing. An entry is the index of a key, plus one; 0: none.
        let size = self.names.len().saturating_mul(2).next_power_of_two();
        let mask = size.saturating_sub(1);
        let mut entries: SmallVec<[u16; 16]> = SmallVec::from_elem(0, size);
        let (entries, keys) = (entries.as_mut_slice(), self.keys.as_slice());
        for (number, (key, name)) in (1..).zip(keys.iter().zip(self.names)) {
            let mut at = usize::try_from(key.hash).unwrap_or(0) & mask;
            while let Some(entry) = entries.get_mut(at) {
                let Some(other) = usize::from(*entry).checked_sub(1) else {
                    *entry = number;
                    break;
                };
                if keys.get(other).is_some_and(|other| other.hash == key.hash)
                    && self.names.get(other) == Some(name)
                {
                    return true;
                }
                at = at.saturating_add(1) & mask;
            }
        }
        false
    }
}

impl SearchedGroup {
    fn is_enough(&self, count: usize) -> bool {
        self.held.saturating_add(self.free) >= count
    }
}

/// The groups of a call: without GROUPS, one of all keys.
fn groups_of(request: &AcquireAny<'_>) -> SmallVec<[SearchedGroup; 1]> {
    let group = |keys| SearchedGroup { keys, held: 0, free: 0 };
    match &request.groups {
        Some(groups) => groups.ranges().map(group).collect(),
        None => SmallVec::from_buf([group(0..request.keys.len())]),
    }
}

impl LockManager {
    /// Begins the search of a call. Returns the index of the first key to look at.
    ///
    /// # Errors
    /// When a key is given twice, the lease is too long, or there is no connection to tie the locks
    /// to.
    pub fn search_locks(
        &mut self,
        search: &mut Search<'_>,
        caller: CallerContext,
        now: Now,
    ) -> Result<Option<usize>, CommandError> {
        self.expire_waits(now);
        self.count_acquire_any(search.db, search.names);
        let Search { db, names, how, .. } = *search;
        let hash = |key: &&[u8]| self.table.hash(Name { db, key });
        let searched =
            |key| SearchedKey { hash: hash(key), found: Found::Nothing, is_near: false };
        search.keys.extend(names.iter().map(searched));
        if search.has_key_twice() {
            return Err(CommandError::KeyTwice);
        }
        if how.session_grace_ms.is_some() && caller.client.is_none() {
            return Err(CommandError::SessionInScript);
        }
        self.check_priority(how)?;
        search.lease_ms = lease::requested(how.lease_ms, &self.settings)?;
        if let Some(tag) = search.near {
            self.order_by_tag(search, tag, now);
        }
        if how.unique && !self.queues.is_empty() {
            let known = self.known_locks(search);
            search.own = self.own_positions(&known, how);
            if known.len() == names.len() {
                let (wants, groups) = (search.wants(), search.lock_groups());
                search.same =
                    self.same_call(&search.own, &known, wants, groups.as_ref(), how, now);
            }
        }
        Ok(self.next_key(search, now))
    }

    /// Counts a call, also one that gets an error.
    pub fn count_acquire_any(&mut self, db: u32, keys: &[&[u8]]) {
        let known = self.counted_alone(db, keys);
        self.count(known, |counters| &mut counters.acquire_requests);
    }

    /// The lock whose own counters count a call: a call for several locks counts for the server
    /// only.
    fn counted_alone(&self, db: u32, keys: &[&[u8]]) -> Option<Id> {
        match keys {
            [key] => self.table.find(Name { db, key }),
            _ => None,
        }
    }

    /// The lock of a key, if the table has it.
    fn find_searched(&self, search: &Search<'_>, index: usize) -> Option<Id> {
        self.table.find_hashed(search.hash(index), search.name(index))
    }

    /// The locks of the call that the table has.
    fn known_locks(&self, search: &Search<'_>) -> Locks {
        let indexes = 0..search.names.len();
        indexes.filter_map(|index| self.find_searched(search, index)).collect()
    }

    /// The index of the key to look at next. None when the call is decided, or all its keys were
    /// looked at.
    fn next_key(&self, search: &mut Search<'_>, now: Now) -> Option<usize> {
        while !self.is_decided(search) {
            if let Some(index) = self.next_in_stage(search, now) {
                return Some(index);
            }
            search.stage = match search.stage {
                Stage::Own => Stage::NotHeld,
                Stage::NotHeld => Stage::HeldByOther,
                Stage::HeldByOther => return None,
            };
            search.next = 0;
        }
        None
    }

    /// Whether no key that is left can change what the call gets, also without the locks that it has
    /// lost.
    fn is_decided(&self, search: &mut Search<'_>) -> bool {
        search.is_decided() && (!self.has_lost_any(search) || search.is_decided())
    }

    /// Whether free locks that were found are no longer available. A waiter with GROUPS may turn to
    /// another group when it counts what a later key showed, and takes them.
    fn has_lost_any(&self, search: &mut Search<'_>) -> bool {
        if !self.queues.has_any_groups() {
            return false;
        }
        let mut has_lost = false;
        for index in 0..search.keys.len() {
            let is_lost = search.is_free(index)
                && self
                    .find_searched(search, index)
                    .is_some_and(|id| !self.is_turn_of_search(id, search));
            if is_lost {
                search.lose(index);
                has_lost = true;
            }
        }
        has_lost
    }

    fn next_in_stage(&self, search: &mut Search<'_>, now: Now) -> Option<usize> {
        if search.is_reordered() {
            return self.next_in_order(search, now);
        }
        let Search { db, names, how, ref mut keys, stage, next, .. } = *search;
        let rest = keys.get_mut(next..)?.iter_mut().zip(names.get(next..)?);
        for (index, (key, name)) in (next..).zip(rest) {
            if key.found == Found::Nothing {
                let name = Name { db, key: name };
                key.found = Found::Record(self.stage_of(key.hash, name, how, now));
            }
            if key.found == Found::Record(stage) {
                search.next = index.saturating_add(1);
                return Some(index);
            }
        }
        None
    }

    /// The same with NEAR.
    fn next_in_order(&self, search: &mut Search<'_>, now: Now) -> Option<usize> {
        while let Some(index) = search.order.get(search.next).copied().map(usize::from) {
            search.next = search.next.saturating_add(1);
            let (name, how, stage) = (search.name(index), search.how, search.stage);
            let key = search.keys.get_mut(index)?;
            if key.found == Found::Nothing {
                key.found = Found::Record(self.stage_of(key.hash, name, how, now));
            }
            if key.found == Found::Record(stage) {
                return Some(index);
            }
        }
        None
    }

    /// With NEAR: sets the order in which the keys are looked at, group after group.
    fn order_by_tag(&self, search: &mut Search<'_>, tag: &[u8], now: Now) {
        let mut groups: SmallVec<[(bool, usize, Order); 1]> = SmallVec::new();
        for (number, group) in search.groups.clone().into_iter().enumerate() {
            let (mut preferences, mut is_far) = (Preferences::new(), true);
            for index in group.keys {
                let (hash, name) = (search.hash(index), search.name(index));
                let lock = self.find_searched(search, index);
                let preference = self.preference(tag, hash, lock);
                let is_near = preference == Preference::Same;
                if is_near && self.stage_of(hash, name, search.how, now) == Stage::NotHeld
                {
                    is_far = false;
                }
                if let Some(key) = search.keys.get_mut(index) {
                    key.is_near = is_near;
                }
                preferences.push((preference, number_of(index)));
            }
            groups.push((is_far, number, preferred_first(preferences)));
        }
        groups.sort_unstable_by_key(|(is_far, number, _)| (*is_far, *number));
        search.order = groups.into_iter().flat_map(|(_, _, order)| order).collect();
    }

    fn stage_of(&self, hash: u64, name: Name<'_>, how: &Acquire<'_>, now: Now) -> Stage {
        let known = self.table.find_hashed(hash, name);
        match known.and_then(|id| self.table.hold(id)) {
            Some(hold) if how.unique && *hold.owner == *how.owner => Stage::Own,
            Some(hold) if !hold.is_over(now.ms()) => Stage::HeldByOther,
            _ => Stage::NotHeld,
        }
    }

    /// The key of this index was looked at: reconciles its lock, and finds out whether the call can
    /// get it. A free lock that waiters come first for is left to the deferred work. Returns the
    /// index of the key to look at next; none when the call goes on with
    /// [`LockManager::acquire_any`].
    ///
    /// # Errors
    /// When the key is not a string.
    pub fn looked_at(
        &mut self,
        search: &mut Search<'_>,
        index: usize,
        state: &KeyState<'_>,
        now: Now,
    ) -> Result<Option<usize>, CommandError> {
        let mut lock = self.find_searched(search, index);
        if let Some(id) = lock {
            self.reconcile(id, state, now);
        }
        let availability = match *state {
            KeyState::OtherType => return Err(CommandError::WrongType),
            KeyState::String { value, expires } => {
                if is_valid_owner(value) {
                    lock = lock.or_else(|| self.create_searched(search, index));
                    if let Some(id) = lock {
                        self.adopt_unless_held(id, value, expires, now);
                    }
                }
                let is_held = |id| search.how.unique && self.holds(id, search.how.owner);
                match lock.is_some_and(is_held) {
                    true => Availability::Held,
                    false => Availability::Unavailable,
                }
            }
            KeyState::Elsewhere => Availability::Unavailable,
            KeyState::Absent => match lock {
                Some(id) => self.look_at_free(id, search),
                None => Availability::Free,
            },
        };
        search.add(index, lock, availability);
        Ok(self.next_key(search, now))
    }

    /// Finds out whether the call can get a free lock. One that waiters come first for passes on.
    fn look_at_free(&mut self, id: Id, search: &mut Search<'_>) -> Availability {
        let is_new = self.table.get(id).is_some_and(|lock| !lock.reserved);
        if is_new {
            self.offer_to_groups(id);
        }
        let is_callers_turn = self.is_turn_of_search(id, search);
        // Its first waiter gets it, unless the call comes before that one and takes it.
        if is_new && (!is_callers_turn || self.queues.first_taker(id).is_some()) {
            self.deferred.hand_off(id);
        }
        if is_callers_turn { Availability::Free } else { Availability::Unavailable }
    }

    fn create_searched(&mut self, search: &Search<'_>, index: usize) -> Option<Id> {
        self.table.find_or_create_hashed(search.hash(index), search.name(index))
    }

    /// Whether a free lock goes to the call.
    fn is_turn_of_search(&self, id: Id, search: &mut Search<'_>) -> bool {
        if self.table.get(id).is_none_or(|lock| lock.connected == 0) {
            return true;
        }
        let position = self.queues.position_of(search.how.owner, id);
        let position = position.filter(|position| search.own.contains(position));
        let turn = search.turn.unwrap_or_else(|| {
            self.turn_of_caller(search.same, &self.known_locks(search), search.how)
        });
        search.turn = Some(turn);
        self.is_turn_of(id, position, turn)
    }

    /// Decides a call that has no further key to look at. One that may wait and gets
    /// [`AcquiredAny::Contested`] goes on with [`LockManager::wait`].
    ///
    /// # Errors
    /// When new holds would need memory. Then no key changes.
    pub fn acquire_any(
        &mut self,
        search: &Search<'_>,
        caller: CallerContext,
        now: Now,
    ) -> Result<AcquiredAny, CommandError> {
        let Some(groups) = search.chosen_groups() else {
            return Ok(self.refuse_any(search, caller));
        };
        let how = search.how;
        let has_new = groups.iter().any(|group| group.held < search.count);
        if has_new && !caller.has_memory {
            return Err(CommandError::OutOfMemory);
        }
        let mut chosen: SmallVec<[(usize, Id, bool); 2]> = SmallVec::new();
        for (index, held) in groups.iter().flat_map(|group| search.chosen_of(group)) {
            if !self.is_as_found(search, index, held) {
                return Ok(self.refuse_any(search, caller));
            }
            let last = search.last.filter(|(last, _)| *last == index);
            let lock = last.and_then(|(_, lock)| lock);
            let lock = lock.or_else(|| self.create_searched(search, index));
            chosen.push((index, lock.ok_or(CommandError::OutOfMemory)?, held));
        }
        if has_new && !search.own.is_empty() {
            self.give_up_positions(&self.known_locks(search), how, now);
        }
        let params = GrantParams {
            owner: how.owner,
            lease_ms: search.lease_ms,
            unique: how.unique,
            session: caller.client.zip(how.session_grace_ms),
            share: how.share,
            tag: search.near,
        };
        let mut grants = KeyGrants::new();
        for (index, lock, renewed) in chosen {
            let (token, until_ms) = match renewed {
                true => self.renew_unique(lock, &params, now)?,
                false => self.grant(lock, &params, now),
            };
            grants.push(KeyGrant { index, token, until_ms, renewed });
        }
        Ok(AcquiredAny::Granted(grants))
    }

    /// Whether a lock is still held by the owner of the call, or still free. Opening a later key
    /// may have called back into the module, which may have granted or released it.
    fn is_as_found(&self, search: &Search<'_>, index: usize, held: bool) -> bool {
        if search.last.is_some_and(|(last, _)| last == index) {
            return true;
        }
        let lock = self.find_searched(search, index);
        match lock.and_then(|id| self.table.hold(id)) {
            Some(hold) => held && *hold.owner == *search.how.owner,
            None => !held,
        }
    }

    fn refuse_any(&mut self, search: &Search<'_>, caller: CallerContext) -> AcquiredAny {
        if search.how.block_ms.is_none() || !caller.may_wait {
            let known = self.counted_alone(search.db, search.names);
            self.count(known, |counters| &mut counters.refused);
        }
        let is_free = |(index, key): (usize, &SearchedKey)| {
            let is_free = key.found == Found::Key(Availability::Free)
                && self.is_as_found(search, index, false);
            is_free.then_some(index)
        };
        let free = search.keys.iter().enumerate().filter_map(is_free).collect();
        AcquiredAny::Contested { free }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::commands::Outcome;
    use crate::engine::deferred;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::rules::session::DeferredOutcome;
    use crate::rules::test_support::{
        GPU, LEASE_END, acquire, after, begin, client, counted, held, holder, id,
        in_session, manager, name, queue, replies, request, shows, unique, wait,
        wait_for_set,
    };
    use crate::state::deferred::Deferred;
    use crate::state::key_state::Expires;

    const KEYS: [&str; 4] = ["gpu:0", "gpu:1", "gpu:2", "gpu:3"];

    /// A call for `count` of some locks.
    struct Case<'a> {
        what: &'static str,
        /// One letter a lock, see [`prepare`].
        locks: &'static str,
        count: usize,
        how: Acquire<'a>,
        caller: CallerContext,
        /// The indexes of the locks that the caller gets, `=` if it held one before; or of the
        /// free ones if it gets none.
        outcome: Result<&'static str, CommandError>,
        counted: &'static str,
    }

    /// Makes the record of a lock, and returns what its key shows. The lock is: `f`ree; held by
    /// `m`e; held by another `o`wner; `s`et by another owner, or set by me (`S`), and not known;
    /// held by another owner in the record, but `d`eleted; held by another owner in the record,
    /// but set again by me (`D`); with an e`x`pired lease of another owner, and deleted; free, but
    /// `w`aited for; `r`eserved for a lock set of another waiter; an `e`mpty value; another
    /// `t`ype; held by another owner in the record, but of another `T`ype.
    fn prepare(
        manager: &mut LockManager,
        key: &'static str,
        letter: char,
    ) -> KeyState<'static> {
        let waiter = 20 + u64::from(key.as_bytes()[4]);
        if "odDT".contains(letter) {
            held(manager, key, "other");
        }
        match letter {
            'f' | 'd' => KeyState::Absent,
            'm' => {
                held(manager, key, "me");
                shows("me")
            }
            'o' | 's' => shows("other"),
            'S' | 'D' => shows("me"),
            'x' => {
                let short = Acquire { lease_ms: Some(50), ..request("other") };
                acquire(manager, key, &short, 1);
                KeyState::Absent
            }
            'w' => {
                wait(manager, key, &request("b"), waiter);
                KeyState::Absent
            }
            'r' => {
                wait_for_set(manager, &[key, "cpu"], 2, &request("b"), waiter);
                manager.hand_off_next(id(manager, key), after(0));
                KeyState::Absent
            }
            'e' => shows(""),
            't' | 'T' => KeyState::OtherType,
            _ => unreachable!("{letter}"),
        }
    }

    fn outcome(acquired: AcquiredAny) -> String {
        match acquired {
            AcquiredAny::Granted(grants) => {
                let shown = grants.iter().map(|grant| {
                    format!("{}{}", grant.index, if grant.renewed { "=" } else { "" })
                });
                format!("granted {}", shown.collect::<Vec<_>>().join(" "))
            }
            AcquiredAny::Contested { free } => format!("none, free: {}", joined(&free)),
        }
    }

    fn joined(indexes: &[usize]) -> String {
        indexes.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
    }

    /// A call for some locks whose keys show these states. Returns also the indexes of the keys
    /// that it looks at.
    fn call_any(
        manager: &mut LockManager,
        (keys, count, how): (&[&str], usize, Acquire<'_>),
        states: &[KeyState<'_>],
        caller: CallerContext,
        now: Now,
    ) -> (Result<String, CommandError>, Vec<usize>) {
        let keys = keys.iter().map(|key| key.as_bytes()).collect();
        let call = AcquireAny { keys, count, groups: None, near: None, how };
        let mut search = Search::new(0, &call);
        let mut looked_at = Vec::new();
        let mut next = manager.search_locks(&mut search, caller, now);
        while let Ok(Some(index)) = next {
            looked_at.push(index);
            next = manager.looked_at(&mut search, index, &states[index], now);
        }
        let acquired = next.and_then(|_| manager.acquire_any(&search, caller, now));
        (acquired.map(outcome), looked_at)
    }

    /// The same for locks in the states of [`prepare`], on a new record.
    fn call_prepared(
        locks: &str,
        count: usize,
        how: Acquire<'_>,
        caller: CallerContext,
    ) -> (LockManager, Result<String, CommandError>, Vec<usize>) {
        let mut manager = manager();
        let keys = &KEYS[..locks.len()];
        let states: Vec<KeyState<'_>> = keys
            .iter()
            .zip(locks.chars())
            .map(|(key, letter)| prepare(&mut manager, key, letter))
            .collect();
        begin(&mut manager);
        let call = (keys, count, how);
        let (outcome, looked_at) =
            call_any(&mut manager, call, &states, caller, after(50));
        (manager, outcome, looked_at)
    }

    fn check(case: &Case<'_>) {
        let what = case.what;
        let (manager, outcome, _) =
            call_prepared(case.locks, case.count, case.how, case.caller);
        assert_eq!(outcome, case.outcome.clone().map(str::to_owned), "{what}: outcome");
        assert_eq!(counted(&manager), case.counted, "{what}: counters");
    }

    #[test]
    #[rustfmt::skip]
    fn the_first_free_locks_are_granted_or_none() {
        let call = |what, locks, count, how, outcome, counted| {
            let (caller, outcome) = (client(7), Ok(outcome));
            check(&Case { what, locks, count, how, caller, outcome, counted });
        };
        call("the preferred one", "fff", 1, request("me"),
            "granted 0", "acquire_requests acquired");
        call("the preferred two", "fff", 2, request("me"),
            "granted 0 1", "acquire_requests acquired=2");
        call("held ones are skipped", "ofo", 1, request("me"),
            "granted 1", "acquire_requests acquired");
        call("too few: none is granted", "fof", 3, request("me"),
            "none, free: 0 2", "acquire_requests refused");
        call("none is free", "ooo", 1, request("me"),
            "none, free: ", "acquire_requests refused");
        call("those of the same owner do not count without UNIQUE", "mff", 2, request("me"),
            "granted 1 2", "acquire_requests acquired=2");
        call("with UNIQUE they count first", "ffm", 1, unique("me"),
            "granted 2=", "acquire_requests renewed");
        call("with UNIQUE only the rest is acquired", "fmf", 2, unique("me"),
            "granted 0 1=", "acquire_requests acquired renewed");
        call("at most COUNT of them", "mmm", 2, unique("me"),
            "granted 0= 1=", "acquire_requests renewed=2");
        call("with UNIQUE, too few: none is renewed", "moo", 2, unique("me"),
            "none, free: ", "acquire_requests refused");
        call("with UNIQUE, a lock that the owner set itself counts first", "ffS", 1, unique("me"),
            "granted 2=", "acquire_requests renewed adopted");
        call("a string that the module did not write is adopted", "sff", 1, request("me"),
            "granted 1", "acquire_requests acquired adopted");
        call("one behind the decision is not", "fsf", 1, request("me"),
            "granted 0", "acquire_requests acquired");
        call("an empty value is held, but not adopted", "eff", 1, request("me"),
            "granted 1", "acquire_requests acquired");
        call("a waiter comes first", "wff", 1, request("me"),
            "granted 1", "acquire_requests acquired");
        call("a reserved lock is not free", "rrf", 2, request("me"),
            "none, free: 2", "acquire_requests refused");
        call("the lock whose deletion is not known is not preferred", "dff", 2, request("me"),
            "granted 1 2", "acquire_requests acquired=2");
        call("it is found before the call is refused", "odo", 1, request("me"),
            "granted 1", "acquire_requests acquired removed");
        call("with another free one", "dof", 2, request("me"),
            "granted 0 2", "acquire_requests acquired=2 removed");
        call("one that the owner set again instead is found likewise", "oDo", 1, unique("me"),
            "granted 1=", "acquire_requests renewed adopted removed");
        call("an expired lease is known to be over", "xff", 1, request("me"),
            "granted 0", "acquire_requests acquired expired");
    }

    #[test]
    #[rustfmt::skip]
    fn keys_are_looked_at_in_order_until_the_call_is_decided() {
        for (what, locks, count, how, expected) in [
            ("the first one is free", "ffff", 1, request("me"), "0"),
            ("two", "ffff", 2, request("me"), "0 1"),
            ("those held by others are passed over", "ooff", 1, request("me"), "2"),
            ("also the own ones without UNIQUE", "mmff", 1, request("me"), "2"),
            ("until too few are free", "ofoo", 2, request("me"), "1 0 2 3"),
            ("only until the call is decided", "odof", 2, request("me"), "3 0 1"),
            ("a lease that is over", "xooo", 1, request("me"), "0"),
            ("a waiter comes first", "wfff", 1, request("me"), "0 1"),
            ("too few keys", "oooo", 1, request("me"), "0 1 2 3"),
            ("UNIQUE: the own ones first", "ffmf", 1, unique("me"), "2"),
            ("UNIQUE: any other key may show the owner", "fffm", 2, unique("me"), "3 0 1 2"),
            ("UNIQUE: but those held by others are passed over", "offo", 1, unique("me"), "1 2"),
            ("UNIQUE: until too few are found", "omof", 3, unique("me"), "1 3 0 2"),
        ] {
            let (_, _, looked_at) = call_prepared(locks, count, how, client(7));
            assert_eq!(joined(&looked_at), expected, "{what}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn errors_and_callers() {
        let script = CallerContext { client: None, may_wait: false, has_memory: true };
        let no_memory = CallerContext { has_memory: false, ..client(7) };
        let with_block = Acquire { block_ms: Some(0), ..request("me") };
        let too_long = Acquire { lease_ms: Some(86_400_001), ..request("me") };
        let call = |what, locks, count, how, caller, outcome, counted| {
            check(&Case { what, locks, count, how, caller, outcome, counted });
        };
        call("another type on the way", "tff", 1, request("me"), client(7),
            Err(CommandError::WrongType), "acquire_requests");
        call("another type behind the decision", "fft", 2, request("me"), client(7),
            Ok("granted 0 1"), "acquire_requests acquired=2");
        call("another type in place of a hold, passed over", "Tff", 1, request("me"), client(7),
            Ok("granted 1"), "acquire_requests acquired");
        call("another type in place of a hold, looked at", "oTf", 2, request("me"), client(7),
            Err(CommandError::WrongType), "acquire_requests removed");
        call("SESSION without a connection", "fff", 1, in_session("me", 0), script,
            Err(CommandError::SessionInScript), "acquire_requests");
        call("a lease that is too long", "fff", 1, too_long, client(7),
            Err(CommandError::LeaseTooLong { max_ms: 86_400_000 }), "acquire_requests");
        call("no memory for new holds", "mff", 2, unique("me"), no_memory,
            Err(CommandError::OutOfMemory), "acquire_requests");
        call("a renewal needs no memory", "mff", 1, unique("me"), no_memory,
            Ok("granted 0="), "acquire_requests renewed");
        call("a refusal needs no memory", "ooo", 1, request("me"), no_memory,
            Ok("none, free: "), "acquire_requests refused");
        call("with BLOCK, the caller goes on waiting", "ooo", 1, with_block, client(7),
            Ok("none, free: "), "acquire_requests");
        call("BLOCK in a script is ignored", "ooo", 1, with_block, script,
            Ok("none, free: "), "acquire_requests refused");
    }

    #[test]
    fn a_key_given_twice_is_found_among_any_number_of_keys() {
        let names: Vec<String> = (0..1024).map(|gpu| format!("gpu:{gpu}")).collect();
        for len in [1, 2, 3, 8, 9, 100, 1024] {
            let mut keys: Vec<&str> = names[..len].iter().map(String::as_str).collect();
            let call = |keys: &[&str]| {
                let states = vec![KeyState::Absent; keys.len()];
                let call = (keys, 1, request("me"));
                call_any(&mut manager(), call, &states, client(7), after(0))
            };
            assert_eq!(call(&keys).0, Ok("granted 0".to_owned()), "{len} keys");
            for (first, second) in [(0, len - 1), (len / 2, len - 1), (0, len / 2)] {
                if first != second {
                    let before = keys[second];
                    keys[second] = keys[first];
                    let (acquired, looked_at) = call(&keys);
                    assert_eq!(acquired, Err(CommandError::KeyTwice), "{first} {second}");
                    assert!(looked_at.is_empty(), "{first} {second}");
                    keys[second] = before;
                }
            }
        }
    }

    /// Asks for one of some locks, all of them free.
    fn ask(manager: &mut LockManager, keys: &[&str], how: Acquire<'_>) -> String {
        let states = vec![KeyState::Absent; keys.len()];
        let call = (keys, 1, how);
        let (acquired, _) = call_any(manager, call, &states, client(7), after(0));
        acquired.unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn a_free_lock_with_waiters_is_handed_off_as_deferred_work() {
        let mut manager = manager();
        wait(&mut manager, "gpu:0", &request("b"), 2);
        begin(&mut manager);
        assert_eq!(ask(&mut manager, &KEYS, request("me")), "granted 1");
        let lock = id(&manager, "gpu:0");
        assert_eq!(manager.take_deferred(), Some(Deferred::HandOff { lock }));
    }

    #[test]
    fn it_is_also_if_a_later_key_is_of_another_type() {
        let mut manager = manager();
        wait(&mut manager, "gpu:0", &request("b"), 2);
        begin(&mut manager);
        let call = (&KEYS[..2], 1, request("me"));
        let states = [KeyState::Absent, KeyState::OtherType];
        let (acquired, _) = call_any(&mut manager, call, &states, client(7), after(0));
        assert_eq!(acquired, Err(CommandError::WrongType));
        let lock = id(&manager, "gpu:0");
        assert_eq!(manager.take_deferred(), Some(Deferred::HandOff { lock }));
    }

    #[test]
    fn a_grant_gives_up_the_positions_of_the_unique_owner() {
        let mut manager = manager();
        held(&mut manager, "gpu:0", "other");
        let earlier = wait(&mut manager, "gpu:0", &unique("me"), 2);
        begin(&mut manager);
        manager.reconcile_named(name("gpu:0"), &KeyState::Absent, after(0));
        assert_eq!(ask(&mut manager, &KEYS, unique("me")), "granted 0");
        assert_eq!(queue(&manager, "gpu:0"), "");
        assert_eq!(replies(&mut manager), [(earlier, "null".to_owned())]);
    }

    #[test]
    fn also_those_for_locks_that_were_passed_over() {
        let mut manager = manager();
        held(&mut manager, "gpu:0", "other");
        let earlier = wait(&mut manager, "gpu:0", &unique("me"), 2);
        begin(&mut manager);
        assert_eq!(ask(&mut manager, &KEYS, unique("me")), "granted 1");
        assert_eq!(queue(&manager, "gpu:0"), "");
        assert_eq!(replies(&mut manager), [(earlier, "null".to_owned())]);
    }

    #[test]
    fn the_same_call_takes_over_its_turn() {
        for (keys, expected) in [
            (&["gpu:1", "gpu:0"][..], "granted 0"),
            // This is another call, and `b` comes before it.
            (&["gpu:0"], "none, free: "),
        ] {
            let mut manager = manager();
            wait_for_set(&mut manager, &["gpu:0", "gpu:1"], 1, &unique("me"), 2);
            wait_for_set(&mut manager, &["gpu:0", "gpu:1"], 1, &request("b"), 3);
            manager.client_gone(2, after(0));
            assert_eq!(ask(&mut manager, keys, unique("me")), expected, "{keys:?}");
        }
    }

    #[test]
    fn what_a_call_with_a_better_turn_leaves_passes_to_the_first_waiter() {
        for (priority, count, expected) in
            [(0, 2, "none, free: "), (1, 2, "none, free: 0"), (1, 1, "granted 0")]
        {
            let mut manager = manager();
            wait(&mut manager, "gpu:0", &request("b"), 2);
            held(&mut manager, "gpu:1", "other");
            let lock = id(&manager, "gpu:0");
            begin(&mut manager);
            let call = (&KEYS[..2], count, Acquire { priority, ..request("me") });
            let states = [KeyState::Absent, shows("other")];
            let (acquired, _) =
                call_any(&mut manager, call, &states, client(7), after(0));
            assert_eq!(acquired, Ok(expected.to_owned()), "PRIORITY {priority}");
            let work = manager.take_deferred().expect("the lock passes on if it is free");
            assert_eq!(work, Deferred::HandOff { lock }, "PRIORITY {priority}");
            if count == 1 {
                let outcome = manager.run_deferred(work, &shows("me"), after(0));
                assert_eq!(outcome, DeferredOutcome::Nothing);
            }
        }
    }

    #[test]
    fn what_a_call_with_groups_finds_and_does_not_take_passes_to_the_first_waiter() {
        let mut server = TestKeyspace::new();
        server.acquire("b", &request("other"), 1).unwrap();
        server.wait("b", &request("waits"), 2);
        // Its lease is over, so its key is looked at before the call is decided.
        server.now = after(700_000);
        let call = Acquire { priority: 1, ..request("me") };
        let groups = Some((2, &[2, 1][..]));
        let granted = server.acquire_groups(&["a", "b", "c"], 1, groups, call, 3);
        assert!(matches!(granted, Ok(Outcome::Granted(_))), "{granted:?}");
        deferred::run(&mut server, after(700_000));
        assert_eq!(server.owner("b"), Some("waits"));
    }

    #[test]
    fn a_call_has_one_turn_for_all_its_locks() {
        for (grants, expected) in [(15, "granted 0 1"), (16, "none, free: 0")] {
            let mut manager = manager();
            let last = Acquire { priority: -100, ..request("z") };
            wait_for_set(&mut manager, &["gpu:0", "gpu:3"], 2, &last, 2);
            let lock = id(&manager, "gpu:0");
            (0..grants).for_each(|_| manager.queues.count_grant(lock));
            wait_for_set(&mut manager, &["gpu:0", "gpu:2"], 2, &request("b"), 3);
            wait_for_set(&mut manager, &["gpu:1", "gpu:3"], 2, &request("c"), 4);
            let call = (&KEYS[..2], 2, Acquire { priority: 1, ..request("me") });
            let states = [KeyState::Absent; 2];
            let (acquired, _) =
                call_any(&mut manager, call, &states, client(7), after(0));
            assert_eq!(acquired, Ok(expected.to_owned()), "{grants} grants");
        }
    }

    #[test]
    fn only_a_call_for_one_lock_counts_in_the_counters_of_that_lock() {
        for (keys, requests) in [(&KEYS[..1], 1), (&KEYS, 0)] {
            let mut manager = manager();
            acquire(&mut manager, "gpu:0", &unique("me"), 1);
            let lock = id(&manager, "gpu:0");
            manager.table.use_counters(lock).unwrap().acquire_requests = 0;
            let mut states = vec![KeyState::Absent; keys.len()];
            states[0] = shows("me");
            let call = (keys, 1, unique("me"));
            let (acquired, _) =
                call_any(&mut manager, call, &states, client(7), after(0));
            assert_eq!(acquired, Ok("granted 0=".to_owned()));
            let own = manager.table.use_counters(lock).unwrap();
            assert_eq!((own.acquire_requests, own.renewed), (requests, 1), "{keys:?}");
            assert_eq!(holder(&manager, "gpu:0"), "me");
        }
    }

    #[test]
    fn no_key_is_looked_at_in_place_of_a_lost_lock_when_another_group_has_enough() {
        let mut server = TestKeyspace::new();
        server.acquire("a", &request("other"), 1).unwrap();
        let groups = (2, &[3, 1][..]);
        server.wait_for_groups(&["b", "c", "d", "a"], 1, groups, request("waits"), 2);
        // When `b` is looked at, the waiter takes `c` in its place, which was found free before.
        server.set_by_other("b", "plain", LEASE_END);
        server.opened();
        let groups = Some((1, &[2, 2][..]));
        let keys = ["c", "b", "a", "d"];
        let granted = server.acquire_groups(&keys, 1, groups, unique("me"), 3);
        assert!(matches!(granted, Ok(Outcome::Granted(_))), "{granted:?}");
        assert_eq!(server.owner("d"), Some("me"));
        assert_eq!(server.opened(), ["c", "b", "d"]);
    }

    /// Opening a key runs other modules, which may call a command of this one.
    #[test]
    fn a_lock_that_is_taken_while_later_keys_are_opened_is_not_granted() {
        let mut manager = manager();
        let keys = KEYS[..2].iter().map(|key| key.as_bytes()).collect();
        let call =
            AcquireAny { keys, count: 2, groups: None, near: None, how: request("me") };
        let mut search = Search::new(0, &call);
        let (caller, now) = (client(7), after(0));
        assert_eq!(manager.search_locks(&mut search, caller, now), Ok(Some(0)));
        let next = manager.looked_at(&mut search, 0, &KeyState::Absent, now);
        assert_eq!(next, Ok(Some(1)));
        held(&mut manager, "gpu:0", "other");
        let next = manager.looked_at(&mut search, 1, &KeyState::Absent, now);
        assert_eq!(next, Ok(None));
        let acquired = manager.acquire_any(&search, caller, now).map(outcome);
        assert_eq!(acquired, Ok("none, free: 1".to_owned()));
        assert_eq!(holder(&manager, "gpu:0"), "other");
    }

    #[test]
    fn a_lock_without_an_expiry_is_passed_over_until_it_is_needed() {
        let mut manager = manager();
        let state = KeyState::String { value: b"other", expires: Expires::Never };
        manager.acquire(name(GPU), &request("me"), &state, client(7), after(0)).unwrap();
        let states = [state, KeyState::Absent];
        let late = after(10 * LEASE_END);
        for (count, expected) in [(1, &[1][..]), (2, &[1, 0])] {
            let call = (&KEYS[..2], count, request("me"));
            let (_, looked_at) = call_any(&mut manager, call, &states, client(7), late);
            assert_eq!(looked_at, expected, "COUNT {count}");
            manager.table.end_hold(id(&manager, "gpu:1"));
        }
    }
}
