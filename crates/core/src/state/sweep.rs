//! The progress of the sweep over all locks. Which locks it probes is decided in
//! `rules/sweep.rs`.

use std::collections::VecDeque;

use crate::state::arena::Id;
use crate::state::rounds::Rounds;

/// Two walks through the pages of the table, and the locks that they found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// The walk that reads memory only.
    pub(crate) memory: Walk,
    /// The walk that reads keys.
    pub(crate) keys: Walk,
    /// The locks that the walks found and that are not probed yet.
    pub(crate) due: VecDeque<Id>,
    /// When the last portion began, in ms since the epoch.
    pub(crate) last_ms: u64,
    /// When the first of the locks that the walk through memory has passed in this round needs
    /// attention, in ms since the epoch.
    pub(crate) soonest_ms: u64,
    /// When the walk through keys last began a round, in ms since the epoch.
    pub(crate) keys_began_ms: u64,
    /// The next page to probe while the walk through keys rests.
    pub(crate) rest_page: usize,
    /// When a page was last probed while it rests, in ms since the epoch.
    pub(crate) rest_ms: u64,
    /// The number of holds that probes have ended since the last portion began.
    pub(crate) ended: u64,
}

/// A walk through the pages of the table, a portion at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walk {
    /// The rounds that are owed.
    pub(crate) rounds: Rounds,
    /// The next page.
    page: usize,
    /// The number of locks left in this portion.
    locks: u64,
}

impl Walk {
    /// Begins a portion of `locks`. Returns whether a round begins with it.
    pub(crate) fn begin(&mut self, locks: u64) -> bool {
        self.locks = locks;
        let begins = self.rounds.begin();
        if begins {
            self.page = 0;
        }
        begins
    }

    /// The next page of this portion, out of `all` pages.
    pub(crate) fn next(&mut self, all: usize) -> Option<usize> {
        if self.locks == 0 || !self.rounds.is_running() {
            return None;
        }
        let page = Some(self.page).filter(|page| *page < all);
        self.page = self.page.saturating_add(1);
        if self.page >= all {
            self.rounds.finish();
        }
        page
    }

    /// Counts a lock.
    pub(crate) fn count_lock(&mut self) {
        self.locks = self.locks.saturating_sub(1);
    }
}
