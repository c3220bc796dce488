//! How much is done in one go. A client can make some work as large as it likes: ten thousand
//! waits that end at once, a connection that half a million locks are tied to. The server
//! serves nobody meanwhile, so such work is cut into portions, and the rest follows a
//! millisecond later.

use crate::clock::Now;

/// How many places may be removed from lines in a millisecond, the locks of a set counted one
/// by one. The one that exceeds it is finished.
const PLACES: usize = 1_024;

/// How many waiting clients may be answered in a portion: an answer costs as much as removing
/// several places.
const ANSWERS: usize = 128;

/// The share of a portion for the locks of one session that end at the very moment in which
/// its connection closes. Each costs as much as several places.
const SESSION_SHARE: usize = 8;

/// What may be done still in this millisecond.
#[derive(Clone, Debug)]
pub(crate) struct Portion {
    size: usize,
    left: usize,
    ms: u64,
}

impl Default for Portion {
    fn default() -> Self {
        Self { size: PLACES, left: PLACES, ms: 0 }
    }
}

impl Portion {
    /// Takes so many places out of the portion. False when nothing is left of it; what remains
    /// to be done is to be done a millisecond later.
    pub(crate) fn take(&mut self, places: usize, now: Now) -> bool {
        if self.ms != now.ms() {
            (self.ms, self.left) = (now.ms(), self.size);
        }
        let may_go_on = self.left > 0;
        self.left = self.left.saturating_sub(places);
        may_go_on
    }

    /// What is left in this millisecond.
    pub(crate) fn left(&self, now: Now) -> usize {
        if self.ms == now.ms() { self.left } else { self.size }
    }

    /// When there is a new portion, in ms since the epoch.
    pub(crate) fn next_ms(&self, now: Now) -> u64 {
        let is_used_up = self.left == 0 && self.ms == now.ms();
        now.ms().saturating_add(u64::from(is_used_up))
    }

    /// What an answer to a waiting client costs, in places.
    pub(crate) fn answer(&self) -> usize {
        (self.size / ANSWERS).max(1)
    }

    /// How many locks of a session may end at once.
    pub(crate) fn of_session(&self) -> usize {
        (self.size / SESSION_SHARE).max(1)
    }

    /// Makes portions smaller, for a model in which everything is small.
    pub(crate) fn set_size(&mut self, places: usize) {
        (self.size, self.left) = (places, places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_is_used_up_until_the_next_millisecond() {
        let at = Now::from_ms;
        let mut portion = Portion::default();
        assert!(portion.take(PLACES - 1, at(1)) && portion.take(5_000, at(1)));
        assert!(!portion.take(1, at(1)));
        assert_eq!((portion.next_ms(at(1)), portion.next_ms(at(2))), (2, 2));
        assert!(portion.take(1, at(2)));
        assert_eq!(portion.next_ms(at(2)), 2);
        // The clock was stepped back.
        assert!(portion.take(PLACES, at(1)));
    }
}
