//! The clock of a history: monotonic and shared by all processes of the machine, so times
//! recorded by child processes are comparable.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds on that clock.
pub type Nanos = u64;

/// A millisecond.
pub const MS: Nanos = 1_000_000;

/// The current time.
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    let part = |number: i64| u64::try_from(number).expect("never negative");
    part(time.tv_sec()) * 1_000 * MS + part(time.tv_nsec())
}
