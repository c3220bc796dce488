//! The clock of a history: monotonic, and the same one in every process of the machine, so
//! that what a child process tells can be put beside what the others heard.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on that clock.
pub type Nanos = u64;

/// A millisecond.
pub const MS: Nanos = 1_000_000;

/// What the clock shows.
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).expect("never negative");
    part(time.tv_sec) * 1_000 * MS + part(time.tv_nsec)
}
