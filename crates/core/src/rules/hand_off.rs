//! The hand-off: a lock that is no longer held passes to the first waiter in one step, so its key
//! changes from owner to owner and is never absent in between.
//!
//! ```text
//!   queue of gpu:0     holder a            then                       then
//!   ┌───┬───┬───┐      RELEASE gpu:0 a     SET gpu:0 b PXAT …         b gets its token
//!   │ b │ c │ d │      ───────────────►    (no DEL in between)        the queue is c, d
//!   └───┴───┴───┘
//! ```
//!
//! A kept position is skipped and stays in the queue. An expired waiter gets null instead of the
//! lock; if there are too many of them, the lock is handed off when they have been removed. For a
//! waiter that wants several locks the lock is reserved until its set is complete (`lock_set`).

use crate::manager::{LockManager, counted_for};
use crate::rules::hold::GrantParams;
use crate::rules::wait::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::lock::Bytes;
use crate::state::outbox::{Grant, WaitReply};
use crate::state::wait_queue::{Ticket, Waiter};

/// What to write to the key of a lock that is no longer held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandOff {
    /// Delete it: no client waits.
    NoWaiter,
    /// Delete it: the lock is reserved for its first waiter, which needs other locks as well.
    Reserved,
    /// Set it to the first waiter.
    Waiter(NewHolder),
    /// The lock completes a set, as far as is known; [`LockManager::unprobed_of`] says what has to
    /// be probed first.
    LockSet {
        /// The waiter for the set.
        ticket: Ticket,
        /// The lock. Its key is left as it is until it is known who gets it.
        lock: Id,
    },
}

/// The waiter that holds the lock now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHolder {
    /// The owner.
    pub owner: Bytes,
    /// When its lease expires, in ms since the epoch.
    pub until_ms: u64,
}

impl LockManager {
    /// Hands a free lock to the first waiter of its queue.
    pub(crate) fn hand_off_next(&mut self, id: Id, now: Now) -> HandOff {
        while let Some(ticket) = self.first_waiter(id) {
            let Some(waiter) = self.queues.get(ticket) else { break };
            if waiter.is_expired(now) {
                if !self.budget.spend(waiter.locks.len(), now) {
                    // The lock is handed off when the waiter is removed.
                    self.mark_left(ticket, LeaveReason::TimedOut, now);
                    self.table.reserve(id);
                    return HandOff::Reserved;
                }
                self.end_wait(ticket, LeaveReason::TimedOut, now);
                continue;
            }
            if waiter.wants > 1 {
                return self.reserve_for_set(id, ticket);
            }
            return match self.hand_off_to(id, ticket, now) {
                Some(holder) => HandOff::Waiter(holder),
                None => HandOff::NoWaiter,
            };
        }
        HandOff::NoWaiter
    }

    fn first_waiter(&self, id: Id) -> Option<Ticket> {
        let has_waiters = self.table.get(id).is_some_and(|lock| lock.connected > 0);
        has_waiters.then(|| self.queues.first_connected(id)).flatten()
    }

    /// Grants one lock to a waiter that wants one.
    fn hand_off_to(&mut self, id: Id, ticket: Ticket, now: Now) -> Option<NewHolder> {
        // Otherwise removing the waiter would pass the lock on to the next one.
        self.table.unreserve(id);
        let waiter = self.remove_waiter(ticket)?;
        let (token, until_ms) = self.grant(id, &params_of(&waiter), now);
        self.count(Some(id), |counters| &mut counters.acquired_after_wait);
        let key = self.table.get(id).map(|lock| lock.key.clone()).unwrap_or_default();
        let owner = waiter.owner.clone();
        self.reply_granted(ticket, vec![Grant { lock: id, key, token }], waiter, now);
        Some(NewHolder { owner, until_ms })
    }

    /// Counts the wait, and replies to the waiter.
    pub(crate) fn reply_granted(
        &mut self,
        ticket: Ticket,
        grants: Vec<Grant>,
        waiter: Waiter,
        now: Now,
    ) {
        let waited_ms = now.ms_since(waiter.since_ms);
        self.tally(counted_for(&waiter.locks), |counters| {
            counters.wait_ms.record(waited_ms);
        });
        let key = |id: &Id| self.table.get(*id).map(|lock| lock.key.clone());
        let may_come_back = waiter.of_set && waiter.unique;
        let locks = waiter.locks.iter().filter(|_| may_come_back);
        let set = locks.filter_map(key).collect();
        let waiter = Box::new(waiter);
        self.outbox.reply(ticket, WaitReply::Granted { grants, waiter, set });
    }
}

/// What the hold of a waiter begins with.
pub(crate) fn params_of(waiter: &Waiter) -> GrantParams<'_> {
    GrantParams {
        owner: &waiter.owner,
        lease_ms: waiter.lease_ms,
        unique: waiter.unique,
        session: waiter.client.zip(waiter.session_grace_ms),
    }
}
