//! Memory of idle servers.

use std::thread;
use std::time::{Duration, Instant};

use crate::server::BenchServer;

/// Fluctuation of `used_memory` on an idle server: reading it takes a client.
const NOISE: i64 = 500;

/// Returns the `used_memory` of the servers once all have been constant for `period`.
/// Servers free the buffers of idle clients after some seconds, and old hash tables when
/// the last key has moved.
pub(crate) fn settled(servers: &[&BenchServer], period: Duration) -> Vec<i64> {
    let read = || servers.iter().map(|server| server.process().used_memory());
    let mut last: Vec<i64> = read().collect();
    let mut since = Instant::now();
    while since.elapsed() < period {
        thread::sleep(Duration::from_millis(50));
        let now: Vec<i64> = read().collect();
        if now.iter().zip(&last).any(|(now, last)| (now - last).abs() > NOISE) {
            last = now;
            since = Instant::now();
        }
    }
    last
}
