//! Which locks to look at when nobody asks. Leases run out and other commands take keys
//! away, and no event tells us (listening would make every write of every client dearer);
//! so the table is walked, twice over:
//!
//! - what memory alone can tell (lease over, held for long) fast, every lock within a
//!   second up to thirty-six thousand;
//! - what only the key can tell (gone, overwritten, lease changed) three times slower.

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

/// What a look at a key costs beside passing by a lock in memory.
const LOOK_COSTS: u64 = REMEMBERED_PER_MS / LOOKED_AT_PER_MS;

/// The shortest time between two portions, in ms: with a high `hz` the server ticks more
/// often than there is work.
const SHORTEST_MS: u64 = 40;

/// The longest time made up for at once, in ms: after a pause the server has other work.
const LONGEST_MS: u64 = 1_000;

/// How far the two walks are.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// The page that the walk through memory comes to next.
    remembered: usize,
    /// The page whose keys are looked at next.
    looked_at: usize,
    /// When the last portion was taken, in ms since the epoch.
    last_ms: u64,
}

impl Keeper {
    /// Puts the locks to be looked at now into `due`: the more, the longer ago the last
    /// time was.
    pub fn due(&mut self, now: Now, due: &mut Vec<Id>) {
        let elapsed_ms = now.ms().abs_diff(self.sweep.last_ms).min(LONGEST_MS);
        if elapsed_ms < SHORTEST_MS {
            return;
        }
        self.sweep.last_ms = now.ms();
        self.due_by_memory(elapsed_ms.saturating_mul(REMEMBERED_PER_MS), now, due);
        self.due_by_turn(elapsed_ms.saturating_mul(LOOKED_AT_PER_MS), due);
    }

    /// Locks whose lease is over; those held for long are logged on the way.
    fn due_by_memory(&mut self, budget: u64, now: Now, due: &mut Vec<Id>) {
        let mut long = Vec::new();
        let warn_hold = self.settings.warn_hold;
        let is_long = |lock: &Lock| {
            lock.hold.as_ref().is_some_and(|hold| {
                warn_hold > 0 && !hold.warned && now.ms_since(hold.since_ms) >= warn_hold
            })
        };
        let mut passed = 0u64;
        for _ in 0..self.table.pages() {
            for (id, lock) in self.table.page(self.sweep.remembered) {
                passed = passed.saturating_add(1);
                if lock.hold.as_ref().is_some_and(|hold| hold.is_over(now.ms())) {
                    passed = passed.saturating_add(LOOK_COSTS);
                    due.push(id);
                } else if is_long(lock) {
                    long.push(id);
                }
            }
            self.sweep.remembered = self.page_after(self.sweep.remembered);
            if passed >= budget {
                break;
            }
        }
        for id in long {
            self.warn_long_hold(id, now);
        }
    }

    /// Locks whose turn it is.
    fn due_by_turn(&mut self, budget: u64, due: &mut Vec<Id>) {
        let enough =
            due.len().saturating_add(usize::try_from(budget).unwrap_or(usize::MAX));
        for _ in 0..self.table.pages() {
            let held = |(id, lock): (Id, &Lock)| lock.hold.is_some().then_some(id);
            due.extend(self.table.page(self.sweep.looked_at).filter_map(held));
            self.sweep.looked_at = self.page_after(self.sweep.looked_at);
            if due.len() >= enough {
                break;
            }
        }
    }

    fn page_after(&self, page: usize) -> usize {
        let next = page.saturating_add(1);
        if next < self.table.pages() { next } else { 0 }
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

    /// Whether a free lock needs no look: it waits for the set that is first in its line.
    fn is_set_aside(&self, id: Id) -> bool {
        let first = self.lines.first_present(id).and_then(|first| self.lines.get(first));
        self.table.get(id).is_some_and(|lock| lock.set_aside)
            && first.is_some_and(|waiter| waiter.wants > 1)
    }

    /// A lock was looked at. If it is free it goes to the next one, whom the key is to be
    /// set to.
    pub fn looked_at(&mut self, id: Id, seen: &Seen<'_>, now: Now) -> Next {
        self.settle(id, seen, now);
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
