//! Steps of the wall clock. Leases and waits are not promised meanwhile; the server must live.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use gpulock_testkit::{Flavour, send, wait_until};
use tempfile::TempDir;

use crate::harness::skip;
use crate::support::c_library::build_c_library;
use crate::support::clock::DEADLINE;
use crate::support::locks::acquire;
use crate::support::queue::{NO_TIMEOUT, join_queue};

tests! {
    a_clock_that_is_stepped_back_while_the_timer_fires_does_not_stop_the_server,
}

/// Sets the clock ahead by an hour, until the module has read it so many times.
fn step_back_after(file: &Path, reads: i64) {
    let state = [3_600_i64.to_ne_bytes(), reads.to_ne_bytes()].concat();
    // In place, because the server has the file mapped.
    let file = File::options().write(true).open(file).expect("the file of the clock");
    file.write_all_at(&state, 0).expect("space");
}

fn is_stepped_back(file: &Path) -> bool {
    fs::read(file).expect("the file of the clock") == [0; 16]
}

/// The server fires all timers that are due at one reading of the clock. A timer that is armed
/// after the clock was stepped back is due at once, again and again.
fn a_clock_that_is_stepped_back_while_the_timer_fires_does_not_stop_the_server(
    flavour: &Flavour,
) {
    if flavour.is_valkey() && flavour.version() >= (8, 1, 0) {
        return skip("Valkey 8.1 and later bind modules to the C library");
    }
    let folder = TempDir::with_prefix("gpulock-").expect("a folder");
    let clock = folder.path().join("clock");
    fs::write(&clock, [0; 16]).expect("space");
    let library = build_c_library("stepped_clock", folder.path());
    let server = flavour
        .server()
        .env("LD_PRELOAD", &library.display().to_string())
        .env("STEPPED_CLOCK", &clock.display().to_string())
        .start();
    let mut client = server.client();
    for key in ["gpu:0", "gpu:1"] {
        acquire(&mut client, key, "me");
    }
    assert_eq!(client.line("PERSIST gpu:0"), 1);
    let mut waiter = join_queue(&server, &mut client, "gpu:0", "waiter", NO_TIMEOUT);
    // Among the readings of one command and of the ticks after it is each moment of a tick.
    for reads in 1..=20 {
        step_back_after(&clock, reads);
        wait_until(DEADLINE, format!("{reads} readings"), || {
            assert_eq!(
                client.line("PING"),
                "PONG",
                "stepped back after {reads} readings"
            );
            is_stepped_back(&clock)
        });
    }
    send!(client, "DEL", "gpu:0");
    assert!(waiter.read().int() > 0);
}
