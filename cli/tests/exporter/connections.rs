//! The exporter's connections: those that nobody uses are ended, and however many there are,
//! a scrape is answered.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Command;

use gpulock_testkit::wait_until;

use crate::PATIENCE;
use crate::exporter::{Exporter, VIEWERS, alone, command, first_line};

/// How many connections are served at once, as docs/cli.md tells.
const CONNECTIONS: usize = 256;

const HEAD_OF_METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n";

/// What comes on a connection until the exporter ends it.
fn read_to_the_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("the exporter ends it");
    String::from_utf8(text).expect("UTF-8")
}

/// Whether an answer began.
fn is_answered(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("setting it");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("setting it");
    match peeked {
        Ok(read) => read > 0,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("the connection broke: {error}"),
    }
}

/// How many sockets the exporter has.
fn sockets(exporter: &Exporter) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", exporter.pid())).expect("its files");
    // One may be closed while we look.
    let names = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_head_that_is_never_finished_is_ended() {
    let exporter = alone();
    let silent = exporter.send(b"");
    let unfinished = exporter.send(HEAD_OF_METRICS);
    for stream in [silent, unfinished] {
        assert_eq!(read_to_the_end(stream), "");
    }
}

#[test]
fn a_connection_that_is_idle_after_an_answer_is_ended() {
    let exporter = alone();
    let idle = exporter.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = read_to_the_end(idle);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[test]
fn a_body_that_never_comes_is_not_waited_for() {
    let exporter = alone();
    let head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
    let answer = read_to_the_end(exporter.send(head));
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    let exporter = alone();
    let before = sockets(&exporter);
    // More than all buffers on the way take.
    let request = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let unread = exporter.send(&request.repeat(4000));
    wait_until(PATIENCE, "the connection", || sockets(&exporter) > before);
    wait_until(2 * PATIENCE, "its end", || sockets(&exporter) == before);
    drop(unread);
}

#[test]
fn a_scrape_comes_to_its_turn_past_idle_connections() {
    let exporter = alone();
    // One more is for what a scrape itself asks.
    let most = sockets(&exporter) + CONNECTIONS + 1;
    let idle: Vec<_> = (0..300).map(|_| exporter.send(b"")).collect();
    let scrape = exporter.send(&[HEAD_OF_METRICS, b"\r\n"].concat());
    wait_until(PATIENCE, "the scrape", || {
        let now = sockets(&exporter);
        assert!(now <= most, "{now} sockets where {most} may be");
        is_answered(&scrape)
    });
    let answer = read_to_the_end(scrape);
    assert!(answer.contains("gpulock_up{instance=\"127.0.0.1:1\"} 0"), "{answer}");
    drop(idle);
}

#[test]
fn viewers_leave_room_for_a_scrape() {
    let exporter = alone();
    let look = || exporter.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut viewers: Vec<_> = (0..VIEWERS).map(|_| look()).collect();
    for viewer in &mut viewers {
        assert_eq!(first_line(viewer), "HTTP/1.1 200 OK");
    }
    let refused = exporter.get("/events");
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"), "{:?}", refused.headers);
    assert_eq!(exporter.get("/metrics").status, 200);
    // Who goes leaves a place.
    viewers.pop();
    wait_until(PATIENCE, "a place", || first_line(&mut look()) == "HTTP/1.1 200 OK");
}

#[test]
fn a_lack_of_files_is_outlived() {
    let command = command();
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 32 && exec \"$0\" \"$@\""]).arg(command.get_program());
    few.args(command.get_args()).args(["--listen", "127.0.0.1:0"]);
    few.args(["--server", "redis://127.0.0.1:1"]);
    let exporter = Exporter::start(&mut few);
    let last = format!("/proc/{}/fd/31", exporter.pid());
    let many: Vec<_> = (0..64).map(|_| exporter.send(b"")).collect();
    wait_until(PATIENCE, "the last file", || fs::read_link(&last).is_ok());
    drop(many);
    assert_eq!(exporter.get("/healthz").status, 200);
}
