//! When the locks are lost: the command is ended, what is left is given back, `--on-lost`
//! runs, and nothing is renewed any more.

use std::fs::File;
use std::io::{PipeReader, Write};
use std::process::Stdio;

use gpulock_testkit::{Server, call, servers};
use rustix::io::ioctl_fionbio;
use rustix::process::Signal;

use crate::lease_end::{lease_end, unix_time};
use crate::runner::{gpulock_run, state, wait_dead};
use crate::scripts::{ENDS, GOES_ON, WITH_GRANDCHILD, run_at};

fn server() -> Server {
    servers()[0].server().arg("appendonly", "yes").start()
}

#[test]
fn a_lock_that_is_taken_away_ends_the_command_at_once() {
    let server = server();
    let mut admin = server.client();
    for (script, taken) in [
        (ENDS, ["GPULOCK.FORCERELEASE", "k"]),
        (GOES_ON, ["GPULOCK.FORCERELEASE", "k"]),
        (WITH_GRANDCHILD, ["DEL", "k"]),
    ] {
        let args = ["--lease", "1h", "--on-lost", "env >lost"];
        let mut run = run_at(server.port(), &args, script);
        let owner = call!(admin, "GET", "k").text();
        admin.cmd(&taken);
        assert_eq!(run.status(), 76, "{script}");
        assert_eq!(state(run.number("pid")), None);
        let told = run.line("lost");
        for line in ["GPULOCK_KEYS=k", &format!("GPULOCK_OWNER={owner}"), "GPULOCK_LOST="]
        {
            assert!(told.contains(line), "{line} in {told}");
        }
    }
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

/// As it would be when a call of the owner's were late.
#[test]
fn a_lock_that_was_taken_away_and_granted_anew_is_lost() {
    let server = server();
    let mut admin = server.client();
    let mut run = run_at(server.port(), &["--lease", "1h"], ENDS);
    let owner = call!(admin, "GET", "k").text();
    admin.line("MULTI");
    admin.line("GPULOCK.FORCERELEASE k");
    admin.line(&format!("GPULOCK.ACQUIRE k {owner} EX 3600"));
    assert_eq!(admin.line("EXEC").list().len(), 2);
    assert_eq!(run.status(), 76);
}

#[test]
fn the_others_of_a_set_are_given_back_when_one_is_lost() {
    let server = server();
    let mut admin = server.client();
    let args = ["--keys", "a,b,c", "-n", "2", "--lease", "1h", "--", "sh", "-c", ENDS];
    let mut run = gpulock_run(&server, &args).start();
    run.line("pid");
    call!(admin, "GPULOCK.FORCERELEASE", "a");
    assert_eq!(run.status(), 76);
    assert!(call!(admin, "GPULOCK.LIST").list().is_empty());
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

/// The error of one key must not hide what became of the others.
#[test]
fn a_key_that_is_no_lock_any_more_ends_the_command_at_once() {
    let server = server();
    let mut admin = server.client();
    let args = ["--keys", "a,b", "-n", "2", "--lease", "1h", "--", "sh", "-c", GOES_ON];
    let mut run = gpulock_run(&server, &args).start();
    run.line("pid");
    let script = "redis.call('DEL', 'a') redis.call('LPUSH', 'a', 'x')";
    call!(admin, "EVAL", script, 0);
    assert_eq!(run.status(), 76);
    assert_eq!(call!(admin, "EXISTS", "b"), 0);
}

#[test]
fn nothing_is_renewed_while_on_lost_runs() {
    let mut server = server();
    let on_lost = "echo $$ >lost; exec sleep 600";
    // Long enough for some of it to be left when `--on-lost` begins.
    let args = ["--lease", "12s", "--on-lost", on_lost];
    let mut run = run_at(server.port(), &args, ENDS);
    server.freeze();
    run.line("lost");
    server.thaw();
    let next = ["GPULOCK.ACQUIRE", "k", "next", "EX", "600", "BLOCK", "60000"];
    assert!(server.client().cmd(&next).int() > 0);
    assert!(!run.has_ended());
    run.signal(Signal::TERM);
    assert_eq!(run.status(), 76);
}

/// By then the guard has killed the command, and is not to meet what comes after.
#[test]
fn on_lost_runs_to_its_end_after_gpulock_was_stopped() {
    let server = server();
    let args = ["--lease", "2s", "--on-lost", "sleep 0.5; echo >lost"];
    let mut run = run_at(server.port(), &args, ENDS);
    run.signal(Signal::STOP);
    wait_dead(run.number("pid"));
    run.signal(Signal::CONT);
    assert_eq!(run.status(), 76);
    assert!(run.path("lost").exists());
}

#[test]
fn what_on_lost_cannot_do_changes_no_status() {
    let server = server();
    let mut run = run_at(server.port(), &["--on-lost", "exit 9"], ENDS);
    call!(server.client(), "DEL", "k");
    assert_eq!(run.status(), 76);
}

/// A pipe that is full, and that nobody reads.
fn full_pipe() -> (PipeReader, Stdio) {
    let (theirs, mut ours) = std::io::pipe().expect("a pipe");
    ioctl_fionbio(&ours, true).expect("a pipe");
    while ours.write(&[0; 512]).is_ok() {}
    ioctl_fionbio(&ours, false).expect("a pipe");
    (theirs, ours.into())
}

#[test]
fn a_standard_error_that_nobody_reads_delays_nothing() {
    let mut server = server();
    let (_reader, full) = full_pipe();
    let script =
        "exec 2>/dev/null; trap '' TERM; echo $$ >pid; while :; do sleep 0.05; done";
    let args = ["--key", "k", "--lease", "9s", "--on-lost", "echo >lost", "--"];
    let mut run = gpulock_run(&server, &[&args[..], &["sh", "-c", script]].concat())
        .with(|command| {
            command.stderr(full);
        })
        .start();
    let command = run.number("pid");
    server.freeze();
    wait_dead(command);
    assert!(unix_time() < lease_end(&server, "k"));
    run.line("lost");
    assert_eq!(run.status(), 76);
}

#[test]
fn what_is_left_running_ends_though_nobody_reads_its_standard_error() {
    let server = server();
    let (_reader, full) = full_pipe();
    let script = "yes >&2 & echo $! >left; exit 3";
    let mut run = gpulock_run(&server, &["--key", "k", "--", "sh", "-c", script])
        .with(|command| {
            command.stderr(full);
        })
        .start();
    assert_eq!(run.status(), 3);
    assert_eq!(state(run.number("left")), None);
}

#[test]
fn errors_wait_for_nobody_who_does_not_read_them() {
    let server = server();
    for (url, command, status) in
        [("redis://127.0.0.1:1", "true", 69), ("", "./not-there", 127)]
    {
        let (_reader, full) = full_pipe();
        let (ended, _) = gpulock_run(&server, &["--key", "k", "--", command])
            .with(|command| {
                command.stderr(full);
                if !url.is_empty() {
                    command.env("GPULOCK_URL", url);
                }
            })
            .status();
        assert_eq!(ended, status);
    }
}

#[test]
fn errors_that_cannot_be_written_change_no_status() {
    let server = server();
    let full = || File::options().write(true).open("/dev/full").expect("a device");
    let (ended, _) = gpulock_run(&server, &["--key", "k", "--", "./not-there"])
        .with(|command| {
            command.stderr(full());
        })
        .status();
    assert_eq!(ended, 127);
}
