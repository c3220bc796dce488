//! How much work is done per millisecond. A client can make some work as large as it likes: ten
//! thousand waits that end at once, a connection that half a million locks are tied to. The server
//! serves no client meanwhile, so such work is cut into portions, and the rest follows a
//! millisecond later.

use crate::state::clock::Now;

/// The units of work in a millisecond. One unit removes a position from a queue; the locks of a set
/// count one by one. Work that overruns the budget is still completed; the next has to wait.
const UNITS: usize = 1_024;

/// The number of waiting clients that one budget can reply to: a reply costs as much as removing
/// several positions.
const REPLIES: usize = 128;

/// When a connection closes, one lock for each of this many units ends at once: a lock costs as
/// much as several positions.
const SESSION_SHARE: usize = 8;

/// What is left of the current millisecond.
#[derive(Clone, Debug)]
pub(crate) struct WorkBudget {
    size: usize,
    left: usize,
    ms: u64,
}

impl Default for WorkBudget {
    fn default() -> Self {
        Self { size: UNITS, left: UNITS, ms: 0 }
    }
}

impl WorkBudget {
    /// Spends units. False when none is left: then the work has to wait for the next millisecond.
    pub(crate) fn spend(&mut self, units: usize, now: Now) -> bool {
        if self.ms != now.ms() {
            (self.ms, self.left) = (now.ms(), self.size);
        }
        let may_go_on = self.left > 0;
        self.left = self.left.saturating_sub(units);
        may_go_on
    }

    /// The units left in this millisecond.
    pub(crate) fn left(&self, now: Now) -> usize {
        if self.ms == now.ms() { self.left } else { self.size }
    }

    /// When there are units again, in ms since the epoch.
    pub(crate) fn next_ms(&self, now: Now) -> u64 {
        let is_used_up = self.left == 0 && self.ms == now.ms();
        now.ms().saturating_add(u64::from(is_used_up))
    }

    /// The units that a reply to a waiting client costs.
    pub(crate) fn reply(&self) -> usize {
        (self.size / REPLIES).max(1)
    }

    /// The number of locks of a session that may end at once.
    pub(crate) fn of_session(&self) -> usize {
        (self.size / SESSION_SHARE).max(1)
    }

    /// Makes budgets smaller, for a model in which everything is small.
    pub(crate) fn set_size(&mut self, units: usize) {
        (self.size, self.left) = (units, units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up_until_the_next_millisecond() {
        let at = Now::from_ms;
        let mut budget = WorkBudget::default();
        assert!(budget.spend(UNITS - 1, at(1)) && budget.spend(5_000, at(1)));
        assert!(!budget.spend(1, at(1)));
        assert_eq!((budget.next_ms(at(1)), budget.next_ms(at(2))), (2, 2));
        assert!(budget.spend(1, at(2)));
        assert_eq!(budget.next_ms(at(2)), 2);
        // The clock is stepped back.
        assert!(budget.spend(UNITS, at(1)));
    }
}
