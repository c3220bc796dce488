//! How long a run waits for its locks (`--wait`, `--no-wait`).

use std::time::Duration;

use crate::clock::{self, Moment};

#[derive(Clone, Copy, Debug)]
pub(crate) enum WaitBudget {
    /// Do not wait.
    NoWait,
    /// Wait until this moment.
    Until(Moment),
    /// Wait indefinitely.
    Unlimited,
}

impl WaitBudget {
    /// The remaining time, limited to `max`. None with [`WaitBudget::NoWait`].
    pub(crate) fn slice(self, max: Duration) -> Option<Duration> {
        match self {
            Self::NoWait => None,
            Self::Until(end) => Some(end.saturating_sub(clock::now()).min(max)),
            Self::Unlimited => Some(max),
        }
    }

    /// Whether no time is left.
    pub(crate) fn is_spent(self) -> bool {
        self.slice(Duration::MAX).is_none_or(|left| left.is_zero())
    }
}
