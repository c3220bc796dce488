//! Requests that many tests send.

use gpulock_testkit::{Client, Value, call};

/// Acquires a lock for 600 s, longer than any test, and returns the token.
#[track_caller]
pub(crate) fn acquire(client: &mut Client, key: &str, owner: &str) -> i64 {
    call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 600_000).int()
}

/// Acquires several locks, one by one.
#[track_caller]
pub(crate) fn acquire_each(client: &mut Client, keys: &[&str], owner: &str) {
    for key in keys {
        assert!(acquire(client, key, owner) > 0);
    }
}

/// The keys and tokens that ACQUIREANY returned, in the order of the reply.
#[track_caller]
pub(crate) fn granted(reply: &Value) -> Vec<(String, i64)> {
    let pair = |pair: &Value| match pair.list() {
        [key, token] => (key.text(), token.int()),
        other => panic!("expected a key and a token, got {other:?}"),
    };
    reply.list().iter().map(pair).collect()
}

/// Sends several commands in one write, in a transaction or not, and returns their replies.
#[track_caller]
pub(crate) fn in_one_write(
    client: &mut Client,
    lines: &[&str],
    transaction: bool,
) -> Vec<Value> {
    if !transaction {
        client.send_lines(lines);
        return lines.iter().map(|_| client.read()).collect();
    }
    client.send_lines(&[&["MULTI"], lines, &["EXEC"]].concat());
    assert_eq!(client.read(), "OK");
    for line in lines {
        assert_eq!(client.read(), "QUEUED", "{line}");
    }
    client.read().list().to_vec()
}
