//! Everything that a call could change, as far as commands show it, to compare before and
//! after calls that must change nothing. Times that pass by themselves are left out.

use std::collections::{BTreeMap, BTreeSet};

use gpulock_testkit::{Client, Value, call};

/// The keys, locks and counters of a server.
#[derive(Debug, PartialEq)]
pub(crate) struct ServerState {
    digest: String,
    /// The expiry time of each key.
    expiry: Vec<Value>,
    dirty: String,
    stats: BTreeMap<String, Value>,
    /// The reply of INSPECT for each lock that is held or waited for.
    locks: Vec<String>,
    log: usize,
    settings: Value,
}

/// The counters of requests, which also count refused ones.
const REQUEST_COUNTERS: [&str; 3] =
    ["acquire_requests", "release_script_errors", "normal_release_failures"];

/// The fields of INSPECT that change with time.
const TIMES: [&str; 4] = ["lease_ms", "held_ms", "grace_ms", "revoked_ms"];

/// Reads the state of a server.
#[track_caller]
pub(crate) fn server_state(client: &mut Client) -> ServerState {
    let mut stats = client.line("GPULOCK.STATS").map();
    for name in REQUEST_COUNTERS {
        stats.remove(name).expect("the counter");
    }
    let keys = keys(client);
    ServerState {
        digest: client.line("DEBUG DIGEST").text(),
        expiry: keys.iter().map(|key| call!(client, "PEXPIRETIME", key)).collect(),
        dirty: client.info("persistence")["rdb_changes_since_last_save"].clone(),
        stats,
        locks: keys.iter().map(|key| lock(client, key)).collect(),
        log: client.line("GPULOCK.LOG").list().len(),
        settings: client.line("CONFIG GET gpulock.*"),
    }
}

/// All existing keys, and the keys of free locks that clients wait for.
fn keys(client: &mut Client) -> BTreeSet<Vec<u8>> {
    let existing = client.line("KEYS *");
    let known = client.line("GPULOCK.LIST");
    let listed = known.list().iter().map(|row| row.field("key").bytes().to_vec());
    existing.list().iter().map(|key| key.bytes().to_vec()).chain(listed).collect()
}

fn lock(client: &mut Client, key: &[u8]) -> String {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    if seen.is_null() || seen.is_err() {
        return format!("{}: {seen:?}", key.escape_ascii());
    }
    let mut seen = seen.map();
    let waiters = seen.remove("waiters").expect("the queue");
    let mut queue = Vec::new();
    for position in waiters.list() {
        let mut position = position.map();
        position.remove("waited_ms");
        queue.push(position);
    }
    for time in TIMES {
        seen.remove(time);
    }
    format!("{}: {seen:?} {queue:?}", key.escape_ascii())
}
