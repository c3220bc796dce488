//! What only a model checker asks: the parts of the keeper that decide what it does next and
//! that nobody else needs to see. Nothing is changed in here, and no rule depends on it.

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::Keeper;
use crate::line::{Ticket, Waiter};
use crate::session::{EndingSession, Owed};

/// How far the looking at lines is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// The line that was looked at last.
    pub last: Option<Id>,
    /// When the next ones are looked at, in ms since the epoch.
    pub next_ms: u64,
    /// When the ends of leases were looked at last, in ms since the epoch.
    pub heard_ms: u64,
}

impl Keeper {
    /// What is owed, the oldest first.
    pub fn all_owed(&self) -> impl Iterator<Item = &Owed> {
        self.owed.iter()
    }

    /// The sessions of which more is owed, the next one first, and all that have ended.
    pub fn ending_sessions(
        &self,
    ) -> (impl Iterator<Item = &EndingSession>, impl Iterator<Item = u64>) {
        (self.sessions.iter(), self.gone.iter().copied())
    }

    /// The places of a line, in order, those included that have left and are not removed yet.
    pub fn all_places(&self, id: Id) -> impl Iterator<Item = (Ticket, &Waiter)> {
        self.lines.all_places(id)
    }

    /// Whether a place is marked as left, and until when, in ms since the epoch, it is kept; and
    /// whether a count is owed for it.
    pub fn marks(&self, ticket: Ticket) -> (Option<Option<u64>>, bool) {
        let Some(waiter) = self.lines.get(ticket) else { return (None, false) };
        let left = waiter.left.map(|left| left.kept_until_ms);
        (left, waiter.is_count_owed)
    }

    /// True when places are over that are not removed yet.
    pub fn is_behind(&self, now: Now) -> bool {
        self.lines.left() > 0 || self.lines.over(now.ms()).is_some()
    }

    /// How many places were kept long enough, and are not removed yet.
    pub fn kept_no_longer(&self, now: Now) -> usize {
        self.lines.kept_no_longer(now)
    }

    /// What is left of this millisecond's portion.
    pub fn portion_left(&self, now: Now) -> usize {
        self.portion.left(now)
    }

    /// How many locks a waiter lacks at least.
    pub fn lacks(&self, ticket: Ticket) -> Option<usize> {
        self.lines.get(ticket).map(|waiter| waiter.lacks)
    }

    /// When a lock is looked at because its lease is over, in ms since the epoch; none: not
    /// for that.
    pub fn alarm_ms(&self, id: Id) -> Option<u64> {
        let armed = self.table.get(id).map(|lock| lock.alarm_ms);
        armed.filter(|ms| *ms != 0)
    }

    /// How far the looking at lines is.
    pub fn looks(&self) -> Looks {
        let round = &self.round;
        Looks { last: round.last, next_ms: round.next_ms, heard_ms: round.heard_ms }
    }
}
