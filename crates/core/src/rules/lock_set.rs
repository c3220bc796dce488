//! Lock sets: a waiter that wants several locks gets all of them or none. A lock that becomes free
//! for it is reserved: free in the keyspace, but not granted to any other caller, until the set is
//! complete. The beneficiary of a reserved lock is not stored; it is always the first connected
//! waiter in the queue. So a reserved lock changes hands by itself when a waiter leaves or comes
//! back. Because a set has one sequence number in all its queues, the earliest waiter of all is
//! first in each of them: it is always served, and after it the next.
//!
//! ```text
//!              queue of gpu:0  gpu:1   gpu:2      gpu:0 becomes free: reserved for G
//!   first      G (2 of 3)      G       G          gpu:2 becomes free: G gets both and
//!   then       a               b       a          leaves; now gpu:1 goes to b
//! ```

use std::collections::BTreeSet;

use crate::manager::LockManager;
use crate::rules::hand_off::{HandOff, params_of};
use crate::rules::hold::GrantParams;
use crate::rules::wait::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lock::Bytes;
use crate::state::outbox::Grant;
use crate::state::wait_queue::Ticket;

/// What to write to the key of a lock that is granted with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The lock.
    pub lock: Id,
    /// The owner that holds it now.
    pub owner: Bytes,
    /// When its lease expires, in ms since the epoch.
    pub until_ms: u64,
    /// The owner held it before: only the expiry of the key changes.
    pub renewed: bool,
}

/// A lock that a set gets, and whether its owner holds it already.
pub(crate) type Choice<T> = (T, bool);

impl LockManager {
    /// Reserves a free lock for its first waiter.
    pub(crate) fn reserve_for_set(&mut self, id: Id, ticket: Ticket) -> HandOff {
        let is_new = self.table.reserve(id);
        if let Some(waiter) = self.queues.get_mut(ticket) {
            waiter.missing = waiter.missing.saturating_sub(usize::from(is_new));
            if waiter.missing == 0 && self.complete_set(ticket).is_some() {
                return HandOff::LockSet { ticket, lock: id };
            }
        }
        HandOff::Reserved
    }

    /// The locks that a set gets. None when some are missing; then their number is stored.
    pub(crate) fn complete_set(&mut self, ticket: Ticket) -> Option<Vec<Choice<Id>>> {
        let waiter = self.queues.get(ticket).filter(|waiter| waiter.is_waiting())?;
        let availability = |id: &Id| {
            if waiter.unique && self.holds(*id, &waiter.owner) {
                Availability::Held
            } else if self.is_reserved_for(*id, ticket) {
                Availability::Free
            } else {
                Availability::Unavailable
            }
        };
        let chosen = choose(&waiter.locks, waiter.wants, availability);
        let missing = waiter.wants.saturating_sub(chosen.len());
        self.queues.get_mut(ticket)?.missing = missing;
        (missing == 0).then_some(chosen)
    }

    /// Whether a lock is reserved for this waiter.
    pub(crate) fn is_reserved_for(&self, id: Id, ticket: Ticket) -> bool {
        self.table.get(id).is_some_and(|lock| lock.reserved && lock.hold.is_none())
            && self.queues.first_connected(id) == Some(ticket)
    }

    /// The locks of a set, complete as far as is known, that are not `probed` yet. What a probe
    /// finds may put other locks in their place, so ask again until there are none.
    pub fn unprobed_of(&mut self, ticket: Ticket, probed: &BTreeSet<Id>) -> Vec<Id> {
        let chosen = self.complete_set(ticket).unwrap_or_default().into_iter();
        chosen.map(|(id, _)| id).filter(|id| !probed.contains(id)).collect()
    }

    /// A lock of a set was probed.
    pub fn probed_for_set(&mut self, id: Id, state: &KeyState<'_>, now: Now) {
        let was_held = self.table.hold(id).is_some();
        self.reconcile(id, state, now);
        match *state {
            KeyState::String { value, expires } if is_valid_owner(value) => {
                self.adopt_unless_held(id, value, expires, now);
            }
            KeyState::Absent if was_held => self.deferred.hand_off(id),
            _ => {}
        }
    }

    /// Grants a lock set, after all of it was probed. Returns what to write, in the order of the
    /// set; none when a lock is missing after all.
    pub fn hand_off_set(&mut self, ticket: Ticket, now: Now) -> Option<Vec<KeyWrite>> {
        let waiter = self.queues.get(ticket).filter(|waiter| waiter.is_waiting())?;
        if waiter.is_expired(now) {
            self.leave(ticket, LeaveReason::TimedOut, now);
            return None;
        }
        let chosen = self.complete_set(ticket)?;
        // Otherwise removing the waiter would pass the locks on to the next ones.
        for (id, _) in &chosen {
            self.table.unreserve(*id);
        }
        let waiter = self.remove_waiter(ticket)?;
        let (writes, grants) = self.grant_set(&chosen, &params_of(&waiter), true, now);
        self.reply_granted(ticket, grants, waiter, now);
        Some(writes)
    }

    /// Leaves a set, complete as far as is known, to the deferred work: a script or a transaction
    /// may not see keys change that it does not name.
    pub fn hand_off_set_later(&mut self, ticket: Ticket) {
        self.recount_later(ticket);
    }

    /// Grants or renews the locks of a complete set.
    pub(crate) fn grant_set(
        &mut self,
        chosen: &[Choice<Id>],
        params: &GrantParams<'_>,
        waited: bool,
        now: Now,
    ) -> (Vec<KeyWrite>, Vec<Grant>) {
        let (mut writes, mut grants) = (Vec::new(), Vec::new());
        for (id, held) in chosen {
            let renewed =
                held.then(|| self.renew_unique(*id, params, now).ok()).flatten();
            let (token, until_ms) = match renewed {
                Some(renewed) => renewed,
                None => {
                    let granted = self.grant(*id, params, now);
                    if waited {
                        self.count(Some(*id), |counters| {
                            &mut counters.acquired_after_wait
                        });
                    }
                    granted
                }
            };
            let key = self.table.get(*id).map(|lock| lock.key.clone());
            let owner = Bytes::from_slice(params.owner);
            writes.push(KeyWrite { lock: *id, owner, until_ms, renewed: *held });
            grants.push(Grant { lock: *id, key: key.unwrap_or_default(), token });
        }
        (writes, grants)
    }

    /// The waiter is gone that a lock was reserved for: the lock passes to the next one.
    pub(crate) fn pass_on_reserved(&mut self, id: Id) {
        match self.queues.first_connected(id) {
            None => self.table.unreserve(id),
            Some(next) if self.queues.get(next).is_some_and(|next| next.wants > 1) => {
                self.recount_later(next);
            }
            Some(_) => self.deferred.hand_off(id),
        }
    }

    /// Defers counting what a set could get.
    pub(crate) fn recount_later(&mut self, ticket: Ticket) {
        self.deferred.recount(ticket, &mut self.queues);
    }

    /// A lock that a UNIQUE owner holds counts for the set that it waits for.
    pub(crate) fn recount_set_of_holder(&mut self, id: Id, owner: &[u8]) {
        let has_queue = self.table.get(id).is_some_and(|lock| lock.positions > 0);
        if has_queue
            && let Some(own) = self.queues.position_of(owner, id)
            && self.queues.get(own).is_some_and(|waiter| waiter.of_set)
        {
            self.recount_later(own);
        }
    }
}

/// Whether a set can get a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Its owner holds it.
    Held,
    /// It is free, and may be granted to it.
    Free,
    /// It cannot.
    Unavailable,
}

/// The locks that a set gets: those that its owner holds first, then free ones, at most as many as
/// it wants, in its own order.
pub(crate) fn choose<T: Copy>(
    of: &[T],
    wants: usize,
    availability: impl Fn(&T) -> Availability,
) -> Vec<Choice<T>> {
    let availability: Vec<Availability> = of.iter().map(availability).collect();
    let held = availability.iter().filter(|it| **it == Availability::Held).count();
    let held = held.min(wants);
    let (mut held_left, mut free_left) = (held, wants.saturating_sub(held));
    let mut chosen = Vec::new();
    for (it, availability) in of.iter().zip(availability) {
        let (left, is_held) = match availability {
            Availability::Held => (&mut held_left, true),
            Availability::Free => (&mut free_left, false),
            Availability::Unavailable => continue,
        };
        if *left > 0 {
            *left = left.saturating_sub(1);
            chosen.push((*it, is_held));
        }
    }
    chosen
}
