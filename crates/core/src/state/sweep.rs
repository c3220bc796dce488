//! The progress of the sweep over all locks. Which locks it probes is decided in
//! `rules/sweep.rs`.

use std::collections::VecDeque;

use crate::state::arena::Id;

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
    /// The number of holds that probes have ended since then.
    pub(crate) ended: u64,
}

/// A walk through the pages of the table, a portion at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walk {
    /// The next page.
    page: usize,
    /// The number of locks, and of pages, left in this portion.
    locks: u64,
    pages: usize,
}

impl Walk {
    /// Begins a portion of `locks`, and at most all `pages`.
    pub(crate) fn begin(&mut self, locks: u64, pages: usize) {
        (self.locks, self.pages) = (locks, pages);
    }

    /// The next page of this portion, out of `all` pages.
    pub(crate) fn next(&mut self, all: usize) -> Option<usize> {
        if self.locks == 0 {
            return None;
        }
        self.pages = self.pages.checked_sub(1)?;
        let page = if self.page < all { self.page } else { 0 };
        self.page = page.saturating_add(1);
        Some(page)
    }

    /// Counts a lock.
    pub(crate) fn count_lock(&mut self) {
        self.locks = self.locks.saturating_sub(1);
    }
}
