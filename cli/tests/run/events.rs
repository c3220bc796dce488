//! `--events`: JSON lines about the run, in a file or on a file descriptor. They never delay the
//! run.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use gpulock_testkit::{Server, call, send, servers, wait_until};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::runner::{Builder, Runner, TIMEOUT, builder, gpulock_run};

fn server() -> Server {
    servers()[0].server().start()
}

/// The complete lines of a text.
fn parse(text: &str) -> Vec<Value> {
    let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let event = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    complete.map(event).collect()
}

/// The events in the file `events` of the run's folder so far.
fn events(run: &Runner) -> Vec<Value> {
    parse(&fs::read_to_string(run.path("events")).unwrap_or_default())
}

/// The kinds of these events, each change once.
fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = events.iter().filter_map(|it| it["event"].as_str()).collect();
    kinds.dedup();
    kinds
}

/// Waits for an event of this kind, and returns the last one.
#[track_caller]
fn wait_for(run: &Runner, kind: &str) -> Value {
    let last = || events(run).into_iter().rfind(|event| event["event"] == kind);
    wait_until(TIMEOUT, format!("an event {kind}"), || last().is_some());
    last().expect("an event")
}

/// A shell script that runs `$gpulock` with the rest of the arguments of `gpulock run`.
fn in_shell(server: &Server, script: &str) -> Builder {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    shell.env("gpulock", env!("CARGO_BIN_EXE_gpulock"));
    shell.env("GPULOCK_URL", format!("redis://127.0.0.1:{}", server.port()));
    builder(shell)
}

#[test]
fn the_events_of_a_run_that_waits() {
    let server = server();
    let mut admin = server.client();
    call!(admin, "GPULOCK.ACQUIRE", "a", "first", "EX", 600);
    call!(admin, "GPULOCK.ACQUIRE", "b", "second", "EX", 600);
    let args = ["--keys", "a,b", "--events", "events", "--lease", "3s", "--quiet"];
    let script = "echo $GPULOCK_OWNER $GPULOCK_TOKENS >vars; \
                  until grep -q renewed events; do sleep 0.05; done; exit 7";
    let mut run =
        gpulock_run(&server, &[&args[..], &["--", "sh", "-c", script]].concat()).start();
    let position = wait_for(&run, "position");
    assert_eq!(position["position"], 1);
    assert_eq!(position["holders"][0]["key"], "a");
    assert_eq!(position["holders"][0]["owner"], "first");
    // The holder changes; the position does not.
    let mut next = server.client();
    send!(next, "GPULOCK.ACQUIRE", "a", "third", "EX", 600, "BLOCK", 0, "PRIORITY", 1);
    server.wait_blocked(2);
    call!(admin, "GPULOCK.RELEASE", "a", "first");
    wait_until(TIMEOUT, "the new holder", || {
        wait_for(&run, "position")["holders"][0]["owner"] == "third"
    });
    call!(admin, "GPULOCK.RELEASE", "b", "second");
    assert_eq!(run.status(), 7);
    let events = events(&run);
    assert_eq!(kinds(&events), ["waiting", "position", "granted", "renewed", "ended"]);
    let of = |kind| events.iter().find(|event| event["event"] == kind).expect("an event");
    assert_eq!(of("waiting")["keys"], serde_json::json!(["a", "b"]));
    assert_eq!(of("waiting")["count"], 1);
    assert!(of("waiting")["since_unix_ms"].as_u64() <= of("waiting")["unix_ms"].as_u64());
    let vars = run.line("vars");
    let (owner, token) = vars.split_once(' ').expect("two variables");
    assert_eq!(of("granted")["keys"], serde_json::json!(["b"]));
    assert_eq!(of("granted")["tokens"][0].to_string(), token);
    assert!(of("granted")["waited_ms"].as_u64() >= Some(300));
    assert_eq!(of("renewed")["lease_ms"], 3000);
    assert_eq!(of("ended")["status"], 7);
    assert_eq!(of("ended")["command_status"], 7);
    assert!(events.iter().all(|event| event["owner"] == owner), "{events:?}");
    let times: Vec<_> = events.iter().map(|event| event["unix_ms"].as_u64()).collect();
    assert!(times.is_sorted() && times[0].is_some(), "{times:?}");
}

#[test]
fn a_lost_lock_is_an_event_while_the_command_still_runs() {
    let server = server();
    let script = "trap '' TERM; until grep -q lost events; do sleep 0.02; done; \
                  echo seen >seen; exec sleep 600";
    let args = ["--key", "k", "--events", "events", "--", "sh", "-c", script];
    let mut run = gpulock_run(&server, &args).start();
    wait_for(&run, "granted");
    call!(server.client(), "DEL", "k");
    assert_eq!(run.status(), 76);
    let events = events(&run);
    assert_eq!(kinds(&events), ["granted", "lost", "ended"]);
    let reason = events[1]["reason"].as_str().expect("a reason");
    assert!(reason.contains("no longer held"), "{reason}");
    assert_eq!(events[2]["status"], 76);
    assert_eq!(events[2]["command_status"], 137);
}

#[test]
fn a_notice_is_an_event() {
    let server = server();
    let args = ["--key", "k", "--events", "events", "--", "sleep", "600"];
    let mut run = gpulock_run(&server, &args).start();
    let granted = wait_for(&run, "granted");
    let owner = granted["owner"].as_str().expect("an owner");
    let notice = ["GPULOCK.FORCERELEASE", "k", "AFTER", "60000", "REASON", "drain"];
    assert_eq!(server.client().cmd(&notice), owner);
    assert_eq!(run.status(), 76);
    let events = events(&run);
    assert_eq!(kinds(&events), ["granted", "revoked", "ended"]);
    assert_eq!(events[1]["reason"], "drain");
    let (left, until) =
        (events[1]["left_ms"].as_u64(), events[1]["until_unix_ms"].as_u64());
    assert!((1..=60_000).contains(&left.expect("a time")), "{events:?}");
    let before = granted["unix_ms"].as_u64().expect("a time");
    assert!(until.expect("a time") > before + 50_000, "{events:?}");
}

#[test]
fn every_run_ends_with_an_event() {
    let mut server = server();
    call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let args = ["--key", "k", "--events", "events", "--no-wait", "--", "true"];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 75);
    let busy = events(&run);
    assert_eq!(kinds(&busy), ["ended"]);
    assert_eq!(busy[0]["status"], 75);
    assert_eq!(busy[0]["command_status"], Value::Null);
    server.kill9();
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!(status, 69);
    assert_eq!(events(&run)[0]["status"], 69);
}

#[test]
fn runs_append_to_a_file() {
    let server = server();
    let runs =
        "for i in 1 2 3; do $gpulock run --key k$i --events events -- true & done; wait";
    let (status, run) = in_shell(&server, runs).status();
    assert_eq!(status, 0);
    let events = events(&run);
    assert_eq!(events.len(), 6, "{events:?}");
}

#[test]
fn a_descriptor_is_not_passed_on_to_the_command() {
    let server = server();
    for value in ["3", "fd:3"] {
        let script = format!(
            "$gpulock run --key k --events {value} -- sh -c 'ls /proc/$$/fd >fds' 3>events"
        );
        let (status, run) = in_shell(&server, &script).status();
        assert_eq!(status, 0);
        assert_eq!(kinds(&events(&run)), ["granted", "ended"]);
        let open = run.line("fds");
        assert!(!open.lines().any(|number| number == "3"), "{open}");
    }
    let stderr = "$gpulock run --key k --events 2 -- sh -c 'echo own >&2'";
    let (status, run) = in_shell(&server, stderr).status();
    assert_eq!(status, 0);
    assert!(
        run.err().contains("own\n") && run.err().contains("granted"),
        "{}",
        run.err()
    );
}

#[test]
fn a_sink_that_cannot_be_written_to_is_a_usage_error() {
    let server = server();
    let cases = [
        ("--events 3", "invalid --events 3: this file descriptor is not open"),
        ("--events fd:4", "invalid --events 4: this file descriptor is not open"),
        ("--events 3 3</dev/null", "not open for writing"),
        ("--events .", "invalid --events \".\": Is a directory"),
        ("--events no/events", "No such file"),
        ("--events ''", "must not be empty"),
        ("--events 99999999999", "99999999999"),
    ];
    for (option, message) in cases {
        let script = format!("$gpulock run --key k {option} -- touch ran");
        let (status, run) = in_shell(&server, &script).status();
        assert_eq!(status, 2, "{option}: {}", run.err());
        assert!(run.err().contains(message), "{option}: {}", run.err());
        assert!(!run.path("ran").exists());
    }
    let fifo = "mkfifo fifo && $gpulock run --key k --events fifo -- touch ran";
    let (status, run) = in_shell(&server, fifo).status();
    assert_eq!(status, 2);
    assert!(run.err().contains("no process reads this FIFO"), "{}", run.err());
}

/// Opens a FIFO without waiting for its other end.
fn open(fifo: &Path, options: &mut OpenOptions) -> File {
    options.custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo).expect("a FIFO")
}

#[test]
fn a_reader_that_does_not_read_delays_nothing() {
    let server = server();
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a FIFO");
    let mut reader = open(&fifo, OpenOptions::new().read(true));
    let mut filler = open(&fifo, OpenOptions::new().write(true));
    let full = loop {
        if let Err(error) = filler.write(&[b'\n'; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let path = fifo.to_str().expect("UTF-8");
    let args = ["--key", "k", "--lease", "1s", "--events", path, "--", "sleep", "3"];
    let (status, run) = gpulock_run(&server, &args).status();
    assert_eq!((status, &*run.err()), (0, ""));
    assert!(server.info_int("gpulock", "gpulock_extends") >= 5);
    drop(filler);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert!(!text.contains("ended"), "{text}");
}

#[test]
fn a_failed_write_is_reported_once_and_the_run_goes_on() {
    let server = server();
    let script =
        "$gpulock run --key k --lease 1s --events /dev/full -- sh -c 'sleep 1; exit 5'";
    let (status, run) = in_shell(&server, script).status();
    assert_eq!(status, 5);
    assert_eq!(run.err().lines().count(), 1, "{}", run.err());
    assert!(run.err().contains("failed to write to --events: No space"), "{}", run.err());
    let closed = "{ $gpulock run --key k --events 3 -- sh -c 'sleep 1; exit 6' 3>&1 >/dev/null; \
                  echo $? >status; } | true";
    let (_, run) = in_shell(&server, closed).status();
    assert_eq!(run.line("status"), "6");
    assert!(run.err().contains("Broken pipe"), "{}", run.err());
}
