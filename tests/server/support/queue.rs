//! Waiting clients, and the wait queue of a lock as INSPECT shows it.

use std::time::Duration;

use gpulock_testkit::{Client, Server, Value, call, wait_until};

use super::clock::DEADLINE;
use super::counters::stats;

/// Options of a waiter that waits until it is granted the lock.
pub(crate) const NO_TIMEOUT: &str = "PX 100000 BLOCK 0";

/// The owners in the wait queue of a lock, in order; those that only have a kept position in
/// parentheses.
#[track_caller]
pub(crate) fn queue_of(client: &mut Client, key: &str) -> Vec<String> {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    if seen.is_null() {
        return Vec::new();
    }
    let name = |position: &Value| {
        let owner = position.field("owner").text();
        if position.field("client").is_null() { format!("({owner})") } else { owner }
    };
    let queue: Vec<String> = seen.field("waiters").list().iter().map(name).collect();
    let waiting = queue.iter().filter(|owner| !owner.starts_with('(')).count();
    assert_eq!(seen.field("waiting"), i64::try_from(waiting).expect("a small number"));
    queue
}

/// Waits until the wait queue of a lock is `queue`.
#[track_caller]
pub(crate) fn wait_queue(client: &mut Client, key: &str, queue: &[&str]) {
    wait_until(DEADLINE, format!("{queue:?} to wait for {key}"), || {
        queue_of(client, key) == queue
    });
}

/// The number of clients in the wait queue of a lock.
#[track_caller]
pub(crate) fn queue_length(client: &mut Client, key: &str) -> i64 {
    match call!(client, "GPULOCK.INSPECT", key) {
        Value::Null => 0,
        seen => seen.field("waiting").int(),
    }
}

/// Waits until exactly this many clients are in the wait queue of a lock.
#[track_caller]
pub(crate) fn wait_queue_length(client: &mut Client, key: &str, length: i64) {
    wait_until(DEADLINE, format!("{length} clients in the queue of {key}"), || {
        queue_length(client, key) == length
    });
}

/// A new connection that sends `request` and does not read the reply.
#[track_caller]
pub(crate) fn waiter(server: &Server, request: &str) -> Client {
    let mut client = server.client();
    client.send_lines(&[request]);
    client
}

/// A new connection that waits last in the queue of a lock; `options` are those of ACQUIRE.
/// `observer` checks that it does.
#[track_caller]
pub(crate) fn join_queue(
    server: &Server,
    observer: &mut Client,
    key: &str,
    owner: &str,
    options: &str,
) -> Client {
    let before = queue_length(observer, key);
    let client = waiter(server, &format!("GPULOCK.ACQUIRE {key} {owner} {options}"));
    wait_queue_length(observer, key, before + 1);
    client
}

/// A waiter that joins the queue of `k` without a timeout, and its client id.
#[track_caller]
pub(crate) fn join_queue_with_id(
    server: &Server,
    observer: &mut Client,
    owner: &str,
) -> (Client, i64) {
    let before = queue_length(observer, "k");
    let mut client = server.client();
    let id = client.id();
    client.send_lines(&[&format!("GPULOCK.ACQUIRE k {owner} {NO_TIMEOUT}")]);
    wait_queue_length(observer, "k", before + 1);
    (client, id)
}

/// Checks that the server has no waiter and no blocked client.
#[track_caller]
pub(crate) fn assert_no_waiters(client: &mut Client) {
    assert_eq!(stats(client)["clients_waiting"], 0);
    assert_eq!(client.info("clients")["blocked_clients"], "0");
}

/// Checks that a waiter has no reply. The server sends replies that are due before it reads
/// the next command, so the check needs no delay.
#[track_caller]
pub(crate) fn assert_no_reply(observer: &mut Client, waiter: &mut Client) {
    assert_eq!(observer.line("PING"), "PONG");
    assert_eq!(waiter.read_within(Duration::ZERO), None);
}
