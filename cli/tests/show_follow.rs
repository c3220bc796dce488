//! `log --follow`: new entries as they are written.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use gpulock_testkit::{Server, call, on_every_server, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

#[path = "support/invoke.rs"]
mod invoke;
use invoke::{Invocation, at, command, gpulock};

/// Timeout that only a hang exceeds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running `log --follow`.
struct Following {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Following {
    fn start(server: &Server, options: &[&str]) -> Self {
        let mut command = command(server);
        command.env("TZ", "UTC").args(["log", "--follow"]).args(options);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    #[track_caller]
    fn line(&self) -> String {
        self.out.recv_timeout(TIMEOUT).expect("a line on standard output")
    }

    /// The key and the count of the next entry.
    #[track_caller]
    fn entry(&self) -> (String, u64) {
        let line = self.line();
        let entry: Value = serde_json::from_str(&line).unwrap();
        (entry["key"].as_str().unwrap().to_owned(), entry["count"].as_u64().unwrap())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}

/// Writes a log entry about this key.
fn log(server: &Server, key: &str) {
    call!(server.client(), "GPULOCK.RELEASE", key, "me");
}

fn is(key: &str, count: u64) -> (String, u64) {
    (key.to_owned(), count)
}

#[test]
fn new_entries_follow_the_last_ones_oldest_first() {
    on_every_server(|flavour| {
        let server = flavour.start();
        for key in ["a", "b", "c"] {
            log(&server, key);
        }
        let following = Following::start(&server, &["--json", "-n", "2"]);
        assert_eq!(following.entry(), is("b", 1));
        assert_eq!(following.entry(), is("c", 1));
        log(&server, "c");
        assert_eq!(following.entry(), is("c", 2));
        for key in ["d", "e"] {
            log(&server, key);
        }
        assert_eq!(following.entry(), is("d", 1));
        assert_eq!(following.entry(), is("e", 1));
        call!(server.client(), "GPULOCK.LOG", "RESET");
        log(&server, "f");
        assert_eq!(following.entry(), is("f", 1));
        assert!(following.err.try_recv().is_err());
    });
}

#[test]
fn without_a_count_the_last_ten_come_first() {
    on_every_server(|flavour| {
        let server = flavour.start();
        for key in 0..12 {
            log(&server, &key.to_string());
        }
        let following = Following::start(&server, &["--json"]);
        for key in 2..12 {
            assert_eq!(following.entry(), is(&key.to_string(), 1));
        }
        let from_now_on = Following::start(&server, &["--json", "-n", "0"]);
        wait_until(TIMEOUT, "the first query of both", || {
            let clients = format!("{:?}", server.client().line("CLIENT LIST"));
            clients.to_lowercase().matches("cmd=gpulock.log ").count() == 2
        });
        log(&server, "new");
        assert_eq!(from_now_on.entry(), is("new", 1));
    });
}

#[test]
fn rows_are_aligned_below_a_header() {
    on_every_server(|flavour| {
        let server = flavour.start();
        log(&server, "a-key-that-is-longer-than-usual");
        let following = Following::start(&server, &[]);
        let (header, first) = (following.line(), following.line());
        log(&server, "short");
        let second = following.line();
        assert!(header.starts_with("TIME    "), "{header}");
        let column = header.find("HOLDER").unwrap();
        for (row, key) in
            [(&first, "a-key-that-is-longer-than-usual"), (&second, "short")]
        {
            let (start, rest) = row.split_at(column);
            assert!(start.trim_end().ends_with(key), "{row}");
            assert!(start.ends_with("  ") && rest.starts_with('-'), "{row}");
            assert!(row.contains("+00:00  stale_release"), "{row}");
        }
    });
}

#[test]
fn entries_that_the_server_dropped_before_they_were_read_are_reported() {
    on_every_server(|flavour| {
        let server = flavour.server().module_args(&["gpulock.log-len", "5"]).start();
        log(&server, "first");
        let following = Following::start(&server, &["--json"]);
        assert_eq!(following.entry(), is("first", 1));
        let lines: Vec<_> =
            (0..20).map(|key| format!("GPULOCK.RELEASE {key} me")).collect();
        let mut client = server.client();
        client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        while following.entry() != is("19", 1) {}
        let message = following.err.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(message, "gpulock: entries may be missing here: the log was full");
    });
}

/// One call looks at 500 entries, all of which the user may not read.
#[test]
fn entries_behind_many_of_other_users_are_found() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        client.line("CONFIG SET gpulock.log-len 2000");
        client.line("ACL SETUSER viewer on >secret ~mine:* +gpulock.log");
        log(&server, "mine:0");
        log(&server, "mine:1");
        for number in 0..600 {
            call!(client, "GPULOCK.RELEASE", format!("other:{number}"), "me");
        }
        let url = format!("redis://viewer:secret@127.0.0.1:{}", server.port());
        let result = gpulock(&server, &["log", "--json", "--url", &url]);
        let entries: Vec<Value> = serde_json::from_str(&result.out).unwrap();
        let keys: Vec<&str> =
            entries.iter().filter_map(|entry| entry["key"].as_str()).collect();
        assert_eq!(keys, ["mine:1", "mine:0"], "{result:?}");

        let following = Following::start(&server, &["-n", "1", "--json", "--url", &url]);
        assert_eq!(following.entry(), is("mine:1", 1));
        log(&server, "mine:2");
        assert_eq!(following.entry(), is("mine:2", 1));
        assert!(following.err.try_recv().is_err());
    });
}

#[test]
fn a_restart_of_the_server_is_survived() {
    on_every_server(|flavour| {
        let mut server = flavour.start();
        log(&server, "before");
        let following = Following::start(&server, &["--json"]);
        assert_eq!(following.entry(), is("before", 1));
        server.stop();
        let line = following.err.recv_timeout(TIMEOUT).unwrap();
        assert!(line.starts_with("gpulock: ") && line.ends_with("; retrying"), "{line}");
        server.restart();
        log(&server, "after");
        while following.entry() != is("after", 1) {}
        while following.err.recv_timeout(TIMEOUT).unwrap() != "gpulock: connected again" {
        }
    });
}

#[test]
fn it_ends_when_its_reader_has_gone_although_no_entry_comes() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut child = command(&server)
            .args(["log", "-f"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut header = String::new();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut header).unwrap();
        drop(reader);
        wait_until(TIMEOUT, "its end", || child.try_wait().unwrap().is_some());
        let result = Invocation::from(child.wait_with_output().unwrap());
        assert_eq!((result.status, &*result.err), (0, ""), "{result:?}");
    });
}

#[test]
fn an_interrupt_ends_it() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut following = Following::start(&server, &[]);
        following.line();
        let pid = Pid::from_raw(following.child.id().cast_signed());
        kill(pid, Signal::SIGINT).unwrap();
        let status = following.child.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGINT as i32));
    });
}

#[test]
fn an_error_at_the_start_ends_it() {
    let output = at("redis://127.0.0.1:1").args(["log", "-f"]).output().unwrap();
    let result = Invocation::from(output);
    assert_eq!((result.status, &*result.out), (69, ""), "{result:?}");
    on_every_server(|flavour| {
        let server = flavour.server().without_module().start();
        let result = gpulock(&server, &["log", "-f"]);
        assert_eq!((result.status, &*result.out), (1, ""), "{result:?}");
    });
}
