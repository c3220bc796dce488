//! ACQUIREANY: grants the first free locks of a set in the order in which they are named, all at once
//! or none. The locks that a UNIQUE owner holds already count first.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::AcquireAny;
use crate::rules::acquire::CallerContext;
use crate::rules::hold::GrantParams;
use crate::rules::lock_set::{Availability, Choice, KeyWrite, choose};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, OwnedKeyState, is_valid_owner};
use crate::state::lease;
use crate::state::lock::Name;
use crate::state::outbox::Grant;
use crate::state::wait_queue::Locks;

/// What became of a call, and what to write to the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquiredAny {
    /// Set these keys, or their expiry.
    Granted {
        /// What to write, in the order in which the keys were named.
        writes: Vec<KeyWrite>,
        /// What the caller gets, in the same order.
        grants: Vec<Grant>,
    },
    /// Nothing: fewer locks are available than wanted.
    Contested {
        /// Indexes of the keys whose locks are available.
        free: Vec<usize>,
    },
}

/// A lock that the call names.
struct Candidate {
    /// None: it is free, and nothing is known of it.
    id: Option<Id>,
    availability: Availability,
}

impl LockManager {
    /// Asks for some locks of a set. `states` are what the keys show, in the order of
    /// `request.keys`. A call that may wait and gets [`AcquiredAny::Contested`] goes on with
    /// [`LockManager::wait`].
    ///
    /// # Errors
    /// When a key is not a string, the lease is too long, new holds would need memory, or there is
    /// no connection to tie the locks to. Then nothing changes, except that expired waiters are
    /// removed.
    pub fn acquire_any(
        &mut self,
        db: u32,
        request: &AcquireAny<'_>,
        states: &[OwnedKeyState],
        caller: CallerContext,
        now: Now,
    ) -> Result<AcquiredAny, CommandError> {
        self.expire_waits(now);
        self.count_acquire_any(db, &request.keys);
        if states.iter().any(|state| matches!(state, OwnedKeyState::OtherType)) {
            return Err(CommandError::WrongType);
        }
        if request.how.session_grace_ms.is_some() && caller.client.is_none() {
            return Err(CommandError::SessionInScript);
        }
        let lease_ms = lease::asked(request.how.lease_ms, &self.settings)?;
        let candidates = self.candidates(db, request, states, now);
        let indexes: Vec<usize> = (0..candidates.len()).collect();
        let chosen = choose(&indexes, request.count, |index| {
            let candidate = candidates.get(*index);
            candidate.map_or(Availability::Unavailable, |it| it.availability)
        });
        if chosen.len() < request.count {
            if request.how.block_ms.is_none() || !caller.may_wait {
                let known = self.counted_alone(db, &request.keys);
                self.count(known, |counters| &mut counters.refused);
            }
            let is_free =
                |index: &usize| is_available(&candidates, *index, Availability::Free);
            let free = indexes.into_iter().filter(is_free).collect();
            return Ok(AcquiredAny::Contested { free });
        }
        let has_new = chosen.iter().any(|(_, held)| !held);
        if has_new && !caller.has_memory {
            return Err(CommandError::OutOfMemory);
        }
        let taken = self.find_or_make_chosen(db, &request.keys, &candidates, &chosen)?;
        if has_new {
            let known: Locks = candidates.iter().filter_map(|it| it.id).collect();
            self.give_up_positions(&known, &request.how, now);
        }
        let params = GrantParams {
            owner: request.how.owner,
            lease_ms,
            unique: request.how.unique,
            session: caller.client.zip(request.how.session_grace_ms),
        };
        let (writes, grants) = self.grant_set(&taken, &params, false, now);
        Ok(AcquiredAny::Granted { writes, grants })
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

    /// Reconciles the locks, and finds out which the caller can get. A free lock that waiters come
    /// first for is left to the deferred work.
    fn candidates(
        &mut self,
        db: u32,
        request: &AcquireAny<'_>,
        states: &[OwnedKeyState],
        now: Now,
    ) -> Vec<Candidate> {
        let named = request.keys.iter().zip(states);
        let ids: Vec<Option<Id>> = named
            .map(|(key, state)| self.reconcile_and_adopt(Name { db, key }, state, now))
            .collect();
        let known: Locks = ids.iter().flatten().copied().collect();
        let own = self.own_positions(&known, &request.how);
        let same = match known.len() == request.keys.len() {
            true => self.same_call(&own, &known, request.count, now),
            false => None,
        };
        let candidate = |(id, state): (&Option<Id>, &OwnedKeyState)| {
            let is_held = |id| request.how.unique && self.holds(id, request.how.owner);
            let is_turn = |id| {
                let position = self.queues.position_of(request.how.owner, id);
                let position = position.filter(|position| own.contains(position));
                self.is_turn_of(id, position, same)
            };
            let availability = if id.is_some_and(is_held) {
                Availability::Held
            } else if *state == OwnedKeyState::Absent && id.is_none_or(is_turn) {
                Availability::Free
            } else {
                Availability::Unavailable
            };
            Candidate { id: *id, availability }
        };
        let candidates: Vec<Candidate> = ids.iter().zip(states).map(candidate).collect();
        for (candidate, state) in candidates.iter().zip(states) {
            if let Some(lock) = candidate.id
                && *state == OwnedKeyState::Absent
                && candidate.availability == Availability::Unavailable
                && self.table.get(lock).is_some_and(|lock| !lock.reserved)
            {
                self.deferred.hand_off(lock);
            }
        }
        candidates
    }

    fn reconcile_and_adopt(
        &mut self,
        name: Name<'_>,
        state: &OwnedKeyState,
        now: Now,
    ) -> Option<Id> {
        let state = state.borrow();
        let known = self.reconcile_named(name, &state, now);
        let KeyState::String { value, expires } = state else { return known };
        if !is_valid_owner(value) {
            return known;
        }
        let id = known.or_else(|| self.table.find_or_make(name))?;
        self.adopt_unless_held(id, value, expires, now);
        Some(id)
    }

    /// The chosen locks, created where nothing was known of them.
    fn find_or_make_chosen(
        &mut self,
        db: u32,
        keys: &[&[u8]],
        candidates: &[Candidate],
        chosen: &[Choice<usize>],
    ) -> Result<Vec<Choice<Id>>, CommandError> {
        let mut known = Vec::new();
        for (index, held) in chosen {
            let (Some(key), Some(candidate)) = (keys.get(*index), candidates.get(*index))
            else {
                return Err(CommandError::Internal);
            };
            let made = || self.table.find_or_make(Name { db, key });
            let id = candidate.id.or_else(made).ok_or(CommandError::OutOfMemory)?;
            known.push((id, *held));
        }
        Ok(known)
    }
}

fn is_available(candidates: &[Candidate], index: usize, as_what: Availability) -> bool {
    candidates.get(index).is_some_and(|candidate| candidate.availability == as_what)
}
