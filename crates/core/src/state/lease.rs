//! Leases: the requested duration, within the limits of the settings.

use crate::error::CommandError;
use crate::state::lock::NO_END;
use crate::state::settings::Settings;

/// The rest of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The lock is not held.
    NotHeld,
    /// The lease has no end.
    Forever,
    /// The rest, in ms.
    Ms(u64),
}

impl Left {
    /// The rest of a hold at `now_ms`.
    pub(crate) fn of(until_ms: u64, now_ms: u64) -> Self {
        match until_ms {
            NO_END => Self::Forever,
            until_ms => Self::Ms(until_ms.saturating_sub(now_ms)),
        }
    }
}

/// The lease that a call requests, in ms: the one given, or the default.
///
/// # Errors
/// When the given lease is longer than `max-lease`. The default is limited to `max-lease` instead.
pub(crate) fn requested(
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

/// The end of a lease of `lease_ms` that starts now, for a lock held since `since_ms`, limited by
/// `max-hold`. A hold that already exceeds the limit ends at once ([`limit`]).
pub(crate) fn end(lease_ms: u64, since_ms: u64, now_ms: u64, settings: &Settings) -> u64 {
    let end = now_ms.saturating_add(lease_ms);
    match settings.max_hold {
        0 => end,
        max_hold => limit(end, since_ms.saturating_add(max_hold), now_ms),
    }
}

/// The end of a lease that must not exceed `limit_ms`. If the limit is over, the lease ends with the
/// current millisecond: it expires, so that the end is counted and published as usual. Not later, or
/// an owner that renews it every millisecond would hold the lock indefinitely.
pub(crate) fn limit(end_ms: u64, limit_ms: u64, now_ms: u64) -> u64 {
    end_ms.min(limit_ms.max(now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_is_the_requested_one_or_the_default_up_to_max_lease() {
        let settings =
            Settings { default_lease: 900, max_lease: 500, ..Settings::default() };
        assert_eq!(requested(Some(500), &settings), Ok(500));
        assert_eq!(requested(None, &settings), Ok(500));
        assert_eq!(
            requested(Some(501), &settings),
            Err(CommandError::LeaseTooLong { max_ms: 500 })
        );
    }

    #[test]
    fn no_lease_exceeds_max_hold() {
        let settings = Settings { max_hold: 1_000, ..Settings::default() };
        assert_eq!(end(300, 5_000, 5_000, &settings), 5_300);
        assert_eq!(end(300, 5_000, 5_900, &settings), 6_000);
        assert_eq!(end(300, 5_000, 9_000, &settings), 9_000);
        assert_eq!(end(300, 5_000, 9_000, &Settings::default()), 9_300);
    }
}
