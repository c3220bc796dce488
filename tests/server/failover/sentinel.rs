//! A Sentinel promotes a replica: owners keep their locks, waiters reconnect and queue, and
//! tokens keep rising. A grant of the old primary has a smaller token, and is gone once the
//! old primary is demoted.

use gpulock_testkit::{Client, Flavour, Sentinel, Server, Value, call, send};

use crate::support::background_load::with_background_load;
use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::queue::{wait_queue, waiter};

tests! {
    owners_keep_their_locks_when_the_primary_is_killed,
    late_grants_of_an_isolated_primary_have_smaller_tokens,
    planned_failovers_lose_no_lock,
}

/// A primary and its replica, each with an append-only file for a restart.
fn pair(flavour: &Flavour) -> (Server, Server) {
    let server = |name: &str| flavour.server().named(name).arg("appendonly", "yes");
    let primary = server("primary").start();
    let replica = server("replica").replica_of(&primary).start();
    (primary, replica)
}

/// Three UNIQUE owners that wait for a lock.
#[track_caller]
fn three_waiters(server: &Server, key: &str) -> [Client; 3] {
    let mut queue = vec![];
    ["a", "b", "c"].map(|owner| {
        queue.push(owner);
        let request = format!("GPULOCK.ACQUIRE {key} {owner} PX 600000 BLOCK 0 UNIQUE");
        let client = waiter(server, &request);
        wait_queue(&mut server.client(), key, &queue);
        client
    })
}

/// Checks that the new primary adopted a lock: it knows the owner, and nothing else.
#[track_caller]
fn assert_adopted(client: &mut Client, key: &str, owner: &str) {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    assert_eq!(seen.field("owner"), owner);
    assert_eq!(seen.field("adopted"), 1);
    for unknown in ["token", "held_ms", "session"] {
        assert!(seen.field(unknown).is_null(), "{unknown}: {seen:?}");
    }
    assert!(call!(client, "GPULOCK.ACQUIRE", key, "a stranger").is_null());
}

/// Checks that a server is a replica: it shows the lock of its primary, and holds none
/// itself.
#[track_caller]
fn assert_replica(client: &mut Client, key: &str, owner: &str) {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    assert_eq!(seen.field("owner"), owner);
    assert!(seen.field("token").is_null(), "{seen:?}");
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    assert_eq!(stats(client)["locks_held"], 0);
    let refused = call!(client, "GPULOCK.ACQUIRE", key, "a stranger");
    assert!(refused.err().starts_with("READONLY "), "{refused:?}");
}

fn owners_keep_their_locks_when_the_primary_is_killed(flavour: &Flavour) {
    let (mut primary, promoted) = pair(flavour);
    // This replica is never promoted.
    let other = flavour.server().named("other").arg("replica-priority", 0);
    let other = other.replica_of(&primary).start();
    let sentinel = Sentinel::start(&primary, 2);
    let (mut client, mut holder) = (primary.client(), primary.client());
    let tied = "GPULOCK.ACQUIRE tied asr PX 600000 UNIQUE SESSION";
    assert!(holder.line(tied).int() > 0);
    acquire(&mut client, "plain", "ocr");
    let mut waiters = three_waiters(&primary, "tied");
    let mut last = acquire(&mut client, "free", "tts");
    assert_eq!(client.line("GPULOCK.RELEASE free tts"), 1);
    for replica in [&promoted, &other] {
        replica.wait_caught_up_with(&primary);
    }
    primary.kill9();
    for client in waiters.iter_mut().chain([&mut holder]) {
        client.wait_closed();
    }
    sentinel.detect_failure_and_promote(&promoted);

    let mut client = sentinel.connect_to_primary();
    assert_adopted(&mut client, "tied", "asr");
    assert_adopted(&mut client, "plain", "ocr");
    // The waiters queue in the order in which they reconnect.
    let mut waiters = three_waiters(&promoted, "tied");
    let mut assert_rising = |token: i64| {
        assert!(token > last, "{token} after {last}");
        last = token;
    };
    let mut holder = sentinel.connect_to_primary();
    assert_rising(holder.line(tied).int());
    assert_rising(client.line("GPULOCK.EXTEND plain ocr PX 600000").int());
    assert_rising(acquire(&mut client, "free", "tts"));
    // The holder's session is tied to the new connection.
    drop(holder);
    for (waiter, owner) in waiters.iter_mut().zip(["a", "b", "c"]) {
        assert_rising(waiter.read().int());
        assert_eq!(call!(client, "GPULOCK.RELEASE", "tied", owner), 1);
    }
    assert_eq!(client.line("EXISTS tied"), 0);
    assert_counters(&mut client, 2, 0);

    // The restarted primary becomes a replica.
    primary.restart();
    for replica in [&primary, &other] {
        sentinel.wait_replicates(replica);
        replica.wait_caught_up_with(&promoted);
        assert_replica(&mut replica.client(), "plain", "ocr");
        assert_eq!(replica.client().line("EXISTS tied"), 0);
    }
}

/// Locks that an isolated primary still grants to `late`, each in a different way.
const LATE_LOCKS: [&str; 4] = ["lease", "session", "released", "free"];

/// The lease of the first of them: it ends after the primary was isolated.
const LEASE_MS: u64 = 4_000;

/// Prepares these locks, isolates the primary, and returns the clients that wait there.
#[track_caller]
fn isolate(primary: &mut Server, replica: &Server) -> [Client; 4] {
    let (mut client, mut tied) = (primary.client(), primary.client());
    assert!(tied.line("GPULOCK.ACQUIRE session holder PX 600000 SESSION").int() > 0);
    acquire(&mut client, "lease", "holder");
    acquire(&mut client, "released", "holder");
    let [lease, session, released] = ["lease", "session", "released"].map(|key| {
        let request = format!("GPULOCK.ACQUIRE {key} late PX 600000 BLOCK 0");
        let late = waiter(primary, &request);
        wait_queue(&mut client, key, &["late"]);
        late
    });
    let mut free = primary.client();
    assert!(call!(client, "GPULOCK.EXTEND", "lease", "holder", "PX", LEASE_MS).int() > 0);
    replica.wait_caught_up_with(primary);
    primary.freeze();
    drop(tied);
    send!(client, "GPULOCK.RELEASE", "released", "holder");
    send!(free, "GPULOCK.ACQUIRE", "free", "late", "PX", 600_000);
    [lease, session, released, free]
}

/// Has all of these locks granted to `new` by the new primary, and returns the tokens.
#[track_caller]
fn grant_on(replica: &Server) -> [i64; 4] {
    let mut client = replica.client();
    let mut waiters = LATE_LOCKS.map(|key| {
        waiter(replica, &format!("GPULOCK.ACQUIRE {key} new PX 600000 BLOCK 0"))
    });
    // The holder of `released` got no reply, so it sends the release again. The holder of
    // `session` only lost its connection.
    wait_queue(&mut client, "released", &["new"]);
    assert_eq!(client.line("GPULOCK.RELEASE released holder"), 1);
    wait_queue(&mut client, "session", &["new"]);
    assert_eq!(client.line("GPULOCK.FORCERELEASE session OWNER holder"), "holder");
    waiters.each_mut().map(|waiter| waiter.read().int())
}

fn late_grants_of_an_isolated_primary_have_smaller_tokens(flavour: &Flavour) {
    let (mut primary, replica) = pair(flavour);
    let mut sentinel = Sentinel::start(&primary, 1);
    let mut late = isolate(&mut primary, &replica);
    sentinel.detect_failure_and_promote(&replica);
    let new_tokens = grant_on(&replica);

    // The old primary resumes before it is demoted: each lock has two holders.
    sentinel.freeze();
    primary.thaw();
    let late_tokens = late.each_mut().map(|client| client.read().int());
    let (mut old, mut new) = (primary.client(), replica.client());
    for (n, key) in LATE_LOCKS.into_iter().enumerate() {
        let at = |client: &mut Client| {
            let seen = call!(client, "GPULOCK.INSPECT", key);
            (seen.field("owner").text(), seen.field("token").int())
        };
        assert_eq!(at(&mut old), ("late".into(), late_tokens[n]), "{key}");
        assert_eq!(at(&mut new), ("new".into(), new_tokens[n]), "{key}");
    }
    // A storage that accepts only rising tokens rejects every late writer.
    let (latest, first) = (late_tokens.iter().max(), new_tokens.iter().min());
    assert!(latest < first, "{late_tokens:?} and {new_tokens:?}");

    // It is demoted: its grants are gone, and each has a log entry.
    sentinel.thaw();
    sentinel.wait_replicates(&primary);
    for client in &mut late {
        client.wait_closed();
    }
    let mut old = primary.client();
    for (n, key) in LATE_LOCKS.into_iter().enumerate() {
        assert_replica(&mut old, key, "new");
        assert_late_hold_logged(&mut old, key, late_tokens[n]);
        assert_late_owner_refused(&mut new, key);
    }
    primary.wait_caught_up_with(&replica);
    assert_counters(&mut old, 0, 0);
    assert_counters(&mut new, 4, 0);
}

/// Checks the log entry for a hold of `late` that the demotion ended.
#[track_caller]
fn assert_late_hold_logged(client: &mut Client, key: &str, token: i64) {
    let log = client.line("GPULOCK.LOG");
    let error = log.list().iter().any(|entry| {
        entry.field("kind") == "removed"
            && entry.field("key") == key
            && entry.field("holder") == "late"
            && entry.field("token") == token
    });
    assert!(error, "{key} with {token}: {log:?}");
}

/// Checks that `late` cannot change the lock of `new`, and that the attempt is logged.
#[track_caller]
fn assert_late_owner_refused(client: &mut Client, key: &str) {
    assert!(call!(client, "GPULOCK.EXTEND", key, "late").is_null());
    assert_eq!(call!(client, "GPULOCK.RELEASE", key, "late"), 0);
    let log = client.line("GPULOCK.LOG");
    let entry = &log.list()[0];
    assert_eq!(entry.field("kind"), "ownership_violation");
    assert_eq!(
        (entry.field("holder").text(), entry.field("caller").text()),
        ("new".into(), "late".into())
    );
    assert_eq!(call!(client, "GET", key), "new");
}

/// Checks that a waiter of a demoted primary receives at most the error UNBLOCKED. The
/// Sentinel closes its connection.
#[track_caller]
fn assert_unblocked_or_closed(waiter: &mut Client) {
    if let Ok(error) = waiter.try_read(DEADLINE) {
        let error = error.expect("a reply, or the end of the connection");
        assert!(error.err().starts_with("UNBLOCKED "), "{error:?}");
        waiter.wait_closed();
    }
}

fn planned_failovers_lose_no_lock(flavour: &Flavour) {
    let (one, two) = pair(flavour);
    let sentinel = Sentinel::start(&one, 1);
    let mut last = acquire(&mut one.client(), "k", "holder");
    for (from, to) in [(&one, &two), (&two, &one)] {
        let mut waiters = three_waiters(from, "k");
        to.wait_caught_up_with(from);
        with_load(&sentinel, || sentinel.failover_to(to));
        for waiter in &mut waiters {
            assert_unblocked_or_closed(waiter);
        }
        sentinel.wait_replicates(from);
        let mut client = sentinel.connect_to_primary();
        assert_adopted(&mut client, "k", "holder");
        let mut assert_rising = |token: i64| {
            assert!(token > last, "{token} after {last}");
            last = token;
        };
        assert_rising(client.line("GPULOCK.EXTEND k holder PX 600000").int());
        let mut waiters = three_waiters(to, "k");
        assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
        for (waiter, owner) in waiters.iter_mut().zip(["a", "b", "c"]) {
            assert_rising(waiter.read().int());
            assert_eq!(call!(client, "GPULOCK.RELEASE", "k", owner), 1);
        }
        assert_rising(acquire(&mut client, "k", "holder"));
        from.wait_caught_up_with(to);
        assert_replica(&mut from.client(), "k", "holder");
    }
}

/// While `work` runs, a client acquires and releases a lock on the current primary, with
/// rising tokens.
fn with_load(sentinel: &Sentinel, work: impl FnOnce()) {
    let (mut client, mut last) = (sentinel.connect_to_primary(), 0);
    let acquire_and_release = || {
        client.send_lines(&[
            // UNIQUE: the previous release may have been lost with the old primary.
            "GPULOCK.ACQUIRE busy worker PX 600000 UNIQUE",
            "GPULOCK.RELEASE busy worker",
        ]);
        match [client.try_read(DEADLINE), client.try_read(DEADLINE)] {
            [Ok(Some(Value::Int(token))), _] => {
                assert!(token > last, "{token} after {last}");
                last = token;
            }
            _ => client = sentinel.connect_to_primary(),
        }
    };
    with_background_load(vec![acquire_and_release], work);
    assert!(last > 0);
}
