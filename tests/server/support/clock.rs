//! Time.

use std::time::{Duration, UNIX_EPOCH};

/// The deadline for something that must happen: only a test that hangs reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The Unix time in milliseconds.
pub(crate) fn unix_ms() -> i64 {
    let elapsed = UNIX_EPOCH.elapsed().expect("a clock after 1970");
    i64::try_from(elapsed.as_millis()).expect("a date that fits")
}
