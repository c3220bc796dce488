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
use crate::line::{Left, Locks, Ticket, Waiter};
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
            && let Some(circle) = self.circle(ask.owner, wanted, &locks, &older, now)
        {
            if circle.locks != *checked {
                return Ok(Waiting::LookFirst(circle.locks));
            }
            let fault = self.deadlock(wanted, ask, circle, client, now);
            self.forget_idle(&locks);
            return Err(fault);
        }
        let same = self.same_call(&older, &locks, wanted.count, now);
        // Its turn is used anew, so that it has to be gone from the lines before.
        let same = same
            .and_then(|ticket| self.end_wait(ticket, Leaving::TakenOver, &locks, now));
        for ticket in older {
            self.leave_soon(ticket, Leaving::TakenOver, &locks, now);
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
            is_count_owed: false,
            left: None,
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
        now: Now,
    ) -> Option<Ticket> {
        let [ticket] = own else { return None };
        let waiter = self.lines.get(*ticket)?;
        let same = !waiter.is_kept_no_longer(now)
            && waiter.wants == count
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
        let locks = self.lines.get(ticket)?.locks.iter();
        let aside: Locks =
            locks.copied().filter(|id| self.is_aside_for(*id, ticket)).collect();
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
        self.lines.get(ticket).filter(|waiter| waiter.left.is_none())?;
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
        let is_kept = matches!(
            why,
            Leaving::TimedOut | Leaving::Disconnected | Leaving::CannotBlock
        );
        match waiter.left {
            Some(Left { kept_until_ms: Some(until_ms) })
                if is_kept && until_ms > now.ms() =>
            {
                self.keep_place_until(&waiter, until_ms);
            }
            None if waiter.client.is_some() => {
                self.tell_end(ticket, counted_for(&waiter.locks), why);
                if is_kept {
                    self.keep_place(&waiter, now);
                }
            }
            _ => {}
        }
        let idle = waiter.locks.iter().filter(|id| !used.contains(id));
        idle.for_each(|id| self.table.forget_if_idle(*id));
        Some(waiter)
    }

    /// Counts and answers a wait that ends without a grant.
    fn tell_end(&mut self, ticket: Ticket, lock: Option<Id>, why: Leaving) {
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
    }

    /// As [`Keeper::end_wait`], for what a client can make as large as it likes: when the portion
    /// is used up the place is only marked, and [`Keeper::end_waits`] removes it.
    pub(crate) fn leave_soon(
        &mut self,
        ticket: Ticket,
        why: Leaving,
        used: &[Id],
        now: Now,
    ) {
        let places = self.places_of(ticket);
        if self.lines.left() == 0 && self.portion.take(places, now) {
            self.end_wait(ticket, why, used, now);
        } else {
            self.mark_left(ticket, why, now);
        }
    }

    /// Ends a wait, or the keeping of a place, that is removed from its lines later.
    pub(crate) fn mark_left(&mut self, ticket: Ticket, why: Leaving, now: Now) {
        let keep_ms = self.settings.place_keep;
        let keeps_places =
            keep_ms > 0 && matches!(why, Leaving::TimedOut | Leaving::Disconnected);
        let Some(waiter) = self.lines.get(ticket) else { return };
        if waiter.left.is_some() {
            if !keeps_places {
                self.lines.give_up_left(ticket);
            }
            return;
        }
        let waits = waiter.client.is_some();
        let lock = counted_for(&waiter.locks);
        let kept = keeps_places && waits && waiter.unique;
        let kept_until_ms = kept.then(|| now.ms().saturating_add(keep_ms));
        self.lines.mark_left(ticket, Left { kept_until_ms });
        if waits {
            self.tell_end(ticket, lock, why);
        }
    }

    /// In how many lines a waiter stands.
    fn places_of(&self, ticket: Ticket) -> usize {
        self.lines.get(ticket).map_or(0, |waiter| waiter.locks.len())
    }

    pub(crate) fn keep_place(&mut self, waiter: &Waiter, now: Now) {
        let keep_ms = self.settings.place_keep;
        if waiter.unique && keep_ms > 0 {
            self.keep_place_until(waiter, now.ms().saturating_add(keep_ms));
        }
    }

    fn keep_place_until(&mut self, waiter: &Waiter, until_ms: u64) {
        self.give_place(Waiter {
            client: None,
            deadline_ms: Some(until_ms),
            is_count_owed: false,
            left: None,
            ..waiter.clone()
        });
    }

    /// Ends the waits, and the keeping of places, whose time is over, and removes the places that
    /// are marked as left: a portion of them. What remains is over all the same.
    pub fn end_waits(&mut self, now: Now) {
        while let Some(ticket) = self.lines.over(now.ms()) {
            let (places, answer) = (self.places_of(ticket), self.portion.answer());
            // Everybody is answered before the places of many locks are removed.
            let is_small = places <= answer;
            let removed = if is_small { places } else { 0 };
            if !self.portion.take(removed.saturating_add(answer), now) {
                return;
            }
            match is_small {
                true => drop(self.end_wait(ticket, Leaving::TimedOut, &[], now)),
                false => self.mark_left(ticket, Leaving::TimedOut, now),
            }
        }
        while let Some(ticket) = self.lines.first_left() {
            if !self.portion.take(self.places_of(ticket), now) {
                return;
            }
            self.end_wait(ticket, Leaving::TimedOut, &[], now);
        }
    }

    /// Ends waits for a lock: a portion of them. The rest follows when the lock is looked at
    /// again.
    pub(crate) fn dismiss_line(&mut self, id: Id, why: Leaving, now: Now) {
        while let Some(ticket) = self.lines.first_place(id) {
            if !self.portion.take(self.places_of(ticket), now) {
                return;
            }
            self.end_wait(ticket, why, &[], now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const BEGIN: Now = Now::from_ms(1_000_000);

    fn keeper() -> Keeper {
        Keeper::new(Settings { max_waiters: 100_000, ..Settings::default() }, 1, BEGIN)
    }

    /// A call of its own owner that waits a second for one of some locks.
    fn wait(keeper: &mut Keeper, keys: &[String], owner: &str, client: u64) -> Ticket {
        let keys: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let wanted = Wanted { db: 0, keys: &keys, count: 1, of_set: true, free: &[] };
        let ask = Acquire {
            owner: owner.as_bytes(),
            lease_ms: None,
            unique: true,
            block_ms: Some(1_000),
            session_grace_ms: None,
        };
        match keeper.wait(wanted, &ask, client, &Circles::Unseen, true, BEGIN).unwrap() {
            Waiting::Begun(ticket) => ticket,
            Waiting::LookFirst(_) => unreachable!("circles are not looked for"),
        }
    }

    fn keys(of: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{of}:{n}")).collect()
    }

    /// How many places in lines there are.
    fn places(keeper: &Keeper) -> usize {
        let pages = 0..keeper.table.pages();
        let locks = pages.flat_map(|page| keeper.table.page(page));
        locks.map(|(_, lock)| lock.places as usize).sum()
    }

    #[test]
    fn waits_that_end_at_once_are_answered_in_portions_and_then_removed_in_portions() {
        let mut keeper = keeper();
        for n in 0..200u64 {
            wait(&mut keeper, &keys("k", 100), &n.to_string(), n);
        }
        let over = |ms: u64| Now::from_ms(BEGIN.ms() + 1_000 + ms);
        let all = places(&keeper);
        keeper.end_waits(over(0));
        let portion = 128;
        assert_eq!((keeper.answers.len(), keeper.lines.clients()), (portion, 72));
        keeper.owed.clear();
        keeper.due_lines(over(0), &mut Vec::new());
        // In the same millisecond nothing more is done.
        keeper.end_waits(over(0));
        assert_eq!((keeper.answers.len(), places(&keeper)), (portion, all));
        assert_eq!(keeper.next_wake_ms(over(0)), Some(over(1).ms()));
        keeper.end_waits(over(1));
        assert_eq!((keeper.answers.len(), keeper.lines.clients()), (200, 0));
        for ms in 2..100 {
            keeper.end_waits(over(ms));
        }
        assert_eq!((keeper.lines.left(), keeper.lines.len()), (0, 200));
        assert_eq!(places(&keeper), all, "each owner's places are kept");
        assert_eq!(keeper.counters.wait_timeouts, 200);
    }

    #[test]
    fn connections_that_close_at_once_are_absent_at_once_and_removed_in_portions() {
        let mut keeper = keeper();
        for n in 0..100u64 {
            wait(&mut keeper, &keys("k", 500), &n.to_string(), n);
        }
        let all = places(&keeper);
        keeper.settings.place_keep = 0;
        (0..100).for_each(|client| keeper.client_gone(client, BEGIN));
        assert_eq!(keeper.lines.clients(), 0);
        assert_eq!(keeper.counters.waits_abandoned, 100);
        assert_eq!(keeper.lines.len(), 0);
        let removed = all - places(&keeper);
        assert_eq!(removed, 1_500, "the call that exceeds a portion is finished");
        keeper.owed.clear();
        assert_eq!(keeper.next_wake_ms(BEGIN), Some(BEGIN.ms() + 1));
        (1..100).for_each(|ms| keeper.end_waits(Now::from_ms(BEGIN.ms() + ms)));
        assert_eq!((places(&keeper), keeper.lines.is_empty()), (0, true));
    }

    #[test]
    fn one_call_takes_over_many_places_and_removes_a_portion() {
        let mut keeper = keeper();
        let sets: Vec<_> = (0..50).map(|n| keys(&n.to_string(), 100)).collect();
        for (n, set) in sets.iter().enumerate() {
            wait(&mut keeper, set, "me", n as u64);
        }
        let all = places(&keeper);
        let one_of_each: Vec<String> = sets.iter().map(|set| set[0].clone()).collect();
        let ticket = wait(&mut keeper, &one_of_each, "me", 99);
        assert_eq!(all + 50 - places(&keeper), 1_100);
        assert_eq!((keeper.lines.len(), keeper.lines.clients()), (1, 1));
        assert_eq!(keeper.answers.len(), 50);
        // The owner has one place in each line: that of the new call.
        for set in &sets {
            let id = |key: &String| {
                let name = Name { db: 0, key: key.as_bytes() };
                keeper.table.find(name)
            };
            let place = |key| keeper.lines.place_of(b"me", id(key)?);
            assert_eq!((place(&set[0]), place(&set[1])), (Some(ticket), None));
        }
        (1..100).for_each(|ms| keeper.end_waits(Now::from_ms(BEGIN.ms() + ms)));
        assert_eq!((places(&keeper), keeper.lines.clients()), (50, 1));
    }

    #[test]
    fn a_count_is_owed_once_for_each_set_when_another_leaves() {
        let mut keeper = keeper();
        let (all, even, odd) = (keys("k", 100), 0, 1);
        let half = |of| all.iter().skip(of).step_by(2).cloned().collect::<Vec<_>>();
        let first = wait_for_all(&mut keeper, &all, "a", 1);
        wait_for_all(&mut keeper, &half(even), "b", 2);
        wait_for_all(&mut keeper, &half(odd), "c", 3);
        for key in &all {
            let id = keeper.table.find(Name { db: 0, key: key.as_bytes() }).unwrap();
            keeper.table.get_mut(id).unwrap().set_aside = true;
        }
        keeper.owed.clear();
        keeper.end_wait(first, Leaving::Unblocked, &[], BEGIN);
        assert_eq!(keeper.owed.len(), 2);
    }

    fn wait_for_all(
        keeper: &mut Keeper,
        keys: &[String],
        owner: &str,
        client: u64,
    ) -> Ticket {
        let ticket = wait(keeper, keys, owner, client);
        keeper.lines.get_mut(ticket).unwrap().wants = keys.len();
        ticket
    }
}
