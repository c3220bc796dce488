//! The exporter's connections: idle ones are closed, and a scrape succeeds however many there are.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Command;

use gpulock_testkit::wait_until;

use crate::TIMEOUT;
use crate::exporter::{Exporter, MAX_VIEWERS, alone, command, first_line};

/// Maximum number of connections (docs/cli.md).
const MAX_CONNECTIONS: usize = 256;

const METRICS_HEADER: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n";

/// Reads until the exporter closes the connection.
fn read_to_the_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("the exporter closes it");
    String::from_utf8(text).expect("UTF-8")
}

/// Whether a response has begun.
pub(crate) fn has_response(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("setting it");
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("setting it");
    match peeked {
        Ok(read) => read > 0,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("the connection broke: {error}"),
    }
}

/// The number of the exporter's sockets.
fn sockets(exporter: &Exporter) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", exporter.pid())).expect("its files");
    // One may be closed during the scan.
    let names = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn an_unfinished_request_header_times_out() {
    let exporter = alone();
    let silent = exporter.send(b"");
    let unfinished = exporter.send(METRICS_HEADER);
    for stream in [silent, unfinished] {
        assert_eq!(read_to_the_end(stream), "");
    }
}

#[test]
fn a_connection_that_is_idle_after_a_response_is_closed() {
    let exporter = alone();
    let idle = exporter.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = read_to_the_end(idle);
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
}

#[test]
fn a_missing_request_body_does_not_block() {
    let exporter = alone();
    let head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
    let response = read_to_the_end(exporter.send(head));
    assert!(response.ends_with("\r\n\r\nok\n"), "{response}");
}

#[test]
fn a_connection_with_an_unread_response_is_closed() {
    let exporter = alone();
    let before = sockets(&exporter);
    // More than the capacity of all buffers.
    let request = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let unread = exporter.send(&request.repeat(4000));
    wait_until(TIMEOUT, "the connection", || sockets(&exporter) > before);
    wait_until(2 * TIMEOUT, "its end", || sockets(&exporter) == before);
    drop(unread);
}

#[test]
fn a_scrape_succeeds_despite_idle_connections() {
    let exporter = alone();
    // One more for the query of the scrape itself.
    let max = sockets(&exporter) + MAX_CONNECTIONS + 1;
    let idle: Vec<_> = (0..300).map(|_| exporter.send(b"")).collect();
    let scrape = exporter.send(&[METRICS_HEADER, b"\r\n"].concat());
    wait_until(TIMEOUT, "the scrape", || {
        let now = sockets(&exporter);
        assert!(now <= max, "{now} sockets, more than {max}");
        has_response(&scrape)
    });
    let response = read_to_the_end(scrape);
    assert!(response.contains("gpulock_up{instance=\"127.0.0.1:1\"} 0"), "{response}");
    drop(idle);
}

#[test]
fn viewers_do_not_block_a_scrape() {
    let exporter = alone();
    let view = || exporter.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut viewers: Vec<_> = (0..MAX_VIEWERS).map(|_| view()).collect();
    for viewer in &mut viewers {
        assert_eq!(first_line(viewer), "HTTP/1.1 200 OK");
    }
    let rejected = exporter.get("/events");
    assert_eq!(rejected.status, 503, "{}", rejected.body);
    assert!(rejected.headers.contains_key("retry-after"), "{:?}", rejected.headers);
    assert_eq!(exporter.get("/metrics").status, 200);
    // A viewer that leaves makes room for another.
    viewers.pop();
    wait_until(TIMEOUT, "room for a viewer", || {
        first_line(&mut view()) == "HTTP/1.1 200 OK"
    });
}

#[test]
fn the_exporter_survives_a_lack_of_file_descriptors() {
    let command = command();
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 32 && exec \"$0\" \"$@\""]).arg(command.get_program());
    few.args(command.get_args()).args(["--listen", "127.0.0.1:0"]);
    few.args(["--server", "redis://127.0.0.1:1"]);
    let exporter = Exporter::start(&mut few);
    let last = format!("/proc/{}/fd/31", exporter.pid());
    let many: Vec<_> = (0..64).map(|_| exporter.send(b"")).collect();
    wait_until(TIMEOUT, "the last file descriptor", || fs::read_link(&last).is_ok());
    drop(many);
    assert_eq!(exporter.get("/healthz").status, 200);
}
