//! Waiting for a condition instead of sleeping: a test that sleeps is slow on a fast machine
//! and fails on a slow one.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Calls `condition` about every millisecond until it returns true. Panics at the deadline
/// with `what` it waited for.
#[track_caller]
pub fn wait_until(
    deadline: Duration,
    what: impl Display,
    mut condition: impl FnMut() -> bool,
) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < deadline,
            "timed out after {deadline:?} waiting for {what}"
        );
        sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_when_the_condition_holds() {
        let mut calls = 0;
        wait_until(Duration::from_secs(10), "the third call", || {
            calls += 1;
            calls == 3
        });
        assert_eq!(calls, 3);
    }

    #[test]
    #[should_panic(expected = "waiting for a pig to fly")]
    fn the_panic_names_the_condition() {
        wait_until(Duration::from_millis(5), "a pig to fly", || false);
    }
}
