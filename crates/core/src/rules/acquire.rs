//! ACQUIRE: a free lock is granted, but waiters come first; a lock held by the same UNIQUE owner is
//! renewed; a lock held by anyone else is refused.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::Acquire;
use crate::rules::hand_off::HandOff;
use crate::rules::hold::GrantParams;
use crate::rules::wait::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lease;
use crate::state::lock::Name;
use crate::state::wait_queue::Ticket;

/// What became of a call, and what to write to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Set the key to the owner, with this end of the lease.
    Granted {
        /// The fencing token.
        token: u64,
        /// When the lease expires, in ms since the epoch.
        until_ms: u64,
    },
    /// Set the expiry of the key.
    Renewed {
        /// The fencing token, the same as before.
        token: u64,
        /// When the lease expires, in ms since the epoch.
        until_ms: u64,
    },
    /// Nothing: another owner holds the lock.
    Held,
    /// The lock is free, but waiters come first.
    OthersFirst {
        /// What to write to the key.
        next: HandOff,
    },
}

/// The caller of ACQUIRE or ACQUIREANY, and the state of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerContext {
    /// The client that calls, if it has a connection of its own.
    pub client: Option<u64>,
    /// It may be blocked.
    pub may_wait: bool,
    /// The server is not out of memory.
    pub has_memory: bool,
}

impl LockManager {
    /// Asks for a lock. A call that may wait and gets [`Acquired::Held`] or
    /// [`Acquired::OthersFirst`] goes on with [`LockManager::wait`]. Expired waiters are removed
    /// first, so they cannot block the caller.
    ///
    /// # Errors
    /// When the key is not a string, the lease is too long, a new hold would need memory, or there
    /// is no connection to tie the lock to.
    pub fn acquire(
        &mut self,
        name: Name<'_>,
        request: &Acquire<'_>,
        state: &KeyState<'_>,
        caller: CallerContext,
        now: Now,
    ) -> Result<Acquired, CommandError> {
        self.expire_waits(now);
        let lease_ms = match self.check_acquire(request, state, caller) {
            Ok(lease_ms) => lease_ms,
            Err(error) => {
                self.count_failed_acquire(name);
                self.reconcile_named(name, state, now);
                return Err(error);
            }
        };
        let id = self.table.find_or_make(name).ok_or(CommandError::OutOfMemory)?;
        self.count(Some(id), |counters| &mut counters.acquire_requests);
        self.reconcile(id, state, now);
        let params = GrantParams {
            owner: request.owner,
            lease_ms,
            unique: request.unique,
            session: caller.client.zip(request.session_grace_ms),
        };
        let refused = match *state {
            KeyState::String { value, expires } => {
                if is_valid_owner(value) {
                    self.adopt_unless_held(id, value, expires, now);
                }
                if request.unique && value == request.owner {
                    let (token, until_ms) = self.renew_unique(id, &params, now)?;
                    return Ok(Acquired::Renewed { token, until_ms });
                }
                Acquired::Held
            }
            _ => match self.waiters_before(id, request, now) {
                Some(next) => Acquired::OthersFirst { next },
                None => {
                    self.give_up_positions(&[id], request, now);
                    let (token, until_ms) = self.grant(id, &params, now);
                    return Ok(Acquired::Granted { token, until_ms });
                }
            },
        };
        if request.block_ms.is_none() || !caller.may_wait {
            self.count(Some(id), |counters| &mut counters.refused);
        }
        Ok(refused)
    }

    /// Hands a free lock to the waiters that come before the caller. None when there are none.
    fn waiters_before(
        &mut self,
        id: Id,
        request: &Acquire<'_>,
        now: Now,
    ) -> Option<HandOff> {
        if self.is_callers_turn(id, request, now) {
            return None;
        }
        let next = self.hand_off_next(id, now);
        (next != HandOff::NoWaiter).then_some(next)
    }

    /// Whether a free lock goes to a caller who asks for this lock only.
    fn is_callers_turn(&self, id: Id, request: &Acquire<'_>, now: Now) -> bool {
        if self.table.get(id).is_none_or(|lock| lock.connected == 0) {
            return true;
        }
        let own = self.own_positions(&[id], request);
        let same = self.same_call(&own, &[id], 1, now);
        self.is_turn_of(id, own.first().copied(), same)
    }

    /// Whether a free lock goes to the caller: no connected waiter is before it. `own` is the
    /// caller's position in the queue, `same` the position that it would take over.
    pub(crate) fn is_turn_of(
        &self,
        id: Id,
        own: Option<Ticket>,
        same: Option<Ticket>,
    ) -> bool {
        let seq = |ticket| self.queues.get(ticket).map(|waiter| waiter.seq);
        match (self.queues.first_other(id, own).and_then(seq), same.and_then(seq)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(first), Some(own)) => own <= first,
        }
    }

    /// Gives up the positions that a UNIQUE owner has in the queues of locks that it acquires.
    pub(crate) fn give_up_positions(
        &mut self,
        locks: &[Id],
        request: &Acquire<'_>,
        now: Now,
    ) {
        for ticket in self.own_positions(locks, request) {
            self.end_wait_within_budget(ticket, LeaveReason::TakenOver, now);
        }
    }

    /// Counts a call that gets an error.
    pub fn count_failed_acquire(&mut self, name: Name<'_>) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.acquire_requests);
    }

    /// The lease in ms of a call that is not refused at once.
    fn check_acquire(
        &self,
        request: &Acquire<'_>,
        state: &KeyState<'_>,
        caller: CallerContext,
    ) -> Result<u64, CommandError> {
        match state {
            KeyState::OtherType => Err(CommandError::WrongType),
            KeyState::Absent if !caller.has_memory => Err(CommandError::OutOfMemory),
            _ if request.session_grace_ms.is_some() && caller.client.is_none() => {
                Err(CommandError::SessionInScript)
            }
            _ => lease::asked(request.lease_ms, &self.settings),
        }
    }
}
