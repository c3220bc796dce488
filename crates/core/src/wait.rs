//! The rule of waiting: how a client gets a place in a line, and each way it loses it.
//!
//! | it leaves because | it hears | counted as | a UNIQUE owner's place is |
//! |---|---|---|---|
//! | it was granted the lock, or its set | the token, or each | `acquired_after_wait` | used up |
//! | its time is over | null | `wait_timeouts` | kept |
//! | `CLIENT UNBLOCK` | null | `wait_timeouts` | given up |
//! | its connection closed | | `waits_abandoned` | kept |
//! | the server does not let its client block | an error | `waits_abandoned` | kept |
//! | `CLIENT UNBLOCK … ERROR` | an error | `waits_abandoned` | given up |
//! | its owner asked again | null | `waits_abandoned` | the new call's, if that asks for the same |
//! | the server is a replica now | an error | `waits_abandoned` | given up |
//! | the cluster slot moves | an error | `waits_abandoned` | given up |

use crate::arena::Id;
use crate::clock::Now;
use crate::counters::Counters;
use crate::deadlock::{Circle, Circles};
use crate::fault::Fault;
use crate::keeper::{Answer, Caller, Incident, Keeper};
use crate::lease;
use crate::line::{Locks, Ticket, Waiter};
use crate::lock::{Bytes, Hold, Name};
use crate::log::Kind;
use crate::request::Acquire;
use crate::session::Owed;
use crate::share::counted_for;

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
    /// The server does not let a module block the connection; the caller answers.
    CannotBlock,
    /// The same UNIQUE owner asked again.
    TakenOver,
    /// The server became a replica.
    RoleChanged,
    /// The lock is served by another node.
    Moved,
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The number of the database.
    pub db: u32,
    /// The keys, the one liked best first.
    pub keys: &'a [&'a [u8]],
    /// How many of them, all at once.
    pub count: usize,
    /// Those were asked for as a set.
    pub of_set: bool,
    /// Places in `keys` of locks that are free, and nobody's before the asker.
    pub free: &'a [usize],
}

impl Keeper {
    /// Gives a call that was not served at once a place in the line of each lock. `circles`
    /// tells what came of [`Waiting::LookFirst`], none at first; `room` is false when the
    /// server is out of memory.
    ///
    /// # Errors
    /// When too many wait, memory is short, or the wait would close a circle.
    pub fn wait(
        &mut self,
        wanted: Wanted<'_>,
        ask: &Acquire<'_>,
        client: u64,
        circles: &Circles,
        room: bool,
        now: Now,
    ) -> Result<Waiting, Fault> {
        let lease_ms = lease::asked(ask.lease_ms, &self.settings)?;
        let locks = self.known(wanted).ok_or(Fault::OutOfMemory)?;
        let older = self.own_places(&locks, ask);
        if older.is_empty()
            && let Err(fault) = self.has_room(&locks, room)
        {
            self.forget_idle(&locks);
            return Err(fault);
        }
        if ask.unique
            && let Circles::SureOf(checked) = circles
            && let Some(circle) = self.circle(ask.owner, wanted, &locks, now)
        {
            if circle.locks != *checked {
                return Ok(Waiting::LookFirst(circle.locks));
            }
            let fault = self.deadlock(wanted, ask, circle, client, now);
            self.forget_idle(&locks);
            return Err(fault);
        }
        let same = self.same_call(&older, &locks, wanted.count);
        let same = same.and_then(|ticket| self.lines.get(ticket)).cloned();
        for ticket in older {
            self.end_wait(ticket, Leaving::TakenOver, &locks, now);
        }
        for lock in wanted.free.iter().filter_map(|place| locks.get(*place)) {
            if let Some(lock) = self.table.get_mut(*lock) {
                lock.set_aside = lock.hold.is_none();
            }
        }
        let waiter = Waiter {
            locks,
            wants: wanted.count,
            of_set: wanted.of_set,
            turn: same.as_ref().map_or_else(|| self.lines.next_number(), |it| it.turn),
            owner: Bytes::from_slice(ask.owner),
            unique: ask.unique,
            lease_ms,
            session_grace_ms: ask.session_grace_ms,
            since_ms: same.map_or(now.ms(), |waiter| waiter.since_ms),
            client: Some(client),
            deadline_ms: ask
                .block_ms
                .filter(|ms| *ms > 0)
                .map(|ms| now.ms().saturating_add(ms)),
            lacks: 0,
        };
        let ticket = self.give_place(waiter);
        self.look_again_at_what_was_left(ticket, wanted);
        Ok(Waiting::Begun(ticket))
    }

    /// What stood before a call may have gone since it was refused: the older calls of its
    /// owner, or a set that took others than the lock it was refused for.
    fn look_again_at_what_was_left(&mut self, ticket: Ticket, wanted: Wanted<'_>) {
        if wanted.count > 1 {
            if self.complete_share(ticket).is_some() {
                self.count_anew(ticket);
            }
            return;
        }
        let locks = self.lines.get(ticket).map(|waiter| waiter.locks.clone());
        for lock in locks.unwrap_or_default() {
            let is_held = self.table.get(lock).is_none_or(|lock| lock.hold.is_some());
            if !is_held && self.lines.first_present(lock) == Some(ticket) {
                self.owed.push_back(Owed::Turn { lock });
            }
        }
    }

    /// All locks of a call; known of from now on.
    fn known(&mut self, wanted: Wanted<'_>) -> Option<Locks> {
        let names = wanted.keys.iter().map(|key| Name { db: wanted.db, key });
        names.map(|name| self.table.find_or_make(name)).collect()
    }

    fn has_room(&mut self, locks: &[Id], room: bool) -> Result<(), Fault> {
        let waiting = u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
        if waiting >= self.settings.max_waiters {
            self.count(counted_for(locks), |counters| &mut counters.refused);
            return Err(Fault::MaxWaiters);
        }
        if room { Ok(()) } else { Err(Fault::OutOfMemory) }
    }

    /// The places that a UNIQUE owner has in the lines of some locks, each once.
    pub(crate) fn own_places(&self, locks: &[Id], ask: &Acquire<'_>) -> Vec<Ticket> {
        if !ask.unique {
            return Vec::new();
        }
        let has_line =
            |id: &&Id| self.table.get(**id).is_some_and(|lock| lock.places > 0);
        let lines = locks.iter().filter(has_line);
        let mut own: Vec<_> =
            lines.filter_map(|id| self.lines.place_of(ask.owner, *id)).collect();
        own.sort_unstable();
        own.dedup();
        own
    }

    /// The place among these that waits for just the same: for the same locks, in whichever
    /// order, and as many of them.
    pub(crate) fn same_call(
        &self,
        own: &[Ticket],
        locks: &[Id],
        count: usize,
    ) -> Option<Ticket> {
        let [ticket] = own else { return None };
        let waiter = self.lines.get(*ticket)?;
        let same = waiter.wants == count
            && waiter.locks.len() == locks.len()
            && locks
                .iter()
                .all(|id| self.lines.place_of(&waiter.owner, *id) == Some(*ticket));
        same.then_some(*ticket)
    }

    /// Counts and logs a wait that would have closed a circle.
    fn deadlock(
        &mut self,
        wanted: Wanted<'_>,
        ask: &Acquire<'_>,
        circle: Circle,
        client: u64,
        now: Now,
    ) -> Fault {
        let Circle { locks, chain } = circle;
        let Some((id, key)) = locks
            .first()
            .and_then(|id| self.table.get(*id).map(|lock| (*id, lock.key.clone())))
        else {
            return Fault::Internal;
        };
        let known = (wanted.keys.len() == 1).then_some(id);
        self.count(known, |counters| &mut counters.deadlocks);
        let hold = self.table.get(id).and_then(|lock| lock.hold.clone());
        let incident = Incident {
            name: Name { db: wanted.db, key: &key },
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
        let (locks, present) = (waiter.locks.clone(), u32::from(waiter.client.is_some()));
        let ticket = self.lines.add(waiter);
        for id in locks {
            if let Some(lock) = self.table.get_mut(id) {
                lock.places = lock.places.saturating_add(1);
                lock.present = lock.present.saturating_add(present);
            }
            self.rearm(id);
        }
        ticket
    }

    /// Takes a place out of its lines, and tells nobody. What was set aside for it is the
    /// next one's.
    pub(crate) fn take_place(&mut self, ticket: Ticket) -> Option<Waiter> {
        let locks = self.lines.get(ticket)?.locks.clone();
        let aside: Locks =
            locks.into_iter().filter(|id| self.is_aside_for(*id, ticket)).collect();
        let waiter = self.lines.remove(ticket)?;
        let present = u32::from(waiter.client.is_some());
        for id in &waiter.locks {
            if let Some(lock) = self.table.get_mut(*id) {
                lock.places = lock.places.saturating_sub(1);
                lock.present = lock.present.saturating_sub(present);
            }
            self.rearm(*id);
        }
        for id in aside {
            self.pass_on(id);
        }
        Some(waiter)
    }

    /// Ends a wait without a grant, or the keeping of a place. None when there is no such
    /// wait any more.
    pub fn leave(&mut self, ticket: Ticket, why: Leaving, now: Now) -> Option<Waiter> {
        self.end_wait(ticket, why, &[], now)
    }

    /// As [`Keeper::leave`]; what is known of the locks in `used` stays.
    pub(crate) fn end_wait(
        &mut self,
        ticket: Ticket,
        why: Leaving,
        used: &[Id],
        now: Now,
    ) -> Option<Waiter> {
        let waiter = self.take_place(ticket)?;
        if waiter.client.is_some() {
            let lock = counted_for(&waiter.locks);
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
                | Leaving::CannotBlock
                | Leaving::Disconnected => None,
            };
            self.answers.extend(answer.map(|answer| (ticket, answer)));
            if matches!(
                why,
                Leaving::TimedOut | Leaving::Disconnected | Leaving::CannotBlock
            ) {
                self.keep_place(&waiter, now);
            }
        }
        let idle = waiter.locks.iter().filter(|id| !used.contains(id));
        idle.for_each(|id| self.table.forget_if_idle(*id));
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
