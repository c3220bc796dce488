//! The watchdog or `gpulock` is killed or stopped.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use gpulock_testkit::{Server, call, servers, wait_until};
use nix::sys::signal::Signal;

use crate::runner::{
    Runner, TIMEOUT, gpulock_run, has_process_of, send, send_if_alive, state, wait_dead,
    wait_state,
};
use crate::scripts::{GOES_ON, WITH_GRANDCHILD, WITH_STRAY, run_at};

fn server() -> Server {
    servers()[0].server().start()
}

/// The watchdog of a run whose command has started.
fn watchdog(run: &Runner) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.pid()));
    let children = children.expect("the children of a process");
    let mut children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.find(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_watchdog =
            words.split(|byte| *byte == 0).any(|word| word == b"__watchdog");
        is_watchdog && state(*pid).is_some()
    })
}

#[test]
fn a_killed_watchdog_is_replaced() {
    let server = server();
    let mut run = run_at(server.port(), &[], &format!("{WITH_STRAY}wait"));
    let mut last = watchdog(&run).expect("a watchdog");
    for _ in 0..3 {
        send(last, Signal::SIGKILL);
        last = other_watchdog(&run, last);
    }
    run.signal(Signal::SIGKILL);
    for pid in [run.number("pid"), run.number("stray"), last] {
        wait_dead(pid);
    }
    run.ended();
}

#[test]
fn the_watchdog_is_replaced_while_survivors_are_terminated() {
    let server = server();
    let mut run = run_at(server.port(), &[], &format!("{WITH_STRAY}exit 4"));
    wait_until(TIMEOUT, "the end of the command to be noticed", || {
        run.err().contains("left running")
    });
    let first = watchdog(&run).expect("a watchdog");
    send(first, Signal::SIGKILL);
    other_watchdog(&run, first);
    run.signal(Signal::SIGKILL);
    wait_dead(run.number("stray"));
    run.ended();
}

fn other_watchdog(run: &Runner, than: u32) -> u32 {
    let mut other = None;
    wait_until(TIMEOUT, "another watchdog", || {
        other = watchdog(run).filter(|pid| *pid != than);
        other.is_some()
    });
    other.expect("a watchdog")
}

#[test]
fn the_command_dies_with_gpulock_even_if_the_watchdog_is_stopped() {
    let server = server();
    let mut run = run_at(server.port(), &[], GOES_ON);
    let watchdog = watchdog(&run).expect("a watchdog");
    send(watchdog, Signal::SIGSTOP);
    run.signal(Signal::SIGKILL);
    wait_dead(run.number("pid"));
    run.ended();
    // The kernel may have continued it as part of an orphaned process group.
    send_if_alive(watchdog, Signal::SIGCONT);
    wait_dead(watchdog);
}

/// The messages that it received earlier are out of date by then.
#[test]
fn a_continued_watchdog_does_not_kill_the_command() {
    let server = server();
    let script = "trap 'exit 6' USR1; echo $$ >pid; while :; do sleep 0.05; done";
    let mut run = run_at(server.port(), &["--lease", "6s"], script);
    let watchdog = watchdog(&run).expect("a watchdog");
    send(watchdog, Signal::SIGSTOP);
    wait_until(TIMEOUT, "twice the length of the lease", || {
        call!(server.client(), "GPULOCK.INSPECT", "k").field("held_ms").int() > 12_000
    });
    send(watchdog, Signal::SIGCONT);
    wait_state(watchdog, "S");
    send(run.number("pid"), Signal::SIGUSR1);
    assert_eq!(run.status(), 6);
    wait_dead(watchdog);
}

/// As `pkill -9 gpulock`, `pkill -9 -f gpulock` and `killall -9 gpulock` do.
#[test]
fn the_command_dies_if_every_process_named_gpulock_is_killed() {
    let server = server();
    for (script, worker) in
        [(format!("{WITH_STRAY}wait"), "stray"), (WITH_GRANDCHILD.to_owned(), "grand")]
    {
        let mut run = run_at(server.port(), &[], &script);
        let pids = [run.number("pid"), run.number(worker)];
        let watchdog = watchdog(&run).expect("a watchdog");
        // The watchdog first, if it has the name: it reacts within milliseconds.
        for pid in [watchdog, run.pid()].into_iter().filter(|pid| is_named_gpulock(*pid))
        {
            send(pid, Signal::SIGKILL);
        }
        run.ended();
        pids.into_iter().for_each(wait_dead);
        wait_dead(watchdog);
    }
}

/// Whether the name or the command line of a process contains `gpulock`.
fn is_named_gpulock(pid: u32) -> bool {
    ["comm", "cmdline"].into_iter().any(|file| {
        let text = fs::read(format!("/proc/{pid}/{file}")).expect("a process");
        String::from_utf8_lossy(&text).contains("gpulock")
    })
}

/// At whatever moment: no process of the command is left.
#[test]
fn gpulock_killed_right_after_its_start_leaves_no_process() {
    let server = server();
    let script = "setsid sleep 600 & exec sleep 600";
    for round in 0..30 {
        let owner = format!("early{round}");
        let args =
            ["--key", "k", "--grace", "0s", "--owner", &owner, "--", "sh", "-c", script];
        let run = gpulock_run(&server, &args).start();
        sleep(Duration::from_micros(500 * round));
        drop(run);
        wait_until(TIMEOUT, format!("all processes of {owner} to end"), || {
            !has_process_of(&owner)
        });
    }
}
