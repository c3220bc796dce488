//! Which locks to look at when nobody asks. Leases run out and other commands take keys
//! away, and no event tells us (listening would make every write of every client dearer);
//! so the table is walked, twice over:
//!
//! - what memory alone can tell (lease over, held for long) fast, every lock within a
//!   second up to thirty-six thousand;
//! - what only the key can tell (gone, overwritten, lease changed) three times slower; faster
//!   than both after a portion in which many locks had ended, as after FLUSHALL.

use std::collections::VecDeque;

use crate::arena::Id;
use crate::clock::Now;
use crate::event::Text;
use crate::keeper::{Caller, Incident, Keeper};
use crate::lock::{Lock, NO_END, Name};
use crate::log::{Kind, cut};
use crate::seen::{Glimpse, OWNER_MAX, Seen, can_own};
use crate::serve::Next;
use crate::wait::Leaving;

/// Locks to pass by in a millisecond, reading memory only.
const REMEMBERED_PER_MS: u64 = 36;

/// Locks to look at in a millisecond: about a hundredth of the server's time.
const LOOKED_AT_PER_MS: u64 = 12;

/// As many more are looked at after a portion in which so many had ended.
const CATCH_UP: u64 = 4;
const ENDED: u64 = 64;

/// The shortest time between two portions, in ms: with a high `hz` the server ticks more
/// often than there is work.
const SHORTEST_MS: u64 = 40;

/// The longest time made up for at once, in ms: after a pause the server has other work.
const LONGEST_MS: u64 = 1_000;

/// How far the two walks are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// Through memory.
    remembered: Walk,
    /// From key to key.
    looked_at: Walk,
    /// The locks that the walks came to and nobody looked at yet.
    due: VecDeque<Id>,
    /// When the last portion was given out, in ms since the epoch.
    last_ms: u64,
    /// How many looks since then found that a hold had ended.
    ended: u64,
}

/// A walk through the pages of the table, a portion at a time.
#[derive(Clone, Debug, Default)]
struct Walk {
    /// The page that comes next.
    page: usize,
    /// How many locks may be passed in this portion, and how many pages: never more than
    /// there are.
    locks: u64,
    pages: usize,
}

impl Walk {
    fn begin(&mut self, locks: u64, pages: usize) {
        (self.locks, self.pages) = (locks, pages);
    }

    /// The next page of this portion, of `all` pages.
    fn next(&mut self, all: usize) -> Option<usize> {
        if self.locks == 0 {
            return None;
        }
        self.pages = self.pages.checked_sub(1)?;
        let page = if self.page < all { self.page } else { 0 };
        self.page = page.saturating_add(1);
        Some(page)
    }

    fn passed(&mut self, locks: u64) {
        self.locks = self.locks.saturating_sub(locks);
    }
}

impl Keeper {
    /// Gives out a new portion of locks to be looked at, for [`Keeper::next_due`]: the
    /// more, the longer ago the last one was, and the more had ended in it.
    pub fn begin_sweep(&mut self, now: Now) {
        let elapsed_ms = now.ms().abs_diff(self.sweep.last_ms).min(LONGEST_MS);
        if elapsed_ms < SHORTEST_MS {
            return;
        }
        self.sweep.last_ms = now.ms();
        let pages = self.table.pages();
        let locks = |per_ms: u64| elapsed_ms.saturating_mul(per_ms);
        self.sweep.remembered.begin(locks(REMEMBERED_PER_MS), pages);
        let times = match std::mem::take(&mut self.sweep.ended) {
            ..ENDED => 1,
            _ => CATCH_UP,
        };
        let looks = locks(LOOKED_AT_PER_MS).saturating_mul(times);
        self.sweep.looked_at.begin(looks, pages);
    }

    /// The next lock to be looked at; none when the portion is done. The caller may stop
    /// at any time: what is left comes first the next time.
    pub fn next_due(&mut self, now: Now) -> Option<Id> {
        while self.sweep.due.is_empty() {
            let pages = self.table.pages();
            if let Some(page) = self.sweep.remembered.next(pages) {
                self.due_by_memory(page, now);
            } else {
                let page = self.sweep.looked_at.next(pages)?;
                self.due_by_turn(page);
            }
        }
        self.sweep.due.pop_front()
    }

    /// Locks of a page whose lease is over; those held for long are logged on the way.
    fn due_by_memory(&mut self, page: usize, now: Now) {
        let mut long = Vec::new();
        let warn_hold = self.settings.warn_hold;
        let is_long = |lock: &Lock| {
            lock.hold.as_ref().is_some_and(|hold| {
                warn_hold > 0 && !hold.warned && now.ms_since(hold.since_ms) >= warn_hold
            })
        };
        for (id, lock) in self.table.page(page) {
            self.sweep.remembered.passed(1);
            if lock.hold.as_ref().is_some_and(|hold| hold.is_over(now.ms())) {
                self.sweep.due.push_back(id);
            } else if is_long(lock) {
                long.push(id);
            }
        }
        for id in long {
            self.warn_long_hold(id, now);
        }
    }

    /// Locks of a page whose turn it is.
    fn due_by_turn(&mut self, page: usize) {
        for (id, lock) in self.table.page(page) {
            if lock.hold.is_some() {
                self.sweep.looked_at.passed(1);
                self.sweep.due.push_back(id);
            }
        }
    }

    fn warn_long_hold(&mut self, id: Id, now: Now) {
        let Some(hold) = self.table.hold_mut(id) else { return };
        hold.warned = true;
        let (owner, token) = (cut(&hold.owner), hold.token());
        let held_ms = Some(now.ms_since(hold.since_ms));
        let Some(lock) = self.table.get(id) else { return };
        let (db, key) = (lock.db, cut(&lock.key));
        let incident = Incident {
            name: Name { db, key: &key },
            kind: Kind::LongHold,
            holder: Some(&owner),
            token,
            held_ms,
            reason: Text::Borrowed(b"warn-hold"),
            caller: Caller::default(),
        };
        self.log_incident(incident, now);
    }

    /// True when a glimpse of the key is enough: it shows what is known. For a lock that
    /// the module granted it never is, since only the value tells one owner from another;
    /// its value was written so that reading it costs nothing. That of an adopted lock was
    /// not, and is left unread while length and lease are the same: such a lock may be
    /// overwritten unnoticed until a command compares the value.
    pub fn agrees(&self, id: Id, glimpse: Glimpse) -> bool {
        let Some(lock) = self.table.get(id) else { return true };
        match (&lock.hold, glimpse) {
            (None, Glimpse::Absent) => lock.present == 0 || self.is_set_aside(id),
            (None, Glimpse::Text { len, .. }) => {
                lock.places == 0 || !lock.set_aside && !(1..=OWNER_MAX).contains(&len)
            }
            (None, Glimpse::Other) => !lock.set_aside,
            (Some(hold), Glimpse::Text { len, expires }) => {
                hold.adopted
                    && len == hold.owner.len()
                    && expires.unwrap_or(NO_END) == hold.until_ms
            }
            (Some(_), Glimpse::Absent | Glimpse::Other) => false,
        }
    }

    /// Whether clients wait for a lock, so that a change of its key may lead to a write.
    pub fn is_waited_for_now(&self, id: Id) -> bool {
        self.table.get(id).is_some_and(|lock| lock.present > 0)
    }

    /// Whether a free lock needs no look: it waits for the set that is first in its line.
    fn is_set_aside(&self, id: Id) -> bool {
        let first = self.lines.first_present(id).and_then(|first| self.lines.get(first));
        self.table.get(id).is_some_and(|lock| lock.set_aside)
            && first.is_some_and(|waiter| waiter.wants > 1)
    }

    /// A lock was looked at. If it is free it goes to the next one, whom the key is to be
    /// set to.
    pub fn looked_at(&mut self, id: Id, seen: &Seen<'_>, now: Now) -> Next {
        let is_held = |lock: &Lock| lock.hold.is_some();
        let was_held = self.table.get(id).is_some_and(is_held);
        self.settle(id, seen, now);
        if was_held && !self.table.get(id).is_some_and(is_held) {
            self.sweep.ended = self.sweep.ended.saturating_add(1);
        }
        let waited_for = self.table.get(id).is_some_and(|lock| lock.places > 0);
        let next = match *seen {
            Seen::Text { value, expires } if waited_for && can_own(value) => {
                self.adopt_unless_known(id, value, expires, now);
                Next::Nobody
            }
            Seen::Absent => {
                let next = self.serve(id, now);
                if matches!(next, Next::One(_) | Next::Set { .. }) {
                    self.round.look_again();
                }
                next
            }
            Seen::Elsewhere => {
                self.dismiss_line(id, Leaving::Moved, now);
                Next::Nobody
            }
            Seen::Text { .. } | Seen::Other => Next::Nobody,
        };
        self.table.forget_if_idle(id);
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lock::Hold;
    use crate::settings::Settings;

    fn keeper_of(locks: u32, now: Now) -> Keeper {
        let mut keeper = Keeper::new(Settings::default(), 1, now);
        for n in 0..locks {
            let key = n.to_string();
            let name = Name { db: 0, key: key.as_bytes() };
            let id = keeper.table.find_or_make(name).unwrap();
            keeper.table.begin_hold(id, Hold::new(b"me", Some(1), now.ms(), NO_END));
        }
        keeper
    }

    #[test]
    fn a_portion_is_larger_after_one_in_which_many_had_ended() {
        let at = |tick: u64| Now::from_ms(1_000_000 + tick * 100);
        let mut keeper = keeper_of(20_000, at(0));
        // The first portion is for all the time that the clock shows.
        keeper.begin_sweep(at(0));
        let mut looks = |tick: u64, seen: &Seen<'_>| {
            keeper.begin_sweep(at(tick));
            let mut looks = 0;
            while let Some(id) = keeper.next_due(at(tick)) {
                keeper.looked_at(id, seen, at(tick));
                looks += 1;
            }
            looks
        };
        let there = Seen::Text { value: b"me", expires: crate::seen::Expires::Never };
        let usual = looks(1, &there);
        assert_eq!(looks(2, &there), usual);
        looks(3, &Seen::Absent);
        let larger = looks(4, &there);
        assert!((3 * usual..=5 * usual).contains(&larger), "{usual}, then {larger}");
        assert_eq!(looks(5, &there), usual);
    }

    #[test]
    fn each_lock_has_its_turn_though_portions_are_broken_off() {
        const LOCKS: u32 = 5_000;
        let at = |ms: u64| Now::from_ms(1_000_000 + ms);
        let mut keeper = keeper_of(LOCKS, at(0));
        let mut turns = BTreeMap::new();
        for tick in 1..=500 {
            keeper.begin_sweep(at(tick * 100));
            // As if the time was up, at an odd place.
            for _ in 0..97 {
                let id = keeper.next_due(at(tick * 100)).expect("a portion is larger");
                *turns.entry(id).or_insert(0u32) += 1;
            }
        }
        assert_eq!(turns.len(), 5_000);
        let (least, most) = (turns.values().min(), turns.values().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{least:?} to {most:?}");
    }
}
