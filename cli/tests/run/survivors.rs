//! Processes that the command started and left running, wherever they moved: they end before
//! another owner gets the lock. No other process is touched.

use std::fs;
use std::process::Command;

use gpulock_testkit::{Server, call, servers, wait_until};
use nix::sys::signal::Signal;

use crate::runner::{TIMEOUT, build, builder, gpulock_run, has_process_of, send, state};
use crate::scripts::{WITH_STRAY, run_at};

fn server() -> Server {
    servers()[0].server().start()
}

#[test]
fn processes_that_left_the_group_are_terminated() {
    let server = server();
    for (after, end, status) in
        [("wait", None, 76), ("wait", Some(Signal::SIGKILL), 0), ("exit 4", None, 4)]
    {
        let script = format!("{WITH_STRAY}{after}");
        let mut run = run_at(server.port(), &["--lease", "1h", "--grace", "4s"], &script);
        let stray = run.number("stray");
        match end {
            Some(signal) => run.signal(signal),
            None if status == 76 => {
                call!(server.client(), "GPULOCK.FORCERELEASE", "k");
            }
            None => {}
        }
        let next = ["GPULOCK.ACQUIRE", "k", "next", "EX", "600", "BLOCK", "60000"];
        if status == 76 {
            assert_eq!(run.status(), 76);
        } else {
            assert!(server.client().cmd(&next).int() > 0);
        }
        assert_eq!(state(stray), None, "{after}, {end:?}");
        call!(server.client(), "GPULOCK.RELEASE", "k", "next");
        if status == 4 {
            assert_eq!(run.status(), 4);
            assert!(run.err().contains("left running"), "{}", run.err());
        }
    }
}

/// The process executes another program just when the command ends, and has no readable
/// environment at that moment.
#[test]
fn a_process_that_is_being_started_is_terminated() {
    let server = server();
    let script = "setsid python3 -c 'import time; time.sleep(600)' & exit 4";
    for round in 0..20 {
        let key = format!("k{round}");
        let args = ["--key", &key, "--", "sh", "-c", script];
        let (status, run) = gpulock_run(&server, &args).status();
        assert_eq!(status, 4);
        assert!(run.err().contains("left running"), "{round}: {}", run.err());
    }
}

#[test]
fn a_process_without_the_owner_in_its_environment_is_exempt() {
    let server = server();
    let script = "env -u GPULOCK_OWNER setsid sh -c 'echo $$ >daemon; exec sleep 600' & \
                  while [ ! -s daemon ]; do sleep 0.01; done; exit 4";
    let args = ["--key", "k", "--", "sh", "-c", script];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 4);
    let daemon = run.number("daemon");
    assert!(state(daemon).is_some());
    send(daemon, Signal::SIGKILL);
}

/// As Celery, Ray and others do: the title overwrites the environment.
#[test]
fn a_process_that_changed_its_title_is_terminated() {
    let server = server();
    let script = "setsid perl -e '$0 = \"worker\"; open F, \">stray\"; print F \"$$\\n\"; \
                  close F; sleep 600' & while [ ! -s stray ]; do sleep 0.01; done; exit 4";
    let args = ["--key", "k", "--", "sh", "-c", script];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 4);
    assert_eq!(state(run.number("stray")), None);
}

/// Otherwise a signal to the group might reach another group with the same number.
#[test]
fn the_command_is_not_reaped_before_its_survivors_end() {
    let server = server();
    let script = format!("{WITH_STRAY} exit 4");
    let mut run = run_at(server.port(), &[], &script);
    let command = run.number("pid");
    wait_until(TIMEOUT, "the end of the command to be noticed", || {
        run.err().contains("left running")
    });
    let status = fs::read_to_string(format!("/proc/{command}/status"));
    let stray_lived = state(run.number("stray")).is_some();
    assert!(!stray_lived || status.is_ok_and(|status| status.contains("State:\tZ")));
    assert_eq!(run.status(), 4);
}

#[test]
fn processes_older_than_the_command_are_left_alone() {
    let server = server();
    let script = "perl -e '$0 = \"before\"; open F, \">before\"; print F \"$$\\n\"; close F; \
                  sleep 600' & while [ ! -s before ]; do sleep 0.01; done; \
                  exec $GPULOCK run --key k -- true";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("GPULOCK", env!("CARGO_BIN_EXE_gpulock"));
    shell.env("GPULOCK_URL", format!("redis://127.0.0.1:{}", server.port()));
    let (status, run) = builder(shell).status();
    assert_eq!(status, 0, "{}", run.err());
    let before = run.number("before");
    assert!(state(before).is_some());
    send(before, Signal::SIGKILL);
}

/// The environment of such a process is readable only through its other threads.
#[test]
fn a_process_whose_first_thread_has_ended_is_terminated() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    // It leaves the group, ends its first thread, and keeps running.
    let program = folder.path().join("threads");
    build("threads.c", &["-pthread"], &program);
    let script =
        "$THREADS stray & while [ ! -s stray ]; do sleep 0.01; done; echo $$ >pid; ";
    for (after, status) in [("exit 4", Some(4)), ("wait", None)] {
        let args = ["--key", "k", "--grace", "2s", "--", "sh", "-c"];
        let script = format!("{script}{after}");
        let mut run = gpulock_run(&server, &[&args[..], &[&script]].concat())
            .with(|command| {
                command.env("THREADS", &program);
            })
            .start();
        let stray = run.number("stray");
        match status {
            Some(status) => assert_eq!(run.status(), status),
            None => run.signal(Signal::SIGKILL),
        }
        wait_until(TIMEOUT, "the stray to be dead", || {
            fs::read_dir(format!("/proc/{stray}/task")).map_or(0, Iterator::count) < 2
        });
    }
}

/// A title that covers the whole environment, and contains options.
#[test]
fn a_title_that_looks_like_variables_does_not_exempt() {
    let server = server();
    let script = "setsid perl -e 'open F, \">stray\"; print F \"$$\\n\"; close F; \
                  $0 = \"train.py \" . \"--lr=0.001 \" x 3000; sleep 600' & \
                  until grep -q train.py /proc/$(cat stray)/cmdline; do sleep 0.01; done; exit 4";
    let args = ["--key", "k", "--", "sh", "-c", script];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 4);
    assert_eq!(state(run.number("stray")), None);
}

/// Each process may have ended before the next one is scanned.
#[test]
fn no_process_escapes_by_forking_and_exiting() {
    let server = server();
    let script =
        "perl -MPOSIX -e 'for (1..20) { exit if fork; setsid } sleep 600' & exit 4";
    for round in 0..10 {
        let owner = format!("comet{round}");
        let args = ["--key", "k", "--owner", &owner, "--", "sh", "-c", script];
        let (status, run) = gpulock_run(&server, &args).status();
        assert_eq!(status, 4);
        assert!(!has_process_of(&owner), "{round}: {}", run.err());
    }
}
