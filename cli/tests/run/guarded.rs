//! The guard, and what becomes of the command when it or `gpulock` is killed or stopped.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use gpulock_testkit::{Server, call, servers, wait_until};
use rustix::process::Signal;

use crate::runner::{
    PATIENCE, Runner, gpulock_run, is_anybody_marked, send, send_if_there, state,
    wait_dead, wait_state,
};
use crate::scripts::{GOES_ON, WITH_STRAY, run_at};

fn server() -> Server {
    servers()[0].server().start()
}

/// The guard of a run whose command has started.
fn guard(run: &Runner) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.pid()));
    let children = children.expect("the children of a process");
    let mut children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.starts_with(b"gpulock\0__guard") && state(*pid).is_some()
    })
}

#[test]
fn a_guard_that_is_killed_is_replaced() {
    let server = server();
    let mut run = run_at(server.port(), &[], &format!("{WITH_STRAY}wait"));
    let mut last = guard(&run).expect("a guard");
    for _ in 0..3 {
        send(last, Signal::KILL);
        last = another_guard(&run, last);
    }
    run.signal(Signal::KILL);
    for pid in [run.number("pid"), run.number("stray"), last] {
        wait_dead(pid);
    }
    run.ended();
}

#[test]
fn a_guard_is_replaced_while_what_was_left_running_is_ended() {
    let server = server();
    let mut run = run_at(server.port(), &[], &format!("{WITH_STRAY}exit 4"));
    wait_until(PATIENCE, "the end of the command to be seen", || {
        run.err().contains("left running")
    });
    let first = guard(&run).expect("a guard");
    send(first, Signal::KILL);
    another_guard(&run, first);
    run.signal(Signal::KILL);
    wait_dead(run.number("stray"));
    run.ended();
}

fn another_guard(run: &Runner, than: u32) -> u32 {
    let mut another = None;
    wait_until(PATIENCE, "another guard", || {
        another = guard(run).filter(|pid| *pid != than);
        another.is_some()
    });
    another.expect("a guard")
}

#[test]
fn the_command_dies_with_gpulock_though_the_guard_is_stopped() {
    let server = server();
    let mut run = run_at(server.port(), &[], GOES_ON);
    let guard = guard(&run).expect("a guard");
    send(guard, Signal::STOP);
    run.signal(Signal::KILL);
    wait_dead(run.number("pid"));
    run.ended();
    // The kernel may have continued it, as it does with those whom no shell has any more.
    send_if_there(guard, Signal::CONT);
    wait_dead(guard);
}

/// What it was told before is out of date then.
#[test]
fn a_guard_that_was_stopped_and_goes_on_does_no_harm() {
    let server = server();
    let script = "trap 'exit 6' USR1; echo $$ >pid; while :; do sleep 0.05; done";
    let mut run = run_at(server.port(), &["--lease", "6s"], script);
    let guard = guard(&run).expect("a guard");
    send(guard, Signal::STOP);
    wait_until(PATIENCE, "the lease to be over twice", || {
        call!(server.client(), "GPULOCK.INSPECT", "k").field("held_ms").int() > 12_000
    });
    send(guard, Signal::CONT);
    wait_state(guard, "S");
    send(run.number("pid"), Signal::USR1);
    assert_eq!(run.status(), 6);
    wait_dead(guard);
}

/// In whichever moment of its life: nobody is left whom the command started.
#[test]
fn gpulock_that_is_killed_as_soon_as_it_is_started_leaves_nobody() {
    let server = server();
    let script = "setsid sleep 600 & exec sleep 600";
    for round in 0..30 {
        let owner = format!("early{round}");
        let args =
            ["--key", "k", "--grace", "0s", "--owner", &owner, "--", "sh", "-c", script];
        let run = gpulock_run(&server, &args).start();
        sleep(Duration::from_micros(500 * round));
        drop(run);
        wait_until(PATIENCE, format!("nobody of {owner} to be left"), || {
            !is_anybody_marked(&owner)
        });
    }
}
