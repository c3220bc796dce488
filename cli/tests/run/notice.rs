//! `FORCERELEASE … AFTER` gives the holder notice: the command gets TERM at once, so that it can
//! use the time that is left, and is dead before the deadline.

use gpulock_testkit::{Server, call, on_every_server, servers, wait_until};
use nix::sys::signal::Signal;

use crate::lease_end::{lease_end, unix_time};
use crate::runner::{Runner, TIMEOUT, gpulock_run, wait_dead};
use crate::scripts::{ENDS, GOES_ON, run_at};

/// Writes a checkpoint on TERM.
const SAVES: &str = "trap 'echo saved >checkpoint; exit 0' TERM; echo $$ >pid; \
                     while :; do sleep 0.05; done";

fn server() -> Server {
    servers()[0].server().arg("appendonly", "yes").start()
}

#[track_caller]
fn give_notice(server: &Server, ms: u64) {
    let notice = call!(
        server.client(),
        "GPULOCK.FORCERELEASE",
        "k",
        "AFTER",
        ms,
        "REASON",
        "drain"
    );
    assert!(!notice.is_null());
}

/// Waits until the run has reported the notice.
#[track_caller]
fn wait_reported(run: &Runner) {
    wait_until(TIMEOUT, "the notice to be reported", || {
        run.err().contains("lock revoked: must be released within")
    });
}

#[test]
fn the_command_gets_term_at_once_after_a_notice() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        // No renewal and no other deadline is near.
        let args = ["--lease", "1h", "--on-lost", "echo $GPULOCK_LOST >lost"];
        let mut run = run_at(server.port(), &args, SAVES);
        give_notice(&server, 1_800_000);
        assert_eq!(run.status(), 76);
        assert_eq!(run.line("checkpoint"), "saved");
        assert_eq!(run.line("lost"), "revoked");
        let err = run.err();
        // The shell may report its own children.
        let lines: Vec<&str> =
            err.lines().filter(|line| line.starts_with("gpulock")).collect();
        assert_eq!(lines.len(), 1, "{err}");
        assert!(lines[0].starts_with("gpulock: lock revoked: must be released within"));
        assert!(lines[0].ends_with("(drain); terminating the command"), "{err}");
        // The lock was released by its owner, not at the deadline.
        assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null());
        assert_eq!(server.info_int("gpulock", "gpulock_releases"), 1);
        assert_eq!(server.info_int("gpulock", "gpulock_emergency_releases"), 0);
    });
}

#[test]
fn a_command_that_ignores_term_is_dead_before_the_notice_ends() {
    for lease in ["3s", "1h"] {
        let server = server();
        let mut run = run_at(server.port(), &["--lease", lease], GOES_ON);
        give_notice(&server, 12_000);
        wait_reported(&run);
        wait_dead(run.number("pid"));
        assert!(unix_time() < lease_end(&server, "k"), "{lease}");
        assert_eq!(run.status(), 76);
        assert_eq!(run.err().matches("terminating the command").count(), 1);
    }
}

#[test]
fn a_second_notice_ends_the_command_earlier() {
    let server = server();
    let mut run = run_at(server.port(), &["--lease", "2h"], GOES_ON);
    give_notice(&server, 3_600_000);
    wait_reported(&run);
    give_notice(&server, 12_000);
    wait_dead(run.number("pid"));
    assert!(unix_time() < lease_end(&server, "k"));
    assert_eq!(run.status(), 76);
}

#[test]
fn the_watchdog_enforces_a_notice_while_gpulock_is_stopped() {
    let server = server();
    let mut run = run_at(server.port(), &["--lease", "1h"], GOES_ON);
    give_notice(&server, 20_000);
    wait_reported(&run);
    run.signal(Signal::SIGSTOP);
    wait_dead(run.number("pid"));
    assert!(unix_time() < lease_end(&server, "k"));
    run.signal(Signal::SIGCONT);
    assert_eq!(run.status(), 76);
}

/// Shorter than the time between two checks: like a forced release without notice.
#[test]
fn a_very_short_notice_ends_the_command() {
    let server = server();
    let mut run = run_at(server.port(), &["--lease", "1h", "--grace", "1m"], ENDS);
    give_notice(&server, 300);
    assert_eq!(run.status(), 76);
    assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null());
}

/// One of several locks is revoked: the others are released as well.
#[test]
fn all_locks_are_released_after_a_notice_for_one() {
    let server = server();
    let args = ["--keys", "k,l", "-n", "2", "--", "sh", "-c", SAVES];
    let mut run = gpulock_run(&server, &args).start();
    run.line("pid");
    give_notice(&server, 1_800_000);
    assert_eq!(run.status(), 76);
    assert!(call!(server.client(), "GPULOCK.LIST").list().is_empty());
    assert_eq!(server.info_int("gpulock", "gpulock_releases"), 2);
}

/// The shorter lease alone would end the command for lack of contact.
#[test]
fn a_short_notice_is_the_reason_of_the_end() {
    let server = server();
    for ms in [1_500, 2_000, 3_000, 4_000, 5_000] {
        let mut run = run_at(server.port(), &["--lease", "30s"], SAVES);
        give_notice(&server, ms);
        assert_eq!(run.status(), 76);
        assert!(run.err().contains("lock revoked"), "{ms} ms: {}", run.err());
    }
}
