//! Rounds over the locks: how many are owed until every lock has been looked at since something
//! may have changed. The caller walks; this only counts.
//!
//! Two rounds are owed for each change. The server may execute the command after the next tick: a
//! command that was postponed by a pause is executed after the tick that ends the pause.

const OWED: u8 = 2;

/// The rounds that are owed, and whether one is in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    owed: u8,
    is_running: bool,
}

impl Rounds {
    /// Owes two rounds that begin from now on. The one in progress does not count: it has passed
    /// some of the locks already.
    pub(crate) fn owe(&mut self) {
        self.owed = OWED;
    }

    /// Owes two rounds, and gives up the one in progress.
    pub(crate) fn start_over(&mut self) {
        self.owe();
        self.is_running = false;
    }

    /// Begins an owed round unless one is in progress. Returns whether it begins, so that the
    /// caller starts with the first lock.
    pub(crate) fn begin(&mut self) -> bool {
        if self.is_running {
            return false;
        }
        let Some(owed) = self.owed.checked_sub(1) else { return false };
        (self.owed, self.is_running) = (owed, true);
        true
    }

    /// The number of rounds owed, without the one in progress.
    pub fn owed(self) -> u8 {
        self.owed
    }

    /// Whether a round is in progress.
    pub fn is_running(self) -> bool {
        self.is_running
    }

    /// Ends the round in progress: it has passed the last lock.
    pub(crate) fn finish(&mut self) {
        self.is_running = false;
    }

    /// Whether no round is owed or in progress.
    pub fn is_done(self) -> bool {
        self.owed == 0 && !self.is_running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rounds_are_owed_after_the_one_in_progress() {
        let mut rounds = Rounds::default();
        assert!(rounds.is_done() && !rounds.begin(), "none is owed");
        rounds.owe();
        assert!(rounds.begin());
        rounds.owe();
        assert!(!rounds.begin(), "one is in progress");
        for _ in 0..2 {
            rounds.finish();
            assert!(!rounds.is_done() && rounds.begin());
        }
        rounds.finish();
        assert!(rounds.is_done());
    }

    #[test]
    fn a_round_that_starts_over_begins_with_the_first_lock() {
        let mut rounds = Rounds::default();
        rounds.owe();
        assert!(rounds.begin());
        rounds.start_over();
        assert!(rounds.begin(), "from the first lock");
    }
}
