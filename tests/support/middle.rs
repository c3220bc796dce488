//! How long something takes that is to take little: the middle of several times, since a
//! machine that is busy with other things may miss now and then. What it is stands with the
//! tests.

use std::time::Duration;

/// How often it is tried.
const RUNS: usize = 5;

/// How often it may try so many times, before it is late.
const TRIES: usize = 10;

/// Times something until the middle of several times is soon enough; the last middle.
#[track_caller]
pub(crate) fn middle(
    what: &str,
    within: Duration,
    mut once: impl FnMut() -> Duration,
) -> Duration {
    let mut times = vec![];
    for _ in 0..TRIES {
        times = (0..RUNS).map(|_| once()).collect();
        times.sort_unstable();
        if times[RUNS / 2] <= within {
            return times[RUNS / 2];
        }
    }
    panic!("{what}: took {times:?}");
}
