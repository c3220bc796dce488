//! The state of the probe round over the locks that have waiters. When to probe is decided in
//! `rules/probe_schedule.rs`.

use crate::state::arena::Id;
use crate::state::rounds::Rounds;

/// The progress of the round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeRound {
    /// The rounds that are owed while the module listens.
    pub rounds: Rounds,
    /// The lock that was probed last in this round.
    pub last: Option<Id>,
    /// When the next locks are probed, in ms since the epoch.
    pub next_ms: u64,
    /// When lease ends were last checked, in ms since the epoch. A lease end that is still due,
    /// because the server still shows the expired key, is checked again a millisecond later.
    pub checked_ms: u64,
}

impl ProbeRound {
    /// Goes on at once: where one key is gone, as after FLUSHALL, others may be.
    pub(crate) fn go_on_at_once(&mut self) {
        self.next_ms = 0;
    }
}
