//! The exit status of `gpulock run`, and the streams and variables of its command.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::thread;

use gpulock_testkit::{Server, call, on_every_server, servers, wait_until};
use nix::sys::signal::Signal;

use crate::runner::{TIMEOUT, gpulock_run, gpulock_run_at, send, waiting};

fn server() -> Server {
    servers()[0].server().start()
}

#[test]
fn the_status_is_the_commands() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        for (script, status) in [
            ("exit 0", 0),
            ("exit 3", 3),
            ("exit 255", 255),
            ("exit 75", 75),
            ("kill -KILL $$", 128 + 9),
            ("kill -TERM $$", 128 + 15),
            ("kill -SEGV $$", 128 + 11),
        ] {
            let command = ["--key", "k", "--", "sh", "-c", script];
            let (ended, _) = gpulock_run(&server, &command).status();
            assert_eq!(ended, status, "{script}");
            assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null(), "{script}");
        }
        assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
    });
}

#[test]
fn a_missing_or_invalid_command_has_the_status_of_a_shell() {
    let server = server();
    for (command, status) in [("./not-there", 127), ("./out", 126)] {
        let (ended, run) = gpulock_run(&server, &["--key", "k", "--", command]).status();
        assert_eq!(ended, status);
        assert!(run.err().contains(command), "{}", run.err());
        assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null());
    }
}

#[test]
fn a_wait_that_times_out_has_status_75() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    for wait in [&["--no-wait"][..], &["--wait", "300ms"]] {
        let args = [&["--key", "k"], wait, &["--", "touch", "ran"]].concat();
        let (ended, run) = gpulock_run(&server, &args).status();
        assert_eq!(ended, 75);
        assert!(!run.path("ran").exists());
    }
}

#[test]
fn an_unreachable_server_has_status_69_without_a_wait() {
    const UNUSED_PORT: u16 = 1;
    let args = ["--key", "k", "--wait", "1h", "--", "touch", "ran"];
    let (ended, run) = gpulock_run_at(UNUSED_PORT, &args).status();
    assert_eq!(ended, 69);
    assert!(!run.path("ran").exists());
}

#[test]
fn a_server_without_the_module_is_reported() {
    let server = servers()[0].server().without_module().start();
    let (ended, run) = gpulock_run(&server, &["--key", "k", "--", "true"]).status();
    assert_eq!(ended, 1);
    assert!(run.err().contains("loadmodule"), "{}", run.err());
}

#[test]
fn invalid_options_have_status_2() {
    let server = server();
    for args in [
        &["--key", "k"][..],
        &["--", "true"],
        &["--key", "k", "--keys", "a,b", "--", "true"],
        &["--keys", "a,b", "-n", "3", "--", "true"],
        &["--key", "k", "--lease", "10ms", "--", "true"],
        &["--key", "k", "--wait", "1s", "--no-wait", "--", "true"],
        &["--key", "k", "--min-free-mib", "1", "--", "true"],
        &["--key", "k", "--status-busy", "256", "--", "true"],
        &["--key", "k", "--status-busy", "-1", "--", "true"],
    ] {
        let (ended, run) = gpulock_run(&server, args).status();
        assert_eq!(ended, 2, "{args:?} {}", run.err());
    }
}

#[test]
fn standard_streams_are_unchanged() {
    let server = server();
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let script = "cat; cat in >&2";
    let args = ["-q", "--key", "k", "--", "sh", "-c", script];
    let run = gpulock_run(&server, &args).with(|command| {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let folder = command.get_current_dir().expect("a folder");
        fs::write(folder.join("in"), &bytes).expect("a file");
    });
    let (out, err) = run.output(&bytes);
    assert!(out == bytes, "standard output differs");
    assert!(err == bytes, "standard error differs");
}

#[test]
fn the_command_gets_variables_with_its_locks() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "a", "other", "EX", 600);
    let script = "echo $GPULOCK_KEYS $GPULOCK_TOKENS $GPULOCK_OWNER >env; sleep 600";
    let args = [
        "--keys", "a,b,c", "-n", "2", "--owner", "train", "--lease", "1h", "--", "sh",
        "-c", script,
    ];
    let run = gpulock_run(&server, &args).start();
    let line = run.line("env");
    let env: Vec<&str> = line.split(' ').collect();
    assert_eq!(env[0], "b,c");
    let tokens: Vec<i64> =
        env[1].split(',').map(|token| token.parse().expect("a token")).collect();
    for (key, token) in ["b", "c"].into_iter().zip(tokens) {
        let lock = call!(server.client(), "GPULOCK.INSPECT", key);
        assert_eq!(lock.field("token").int(), token);
        assert_eq!(lock.field("owner").text(), env[2]);
        assert!(lock.field("session").int() > 0);
        assert!((3_500_000..=3_600_000).contains(&lock.field("lease_ms").int()));
    }
    assert!(env[2].starts_with("train-"), "{}", env[2]);
    assert!(env[2].contains(&format!("-{}-", run.pid())), "{}", env[2]);
}

#[test]
fn a_wait_and_its_end_are_reported_in_a_line_each_unless_quiet() {
    let server = server();
    let mut other = server.client();
    for quiet in [false, true] {
        call!(other, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
        let args = if quiet { &["--quiet"][..] } else { &[] };
        let args = [args, &["--key", "k", "--", "true"]].concat();
        let mut run = gpulock_run(&server, &args).start();
        server.wait_blocked(1);
        if !quiet {
            run.line("err");
        }
        call!(other, "GPULOCK.RELEASE", "k", "other");
        assert_eq!(run.status(), 0);
        let err = run.err();
        let lines: Vec<&str> = err.lines().collect();
        match quiet {
            true => assert!(lines.is_empty(), "{lines:?}"),
            false => {
                assert_eq!(lines.len(), 2, "{lines:?}");
                assert!(lines[0].contains("held by other"));
                assert!(lines[1].starts_with("gpulock: acquired k after "), "{lines:?}");
            }
        }
    }
}

#[test]
fn a_wait_survives_a_restart_of_the_server() {
    let mut server = servers()[0].server().arg("appendonly", "yes").start();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let mut run = gpulock_run(&server, &["--key", "k", "--", "true"]).start();
    server.wait_blocked(1);
    server.restart();
    server.wait_blocked(1);
    call!(server.client(), "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
}

#[test]
fn a_signal_ends_a_wait_and_leaves_the_queue() {
    let server = server();
    let mut other = server.client();
    for (signal, status) in [
        (Signal::SIGTERM, (Some(143), None)),
        (Signal::SIGHUP, (Some(129), None)),
        // Interruptions: gpulock ends by the same signal.
        (Signal::SIGINT, (None, Some(2))),
        (Signal::SIGQUIT, (None, Some(3))),
    ] {
        call!(other, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
        let args = ["--key", "k", "--", "touch", "ran"];
        let mut run = gpulock_run(&server, &args).start();
        server.wait_blocked(1);
        run.signal(signal);
        let ended = run.ended();
        assert_eq!((ended.code(), ended.signal()), status);
        server.wait_blocked(0);
        assert!(!run.path("ran").exists());
        call!(other, "GPULOCK.RELEASE", "k", "other");
        assert!(call!(other, "GET", "k").is_null());
    }
}

#[test]
fn a_signal_at_the_moment_of_the_grant_releases_the_lock() {
    let server = server();
    let mut other = server.client();
    for _ in 0..20 {
        call!(other, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
        let mut run = gpulock_run(&server, &["--key", "k", "--", "sleep", "600"]).start();
        server.wait_blocked(1);
        let pid = run.pid();
        let signal = thread::spawn(move || send(pid, Signal::SIGTERM));
        call!(other, "GPULOCK.RELEASE", "k", "other");
        signal.join().expect("the signal is sent");
        assert_eq!(run.status(), 143);
        assert!(call!(other, "GET", "k").is_null());
    }
    wait_until(TIMEOUT, "the queue to be empty", || waiting(&server, "k") == 0);
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

#[test]
fn the_permissions_of_a_worker_are_sufficient() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        // The worker of docs/operations.md, without the permissions that are not needed.
        let permissions = "resetkeys ~gpu_lock:* resetchannels -@all +@connection -@dangerous \
                      +gpulock.acquireany +gpulock.release +gpulock.extend";
        for inspect in ["+gpulock.inspect", "-gpulock.inspect"] {
            let line =
                format!("ACL SETUSER worker reset on >secret {permissions} {inspect}");
            assert_eq!(server.client().line(&line), "OK");
            let url = format!("redis://worker:secret@127.0.0.1:{}/0", server.port());
            let script = "echo $GPULOCK_TOKENS >token; sleep 7";
            let mut run = gpulock_run(
                &server,
                &["--key", "gpu_lock:0", "--lease", "6s", "--", "sh", "-c", script],
            )
            .with(|command| {
                command.env("GPULOCK_URL", &url);
            })
            .start();
            run.line("token");
            assert_eq!(run.status(), 0, "{inspect}: {}", run.err());
        }
        assert_eq!(server.info_int("gpulock", "gpulock_releases"), 2);
    });
}
