//! A run inside a run: the locks of the outer run are enough for the same keys, and for no
//! others.

use gpulock_testkit::{Server, call, on_every_server, servers, wait_until};
use nix::sys::signal::Signal;

use crate::runner::{Builder, Runner, TIMEOUT, gpulock_run, send, wait_dead};

const GPULOCK: &str = env!("CARGO_BIN_EXE_gpulock");

fn server() -> Server {
    servers()[0].server().start()
}

/// A run with these options whose shell script starts `$GPULOCK run` again.
fn outer(server: &Server, args: &[&str], script: &str) -> Builder {
    let args = [args, &["--", "sh", "-c", script]].concat();
    gpulock_run(server, &args).with(|command| {
        command.env("GPULOCK", GPULOCK);
    })
}

/// Runs a script that holds these locks. Returns its standard output.
#[track_caller]
fn output(server: &Server, args: &[&str], script: &str) -> String {
    let (status, run) = outer(server, args, script).status();
    assert_eq!(status, 0, "{}", run.err());
    assert_eq!(run.err(), "");
    run.out().trim_end().to_owned()
}

/// Waits until the inner run waits for a lock, with a line that says so.
#[track_caller]
fn wait_for_parent(run: &Runner, key: &str) {
    let line =
        format!("gpulock: waiting for {key}, held by the run that started this one (sh-");
    wait_until(TIMEOUT, "the wait to be reported", || run.err().contains(&line));
}

#[test]
fn an_inner_run_for_the_same_key_passes_through() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let script = "echo $GPULOCK_OWNER $GPULOCK_KEYS $GPULOCK_TOKENS; \
                      $GPULOCK run --key k --no-wait -- \
                      sh -c 'echo $GPULOCK_OWNER $GPULOCK_KEYS $GPULOCK_TOKENS; exit 3'; \
                      echo $?";
        let out = output(&server, &["--key", "k"], script);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 3, "{out}");
        assert_eq!(lines[0], lines[1]);
        assert_eq!(lines[2], "3");
        // Nothing was acquired, renewed or released in between.
        assert_eq!(server.info_int("gpulock", "gpulock_acquired"), 1);
        assert_eq!(server.info_int("gpulock", "gpulock_refused"), 0);
        assert_eq!(server.info_int("gpulock", "gpulock_releases"), 1);
    });
}

#[test]
fn a_part_of_the_outer_locks_is_enough() {
    let server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "x", "other", "EX", 600);
    let script = "$GPULOCK run --key a --no-wait -- echo one && \
                  $GPULOCK run --keys x,b,c,a -n 2 --no-wait -- echo two && \
                  $GPULOCK run --key b -- $GPULOCK run --keys a,b -n 2 -- echo three";
    let out = output(&server, &["--keys", "a,b", "-n", "2"], script);
    assert_eq!(out.lines().collect::<Vec<_>>(), ["one", "two", "three"]);
    assert_eq!(server.info_int("gpulock", "gpulock_acquired"), 3);
}

#[test]
fn an_inner_run_for_another_key_has_a_hold_of_its_own() {
    let server = server();
    let script = "$GPULOCK run --key l -- sh -c 'echo $GPULOCK_KEYS'; echo $GPULOCK_KEYS";
    assert_eq!(output(&server, &["--key", "k"], script), "l\nk");
    assert_eq!(server.info_int("gpulock", "gpulock_acquired"), 2);
}

/// A run for `a` inside one for `b` inside one for `a`.
#[test]
fn the_locks_of_all_runs_around_are_found() {
    let server = server();
    let script = "$GPULOCK run --key b -- sh -c \
                  '$GPULOCK run --key a --no-wait -- echo one && \
                   $GPULOCK run --key c -- $GPULOCK run --key a --no-wait -- echo two'";
    let out = output(&server, &["--key", "a"], script);
    assert_eq!(out.lines().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(server.info_int("gpulock", "gpulock_acquired"), 3);
    let script = "$GPULOCK run --key b -- $GPULOCK run --keys a,d -n 2 --wait 1s -- true";
    let (status, run) = outer(&server, &["--key", "a"], script).status();
    assert_eq!(status, 75, "{}", run.err());
    assert!(run.err().contains("waiting for a, held by the run"), "{}", run.err());
}

#[test]
fn another_token_or_owner_waits_for_the_parent_and_says_so() {
    for change in ["GPULOCK_TOKENS=1", "GPULOCK_KEYS=k,l", "GPULOCK_OWNER=me"] {
        let server = server();
        let script = format!("{change} $GPULOCK run --key k -- touch ran; touch over");
        let mut run = outer(&server, &["--key", "k"], &script).start();
        server.wait_blocked(1);
        // Only the first names a hold of the parent, which is another one.
        if change == "GPULOCK_TOKENS=1" {
            wait_for_parent(&run, "k");
        }
        assert!(!run.path("ran").exists(), "{change}");
        run.signal(Signal::SIGTERM);
        run.ended();
        assert!(!run.path("ran").exists(), "{change}");
    }
}

#[test]
fn a_wait_for_more_than_the_parent_holds_is_reported() {
    let server = server();
    let script = "$GPULOCK run --keys k,l -n 2 --wait 2s -- touch ran; echo $?";
    let mut run = outer(&server, &["--key", "k"], script).start();
    wait_for_parent(&run, "k");
    assert_eq!(run.status(), 0);
    assert_eq!(run.out(), "75\n");
    assert!(!run.path("ran").exists());
}

/// The inner run can get other locks.
#[test]
fn a_wait_that_does_not_depend_on_the_parent_is_not_reported() {
    let server = server();
    let mut other = server.client();
    call!(other, "GPULOCK.ACQUIRE", "b", "other", "EX", 600);
    let script = "$GPULOCK run --keys a,b,c -n 2 -- touch ran";
    let mut run = outer(&server, &["--key", "a"], script).start();
    server.wait_blocked(1);
    call!(other, "GPULOCK.RELEASE", "b", "other");
    assert_eq!(run.status(), 0);
    assert!(!run.err().contains("started this one"), "{}", run.err());
}

/// The environment outlives the hold, for example in a process that was exempted.
#[test]
fn an_old_environment_waits_as_usual() {
    let server = server();
    let mut other = server.client();
    let script = "env | grep ^GPULOCK_ >env";
    let (_, old) = outer(&server, &["--key", "k"], script).status();
    let env = std::fs::read_to_string(old.path("env")).expect("an environment");
    call!(other, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let args = ["--key", "k", "--", "sh", "-c", "echo $GPULOCK_OWNER"];
    let mut run = gpulock_run(&server, &args)
        .with(|command| {
            let url = command.get_envs().find(|(name, _)| *name == "GPULOCK_URL");
            let url = url.and_then(|(_, url)| url).expect("a URL").to_owned();
            command.envs(env.lines().filter_map(|line| line.split_once('=')));
            command.env("GPULOCK_URL", url);
        })
        .start();
    server.wait_blocked(1);
    call!(other, "GPULOCK.RELEASE", "k", "other");
    assert_eq!(run.status(), 0);
    assert!(!env.contains(run.out().trim()), "{env}");
}

/// The server has assigned another token, which the command does not know.
#[test]
fn an_inner_run_passes_through_after_a_role_change() {
    let server = server();
    let mut client = server.client();
    let script = "echo $$ >pid; while [ ! -e go ]; do sleep 0.05; done; \
                  $GPULOCK run --key k --no-wait -- echo passed";
    let mut run = outer(&server, &["--key", "k"], script).start();
    run.line("pid");
    call!(client, "REPLICAOF", "127.0.0.1", 1);
    call!(client, "REPLICAOF", "NO", "ONE");
    wait_until(TIMEOUT, "the lock to be tied to a connection again", || {
        !call!(client, "GPULOCK.INSPECT", "k").field("session").is_null()
    });
    std::fs::write(run.path("go"), "").expect("a file");
    assert_eq!(run.status(), 0, "{}", run.err());
    assert_eq!(run.out(), "passed\n");
}

/// The command of the inner run is one of the outer run's.
#[test]
fn a_loss_ends_the_command_of_the_inner_run() {
    let server = server();
    let script = "$GPULOCK run --key k -- \
                  sh -c 'trap \"\" TERM; echo $$ >pid; while :; do sleep 0.05; done'";
    let mut run = outer(&server, &["--key", "k"], script).start();
    let pid = run.number("pid");
    call!(server.client(), "GPULOCK.FORCERELEASE", "k");
    wait_dead(pid);
    assert_eq!(run.status(), 76);
}

#[test]
fn an_inner_run_has_the_status_of_a_shell_for_a_missing_command() {
    let server = server();
    let script = "$GPULOCK run --key k -- ./not-there; echo $?";
    let (status, run) = outer(&server, &["--key", "k"], script).status();
    assert_eq!((status, run.out().as_str()), (0, "127\n"));
    assert!(
        run.err().starts_with("gpulock: failed to start ./not-there"),
        "{}",
        run.err()
    );
}

#[test]
fn the_command_of_an_inner_run_gets_no_password() {
    let server = server();
    let rule = "ACL SETUSER worker on >secret ~* +@all";
    assert_eq!(server.client().line(rule), "OK");
    let script = format!(
        "GPULOCK_URL=redis://worker:secret@127.0.0.1:{} $GPULOCK run --key k --no-wait -- \
         sh -c 'echo $GPULOCK_URL'",
        server.port()
    );
    let url = output(&server, &["--key", "k"], &script);
    assert!(url.starts_with("redis://"), "{url}");
    assert!(!url.contains("secret"), "{url}");
}

#[test]
fn signals_reach_the_command_of_the_inner_run() {
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let server = server();
        let script = "$GPULOCK run --key k -- sh -c 'echo $$ >pid; exec sleep 600'; \
                      echo $? >status";
        let mut run = outer(&server, &["--key", "k"], script).start();
        let pid = run.number("pid");
        send(pid, signal);
        wait_dead(pid);
        assert_eq!(run.line("status"), status.to_string(), "{signal}");
        assert_eq!(run.status(), 0, "{}", run.err());
    }
}

/// Nothing terminates `--on-lost` when the remaining lock ends.
#[test]
fn a_run_in_on_lost_does_not_use_the_remaining_locks() {
    let server = server();
    let mut admin = server.client();
    let on_lost = "$GPULOCK run --key k --no-wait -- touch ran; echo $? >status";
    let args = ["--keys", "k,l", "-n", "2", "--grace", "60s", "--on-lost", on_lost];
    let mut run = outer(&server, &args, "echo $$ >pid; exec sleep 600").start();
    run.line("pid");
    // The remaining lock stays held.
    call!(admin, "ACL", "SETUSER", "default", "-gpulock.release");
    call!(admin, "GPULOCK.FORCERELEASE", "l");
    assert_eq!(run.status(), 76);
    assert_eq!(run.line("status"), "75");
    assert!(!run.path("ran").exists());
}
