//! Clients that stand in a line, and how long the line is.

use std::time::Duration;

use gpulock_testkit::{Client, Server, Value, call, send, wait_until};

/// What comes for sure, sooner or later: only what hangs fails.
pub(crate) const LATER: Duration = Duration::from_secs(20);

/// How many stand in the line of a key.
#[track_caller]
pub(crate) fn waiting(client: &mut Client, key: &str) -> i64 {
    match call!(client, "GPULOCK.INSPECT", key) {
        Value::Null => 0,
        seen => seen.field("waiting").int(),
    }
}

/// Waits until exactly so many do.
#[track_caller]
pub(crate) fn wait_waiting(client: &mut Client, key: &str, count: i64) {
    wait_until(LATER, format!("{count} in the line of {key}"), || {
        waiting(client, key) == count
    });
}

/// A new client that stands last in a line: `options` are ACQUIRE's, in one line. `asker`
/// is there to see that it does.
#[track_caller]
pub(crate) fn joins(
    server: &Server,
    asker: &mut Client,
    key: &str,
    owner: &str,
    options: &str,
) -> Client {
    let before = waiting(asker, key);
    let mut client = server.client();
    let line = format!("GPULOCK.ACQUIRE {key} {owner} {options}");
    client.send(&line.split_whitespace().collect::<Vec<_>>());
    wait_waiting(asker, key, before + 1);
    client
}

/// Takes a lock for 100 s.
#[track_caller]
pub(crate) fn take(client: &mut Client, key: &str, owner: &str) -> i64 {
    call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 100_000).int()
}

/// Checks that a client that waits was not answered: what it asks next is answered after
/// all that was to come before.
#[track_caller]
pub(crate) fn assert_unanswered(asker: &mut Client, waiter: &mut Client) {
    send!(asker, "PING");
    assert_eq!(asker.read(), "PONG");
    assert_eq!(waiter.read_within(Duration::ZERO), None);
}
