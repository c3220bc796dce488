//! How long a lock is held: what was asked for, within what the operator allows.

use crate::error::CommandError;
use crate::state::lock::NO_END;
use crate::state::settings::Settings;

/// What is left of a lease, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nobody holds the lock.
    NotHeld,
    /// It has no end.
    Forever,
    /// So many ms.
    Ms(u64),
}

impl Left {
    /// What is left of a hold at `now_ms`.
    pub(crate) fn of(until_ms: u64, now_ms: u64) -> Self {
        match until_ms {
            NO_END => Self::Forever,
            until_ms => Self::Ms(until_ms.saturating_sub(now_ms)),
        }
    }
}

/// The lease in ms that a call asks for: its own, or the default.
///
/// # Errors
/// When it is longer than `max-lease`. The default is cut instead: nobody asked for it.
pub(crate) fn asked(
    lease_ms: Option<u64>,
    settings: &Settings,
) -> Result<u64, CommandError> {
    match lease_ms {
        None => Ok(settings.default_lease.min(settings.max_lease)),
        Some(ms) if ms > settings.max_lease => {
            Err(CommandError::LeaseTooLong { max_ms: settings.max_lease })
        }
        Some(ms) => Ok(ms),
    }
}

/// When a lease of `lease_ms` set now is over, for a lock held since `since_ms`: never
/// beyond `max-hold`. A hold that is over the limit already ends a millisecond from now,
/// as an ordinary lease does, so that it is told and counted.
pub(crate) fn end(lease_ms: u64, since_ms: u64, now_ms: u64, settings: &Settings) -> u64 {
    let end = now_ms.saturating_add(lease_ms);
    match settings.max_hold {
        0 => end,
        max_hold => {
            let limit = since_ms.saturating_add(max_hold);
            end.min(limit.max(now_ms.saturating_add(1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_what_was_asked_or_the_default_cut_to_the_longest() {
        let settings =
            Settings { default_lease: 900, max_lease: 500, ..Settings::default() };
        assert_eq!(asked(Some(500), &settings), Ok(500));
        assert_eq!(asked(None, &settings), Ok(500));
        assert_eq!(
            asked(Some(501), &settings),
            Err(CommandError::LeaseTooLong { max_ms: 500 })
        );
    }

    #[test]
    fn no_lease_reaches_beyond_max_hold() {
        let settings = Settings { max_hold: 1_000, ..Settings::default() };
        assert_eq!(end(300, 5_000, 5_000, &settings), 5_300);
        assert_eq!(end(300, 5_000, 5_900, &settings), 6_000);
        assert_eq!(end(300, 5_000, 9_000, &settings), 9_001);
        assert_eq!(end(300, 5_000, 9_000, &Settings::default()), 9_300);
    }
}
