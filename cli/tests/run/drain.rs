//! Processes that only read the command's output finish after the command, under its locks.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use gpulock_testkit::{Server, call, servers};
use nix::sys::signal::Signal;

use crate::runner::{Runner, gpulock_run, state, wait_dead};

fn server() -> Server {
    servers()[0].server().start()
}

fn start(server: &Server, script: &str) -> Runner {
    gpulock_run(server, &["--key", "k", "--", "bash", "-c", script]).start()
}

#[test]
fn logs_are_complete() {
    let server = server();
    let lines = "seq 1 20000; echo DONE";
    for (reader, decode) in [
        (r#"exec > >(while read l; do echo "$(date +%T) $l"; done >log)"#, "cat"),
        ("exec > >(gzip >log)", "gzip -d"),
        ("exec > >(exec setsid tee log >tee)", "cat"),
        ("exec > >(sed 's/$/ /' | gzip >log)", "gzip -d"),
        ("mkfifo fifo; cat <fifo >log & exec >fifo", "cat"),
    ] {
        for round in 0..10 {
            let lines = if reader.contains("date") { "echo 1; echo DONE" } else { lines };
            let mut run = start(&server, &format!("{reader} 2>&1; {lines}; exit 3"));
            assert_eq!(run.status(), 3, "{reader}: {}", run.err());
            let mut decoder = Command::new("sh");
            decoder.args(["-c", decode]);
            let log = fs::File::open(run.path("log")).expect("a log");
            let text = decoder.stdin(Stdio::from(log)).output().expect("a decoder");
            let text = String::from_utf8_lossy(&text.stdout);
            let last = text.lines().last().unwrap_or_default().trim_end();
            assert!(last.ends_with("DONE"), "{reader}, round {round}: {last:?}");
            assert_eq!(run.err(), "", "{reader}");
        }
    }
}

/// Longer than one that reads nothing may take.
#[test]
fn a_slow_reader_finishes_under_the_lock() {
    let server = server();
    let script = "exec > >(while read l; do sleep 0.5; done; echo >complete); \
                  seq 16; echo $$ >pid";
    let mut run = start(&server, script);
    wait_dead(run.number("pid"));
    assert!(!call!(server.client(), "GET", "k").is_null());
    assert!(!run.path("complete").exists());
    assert_eq!(run.status(), 0, "{}", run.err());
    assert!(run.path("complete").exists());
    assert_eq!(run.err(), "");
    assert!(call!(server.client(), "GET", "k").is_null());
}

/// It has read everything, and has yet to write.
#[test]
fn a_reader_that_has_closed_its_input_finishes() {
    let server = server();
    let script = "exec > >(sleep 0.5; exec <&-; sleep 1; echo >complete); echo 1; exit 3";
    let mut run = start(&server, script);
    assert_eq!(run.status(), 3);
    assert!(run.path("complete").exists());
    assert_eq!(run.err(), "");
}

#[test]
fn a_reader_that_does_not_end_is_terminated() {
    let server = server();
    let mut run =
        start(&server, "exec > >(echo $BASHPID >reader; exec sleep 600); exit 3");
    let reader = run.number("reader");
    assert_eq!(run.status(), 3);
    assert_eq!(state(reader), None);
    assert!(run.err().contains("left running"), "{}", run.err());
}

/// The reader waits for their output.
#[test]
fn other_processes_are_terminated_while_a_reader_finishes() {
    let server = server();
    for (trap, lines) in [("echo TERM; exit", "begin\nTERM\n"), ("", "begin\n")] {
        let script = format!(
            "exec > >(exec setsid cat >log); \
             (trap '{trap}' TERM; echo begin; echo $BASHPID >worker; \
              while :; do sleep 0.05; done) & \
             while [ ! -s worker ]; do sleep 0.01; done; exit 3"
        );
        let mut run = start(&server, &script);
        let worker = run.number("worker");
        assert_eq!(run.status(), 3);
        assert_eq!(state(worker), None);
        assert!(run.err().contains("left running"), "{}", run.err());
        assert_eq!(fs::read_to_string(run.path("log")).expect("a log"), lines);
    }
}

#[test]
fn other_processes_get_term_once() {
    let server = server();
    let script = "exec > >(cat >log); \
                  (trap 'echo TERM >>terms; sleep 1; exit' TERM; echo >worker; \
                   while :; do sleep 0.05; done) >/dev/null & \
                  while [ ! -s worker ]; do sleep 0.01; done; exit 3";
    let mut run = start(&server, script);
    assert_eq!(run.status(), 3);
    assert_eq!(fs::read_to_string(run.path("terms")).expect("a signal"), "TERM\n");
}

#[test]
fn a_signal_ends_the_time_of_a_reader() {
    let server = server();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // It does not get the signals to the process group.
        let script = "exec > >(exec setsid sh -c 'trap \"\" INT; echo $$ >reader; \
                      while read l; do sleep 0.5; done; echo >complete'); \
                      seq 300; echo $$ >pid; exit 3";
        let mut run = start(&server, script);
        let reader = run.number("reader");
        wait_dead(run.number("pid"));
        run.signal(signal);
        let ended = run.ended();
        let expected = match signal {
            Signal::SIGINT => (None, Some(2)),
            _ => (Some(3), None),
        };
        assert_eq!((ended.code(), ended.signal()), expected);
        assert_eq!(state(reader), None);
        assert!(!run.path("complete").exists());
    }
}

#[test]
fn a_reader_is_terminated_if_the_lock_is_lost() {
    let server = server();
    let script = "exec > >(echo $BASHPID >reader; while read l; do sleep 0.5; done); \
                  seq 300; echo $$ >pid; exit 3";
    let mut run = start(&server, script);
    let reader = run.number("reader");
    wait_dead(run.number("pid"));
    call!(server.client(), "GPULOCK.FORCERELEASE", "k");
    assert_eq!(run.status(), 76);
    assert_eq!(state(reader), None);
}
