//! How long to wait for locks (`--wait`, `--no-wait`).

use std::time::Duration;

use crate::clock::{self, Moment};

/// The options of the wait.
#[derive(Debug, clap::Args)]
pub(crate) struct WaitOptions {
    /// Maximum time to wait for the locks [default: wait indefinitely]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Do not wait
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

/// The end of the wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WaitBudget {
    /// Do not wait.
    NoWait,
    /// Wait until this moment.
    Until(Moment),
    /// Wait indefinitely.
    Unlimited,
}

impl WaitOptions {
    /// How long to wait, from now on.
    pub(crate) fn budget(&self) -> WaitBudget {
        match (self.no_wait, self.wait) {
            (true, _) => WaitBudget::NoWait,
            (false, Some(wait)) => WaitBudget::Until(clock::now().saturating_add(wait)),
            (false, None) => WaitBudget::Unlimited,
        }
    }

    /// The message if the locks were not acquired in time; `holders` describes the holders.
    pub(crate) fn busy_message(&self, holders: Option<String>) -> String {
        match (self.no_wait, holders) {
            (true, Some(holders)) => holders,
            (true, None) => "the locks are not free".to_owned(),
            (false, Some(holders)) => {
                format!("timed out waiting for the locks: {holders}")
            }
            (false, None) => "timed out waiting for the locks".to_owned(),
        }
    }
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
