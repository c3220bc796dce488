//! The command never outlives its locks: whatever happens to the server, the network, the locks
//! or `gpulock` itself, the command is dead before the lease or the grace period ends.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use gpulock_testkit::{Server, call, on_every_server, servers, wait_until};
use nix::sys::signal::Signal;

use crate::lease_end::{lease_end, unix_time};
use crate::relay::Relay;
use crate::runner::{
    Runner, TIMEOUT, builder, gpulock_run_at, state, wait_dead, waiting,
};
use crate::scripts::{ENDS, GOES_ON, WITH_GRANDCHILD, run_at};

fn server() -> Server {
    servers()[0].server().arg("appendonly", "yes").start()
}

/// Waits for the command's death, and returns its Unix time.
fn death(run: &Runner) -> Duration {
    wait_dead(run.number("pid"));
    unix_time()
}

#[test]
fn the_command_dies_before_the_lease_ends_when_the_server_hangs() {
    on_every_server(|flavour| {
        for script in [ENDS, GOES_ON] {
            let mut server = flavour.server().arg("appendonly", "yes").start();
            let mut run = run_at(server.port(), &["--lease", "12s"], script);
            server.freeze();
            let death = death(&run);
            assert!(death < lease_end(&server, "k"), "{script}");
            assert_eq!(run.status(), 76);
        }
    });
}

#[test]
fn the_command_dies_before_the_lease_ends_when_the_network_is_silent() {
    for script in [ENDS, GOES_ON] {
        let server = server();
        let relay = Relay::to(server.port());
        let mut run = run_at(relay.port(), &["--lease", "12s"], script);
        relay.silence();
        let death = death(&run);
        assert!(death < lease_end(&server, "k"), "{script}");
        assert_eq!(run.status(), 76);
        // Data held in the relay must not reach the server after the test.
        relay.cut();
    }
}

#[test]
fn the_command_dies_before_the_grace_period_ends_when_the_server_dies() {
    let mut server = server();
    let mut run = run_at(server.port(), &["--lease", "1h", "--grace", "9s"], GOES_ON);
    let killed = unix_time();
    server.kill9();
    let death = death(&run);
    assert!(death < killed + Duration::from_secs(9), "{:?}", death - killed);
    assert_eq!(run.status(), 76);
    assert!(run.err().contains("lock lost"), "{}", run.err());
}

#[test]
fn the_command_dies_before_the_next_grant_when_gpulock_is_killed() {
    let server = server();
    let mut next = server.client();
    for script in [ENDS, WITH_GRANDCHILD] {
        let mut run = run_at(server.port(), &["--grace", "3s"], script);
        let command = run.number("pid");
        let grandchild = (script == WITH_GRANDCHILD).then(|| run.number("grand"));
        run.signal(Signal::SIGKILL);
        let token =
            call!(next, "GPULOCK.ACQUIRE", "k", "next", "EX", 600, "BLOCK", 60000);
        assert!(token.int() > 0);
        for pid in [Some(command), grandchild].into_iter().flatten() {
            assert_eq!(state(pid), None, "process {pid} of {script}");
        }
        run.ended();
        call!(next, "GPULOCK.RELEASE", "k", "next");
    }
}

#[test]
fn the_command_dies_before_the_lease_ends_when_gpulock_is_stopped() {
    let server = server();
    let mut run = run_at(server.port(), &["--lease", "20s"], WITH_GRANDCHILD);
    let (command, grandchild) = (run.number("pid"), run.number("grand"));
    run.signal(Signal::SIGSTOP);
    for pid in [command, grandchild] {
        wait_dead(pid);
        assert!(unix_time() < lease_end(&server, "k"));
    }
    run.signal(Signal::SIGCONT);
    assert_eq!(run.status(), 76);
}

#[test]
fn the_command_dies_before_a_cut_lease_ends() {
    let builder = servers()[0].server().arg("appendonly", "yes");
    let server = builder.module_args(&["gpulock.max-hold", "15000"]).start();
    let mut run = run_at(server.port(), &["--lease", "12s"], GOES_ON);
    let death = death(&run);
    assert!(death < lease_end(&server, "k"));
    assert_eq!(run.status(), 76);
    assert!(run.err().contains("gpulock.max-hold"), "{}", run.err());
}

#[test]
fn a_grant_that_expired_before_it_was_received_is_not_used() {
    let server = server();
    let relay = Relay::to(server.port());
    let mut other = server.client();
    call!(other, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let script = "echo $GPULOCK_TOKENS >>tokens; exec sleep 600";
    let args = ["--key", "k", "--lease", "4s", "--", "sh", "-c", script];
    let run = gpulock_run_at(relay.port(), &args).start();
    server.wait_blocked(1);
    relay.silence();
    call!(other, "GPULOCK.RELEASE", "k", "other");
    let next = ["GPULOCK.ACQUIRE", "k", "next", "EX", "600", "BLOCK", "60000"];
    let token = other.cmd(&next).int();
    relay.pass();
    server.wait_blocked(1);
    call!(other, "GPULOCK.RELEASE", "k", "next");
    assert!(run.line("tokens").parse::<i64>().expect("one token") > token);
}

/// `gpulock` is stopped around the moment at which it starts the command, and continued when
/// another owner has the lock.
#[test]
fn the_command_is_not_started_on_a_lock_of_another_owner() {
    let server = server();
    thread::scope(|scope| {
        for round in 0..12 {
            let server = &server;
            scope.spawn(move || stop_around_the_start(server, round));
        }
    });
}

fn stop_around_the_start(server: &Server, round: u64) {
    let key = format!("k{round}");
    let mut other = server.client();
    call!(other, "GPULOCK.ACQUIRE", &key, "other", "EX", 600);
    let script = "echo $GPULOCK_TOKENS >>tokens; exec sleep 600";
    let args = ["--key", &key, "--lease", "1s", "--", "sh", "-c", script];
    let mut run = gpulock_run_at(server.port(), &args).start();
    let waits = || waiting(server, &key) == 1;
    wait_until(TIMEOUT, "gpulock to wait", waits);
    call!(other, "GPULOCK.RELEASE", &key, "other");
    // A different moment in each round.
    thread::sleep(Duration::from_millis(round));
    run.signal(Signal::SIGSTOP);
    call!(other, "GPULOCK.ACQUIRE", &key, "next", "EX", 600, "BLOCK", 60000);
    let started = |run: &Runner| fs::read_to_string(run.path("tokens")).ok();
    let before = started(&run);
    run.signal(Signal::SIGCONT);
    wait_until(TIMEOUT, "gpulock to wait again or to end", || waits() || run.has_ended());
    assert_eq!(started(&run), before);
}

/// The helper process checks the clock before it executes the command.
#[test]
fn a_command_is_not_started_too_late() {
    let helper = |latest_start: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gpulock"));
        let parent = std::process::id().to_string();
        command.args(["__child", &parent, latest_start, "--", "touch", "ran"]);
        builder(command).status()
    };
    let (status, run) = helper("1");
    assert_eq!(status, 1);
    assert!(!run.path("ran").exists() && run.err().contains("may be lost"));
    let (status, run) = helper(&u64::MAX.to_string());
    assert_eq!(status, 0);
    assert!(run.path("ran").exists());
}
