//! The clock for leases: it advances while the machine is suspended, and cannot be set.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, as the time since boot.
pub(crate) type Moment = Duration;

/// The current moment.
pub(crate) fn now() -> Moment {
    let now = clock_gettime(ClockId::Boottime);
    // The time since boot is not negative.
    Duration::try_from(now).unwrap_or_default()
}

/// A duration or a moment in whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
