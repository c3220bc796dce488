//! A server without traffic, and what the module does on it.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Server};

use super::clock::DEADLINE;

/// How long a server is observed, and how often it may wake up in that time. It does two or three
/// times for its own cron, and forty times when the module's timer fires every 5 ms.
const OBSERVED: Duration = Duration::from_millis(200);
const WAKE_UPS: u64 = 12;

/// The time that it may compute meanwhile. A timer that is always due makes it compute all the time.
const BUSY: Duration = Duration::from_millis(100);

/// Waits until a server does nothing without a command. Sends none.
#[track_caller]
pub(crate) fn wait_silent(server: &Server, process: u32) {
    let start = Instant::now();
    loop {
        let before = (wake_ups(process), busy_time(process));
        sleep(OBSERVED);
        if wake_ups(process) - before.0 <= WAKE_UPS
            && busy_time(process) - before.1 <= BUSY
        {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{}: the timer never rests", server.name());
    }
}

/// The process of a server, which may run under another program.
#[track_caller]
pub(crate) fn process_of(server: &Server) -> u32 {
    server.info("server")["process_id"].parse().expect("a number")
}

/// How often the kernel has woken up the main thread of a process.
fn wake_ups(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let voluntary =
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    voluntary.and_then(|number| number.trim().parse().ok()).expect("a number")
}

/// How long the main thread of a process has computed.
fn busy_time(process: u32) -> Duration {
    let times = fs::read_to_string(format!("/proc/{process}/schedstat")).expect("Linux");
    let nanos = times.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

/// The number of command filters of the module; none when it is not loaded.
#[track_caller]
pub(crate) fn filters(client: &mut Client) -> Option<u32> {
    let modules = client.line("INFO modules").text();
    let line = modules.lines().find(|line| line.starts_with("module:name=gpulock,"))?;
    let filters = line.split(',').find_map(|part| part.strip_prefix("filters="));
    Some(filters.and_then(|number| number.parse().ok()).expect("a number of filters"))
}
