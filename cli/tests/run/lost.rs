//! The locks are lost: the command is terminated, the remaining locks are released, `--on-lost`
//! runs, and nothing is renewed.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write};
use std::process::Stdio;

use gpulock_testkit::{Server, call, servers};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use crate::lease_end::{lease_end, unix_time};
use crate::runner::{gpulock_run, state, wait_dead};
use crate::scripts::{ENDS, GOES_ON, WITH_GRANDCHILD, run_at};

fn server() -> Server {
    servers()[0].server().arg("appendonly", "yes").start()
}

#[test]
fn a_forced_release_or_del_terminates_the_command() {
    let server = server();
    let mut admin = server.client();
    for (script, release) in [
        (ENDS, ["GPULOCK.FORCERELEASE", "k"]),
        (GOES_ON, ["GPULOCK.FORCERELEASE", "k"]),
        (WITH_GRANDCHILD, ["DEL", "k"]),
    ] {
        let args = ["--lease", "1h", "--on-lost", "env >lost"];
        let mut run = run_at(server.port(), &args, script);
        let owner = call!(admin, "GET", "k").text();
        admin.cmd(&release);
        assert_eq!(run.status(), 76, "{script}");
        assert_eq!(state(run.number("pid")), None);
        let env = run.line("lost");
        for line in ["GPULOCK_KEYS=k", &format!("GPULOCK_OWNER={owner}"), "GPULOCK_LOST="]
        {
            assert!(env.contains(line), "{line} in {env}");
        }
    }
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

#[test]
fn on_lost_gets_no_passwords() {
    let server = server();
    let mut admin = server.client();
    call!(admin, "CONFIG", "SET", "requirepass", "secret");
    let url = format!("redis://:secret@127.0.0.1:{}", server.port());
    let args = ["--key", "k", "--on-lost", "env >lost", "--", "sh", "-c", ENDS];
    let set = [("GPULOCK_URL", &*url), ("REDISCLI_AUTH", "secret")];
    let run = gpulock_run(&server, &args).with(|command| {
        command.envs(set);
    });
    let mut run = run.start();
    run.line("pid");
    call!(admin, "GPULOCK.FORCERELEASE", "k");
    assert_eq!(run.status(), 76);
    let env = run.line("lost");
    assert!(env.contains("GPULOCK_KEYS=k\n"), "{env}");
    assert!(!env.contains("secret"), "{env}");
}

/// As if a late call of the owner were executed.
#[test]
fn a_lock_that_was_released_and_granted_again_is_lost() {
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
fn the_other_locks_are_released_when_one_is_lost() {
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

/// The error of one key must not hide the state of the others.
#[test]
fn a_key_that_is_no_longer_a_lock_terminates_the_command() {
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
    // Long enough that the lease has not expired when `--on-lost` begins.
    let args = ["--lease", "12s", "--on-lost", on_lost];
    let mut run = run_at(server.port(), &args, ENDS);
    server.freeze();
    run.line("lost");
    server.thaw();
    let next = ["GPULOCK.ACQUIRE", "k", "next", "EX", "600", "BLOCK", "60000"];
    assert!(server.client().cmd(&next).int() > 0);
    assert!(!run.has_ended());
    run.signal(Signal::SIGTERM);
    assert_eq!(run.status(), 76);
}

/// The watchdog has killed the command by then, and must not kill `--on-lost`.
#[test]
fn on_lost_runs_to_its_end_after_gpulock_was_stopped() {
    let server = server();
    let args = ["--lease", "2s", "--on-lost", "sleep 0.5; echo >lost"];
    let mut run = run_at(server.port(), &args, ENDS);
    run.signal(Signal::SIGSTOP);
    wait_dead(run.number("pid"));
    run.signal(Signal::SIGCONT);
    assert_eq!(run.status(), 76);
    assert!(run.path("lost").exists());
}

#[test]
fn the_status_of_on_lost_is_ignored() {
    let server = server();
    let mut run = run_at(server.port(), &["--on-lost", "exit 9"], ENDS);
    call!(server.client(), "DEL", "k");
    assert_eq!(run.status(), 76);
}

/// A full pipe.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let set =
        |pipe: &PipeWriter, flags| fcntl(pipe, FcntlArg::F_SETFL(flags)).expect("a pipe");
    set(&writer, OFlag::O_NONBLOCK);
    while writer.write(&[0; 512]).is_ok() {}
    set(&writer, OFlag::empty());
    (reader, writer.into())
}

#[test]
fn a_blocked_standard_error_does_not_delay_termination() {
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
fn a_blocked_standard_error_does_not_delay_survivors() {
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
fn a_blocked_standard_error_does_not_delay_errors() {
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
fn a_failed_write_to_standard_error_does_not_change_the_status() {
    let server = server();
    let full = || File::options().write(true).open("/dev/full").expect("a device");
    let (ended, _) = gpulock_run(&server, &["--key", "k", "--", "./not-there"])
        .with(|command| {
            command.stderr(full());
        })
        .status();
    assert_eq!(ended, 127);
}
