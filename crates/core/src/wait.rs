//! The rule of waiting: how a client gets a place in a line, and each way it loses it.
//!
//! | it leaves because | it hears | counted as | a UNIQUE owner's place is |
//! |---|---|---|---|
//! | it was granted the lock | the token | `acquired_after_wait` | used up |
//! | its time is over | null | `wait_timeouts` | kept |
//! | `CLIENT UNBLOCK` | null | `wait_timeouts` | given up |
//! | its connection closed | | `waits_abandoned` | kept |
//! | `CLIENT UNBLOCK … ERROR` | an error | `waits_abandoned` | given up |
//! | its owner asked again | null | `waits_abandoned` | the new call's |
//! | the server is a replica now | an error | `waits_abandoned` | given up |
//! | the cluster slot moves | an error | `waits_abandoned` | given up |

use crate::arena::Id;
use crate::clock::Now;
use crate::counters::Counters;
use crate::deadlock::Circles;
use crate::fault::Fault;
use crate::keeper::{Answer, Caller, Incident, Keeper};
use crate::lease;
use crate::line::{Ticket, Waiter};
use crate::lock::{Bytes, Hold, Name};
use crate::log::Kind;
use crate::request::Acquire;

/// What became of a call that may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It has a place; the answer comes later, under this ticket.
    Begun(Ticket),
    /// It seems to close a circle through these locks: look at their keys and ask again,
    /// since what is known may be older than what they show.
    LookFirst(Vec<Id>),
}

/// Why a place is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The time of the wait, or of the keeping, is over.
    TimedOut,
    /// `CLIENT UNBLOCK`; the server answers.
    Unblocked,
    /// `CLIENT UNBLOCK … ERROR`; the server has answered.
    UnblockedWithError,
    /// The connection closed.
    Disconnected,
    /// The same UNIQUE owner asked again.
    TakenOver,
    /// The server became a replica.
    RoleChanged,
    /// The lock is served by another node.
    Moved,
}

impl Keeper {
    /// Gives a call that was not served at once a place in the line. `circles` tells what
    /// came of [`Waiting::LookFirst`], none at first; `room` is false when the server is out of
    /// memory.
    ///
    /// # Errors
    /// When too many wait, memory is short, or the wait would close a circle.
    pub fn wait(
        &mut self,
        name: Name<'_>,
        ask: &Acquire<'_>,
        client: u64,
        circles: &Circles,
        room: bool,
        now: Now,
    ) -> Result<Waiting, Fault> {
        let lease_ms = lease::asked(ask.lease_ms, &self.settings)?;
        let limit = self.tracked_limit();
        let id = self.table.find_or_make(name, limit).ok_or(Fault::OutOfMemory)?;
        let own = ask.unique.then(|| self.lines.place_of(ask.owner, id)).flatten();
        if own.is_none() {
            let full = u64::try_from(self.lines.len()).unwrap_or(u64::MAX)
                >= self.settings.max_waiters;
            if full {
                self.count(Some(id), |counters| &mut counters.refused);
            }
            if full || !room {
                self.table.forget_if_idle(id);
                return Err(if full { Fault::MaxWaiters } else { Fault::OutOfMemory });
            }
        }
        if ask.unique
            && let Circles::SureOf(checked) = circles
            && let Some(circle) = self.circle(ask.owner, id, now)
        {
            if circle.locks != *checked {
                return Ok(Waiting::LookFirst(circle.locks));
            }
            return Err(self.deadlock(name, ask, circle.chain, client, now));
        }
        let older = own.and_then(|ticket| self.end_wait(ticket, Leaving::TakenOver, now));
        let turn = older.as_ref().map(|waiter| waiter.turn);
        let waiter = Waiter {
            lock: id,
            turn: turn.unwrap_or_else(|| self.lines.next_number()),
            owner: Bytes::from_slice(ask.owner),
            unique: ask.unique,
            lease_ms,
            session_grace_ms: ask.session_grace_ms,
            since_ms: older.map_or(now.ms(), |waiter| waiter.since_ms),
            client: Some(client),
            deadline_ms: ask
                .block_ms
                .filter(|ms| *ms > 0)
                .map(|ms| now.ms().saturating_add(ms)),
        };
        Ok(Waiting::Begun(self.give_place(waiter)))
    }

    /// Counts and logs a wait that would have closed a circle.
    fn deadlock(
        &mut self,
        name: Name<'_>,
        ask: &Acquire<'_>,
        chain: String,
        client: u64,
        now: Now,
    ) -> Fault {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.deadlocks);
        let hold = known.and_then(|id| self.table.get(id)?.hold.clone());
        let incident = Incident {
            name,
            kind: Kind::Deadlock,
            holder: hold.as_ref().map(|hold| &*hold.owner),
            token: hold.as_ref().and_then(Hold::token),
            held_ms: hold.as_ref().and_then(|hold| hold.held_ms(now)),
            reason: chain.clone().into_bytes().into(),
            caller: Caller { owner: Some(ask.owner), client: Some(client) },
        };
        self.log_incident(incident, now);
        Fault::Deadlock { chain }
    }

    fn give_place(&mut self, waiter: Waiter) -> Ticket {
        let (id, present) = (waiter.lock, u32::from(waiter.client.is_some()));
        if let Some(lock) = self.table.get_mut(id) {
            lock.places = lock.places.saturating_add(1);
            lock.present = lock.present.saturating_add(present);
        }
        let ticket = self.lines.add(waiter);
        self.rearm(id);
        ticket
    }

    /// Takes a place out of its line, and tells nobody.
    pub(crate) fn take_place(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.lines.remove(ticket)?;
        if let Some(lock) = self.table.get_mut(waiter.lock) {
            lock.places = lock.places.saturating_sub(1);
            lock.present =
                lock.present.saturating_sub(u32::from(waiter.client.is_some()));
        }
        self.rearm(waiter.lock);
        Some(waiter)
    }

    /// Ends a wait without a grant, or the keeping of a place. None when there is no such
    /// wait any more.
    pub fn leave(&mut self, ticket: Ticket, why: Leaving, now: Now) -> Option<Waiter> {
        let waiter = self.end_wait(ticket, why, now)?;
        self.table.forget_if_idle(waiter.lock);
        Some(waiter)
    }

    /// As [`Keeper::leave`]; what is known of the lock stays.
    pub(crate) fn end_wait(
        &mut self,
        ticket: Ticket,
        why: Leaving,
        now: Now,
    ) -> Option<Waiter> {
        let waiter = self.take_place(ticket)?;
        if waiter.client.is_some() {
            let lock = Some(waiter.lock);
            self.count(lock, |counters: &mut Counters| match why {
                Leaving::TimedOut | Leaving::Unblocked => &mut counters.wait_timeouts,
                _ => &mut counters.waits_abandoned,
            });
            let answer = match why {
                Leaving::TimedOut | Leaving::TakenOver => Some(Answer::Null),
                Leaving::RoleChanged => Some(Answer::Refused(Fault::Unblocked)),
                Leaving::Moved => Some(Answer::Refused(Fault::TryAgain)),
                Leaving::Unblocked
                | Leaving::UnblockedWithError
                | Leaving::Disconnected => None,
            };
            self.answers.extend(answer.map(|answer| (ticket, answer)));
            if matches!(why, Leaving::TimedOut | Leaving::Disconnected) {
                self.keep_place(&waiter, now);
            }
        }
        Some(waiter)
    }

    pub(crate) fn keep_place(&mut self, waiter: &Waiter, now: Now) {
        let keep_ms = self.settings.place_keep;
        if waiter.unique && keep_ms > 0 {
            let deadline_ms = Some(now.ms().saturating_add(keep_ms));
            self.give_place(Waiter { client: None, deadline_ms, ..waiter.clone() });
        }
    }

    /// Ends the waits, and the keeping of places, whose time is over.
    pub fn end_waits(&mut self, now: Now) {
        while let Some(ticket) = self.lines.over(now.ms()) {
            self.leave(ticket, Leaving::TimedOut, now);
        }
    }

    /// Ends every wait for a lock.
    pub(crate) fn dismiss_line(&mut self, id: Id, why: Leaving, now: Now) {
        while let Some(ticket) = self.lines.first_place(id) {
            self.leave(ticket, why, now);
        }
    }
}
