//! Waits on a server that returns errors, hangs, or goes away.

use gpulock_testkit::{Server, call, servers, wait_until};
use nix::sys::signal::Signal;

use crate::runner::{Runner, TIMEOUT, gpulock_run};

fn server() -> Server {
    servers()[0].server().start()
}

/// A run that waits for `k`, which another owner holds.
fn waiting(server: &Server, args: &[&str]) -> Runner {
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let args = [&["--key", "k"], args, &["--", "touch", "ran"]].concat();
    let run = gpulock_run(server, &args).start();
    server.wait_blocked(1);
    run
}

#[test]
fn a_wait_that_times_out_without_a_server_has_status_75() {
    let mut server = server();
    let mut run = waiting(&server, &["--wait", "3s"]);
    server.kill9();
    assert_eq!(run.status(), 75);
    assert!(!run.path("ran").exists());
}

#[test]
fn a_signal_ends_a_wait_while_the_server_hangs() {
    let mut server = server();
    let mut run = waiting(&server, &[]);
    server.freeze();
    run.signal(Signal::SIGTERM);
    assert_eq!(run.status(), 143);
    server.thaw();
    call!(server.client(), "GPULOCK.RELEASE", "k", "other");
    // The position is kept for a while.
    wait_until(TIMEOUT, "the lock to be free", || {
        call!(server.client(), "GPULOCK.INSPECT", "k").is_null()
    });
}

#[test]
fn a_temporary_error_is_retried_and_reported_once() {
    let server = servers()[0].server().module_args(&["gpulock.max-waiters", "0"]).start();
    let mut admin = server.client();
    call!(admin, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let mut run = gpulock_run(&server, &["--key", "k", "--", "touch", "ran"]).start();
    wait_until(TIMEOUT, "the error to be reported", || {
        let err = run.err();
        err.lines().any(|line| line.contains("MAXWAITERS") && line.contains("retrying"))
    });
    call!(admin, "CONFIG", "SET", "gpulock.max-waiters", 10);
    server.wait_blocked(1);
    call!(admin, "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
    assert_eq!(run.err().matches("MAXWAITERS").count(), 1, "{}", run.err());
}

#[test]
fn a_temporary_error_fails_at_once_with_no_wait() {
    let server = servers()[0].server().arg("maxmemory", "1").start();
    let args = ["--key", "k", "--no-wait", "--", "touch", "ran"];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 1);
    assert!(run.err().contains("the server returned an error: OOM"), "{}", run.err());
}
