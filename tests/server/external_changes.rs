//! Ends of held locks that another command causes: the module counts each under the right
//! name, logs it and publishes it, by itself within a second, and at once when a GPULOCK
//! command names the key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Cluster, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::events::{next_event, subscriber};
use crate::support::locks::acquire;
use crate::support::server_variants::server_variants;

tests! {
    each_end_is_noticed_within_a_second_without_a_command,
    each_end_is_noticed_at_once_by_a_command_that_names_the_key,
    flushed_and_swapped_locks_end_as_removed,
    a_swapped_database_has_other_holders,
    a_lease_changed_by_other_commands_is_followed,
    a_removed_or_extended_lease_does_not_end_at_its_old_time,
    a_lease_extended_just_before_its_end_is_the_same_hold,
    a_release_by_another_owner_does_not_hide_that_the_key_was_set_again,
    a_value_of_the_same_length_with_the_same_lease_is_noticed,
    evicted_locks_are_counted_and_published_as_evicted,
    a_demoted_server_holds_no_lock_until_it_is_promoted,
    ten_thousand_simultaneous_ends_are_noticed_in_time,
    a_lock_in_a_migrated_slot_is_counted_as_moved_and_held_on_the_target,
}

/// The documented second, and the delay of a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

/// A way in which another command ends a hold.
#[derive(Clone, Copy)]
struct End {
    /// The key of the lock.
    key: &'static str,
    /// The commands that end the hold.
    steps: &'static [&'static str],
    /// The counter, and the kind in the log.
    counter: &'static str,
    /// The event's `release_reason`.
    reason: &'static str,
    /// The holder after that.
    next: Option<&'static str>,
}

const fn removed(key: &'static str, steps: &'static [&'static str]) -> End {
    End { key, steps, counter: "removed", reason: "removed", next: None }
}

const fn replaced(key: &'static str, steps: &'static [&'static str]) -> End {
    End { next: Some("other"), ..removed(key, steps) }
}

/// Each lock is held by `me`.
#[rustfmt::skip]
const ENDS: &[End] = &[
    removed("del",          &["DEL del"]),
    removed("unlink",       &["UNLINK unlink"]),
    removed("getdel",       &["GETDEL getdel"]),
    removed("away",         &["RENAME away elsewhere"]),
    removed("move",         &["MOVE move 1"]),
    removed("type",         &["DEL type", "RPUSH type me"]),
    removed("typed",        &["RPUSH list me", "RENAME list typed"]),
    removed("past",         &["PEXPIRE past -1"]),
    removed("pastat",       &["PEXPIREAT pastat 1"]),
    removed("script",       &["EVAL redis.call('DEL',KEYS[1]) 1 script"]),
    removed("transaction",  &["MULTI", "DEL transaction", "EXEC"]),
    removed("empty",        &["SETRANGE empty 2000 x"]),
    removed("restore",      &["RPUSH made me", "EVAL redis.call('RESTORE',KEYS[1],0,redis.call('DUMP',KEYS[2]),'REPLACE') 2 restore made"]),
    replaced("set",         &["SET set other"]),
    replaced("leased",      &["SET leased other PX 90000"]),
    replaced("kept",        &["SET kept other KEEPTTL"]),
    replaced("getset",      &["GETSET getset other"]),
    replaced("over",        &["SET source other", "RENAME source over"]),
    replaced("again",       &["DEL again", "SET again other NX PX 100000"]),
    replaced("append",      &["SET append othe KEEPTTL", "APPEND append r"]),
    End { next: None, counter: "expired", reason: "timeout", ..removed("over-soon", &["GPULOCK.EXTEND over-soon me PX 1"]) },
];

#[track_caller]
fn run(client: &mut Client, end: &End) {
    for step in end.steps {
        let reply = client.line(step);
        assert!(!reply.is_err(), "{step}: {reply:?}");
    }
}

/// The kinds of the log entries, by key.
fn logged(client: &mut Client) -> BTreeMap<String, String> {
    let log = call!(client, "GPULOCK.LOG");
    let of_locks = log.list().iter().filter(|entry| !entry.field("key").is_null());
    of_locks
        .map(|entry| (entry.field("key").text(), entry.field("kind").text()))
        .collect()
}

/// Checks all counters of ends and of adoptions.
#[track_caller]
fn assert_ends(client: &mut Client, expected: &[(&str, i64)], what: &str) {
    let stats = stats(client);
    for name in [
        "releases",
        "emergency_releases",
        "expired",
        "session_releases",
        "removed",
        "evicted",
        "moved",
        "undelivered",
        "adopted",
    ] {
        let expected = expected.iter().find(|(counter, _)| *counter == name);
        assert_eq!(stats[name], expected.map_or(0, |(_, n)| *n), "{name}: {what}");
    }
}

/// The channels of all locks' events.
const EVENTS: &str = "gpu_lock:*";

/// Waits until this number of locks is held, without commands that name a key.
#[track_caller]
fn wait_held(client: &mut Client, held: i64, timeout: Duration, what: &str) {
    wait_until(timeout, format!("{held} locks held: {what}"), || {
        call!(client, "GPULOCK.STATS").field("locks_held") == held
    });
}

fn each_end_is_noticed_within_a_second_without_a_command(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut client = server.client();
        let mut subscriber = subscriber(&server, EVENTS);
        for end in ENDS {
            acquire(&mut client, end.key, "me");
        }
        for end in ENDS {
            run(&mut client, end);
        }
        let next = ENDS.iter().filter(|end| end.next.is_some()).count();
        let next = i64::try_from(next).expect("a small number");
        wait_held(&mut client, next, NOTICED_WITHIN, how);
        let count = |counter: &str| {
            let of = ENDS.iter().filter(|end| end.counter == counter).count();
            i64::try_from(of).expect("a small number")
        };
        let adopted = ("adopted", next);
        let expected =
            [("removed", count("removed")), ("expired", count("expired")), adopted];
        assert_ends(&mut client, &expected, how);
        let logged = logged(&mut client);
        let mut published = BTreeMap::new();
        for _ in ENDS {
            let event = next_event(&mut subscriber);
            assert_eq!(event["event_type"], "lock_released");
            assert_eq!(event["owner"], "me");
            let key = event["lock_key"].as_str().expect("text").to_owned();
            published.insert(key, event["release_reason"].clone());
        }
        for end in ENDS {
            assert_eq!(logged[end.key], end.counter, "{}: {how}", end.key);
            assert_eq!(published[end.key], end.reason, "{}: {how}", end.key);
        }
    }
}

fn each_end_is_noticed_at_once_by_a_command_that_names_the_key(flavour: &Flavour) {
    // With hz 1, no background check runs in between.
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    for end in ENDS {
        for command in [
            "GPULOCK.INSPECT",
            "GPULOCK.RELEASE",
            "GPULOCK.EXTEND",
            "GPULOCK.FORCERELEASE",
            "GPULOCK.ACQUIRE",
            "GPULOCK.LIST",
        ] {
            assert_eq!(call!(client, "FLUSHALL"), "OK");
            assert!(call!(client, "GPULOCK.LIST").list().is_empty());
            let mut subscriber = subscriber(&server, EVENTS);
            acquire(&mut client, end.key, "me");
            assert_eq!(client.line("GPULOCK.RESETSTATS"), "OK");
            run(&mut client, end);
            if end.counter == "expired" {
                wait_until(DEADLINE, "the end of the lease", || {
                    client.line("PTTL over-soon") == -2
                });
            }
            match command {
                "GPULOCK.LIST" => call!(client, command),
                "GPULOCK.INSPECT" => call!(client, command, end.key),
                "GPULOCK.FORCERELEASE" => {
                    call!(client, command, end.key, "OWNER", "no")
                }
                _ => call!(client, command, end.key, "stranger"),
            };
            // RESETSTATS counts a held lock as adopted.
            let again = i64::from(end.next.is_some());
            let expected = [(end.counter, 1), ("adopted", 1 + again)];
            assert_ends(&mut client, &expected, &format!("{} by {command}", end.key));
            let event = next_event(&mut subscriber);
            assert_eq!(event["release_reason"], end.reason, "{} {command}", end.key);
            client.line("GPULOCK.LOG RESET");
        }
    }
}

fn flushed_and_swapped_locks_end_as_removed(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut client = server.client();
        let all = [
            "FLUSHALL",
            "FLUSHDB",
            "FLUSHDB ASYNC",
            "FLUSHALL SYNC",
            "FLUSHALL ASYNC",
            "SWAPDB 0 1",
        ];
        // With hz 1 each takes a full second.
        for flush in if how == "hz 1" { &all[..1] } else { &all[..] } {
            client.line("GPULOCK.RESETSTATS");
            let mut subscriber = subscriber(&server, EVENTS);
            for key in ["a", "b", "c"] {
                acquire(&mut client, key, "me");
            }
            assert_eq!(client.line(flush), "OK");
            wait_held(&mut client, 0, NOTICED_WITHIN, flush);
            assert_ends(&mut client, &[("removed", 3)], &format!("{flush} ({how})"));
            for _ in 0..3 {
                assert_eq!(next_event(&mut subscriber)["release_reason"], "removed");
            }
        }
    }
}

fn a_swapped_database_has_other_holders(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire(&mut client, "k", "me");
    acquire(&mut client, "gone", "me");
    client.line("SELECT 1");
    client.line("SET k other PX 100000");
    assert_eq!(client.line("SWAPDB 0 1"), "OK");
    wait_held(&mut client, 1, NOTICED_WITHIN, "SWAPDB");
    assert_ends(&mut client, &[("removed", 2), ("adopted", 1)], "SWAPDB");
    // The swapped locks are still held, and are adopted where they are now.
    assert_eq!(client.line("GPULOCK.ACQUIRE k stranger"), Value::Null);
    assert_eq!(client.line("GPULOCK.INSPECT k").field("owner"), "me");
    assert_eq!(stats(&mut client)["locks_held"], 2);
}

fn a_lease_changed_by_other_commands_is_followed(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let token = acquire(&mut client, "k", "me");
    let lease = |client: &mut Client| client.line("GPULOCK.INSPECT k").field("lease_ms");
    let listed = |client: &mut Client| {
        client.line("GPULOCK.LIST").list()[0].field("lease_ms").int()
    };
    assert_eq!(client.line("PERSIST k"), 1);
    assert_eq!(lease(&mut client), -1);
    assert_eq!(listed(&mut client), -1);
    for step in ["PEXPIRE k 7000", "SET k me PX 7000", "GETEX k PX 7000"] {
        assert!(!client.line(step).is_err());
        assert!((1..=7_000).contains(&listed(&mut client)), "{step}");
        assert!((1..=7_000).contains(&lease(&mut client).int()), "{step}");
        // It is still the same hold.
        assert_eq!(client.line("GPULOCK.INSPECT k").field("token"), token, "{step}");
        assert_eq!(client.line("PERSIST k"), 1);
        assert_eq!(listed(&mut client), -1);
    }
    assert_ends(&mut client, &[], "after a change of the lease");
    // The hold ends with the changed lease.
    assert_eq!(client.line("PEXPIRE k 500"), 1);
    assert!(listed(&mut client) <= 500);
    wait_held(&mut client, 0, NOTICED_WITHIN, "at the end of the changed lease");
    assert_ends(&mut client, &[("expired", 1)], "at the end of the changed lease");
}

fn a_removed_or_extended_lease_does_not_end_at_its_old_time(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for key in ["persisted", "longer", "ends"] {
        call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 2000);
    }
    assert_eq!(client.line("PERSIST persisted"), 1);
    assert_eq!(client.line("PEXPIRE longer 100000"), 1);
    wait_held(&mut client, 2, DEADLINE, "the one lease that was not changed");
    assert_ends(&mut client, &[("expired", 1)], "of three");
    assert_eq!(call!(client, "GPULOCK.LIST").list().len(), 2);
}

/// Another command extends the lease just before its end, and the module does not see the key
/// in between: the hold continues, with its token and its session.
fn a_lease_extended_just_before_its_end_is_the_same_hold(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let id = holder.id();
    let request = "GPULOCK.ACQUIRE k me PX 1000 UNIQUE SESSION";
    for lengthen in ["PEXPIRE k 600000", "PERSIST k", "EXPIREAT k 9999999999"] {
        let token = holder.line(request).int();
        // In one iteration of the event loop: the old lease has ended before the next look.
        let steps = [lengthen, "DEBUG SLEEP 1.1", "GPULOCK.INSPECT k"];
        client.send_lines(&steps);
        let changed = client.read();
        assert_eq!(changed, 1, "{lengthen}");
        assert_eq!(client.read(), "OK");
        let seen = client.read();
        assert_eq!(seen.field("token"), token, "{lengthen}");
        assert_eq!(seen.field("session"), id, "{lengthen}");
        assert_eq!(seen.field("adopted"), 0, "{lengthen}");
        assert_eq!(holder.line(request), token, "{lengthen}: renewed");
        assert_eq!(client.line("GPULOCK.EXTEND k me PX 90000"), token, "{lengthen}");
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    }
    assert!(holder.line(request).int() > 0);
    client.send_lines(&["PEXPIRE k 600000", "DEBUG SLEEP 1.1"]);
    assert_eq!(client.read(), 1);
    assert_eq!(client.read(), "OK");
    drop(holder);
    wait_until(DEADLINE, "the lock to end with its session", || {
        client.line("EXISTS k") == 0
    });
    let stats = stats(&mut client);
    assert_eq!([stats["expired"], stats["adopted"]], [0, 0]);
    assert_eq!(stats["session_releases"], 1);
}

/// Reading the value of a key erases the difference between a plain `SET` and the module's own
/// write. The background sweep may end the hold first, so this is repeated.
fn a_release_by_another_owner_does_not_hide_that_the_key_was_set_again(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut client = server.client();
    for _ in 0..20 {
        let token = client.line("GPULOCK.ACQUIRE k me PX 10").int();
        wait_until(DEADLINE, "the lease is over", || client.line("EXISTS k") == 0);
        assert_eq!(client.line("SET k me PX 600000"), "OK");
        assert_eq!(client.line("GPULOCK.RELEASE k other"), 0);
        let renewed = client.line("GPULOCK.EXTEND k me").int();
        assert!(renewed > token, "the hold that was over goes on: {renewed}");
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    }
}

fn a_value_of_the_same_length_with_the_same_lease_is_noticed(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for command in ["GPULOCK.INSPECT k", "GPULOCK.LIST", "GPULOCK.RELEASE k me"] {
        acquire(&mut client, "k", "me");
        client.line("GPULOCK.RESETSTATS");
        assert_eq!(client.line("SET k he KEEPTTL"), "OK");
        client.line(command);
        assert_eq!(client.line("GET k"), "he");
        assert_ends(&mut client, &[("removed", 1), ("adopted", 2)], command);
        assert_eq!(client.line("GPULOCK.RELEASE k he"), 1);
    }
}

fn evicted_locks_are_counted_and_published_as_evicted(flavour: &Flavour) {
    let server = flavour.server().arg("maxmemory-policy", "allkeys-lru").start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, EVENTS);
    for n in 0..10 {
        acquire(&mut client, &format!("gpu:{n}"), "me");
    }
    client.line("GPULOCK.LOG RESET");
    assert_eq!(client.line("CONFIG SET maxmemory 1"), "OK");
    wait_until(DEADLINE, "the server to evict", || client.line("DBSIZE") == 0);
    // At once, because the server notifies the module of evictions.
    assert_eq!(stats(&mut client)["locks_held"], 0);
    assert_ends(&mut client, &[("evicted", 10)], "eviction");
    assert_eq!(client.line("CONFIG SET maxmemory 0"), "OK");
    for _ in 0..10 {
        let event = next_event(&mut subscriber);
        assert_eq!(event["release_reason"], "evicted");
        assert!(event["token"].is_i64());
    }
    let logged = logged(&mut client);
    for n in 0..10 {
        assert_eq!(logged[&format!("gpu:{n}")], "removed");
    }
    let log = client.line("GPULOCK.LOG");
    let evicted = |entry: &&Value| entry.field("reason") == "evicted";
    assert_eq!(log.list().iter().filter(evicted).count(), 10);
}

fn a_demoted_server_holds_no_lock_until_it_is_promoted(flavour: &Flavour) {
    let primary = flavour.server().named("primary").start();
    let server = flavour.server().named("replica").start();
    let mut client = server.client();
    let mut subscriber = subscriber(&server, EVENTS);
    let before = acquire(&mut client, "mine", "me");
    acquire(&mut client, "also", "me");
    let other = acquire(&mut primary.client(), "theirs", "me");
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", primary.port()), "OK");
    assert_eq!(stats(&mut client)["locks_held"], 0);
    assert_ends(&mut client, &[("removed", 2)], "a role change");
    for _ in 0..2 {
        assert_eq!(next_event(&mut subscriber)["release_reason"], "removed");
    }
    server.wait_link_up();
    assert!(client.line("GPULOCK.ACQUIRE k me").err().starts_with("READONLY "));
    assert!(client.line("GPULOCK.RELEASE theirs me").err().starts_with("READONLY "));
    assert_eq!(client.line("GPULOCK.INSPECT theirs").field("owner"), "me");
    assert_eq!(stats(&mut client)["locks_held"], 0);
    assert_eq!(client.line("REPLICAOF NO ONE"), "OK");
    assert_eq!(client.line("GPULOCK.ACQUIRE theirs you"), Value::Null);
    assert_ends(&mut client, &[("removed", 2), ("adopted", 1)], "promoted again");
    let after = acquire(&mut client, "mine", "me");
    assert!(after > before && after > other);
    assert_eq!(client.line("GPULOCK.RELEASE theirs me"), 1);
}

fn ten_thousand_simultaneous_ends_are_noticed_in_time(flavour: &Flavour) {
    const LOCKS: usize = 10_000;
    let server = flavour.start();
    let mut client = server.client();
    for how in ["FLUSHALL", "leases"] {
        client.line("GPULOCK.RESETSTATS");
        let lines: Vec<String> =
            (0..LOCKS).map(|n| format!("GPULOCK.ACQUIRE gpu:{n} me EX 100")).collect();
        client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in 0..LOCKS {
            client.read().int();
        }
        assert_eq!(stats(&mut client)["locks_held"], 10_000);
        let counter = if how == "FLUSHALL" {
            assert_eq!(client.line("FLUSHALL"), "OK");
            "removed"
        } else {
            let lines: Vec<String> =
                (0..LOCKS).map(|n| format!("GPULOCK.EXTEND gpu:{n} me PX 1")).collect();
            client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            for _ in 0..LOCKS {
                client.read();
            }
            "expired"
        };
        let start = Instant::now();
        wait_held(&mut client, 0, DEADLINE, how);
        eprintln!("{how}: {:?}", start.elapsed());
        assert_ends(&mut client, &[(counter, 10_000)], how);
    }
}

fn a_lock_in_a_migrated_slot_is_counted_as_moved_and_held_on_the_target(
    flavour: &Flavour,
) {
    let cluster = Cluster::start(flavour, 2);
    let (slot, from, to) = (cluster.slot("k"), cluster.primary_index("k"), 1);
    let to = if from == to { 0 } else { to };
    let (source, target) = (&cluster.nodes()[from], &cluster.nodes()[to]);
    let (mut here, mut there) = (source.client(), target.client());
    let mut subscriber = subscriber(source, EVENTS);
    let token = acquire(&mut here, "k", "me");
    let set = |client: &mut Client, state: &str, node: usize| {
        let id = cluster.id(node);
        assert_eq!(call!(client, "CLUSTER", "SETSLOT", slot, state, id), "OK");
    };
    set(&mut there, "IMPORTING", from);
    set(&mut here, "MIGRATING", to);
    // The slot is migrating; the key and the lock are still here.
    assert_eq!(here.line("GPULOCK.INSPECT k").field("token"), token);
    let moved =
        call!(here, "MIGRATE", "127.0.0.1", target.port(), "k", 0, 5_000, "REPLACE");
    assert_eq!(moved, "OK");
    wait_held(&mut here, 0, NOTICED_WITHIN, "MIGRATE");
    assert_ends(&mut here, &[("moved", 1)], "MIGRATE");
    for client in [&mut there, &mut here] {
        set(client, "NODE", to);
    }
    // The hold continues on the other node, so no event and no log entry are written.
    assert_eq!(subscriber.read_within(Duration::ZERO), None);
    assert!(logged(&mut here).is_empty());
    assert_eq!(there.line("GPULOCK.ACQUIRE k other"), Value::Null);
    assert!(there.line("GPULOCK.ACQUIRE k me UNIQUE").int() > 0);
    assert_ends(&mut there, &[("adopted", 1)], "the new node");
}
