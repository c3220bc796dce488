//! Waiting for a condition, never for a time: a test that sleeps is slow on a fast
//! machine and wrong on a slow one.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Asks `holds` about every millisecond until it does; at the deadline panics with
/// `what` was waited for.
#[track_caller]
pub fn wait_until(
    deadline: Duration,
    what: impl Display,
    mut holds: impl FnMut() -> bool,
) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_when_the_condition_holds() {
        let mut asked = 0;
        wait_until(Duration::from_secs(10), "the third call", || {
            asked += 1;
            asked == 3
        });
        assert_eq!(asked, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for: a pig to fly")]
    fn names_what_did_not_come() {
        wait_until(Duration::from_millis(5), "a pig to fly", || false);
    }
}
