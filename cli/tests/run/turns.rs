//! In which order waiting runs are served (`--priority`, `--share`), and which free lock is
//! preferred (`--near`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpulock_testkit::{Server, call, on_every_server, servers};
use tempfile::TempDir;

use crate::runner::{Runner, gpulock_run, gpulock_run_at};

/// Nothing listens there: whatever is sent fails with status 69.
const UNUSED_PORT: u16 = 1;

/// Runs that wait for `k`, which another owner holds, and write their names when it is theirs.
struct Queue<'a> {
    server: &'a Server,
    folder: TempDir,
    runs: Vec<Runner>,
}

impl<'a> Queue<'a> {
    fn of(server: &'a Server) -> Self {
        call!(server.client(), "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
        let folder = tempfile::tempdir().expect("a folder");
        Self { server, folder, runs: Vec::new() }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Adds a run with this name, and waits until it waits.
    fn add(&mut self, name: &str, args: &[&str]) {
        let command = ["--", "sh", "-c", "echo $NAME >>$LOG"];
        let args = [&["--key", "k"], args, &command].concat();
        let run = gpulock_run(self.server, &args).with(|command| {
            command.env("NAME", name).env("LOG", self.log());
        });
        self.runs.push(run.start());
        self.server.wait_blocked(self.runs.len() as i64);
    }

    /// Releases the lock, and returns the names in the order in which the runs got it.
    fn served(mut self) -> Vec<String> {
        call!(self.server.client(), "GPULOCK.RELEASE", "k", "other");
        for run in &mut self.runs {
            assert_eq!(run.status(), 0, "{}", run.err());
        }
        lines(&self.log())
    }
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).expect("a log").lines().map(str::to_owned).collect()
}

fn server() -> Server {
    servers()[0].server().start()
}

#[test]
fn a_run_with_a_higher_priority_is_served_first() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let mut queue = Queue::of(&server);
        queue.add("low", &["--priority", "-5"]);
        queue.add("normal", &[]);
        queue.add("high", &["--priority", "100"]);
        assert_eq!(queue.served(), ["high", "normal", "low"]);
    });
}

#[test]
fn shares_take_turns() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let mut queue = Queue::of(&server);
        for (name, share) in [("a1", "ann"), ("a2", "ann"), ("a3", "ann"), ("b1", "bob")]
        {
            queue.add(name, &["--share", share]);
        }
        assert_eq!(queue.served(), ["a1", "b1", "a2", "a3"]);
    });
}

#[test]
fn without_a_share_the_first_to_come_is_the_first_to_be_served() {
    let server = server();
    let mut queue = Queue::of(&server);
    for name in ["1", "2", "3"] {
        queue.add(name, &["--share", ""]);
    }
    let waiters = call!(server.client(), "GPULOCK.INSPECT", "k").field("waiters");
    assert!(waiters.list().iter().all(|waiter| waiter.field("share").is_null()));
    assert_eq!(queue.served(), ["1", "2", "3"]);
}

#[test]
fn the_default_share_is_the_login_name() {
    let server = server();
    let id = Command::new("id").arg("-run").output().expect("the command id");
    let login = String::from_utf8(id.stdout).expect("a name").trim().to_owned();
    let script = "echo $$ >pid; exec sleep 600";
    let run = gpulock_run(&server, &["--key", "k", "--", "sh", "-c", script])
        .with(|command| {
            // Not a matter of what the environment says.
            command.env("USER", "mallory").env("LOGNAME", "mallory");
        })
        .start();
    run.line("pid");
    let lock = call!(server.client(), "GPULOCK.INSPECT", "k");
    assert_eq!(lock.field("share").text(), login);
}

#[test]
fn the_gpu_that_ran_the_same_last_is_preferred() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let got = |near: &[&str], keys: &str| {
            let script = "echo $GPULOCK_KEYS";
            let args = [near, &["--keys", keys, "--", "sh", "-c", script]].concat();
            let (status, run) = gpulock_run(&server, &args).status();
            assert_eq!(status, 0, "{}", run.err());
            run.out().trim().to_owned()
        };
        assert_eq!(got(&["--near", "llama"], "b"), "b");
        assert_eq!(got(&["--near", "llama"], "a,b,c"), "b");
        assert_eq!(got(&["--near", "clip"], "b,a,c"), "a");
        // Without the option, the order of the keys counts.
        assert_eq!(got(&[], "a,b,c"), "a");
    });
}

#[test]
fn invalid_turns_have_status_2_before_anything_is_sent() {
    let long_share = "x".repeat(257);
    let long_tag = "x".repeat(65);
    for (option, value, expected) in [
        ("--priority", "101", "101 is not in -100..=100"),
        ("--priority", "-101", "-101 is not in -100..=100"),
        ("--priority", "99999999999999999999", "invalid value"),
        ("--priority", "high", "invalid value 'high'"),
        ("--share", &long_share, "must be at most 256 bytes"),
        ("--near", "", "must be 1 to 64 bytes"),
        ("--near", &long_tag, "must be 1 to 64 bytes"),
    ] {
        let args = ["--key", "k", option, value, "--", "touch", "ran"];
        let (status, run) = gpulock_run_at(UNUSED_PORT, &args).status();
        assert_eq!(status, 2, "{option} {value}");
        assert!(run.err().contains(expected), "{}", run.err());
    }
    // The limits themselves are sent.
    let (share, tag) = ("x".repeat(256), "x".repeat(64));
    for (option, value) in
        [("--priority", "-100"), ("--share", &*share), ("--near", &*tag)]
    {
        let args = ["--key", "k", option, value, "--", "true"];
        assert_eq!(gpulock_run(&server(), &args).status().0, 0, "{option}");
    }
}

#[test]
fn a_priority_over_the_limit_of_the_server_is_an_error() {
    let server =
        servers()[0].server().module_args(&["gpulock.max-priority", "5"]).start();
    let status = |priority: &str| {
        let args = ["--key", "k", "--priority", priority, "--", "true"];
        gpulock_run(&server, &args).status()
    };
    assert_eq!(status("5").0, 0);
    let (refused, run) = status("6");
    assert_eq!(refused, 1);
    assert_eq!(
        run.err(),
        "gpulock: the server returned an error: \
         ERR PRIORITY exceeds gpulock.max-priority (5)\n"
    );
}
