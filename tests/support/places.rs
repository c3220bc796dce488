//! The line of a lock as INSPECT tells it: owners in order, in brackets those who are away
//! and whose place is kept.

use std::time::Duration;

use gpulock_testkit::{Client, Value, call, wait_until};

/// Who stands in the line of a lock.
#[track_caller]
pub(crate) fn line_of(client: &mut Client, key: &str) -> Vec<String> {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    if seen.is_null() {
        return Vec::new();
    }
    let shown = |place: &Value| {
        let owner = place.field("owner").text();
        if place.field("client").is_null() { format!("({owner})") } else { owner }
    };
    let line: Vec<String> = seen.field("waiters").list().iter().map(shown).collect();
    assert_eq!(seen.field("waiting"), i64::try_from(line.len()).expect("not so many"));
    line
}

/// Waits until just these stand in the line of a lock.
#[track_caller]
pub(crate) fn wait_line(client: &mut Client, key: &str, line: &[&str]) {
    wait_until(Duration::from_secs(10), format!("{line:?} to wait for {key}"), || {
        line_of(client, key) == line
    });
}
