//! However a held lock ends that the module did not end itself, it is counted under the
//! right name, logged and published: unaided within a second, and at once when a GPULOCK
//! command touches the key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpulock_testkit::{
    Builder, Client, Cluster, Flavour, Server, Value, call, wait_until,
};

use crate::support::counters::stats;

tests! {
    every_end_is_noticed_within_a_second_though_nobody_asks,
    an_end_is_known_at_once_to_whoever_asks,
    flushed_and_swapped_away_locks_end_as_removed,
    a_database_swapped_in_brings_other_holders,
    a_lease_changed_by_others_is_followed,
    a_lock_without_a_lease_or_with_a_longer_one_does_not_end_with_its_old_lease,
    a_lease_that_others_lengthen_right_before_its_end_is_the_same_hold,
    a_lock_overwritten_in_its_very_shape_is_known_to_whoever_asks,
    evicted_locks_are_counted_and_told_as_such,
    a_server_that_becomes_a_replica_holds_nothing_until_it_is_promoted,
    ten_thousand_locks_that_end_at_once_are_noticed_within_two_seconds,
    a_lock_whose_slot_goes_to_another_node_has_moved_and_is_held_there,
}

/// The contract's second, and what a busy machine may add.
const SOON: Duration = Duration::from_secs(5);

/// What is over sooner or later for sure: only what hangs fails.
const LATER: Duration = Duration::from_secs(10);

/// A way in which a held lock ends.
#[derive(Clone, Copy)]
struct End {
    /// The key of the lock.
    key: &'static str,
    /// What ends it.
    steps: &'static [&'static str],
    /// The counter, and the kind in the log.
    counter: &'static str,
    /// The event's `release_reason`.
    reason: &'static str,
    /// Who holds the lock then.
    next: Option<&'static str>,
}

const fn removed(key: &'static str, steps: &'static [&'static str]) -> End {
    End { key, steps, counter: "removed", reason: "removed", next: None }
}

const fn replaced(key: &'static str, steps: &'static [&'static str]) -> End {
    End { next: Some("other"), ..removed(key, steps) }
}

/// Every lock is held by `me` for 100 s.
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

fn starts(flavour: &Flavour) -> [(&'static str, Builder); 3] {
    [
        ("as it is", flavour.server()),
        ("hz 1", flavour.server().arg("hz", 1)),
        ("no active expiry", flavour.server()),
    ]
}

fn start(how: &str, builder: Builder) -> Server {
    let server = builder.start();
    if how == "no active expiry" {
        assert_eq!(call!(server.client(), "DEBUG", "SET-ACTIVE-EXPIRE", 0), "OK");
    }
    server
}

#[track_caller]
fn take(client: &mut Client, key: &str) -> i64 {
    call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 100_000).int()
}

#[track_caller]
fn carry_out(client: &mut Client, end: &End) {
    for step in end.steps {
        let answer = client.line(step);
        assert!(!answer.is_err(), "{step}: {answer:?}");
    }
}

/// A subscriber to the events of all locks.
fn listener(server: &Server) -> Client {
    let mut listener = server.client();
    listener.send(&["PSUBSCRIBE", "gpu_lock:*"]);
    assert_eq!(listener.read().list()[0], "psubscribe");
    listener
}

/// The next event, as `serde_json` reads it.
#[track_caller]
fn event(listener: &mut Client) -> serde_json::Value {
    let message = listener.read();
    serde_json::from_slice(message.list()[3].bytes()).expect("an event is JSON")
}

/// The kinds in the log by key.
fn logged(client: &mut Client) -> BTreeMap<String, String> {
    let log = call!(client, "GPULOCK.LOG");
    let of_locks = log.list().iter().filter(|entry| !entry.field("key").is_null());
    of_locks
        .map(|entry| (entry.field("key").text(), entry.field("kind").text()))
        .collect()
}

/// Checks every counter that tells of ends and of adoptions.
#[track_caller]
fn ended(client: &mut Client, expected: &[(&str, i64)], what: &str) {
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
        let wanted = expected.iter().find(|(counter, _)| *counter == name);
        assert_eq!(stats[name], wanted.map_or(0, |(_, n)| *n), "{name}: {what}");
    }
}

/// Waits, without touching any key, until so many locks are held.
#[track_caller]
fn wait_held(client: &mut Client, held: i64, patience: Duration, what: &str) {
    wait_until(patience, format!("{held} locks held: {what}"), || {
        call!(client, "GPULOCK.STATS").field("locks_held") == held
    });
}

fn every_end_is_noticed_within_a_second_though_nobody_asks(flavour: &Flavour) {
    for (how, builder) in starts(flavour) {
        let server = start(how, builder);
        let mut client = server.client();
        let mut listener = listener(&server);
        for end in ENDS {
            take(&mut client, end.key);
        }
        for end in ENDS {
            carry_out(&mut client, end);
        }
        let next = ENDS.iter().filter(|end| end.next.is_some()).count();
        let next = i64::try_from(next).expect("not so many");
        wait_held(&mut client, next, SOON, how);
        let count = |counter: &str| {
            let of = ENDS.iter().filter(|end| end.counter == counter).count();
            i64::try_from(of).expect("not so many")
        };
        let adopted = ("adopted", next);
        let wanted =
            [("removed", count("removed")), ("expired", count("expired")), adopted];
        ended(&mut client, &wanted, how);
        let logged = logged(&mut client);
        let mut told = BTreeMap::new();
        for _ in ENDS {
            let event = event(&mut listener);
            assert_eq!(event["event_type"], "lock_released");
            assert_eq!(event["owner"], "me");
            let key = event["lock_key"].as_str().expect("text").to_owned();
            told.insert(key, event["release_reason"].clone());
        }
        for end in ENDS {
            assert_eq!(logged[end.key], end.counter, "{}: {how}", end.key);
            assert_eq!(told[end.key], end.reason, "{}: {how}", end.key);
        }
    }
}

fn an_end_is_known_at_once_to_whoever_asks(flavour: &Flavour) {
    // So that nobody else looks in between.
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    for end in ENDS {
        for asked in [
            "GPULOCK.INSPECT",
            "GPULOCK.RELEASE",
            "GPULOCK.EXTEND",
            "GPULOCK.FORCERELEASE",
            "GPULOCK.ACQUIRE",
            "GPULOCK.LIST",
        ] {
            assert_eq!(call!(client, "FLUSHALL"), "OK");
            assert!(call!(client, "GPULOCK.LIST").list().is_empty());
            let mut listener = listener(&server);
            take(&mut client, end.key);
            assert_eq!(client.line("GPULOCK.RESETSTATS"), "OK");
            carry_out(&mut client, end);
            if end.counter == "expired" {
                wait_until(LATER, "the lease to be over", || {
                    client.line("PTTL over-soon") == -2
                });
            }
            match asked {
                "GPULOCK.LIST" => call!(client, asked),
                "GPULOCK.INSPECT" => call!(client, asked, end.key),
                "GPULOCK.FORCERELEASE" => {
                    call!(client, asked, end.key, "OWNER", "no")
                }
                _ => call!(client, asked, end.key, "nobody"),
            };
            // The lock under RESETSTATS itself counts as adopted.
            let again = i64::from(end.next.is_some());
            let wanted = [(end.counter, 1), ("adopted", 1 + again)];
            ended(&mut client, &wanted, &format!("{} by {asked}", end.key));
            let event = event(&mut listener);
            assert_eq!(event["release_reason"], end.reason, "{} {asked}", end.key);
            client.line("GPULOCK.LOG RESET");
        }
    }
}

fn flushed_and_swapped_away_locks_end_as_removed(flavour: &Flavour) {
    for (how, builder) in starts(flavour) {
        let server = start(how, builder);
        let mut client = server.client();
        let all = [
            "FLUSHALL",
            "FLUSHDB",
            "FLUSHDB ASYNC",
            "FLUSHALL SYNC",
            "FLUSHALL ASYNC",
            "SWAPDB 0 1",
        ];
        // Each takes the whole second there.
        for flush in if how == "hz 1" { &all[..1] } else { &all[..] } {
            client.line("GPULOCK.RESETSTATS");
            let mut listener = listener(&server);
            for key in ["a", "b", "c"] {
                take(&mut client, key);
            }
            assert_eq!(client.line(flush), "OK");
            wait_held(&mut client, 0, SOON, flush);
            ended(&mut client, &[("removed", 3)], &format!("{flush} ({how})"));
            for _ in 0..3 {
                assert_eq!(event(&mut listener)["release_reason"], "removed");
            }
        }
    }
}

fn a_database_swapped_in_brings_other_holders(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    take(&mut client, "k");
    take(&mut client, "gone");
    client.line("SELECT 1");
    client.line("SET k other PX 100000");
    assert_eq!(client.line("SWAPDB 0 1"), "OK");
    wait_held(&mut client, 1, SOON, "SWAPDB");
    ended(&mut client, &[("removed", 2), ("adopted", 1)], "SWAPDB");
    // Their own locks are held still, and met again where they are now.
    assert_eq!(client.line("GPULOCK.ACQUIRE k nobody"), Value::Null);
    assert_eq!(client.line("GPULOCK.INSPECT k").field("owner"), "me");
    assert_eq!(stats(&mut client)["locks_held"], 2);
}

fn a_lease_changed_by_others_is_followed(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let token = take(&mut client, "k");
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
        // Still the same hold.
        assert_eq!(client.line("GPULOCK.INSPECT k").field("token"), token, "{step}");
        assert_eq!(client.line("PERSIST k"), 1);
        assert_eq!(listed(&mut client), -1);
    }
    ended(&mut client, &[], "a changed lease is no end");
    // The end of the lease as it is now is the end of the hold.
    assert_eq!(client.line("PEXPIRE k 500"), 1);
    assert!(listed(&mut client) <= 500);
    wait_held(&mut client, 0, SOON, "the changed lease is over");
    ended(&mut client, &[("expired", 1)], "the changed lease is over");
}

fn a_lock_without_a_lease_or_with_a_longer_one_does_not_end_with_its_old_lease(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut client = server.client();
    for key in ["persisted", "longer", "ends"] {
        call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 2000);
    }
    assert_eq!(client.line("PERSIST persisted"), 1);
    assert_eq!(client.line("PEXPIRE longer 100000"), 1);
    wait_held(&mut client, 2, LATER, "the one lease that was not changed");
    ended(&mut client, &[("expired", 1)], "of three");
    assert_eq!(call!(client, "GPULOCK.LIST").list().len(), 2);
}

/// Others may lengthen a lease when nobody looks any more before its old end: the hold goes
/// on, with its token and its session.
fn a_lease_that_others_lengthen_right_before_its_end_is_the_same_hold(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let id = holder.id();
    let ask = "GPULOCK.ACQUIRE k me PX 1000 UNIQUE SESSION";
    for lengthen in ["PEXPIRE k 600000", "PERSIST k", "EXPIREAT k 9999999999"] {
        let token = holder.line(ask).int();
        // In one turn of the loop: the old end is over when it is looked at again.
        let steps = [lengthen, "DEBUG SLEEP 1.1", "GPULOCK.INSPECT k"];
        client.send_lines(&steps);
        let changed = client.read();
        assert_eq!(changed, 1, "{lengthen}");
        assert_eq!(client.read(), "OK");
        let seen = client.read();
        assert_eq!(seen.field("token"), token, "{lengthen}");
        assert_eq!(seen.field("session"), id, "{lengthen}");
        assert_eq!(seen.field("adopted"), 0, "{lengthen}");
        assert_eq!(holder.line(ask), token, "{lengthen}: renewed");
        assert_eq!(client.line("GPULOCK.EXTEND k me PX 90000"), token, "{lengthen}");
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    }
    assert!(holder.line(ask).int() > 0);
    client.send_lines(&["PEXPIRE k 600000", "DEBUG SLEEP 1.1"]);
    assert_eq!(client.read(), 1);
    assert_eq!(client.read(), "OK");
    drop(holder);
    wait_until(LATER, "the lock to end with its session", || {
        client.line("EXISTS k") == 0
    });
    let stats = stats(&mut client);
    assert_eq!([stats["expired"], stats["adopted"]], [0, 0]);
    assert_eq!(stats["session_releases"], 1);
}

fn a_lock_overwritten_in_its_very_shape_is_known_to_whoever_asks(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for asked in ["GPULOCK.INSPECT k", "GPULOCK.LIST", "GPULOCK.RELEASE k me"] {
        take(&mut client, "k");
        client.line("GPULOCK.RESETSTATS");
        assert_eq!(client.line("SET k he KEEPTTL"), "OK");
        client.line(asked);
        assert_eq!(client.line("GET k"), "he");
        ended(&mut client, &[("removed", 1), ("adopted", 2)], asked);
        assert_eq!(client.line("GPULOCK.RELEASE k he"), 1);
    }
}

fn evicted_locks_are_counted_and_told_as_such(flavour: &Flavour) {
    let server = flavour.server().arg("maxmemory-policy", "allkeys-lru").start();
    let mut client = server.client();
    let mut listener = listener(&server);
    for n in 0..10 {
        take(&mut client, &format!("gpu:{n}"));
    }
    client.line("GPULOCK.LOG RESET");
    assert_eq!(client.line("CONFIG SET maxmemory 1"), "OK");
    wait_until(LATER, "the server to evict", || client.line("DBSIZE") == 0);
    // At once: of this one way the server tells.
    assert_eq!(stats(&mut client)["locks_held"], 0);
    ended(&mut client, &[("evicted", 10)], "eviction");
    assert_eq!(client.line("CONFIG SET maxmemory 0"), "OK");
    for _ in 0..10 {
        let event = event(&mut listener);
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

fn a_server_that_becomes_a_replica_holds_nothing_until_it_is_promoted(flavour: &Flavour) {
    let primary = flavour.server().named("primary").start();
    let server = flavour.server().named("replica").start();
    let mut client = server.client();
    let mut listener = listener(&server);
    let before = take(&mut client, "mine");
    take(&mut client, "also");
    let theirs = take(&mut primary.client(), "theirs");
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", primary.port()), "OK");
    assert_eq!(stats(&mut client)["locks_held"], 0);
    ended(&mut client, &[("removed", 2)], "a role change");
    for _ in 0..2 {
        assert_eq!(event(&mut listener)["release_reason"], "removed");
    }
    server.wait_link_up();
    assert!(client.line("GPULOCK.ACQUIRE k me").err().starts_with("READONLY "));
    assert!(client.line("GPULOCK.RELEASE theirs me").err().starts_with("READONLY "));
    assert_eq!(client.line("GPULOCK.INSPECT theirs").field("owner"), "me");
    assert_eq!(stats(&mut client)["locks_held"], 0);
    assert_eq!(client.line("REPLICAOF NO ONE"), "OK");
    assert_eq!(client.line("GPULOCK.ACQUIRE theirs you"), Value::Null);
    ended(&mut client, &[("removed", 2), ("adopted", 1)], "promoted again");
    let after = take(&mut client, "mine");
    assert!(after > before && after > theirs);
    assert_eq!(client.line("GPULOCK.RELEASE theirs me"), 1);
}

fn ten_thousand_locks_that_end_at_once_are_noticed_within_two_seconds(flavour: &Flavour) {
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
        let asked = Instant::now();
        wait_held(&mut client, 0, LATER, how);
        eprintln!("{how}: {:?}", asked.elapsed());
        ended(&mut client, &[(counter, 10_000)], how);
    }
}

fn a_lock_whose_slot_goes_to_another_node_has_moved_and_is_held_there(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 2);
    let (slot, from, to) = (cluster.slot("k"), cluster.primary_index("k"), 1);
    let to = if from == to { 0 } else { to };
    let (source, target) = (&cluster.nodes()[from], &cluster.nodes()[to]);
    let (mut here, mut there) = (source.client(), target.client());
    let mut listener = listener(source);
    let token = take(&mut here, "k");
    let set = |client: &mut Client, state: &str, node: usize| {
        let id = cluster.id(node);
        assert_eq!(call!(client, "CLUSTER", "SETSLOT", slot, state, id), "OK");
    };
    set(&mut there, "IMPORTING", from);
    set(&mut here, "MIGRATING", to);
    // The slot is half-way; the key is still here, and so is the lock.
    assert_eq!(here.line("GPULOCK.INSPECT k").field("token"), token);
    let moved =
        call!(here, "MIGRATE", "127.0.0.1", target.port(), "k", 0, 5_000, "REPLACE");
    assert_eq!(moved, "OK");
    wait_held(&mut here, 0, SOON, "MIGRATE");
    ended(&mut here, &[("moved", 1)], "MIGRATE");
    for client in [&mut there, &mut here] {
        set(client, "NODE", to);
    }
    // It goes on there, so its end is not told and nothing went wrong.
    assert_eq!(listener.read_within(Duration::ZERO), None);
    assert!(logged(&mut here).is_empty());
    assert_eq!(there.line("GPULOCK.ACQUIRE k other"), Value::Null);
    assert!(there.line("GPULOCK.ACQUIRE k me UNIQUE").int() > 0);
    ended(&mut there, &[("adopted", 1)], "the new node");
}
