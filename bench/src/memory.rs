//! What a server's memory comes to when nothing is in motion.

use std::thread;
use std::time::{Duration, Instant};

use crate::served::Served;

/// What `used_memory` may go up and down by while it stands still: each question for it
/// is a client.
const STIR: i64 = 500;

/// `used_memory` of servers, once that of all stood still for so long. Buffers of idle
/// clients are given back after some seconds, old tables when the last key has moved.
pub(crate) fn settled(servers: &[&Served], still: Duration) -> Vec<i64> {
    let look = || servers.iter().map(|served| served.server().used_memory());
    let mut seen: Vec<i64> = look().collect();
    let mut since = Instant::now();
    while since.elapsed() < still {
        thread::sleep(Duration::from_millis(50));
        let now: Vec<i64> = look().collect();
        if now.iter().zip(&seen).any(|(now, seen)| (now - seen).abs() > STIR) {
            seen = now;
            since = Instant::now();
        }
    }
    seen
}
