//! Everything that a call could change, as far as commands show it, to be compared before and
//! after calls that must change nothing. Times that run on by themselves are left out.

use std::collections::{BTreeMap, BTreeSet};

use gpulock_testkit::{Client, Value, call};

/// What a server shows of its keys, its locks, and its counters.
#[derive(Debug, PartialEq)]
pub(crate) struct State {
    digest: String,
    /// Time to live of each key, as a moment.
    ends: Vec<Value>,
    dirty: String,
    stats: BTreeMap<String, Value>,
    /// What INSPECT says of each lock that is held or waited for.
    locks: Vec<String>,
    log: usize,
    settings: Value,
}

/// The counters that tell of requests, whether answered or refused.
const OF_REQUESTS: [&str; 3] =
    ["acquire_requests", "release_script_errors", "normal_release_failures"];

/// What INSPECT tells that time alone changes.
const TIMES: [&str; 3] = ["lease_ms", "held_ms", "grace_ms"];

/// Looks at it all.
#[track_caller]
pub(crate) fn state(client: &mut Client) -> State {
    let mut stats = client.line("GPULOCK.STATS").map();
    for name in OF_REQUESTS {
        stats.remove(name).expect("the counter");
    }
    let keys = keys(client);
    State {
        digest: client.line("DEBUG DIGEST").text(),
        ends: keys.iter().map(|key| call!(client, "PEXPIRETIME", key)).collect(),
        dirty: client.info("persistence")["rdb_changes_since_last_save"].clone(),
        stats,
        locks: keys.iter().map(|key| lock(client, key)).collect(),
        log: client.line("GPULOCK.LOG").list().len(),
        settings: client.line("CONFIG GET gpulock.*"),
    }
}

/// All keys that there are, and those that only somebody waits for.
fn keys(client: &mut Client) -> BTreeSet<Vec<u8>> {
    let there = client.line("KEYS *");
    let known = client.line("GPULOCK.LIST");
    let listed = known.list().iter().map(|row| row.field("key").bytes().to_vec());
    there.list().iter().map(|key| key.bytes().to_vec()).chain(listed).collect()
}

fn lock(client: &mut Client, key: &[u8]) -> String {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    if seen.is_null() || seen.is_err() {
        return format!("{}: {seen:?}", key.escape_ascii());
    }
    let mut seen = seen.map();
    let waiters = seen.remove("waiters").expect("the line");
    let mut line = Vec::new();
    for place in waiters.list() {
        let mut place = place.map();
        place.remove("waited_ms");
        line.push(place);
    }
    for time in TIMES {
        seen.remove(time);
    }
    format!("{}: {seen:?} {line:?}", key.escape_ascii())
}
