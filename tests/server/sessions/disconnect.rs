//! A lock acquired with `SESSION` ends with its connection, and the next waiter is granted it at
//! once.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::events::{next_event, subscriber};
use crate::support::median::median;
use crate::support::queue::{wait_queue, waiter};
use crate::support::sessions::{WAYS, close, inspect};

tests! {
    the_next_waiter_is_granted_the_lock_within_5_ms_of_a_disconnect,
    the_end_of_an_adopted_locks_session_is_published,
    the_lock_is_handed_off_at_once,
    without_waiters_the_locks_of_a_session_are_free,
    a_server_that_closes_idle_connections_is_warned_about,
    a_holder_that_is_closed_as_idle_loses_its_lock,
    a_killed_process_releases_its_lock,
}

/// The documented five milliseconds.
const WITHIN: Duration = Duration::from_millis(5);

/// Lets a client hold `k` as `me` for 100 s.
type Start = (&'static str, fn(&mut Client, &mut Client));

const STARTS: [Start; 4] = [
    ("granted at once", |holder, _| {
        let reply = holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION");
        assert!(reply.int() > 0);
    }),
    ("granted after a wait", |holder, other| {
        other.line("GPULOCK.ACQUIRE k first");
        holder.send_lines(&["GPULOCK.ACQUIRE k me PX 100000 BLOCK 0 SESSION"]);
        wait_queue(other, "k", &["me"]);
        assert_eq!(other.line("GPULOCK.RELEASE k first"), 1);
        assert!(holder.read().int() > 0);
    }),
    ("renewed", |holder, other| {
        let token = other.line("GPULOCK.ACQUIRE k me PX 50000 UNIQUE").int();
        let renewed = holder.line("GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION");
        assert_eq!(renewed, token);
    }),
    ("adopted and renewed", |holder, other| {
        assert_eq!(other.line("SET k me PX 50000"), "OK");
        let renewed = holder.line("GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION");
        assert!(renewed.int() > 0);
    }),
];

fn the_next_waiter_is_granted_the_lock_within_5_ms_of_a_disconnect(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut took = Vec::new();
    for (how_acquired, acquire) in STARTS {
        for (way, end) in WAYS {
            took.push(median(&format!("{how_acquired}, {way}"), WITHIN, || {
                client.line("GPULOCK.RESETSTATS");
                client.line("GPULOCK.LOG RESET");
                let mut subscriber = subscriber(&server, "gpu_lock:*");
                let mut holder = server.client();
                let id = holder.id();
                acquire(&mut holder, &mut client);
                assert_eq!(inspect(&mut client, "session"), id, "{how_acquired}, {way}");
                let token = inspect(&mut client, "token").int();
                let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
                wait_queue(&mut client, "k", &["next"]);
                // The release of the first holder, if there was one.
                if how_acquired == "granted after a wait" {
                    assert_eq!(next_event(&mut subscriber)["owner"], "first");
                }

                let start = Instant::now();
                end(holder, &mut client, id);
                let granted = next.read().int();
                let took = start.elapsed();

                assert!(granted > token, "{how_acquired}, {way}");
                assert_eq!(inspect(&mut client, "owner"), "next");
                let stats = stats(&mut client);
                assert_eq!(stats["session_releases"], 1, "{how_acquired}, {way}");
                for other in ["expired", "removed", "undelivered", "emergency_releases"] {
                    assert_eq!(stats[other], 0, "{other}: {how_acquired}, {way}");
                }
                let log = client.line("GPULOCK.LOG");
                let entry = &log.list()[0];
                assert_eq!(entry.field("kind"), "disconnected", "{how_acquired}, {way}");
                assert_eq!(entry.field("key"), "k");
                assert_eq!(entry.field("holder"), "me");
                assert_eq!(entry.field("token"), token);
                assert_eq!(entry.field("reason"), "disconnect");
                assert_eq!(entry.field("client"), Value::Null);
                if how_acquired != "adopted and renewed" {
                    let event = next_event(&mut subscriber);
                    assert_eq!(
                        event["release_reason"], "disconnect",
                        "{how_acquired}, {way}"
                    );
                    assert_eq!(event["owner"], "me");
                    assert_eq!(event["token"], token);
                }
                assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
                took
            }));
        }
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{flavour}: median {median:?}, worst {worst:?}");
}

fn the_end_of_an_adopted_locks_session_is_published(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let mut subscriber = subscriber(&server, "gpu_lock:*");
    assert_eq!(client.line("SET k me PX 100000"), "OK");
    let token = holder.line("GPULOCK.ACQUIRE k me UNIQUE SESSION").int();
    close(holder, &mut client);
    // The module ended it, so it publishes the end.
    let event = next_event(&mut subscriber);
    assert_eq!(event["release_reason"], "disconnect");
    assert_eq!(event["token"], token);
}

fn the_lock_is_handed_off_at_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // The next command in the same iteration of the event loop finds the lock handed off.
    for (queue, owner) in [(&["next"][..], "next"), (&[], "newcomer")] {
        let mut holder = server.client();
        let kill = format!("CLIENT KILL ID {}", holder.id());
        assert!(holder.line("GPULOCK.ACQUIRE k me SESSION").int() > 0);
        let mut next = server.client();
        if !queue.is_empty() {
            next.send_lines(&["GPULOCK.ACQUIRE k next BLOCK 0"]);
        }
        wait_queue(&mut client, "k", queue);
        client.send_lines(&[&kill, "GPULOCK.ACQUIRE k newcomer", "GET k"]);
        assert_eq!(client.read(), 1);
        let reply = client.read();
        assert_eq!(client.read(), owner);
        assert_eq!(reply.is_null(), owner == "next", "{reply:?}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", owner), 1);
    }
}

fn without_waiters_the_locks_of_a_session_are_free(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (way, end) in WAYS {
        let mut holder = server.client();
        let id = holder.id();
        // All its locks end, in all databases.
        for n in 0..50 {
            let lock = format!("gpu:{n}");
            holder.line(&format!("SELECT {}", n % 3));
            let token = call!(holder, "GPULOCK.ACQUIRE", lock, "me", "SESSION");
            assert!(token.int() > 0);
        }
        // A lock without SESSION does not.
        holder.line("SELECT 0");
        assert!(holder.line("GPULOCK.ACQUIRE untied me").int() > 0);
        assert_eq!(stats(&mut client)["locks_held"], 51);
        end(holder, &mut client, id);
        wait_until(DEADLINE, way, || stats(&mut client)["locks_held"] == 1);
        assert_eq!(server.info("keyspace").len(), 1, "{way}");
        assert_eq!(client.line("GPULOCK.RELEASE untied me"), 1);
    }
    let stats = stats(&mut client);
    assert_eq!(stats["session_releases"], 50 * WAYS.len() as i64);
}

/// The number of warnings about the server's `timeout`.
fn warnings(client: &mut Client) -> usize {
    let log = client.line("GPULOCK.LOG");
    let is_warning = |entry: &&Value| {
        let reason = || entry.field("reason").text();
        entry.field("kind") == "warning" && reason().contains("timeout")
    };
    log.list().iter().filter(is_warning).count()
}

fn a_server_that_closes_idle_connections_is_warned_about(flavour: &Flavour) {
    let server = flavour.server().arg("timeout", 100).start();
    let mut client = server.client();
    assert_eq!(warnings(&mut client), 1);
    server.wait_log("<gpulock> timeout is not 0");

    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(warnings(&mut client), 0);
    assert!(!server.log().contains("<gpulock> timeout is not 0"));
    assert_eq!(client.line("CONFIG SET timeout 100"), "OK");
    assert_eq!(warnings(&mut client), 1);
    server.wait_log("<gpulock> timeout is not 0");
    // No warning without a timeout, and a new one for the next.
    client.line("GPULOCK.LOG RESET");
    assert_eq!(client.line("CONFIG SET timeout 0"), "OK");
    assert_eq!(warnings(&mut client), 0);
    assert_eq!(client.line("CONFIG SET timeout 50"), "OK");
    assert_eq!(warnings(&mut client), 1);
}

fn a_holder_that_is_closed_as_idle_loses_its_lock(flavour: &Flavour) {
    let server = flavour.server().arg("timeout", 1).arg("hz", 100).start();
    let (mut client, mut holder) = (server.client(), server.client());
    assert!(holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION").int() > 0);
    // A waiting client is not idle.
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    assert!(next.read().int() > 0);
    holder.wait_closed();
    assert_eq!(stats(&mut server.client())["session_releases"], 1);
}

fn a_killed_process_releases_its_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut killed = 0;
    let took = median("a killed process", Duration::from_millis(10), || {
        killed += 1;
        // Only another process holds the connection open.
        let address = (Ipv4Addr::LOCALHOST, server.port());
        let mut socket = TcpStream::connect(address).expect("connecting");
        socket.write_all(b"GPULOCK.ACQUIRE k me PX 100000 SESSION\r\n").expect("sending");
        let mut reply = [0; 64];
        let length = socket.read(&mut reply).expect("a reply");
        assert!(reply[..length].starts_with(b":"), "{reply:?}");
        let mut process = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .spawn()
            .expect("starting sleep");
        let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["next"]);
        let start = Instant::now();
        process.kill().expect("killing the process");
        assert!(next.read().int() > 0);
        let took = start.elapsed();
        process.wait().expect("the end of the process");
        assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
        took
    });
    assert_eq!(stats(&mut client)["session_releases"], killed);
    eprintln!("{flavour}: killed, median {took:?}");
}
