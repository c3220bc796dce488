//! What only a model checker asks: the parts of the keeper that decide what it does next and
//! that nobody else needs to see. Nothing is changed in here, and no rule depends on it.

use crate::arena::Id;
use crate::keeper::Keeper;
use crate::line::Ticket;
use crate::session::Owed;

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
