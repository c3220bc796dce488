//! Waits: on a server that returns errors, hangs, or goes away, and what is left of them when
//! they end.

use gpulock_testkit::{Server, Value, call, on_every_server, servers, wait_until};
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

/// The queue of `k`, including kept positions.
fn queue(server: &Server) -> Vec<Value> {
    let lock = call!(server.client(), "GPULOCK.INSPECT", "k");
    lock.field("waiters").list().to_vec()
}

#[track_caller]
fn assert_queue_is_empty(server: &Server) {
    let queue = queue(server);
    assert!(queue.is_empty(), "{queue:?}");
}

#[test]
fn a_wait_that_gives_up_leaves_no_position_behind() {
    on_every_server(|flavour| {
        // A position that is kept stays for the whole test.
        let server =
            flavour.server().module_args(&["gpulock.place-keep", "3600000"]).start();
        let mut run = waiting(&server, &["--wait", "1s"]);
        assert_eq!(run.status(), 75);
        assert_queue_is_empty(&server);
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let args = ["--key", "k", "--", "touch", "ran"];
            let mut run = gpulock_run(&server, &args).start();
            server.wait_blocked(1);
            run.signal(signal);
            run.ended();
            assert_queue_is_empty(&server);
        }
        call!(server.client(), "GPULOCK.RELEASE", "k", "other");
        assert!(call!(server.client(), "GPULOCK.LIST").list().is_empty());
    });
}

#[test]
fn a_wait_for_several_locks_leaves_no_position_behind() {
    let server =
        servers()[0].server().module_args(&["gpulock.place-keep", "3600000"]).start();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let args = ["--keys", "j,k", "-n", "2", "--wait", "1s", "--", "touch", "ran"];
    let (status, _) = gpulock_run(&server, &args).status();
    assert_eq!(status, 75);
    assert_queue_is_empty(&server);
    assert!(call!(server.client(), "GPULOCK.INSPECT", "j").is_null());
}

/// The position must not be given up between the calls of one wait.
#[test]
fn a_wait_with_a_limit_keeps_its_position_when_the_connection_breaks() {
    let server = server();
    let mut run = waiting(&server, &["--wait", "10m"]);
    let mut admin = server.client();
    let first = queue(&server)[0].clone();
    let (owner, client) = (first.field("owner").text(), first.field("client").int());
    call!(admin, "CLIENT", "KILL", "ID", client);
    wait_until(TIMEOUT, "the run to wait again", || {
        let first = queue(&server)[0].clone();
        assert_eq!(first.field("owner").text(), owner);
        let now = first.field("client");
        !now.is_null() && now.int() != client
    });
    call!(admin, "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
}

#[test]
fn no_wait_names_the_holder() {
    let server = server();
    let mut admin = server.client();
    call!(admin, "GPULOCK.ACQUIRE", "k", "asr-7f3a", "EX", 600);
    call!(admin, "SET", "l", "old client", "EX", 600);
    let err = |args: &[&str]| {
        let args = [args, &["--no-wait", "--", "touch", "ran"]].concat();
        let (status, run) = gpulock_run(&server, &args).status();
        assert_eq!(status, 75);
        run.err()
    };
    let one = err(&["--key", "k"]);
    assert!(one.starts_with("gpulock: k is held by asr-7f3a for "), "{one}");
    assert_eq!(one.lines().count(), 1, "{one}");
    let several = err(&["--keys", "j,k,l", "-n", "2"]);
    assert!(several.contains("k is held by asr-7f3a for "), "{several}");
    assert!(several.contains(", l is held by old client\n"), "{several}");
    assert!(!several.contains("j is"), "{several}");
    assert_eq!(err(&["--key", "k", "--quiet"]), "");
}

#[test]
fn a_wait_that_times_out_names_the_holder() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "asr-7f3a", "EX", 600);
    let args = ["--key", "k", "--wait", "100ms", "--", "touch", "ran"];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 75);
    let timed_out = "timed out waiting for the locks: k is held by asr-7f3a for ";
    assert!(run.err().contains(timed_out), "{}", run.err());
}

/// Without permission for INSPECT the holder is not known.
#[test]
fn a_refusal_is_reported_without_permission_for_inspect() {
    let server = server();
    let mut admin = server.client();
    call!(admin, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let line =
        "ACL SETUSER worker reset on >secret ~* -@all +@connection +gpulock.acquireany";
    assert_eq!(admin.line(line), "OK");
    let url = format!("redis://worker:secret@127.0.0.1:{}", server.port());
    let args = ["--url", &url, "--key", "k", "--no-wait", "--", "touch", "ran"];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 75);
    assert_eq!(run.err(), "gpulock: the locks are not free\n");
}

#[test]
fn the_status_of_a_busy_lock_can_be_chosen() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    for (wait, busy) in [("--no-wait", 0), ("--no-wait", 255), ("--wait=100ms", 7)] {
        let chosen = busy.to_string();
        let args = ["--key", "k", wait, "--status-busy", &chosen, "--", "touch", "ran"];
        let (status, run) = gpulock_run(&server, &args).status();
        assert_eq!(status, busy, "{wait}");
        assert!(!run.path("ran").exists());
    }
    // It is the status of nothing else.
    let args = ["--key", "free", "--status-busy", "7", "--", "sh", "-c", "exit 3"];
    assert_eq!(gpulock_run(&server, &args).status().0, 3);
}

/// A lock that is granted at once is not worth a line.
#[test]
fn a_grant_without_a_wait_is_not_reported() {
    let server = server();
    let (status, run) = gpulock_run(&server, &["--key", "k", "--", "true"]).status();
    assert_eq!((status, run.err()), (0, String::new()));
}

#[test]
fn a_grant_after_a_wait_names_the_locks() {
    let server = server();
    let mut admin = server.client();
    call!(admin, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let args = ["--keys", "j,k", "-n", "2", "--", "true"];
    let mut run = gpulock_run(&server, &args).start();
    wait_until(TIMEOUT, "the wait to be reported", || run.err().contains("waiting"));
    call!(admin, "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
    let err = run.err();
    assert!(
        err.lines()
            .last()
            .is_some_and(|line| line.starts_with("gpulock: acquired j, k after ")),
        "{err}"
    );
}
