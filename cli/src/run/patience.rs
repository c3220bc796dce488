//! How long a run waits for its locks.

use std::time::Duration;

use crate::clock::{self, Moment};

/// How long it waits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// Until then.
    Until(Moment),
    /// For ever.
    Endless,
}

impl Patience {
    /// What is left of it, or `most` when that is less; none: there is no waiting at all.
    pub(crate) fn slice(self, most: Duration) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Until(end) => Some(end.saturating_sub(clock::now()).min(most)),
            Self::Endless => Some(most),
        }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_over(self) -> bool {
        self.slice(Duration::MAX).is_none_or(|left| left.is_zero())
    }
}
