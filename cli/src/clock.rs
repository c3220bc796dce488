//! The clock for leases: it advances while the machine is suspended, and cannot be set.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment, as the time since boot.
pub(crate) type Moment = Duration;

/// The current moment.
pub(crate) fn now() -> Moment {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock").into()
}

/// A duration or a moment in whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
