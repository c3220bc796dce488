//! Waiting for locks on a server that refuses, hangs or goes away meanwhile.

use gpulock_testkit::{Server, call, servers, wait_until};
use rustix::process::Signal;

use crate::runner::{PATIENCE, Runner, gpulock_run};

fn server() -> Server {
    servers()[0].server().start()
}

/// A run that waits for `k`, which somebody else holds.
fn waiting(server: &Server, args: &[&str]) -> Runner {
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let args = [&["--key", "k"], args, &["--", "touch", "ran"]].concat();
    let run = gpulock_run(server, &args).start();
    server.wait_blocked(1);
    run
}

#[test]
fn a_server_that_goes_away_until_the_wait_is_over_is_75() {
    let mut server = server();
    let mut run = waiting(&server, &["--wait", "3s"]);
    server.kill9();
    assert_eq!(run.status(), 75);
    assert!(!run.path("ran").exists());
}

#[test]
fn a_signal_ends_a_wait_though_the_server_hangs() {
    let mut server = server();
    let mut run = waiting(&server, &[]);
    server.freeze();
    run.signal(Signal::TERM);
    assert_eq!(run.status(), 143);
    server.thaw();
    call!(server.client(), "GPULOCK.RELEASE", "k", "other");
    // Its place is kept for a while.
    wait_until(PATIENCE, "nobody to have the lock", || {
        call!(server.client(), "GPULOCK.INSPECT", "k").is_null()
    });
}

#[test]
fn what_the_server_lacks_is_waited_for_and_told_once() {
    let server = servers()[0].server().module_args(&["gpulock.max-waiters", "0"]).start();
    let mut admin = server.client();
    call!(admin, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let mut run = gpulock_run(&server, &["--key", "k", "--", "touch", "ran"]).start();
    wait_until(PATIENCE, "the reason to be told", || {
        let told = run.err();
        told.lines()
            .any(|line| line.contains("MAXWAITERS") && line.contains("asking again"))
    });
    call!(admin, "CONFIG", "SET", "gpulock.max-waiters", 10);
    server.wait_blocked(1);
    call!(admin, "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
    assert_eq!(run.err().matches("MAXWAITERS").count(), 1, "{}", run.err());
}

#[test]
fn what_the_server_lacks_is_told_at_once_when_nobody_waits() {
    let server = servers()[0].server().arg("maxmemory", "1").start();
    let args = ["--key", "k", "--no-wait", "--", "touch", "ran"];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 1);
    assert!(run.err().contains("the server answers: OOM"), "{}", run.err());
}
