//! The end of a lease, as recorded in the append-only file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gpulock_testkit::Server;

/// The end of the last lease of a key in the append-only file, in Unix time.
#[track_caller]
pub(crate) fn lease_end(server: &Server, key: &str) -> Duration {
    let end = |command: Vec<String>| {
        let at = match &command[..] {
            [set, of, _, _, at] if set == "SET" && of == key => at,
            [expire, of, at] if expire == "PEXPIREAT" && of == key => at,
            _ => return None,
        };
        at.parse().ok().map(Duration::from_millis)
    };
    server.aof().into_iter().filter_map(end).next_back().expect("a lease in the AOF")
}

/// The current Unix time.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
}
