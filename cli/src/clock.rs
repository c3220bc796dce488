//! The clock that leases are watched by: it goes on while the machine is suspended, and
//! nobody sets it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment, as the time since the machine started.
pub(crate) type Moment = Duration;

/// Now.
pub(crate) fn now() -> Moment {
    let now = clock_gettime(ClockId::Boottime);
    // The time since a start is not negative.
    Duration::try_from(now).unwrap_or_default()
}

/// A time, or a moment, in whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
