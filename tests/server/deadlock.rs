//! A wait that would close a cycle of owners is refused with an error that names the cycle;
//! a wait that something can still end is not refused.

use std::time::Duration;

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::{flatten, stats};
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    a_cycle_is_refused_and_its_owners_are_named_in_order,
    the_error_names_at_most_eight_owners,
    owners_are_truncated_to_64_bytes_and_escaped,
    a_refusal_is_counted_and_logged,
    a_call_that_does_not_wait_is_not_refused,
    a_cycle_can_span_databases,
    a_wait_that_something_can_still_end_is_not_refused,
    a_kept_position_does_not_count_as_a_wait,
    a_lock_changed_just_before_closes_no_cycle,
    a_lock_changed_just_before_closes_no_cycle_of_three,
    a_lease_or_wait_that_ended_just_before_closes_no_cycle,
    a_waiter_disconnected_just_before_closes_no_cycle,
    a_session_that_ended_just_before_closes_no_cycle,
    a_flushed_or_swapped_database_closes_no_cycle,
    a_chain_of_2000_owners_without_a_cycle_is_checked_fast,
    in_a_cluster_a_cycle_in_one_slot_is_refused,
    in_a_cluster_locks_in_other_slots_close_no_cycle,
}

/// Waits until the caller is alone in the queue; panics if it gets a reply instead.
#[track_caller]
fn wait_not_refused(caller: &mut Client, client: &mut Client, key: &str, owner: &str) {
    wait_until(DEADLINE, format!("{owner} to wait for {key}"), || {
        if let Some(reply) = caller.read_within(Duration::ZERO) {
            panic!("{owner} got the reply {reply:?}");
        }
        queue_of(client, key) == [owner]
    });
    assert_eq!(refusals(client), 0);
}

/// Sends the requests; each must be granted.
#[track_caller]
fn acquire_all(client: &mut Client, requests: &[&str]) {
    for request in requests {
        assert!(client.line(request).int() > 0, "{request}");
    }
}

/// The owners in a `-DEADLOCK` error, without quotes.
#[track_caller]
fn named(reply: &Value) -> Vec<String> {
    let chain = reply.err().strip_prefix("DEADLOCK ");
    let chain = chain.unwrap_or_else(|| panic!("{reply:?}"));
    let quoted = |name: &str| name.starts_with('"') && name.ends_with('"');
    let names = chain.split(" -> ").filter(|name| quoted(name));
    names.map(|name| name[1..name.len() - 1].to_owned()).collect()
}

/// The number of refused waits.
#[track_caller]
fn refusals(client: &mut Client) -> i64 {
    stats(client)["deadlocks"]
}

/// Half of a cycle: `b` holds `two` and waits for `one`, which `a` holds. If `a` waited for
/// `two`, it would close the cycle.
fn half_a_cycle(server: &Server, client: &mut Client) -> Client {
    acquire_all(
        client,
        &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
    );
    let b = waiter(server, "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
    wait_queue(client, "one", &["b"]);
    b
}

/// Creates a cycle of owners: each holds a lock, and all but the last wait for the lock of
/// the next one. The last one then requests the lock of the first. Returns the error.
#[track_caller]
fn close_cycle(server: &Server, owners: &[Vec<u8>]) -> Value {
    let mut client = server.client();
    for (n, owner) in owners.iter().enumerate() {
        let held = call!(client, "GPULOCK.ACQUIRE", format!("gpu:{n}"), owner, "UNIQUE");
        assert!(held.int() > 0);
    }
    let mut waiting = Vec::new();
    for (n, owner) in owners.iter().enumerate().take(owners.len() - 1) {
        let mut one = server.client();
        let next = format!("gpu:{}", n + 1);
        send!(one, "GPULOCK.ACQUIRE", next, owner, "BLOCK", 0, "UNIQUE");
        waiting.push(one);
    }
    server.wait_blocked(i64::try_from(waiting.len()).expect("a small number"));
    let last = &owners[owners.len() - 1];
    // The reply comes without a wait.
    send!(client, "GPULOCK.ACQUIRE", "gpu:0", last, "BLOCK", 0, "UNIQUE");
    let reply = client.read_within(DEADLINE).expect("a reply without a wait");
    assert_eq!(refusals(&mut client), 1);
    // The caller keeps its locks, and is in no queue.
    assert_eq!(stats(&mut client)["clients_waiting"], waiting.len() as i64);
    assert!(queue_of(&mut client, "gpu:0").is_empty());
    // When it releases its lock, each of the others is granted its own.
    for (n, owner) in owners.iter().enumerate().rev() {
        let held = if n + 1 < owners.len() {
            assert!(waiting[n].read().int() > 0);
            vec![n, n + 1]
        } else {
            vec![n]
        };
        for n in held {
            let freed = call!(client, "GPULOCK.RELEASE", format!("gpu:{n}"), owner);
            assert_eq!(freed, 1, "gpu:{n}");
        }
    }
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    reply
}

fn a_cycle_is_refused_and_its_owners_are_named_in_order(flavour: &Flavour) {
    for size in [2, 3, 7] {
        let server = flavour.start();
        let owners: Vec<String> = (0..size).map(|n| format!("o{n}")).collect();
        let bytes: Vec<Vec<u8>> =
            owners.iter().map(|owner| owner.clone().into()).collect();
        let reply = close_cycle(&server, &bytes);
        // Each owner waits for a lock of the next one.
        let last = &owners[size - 1];
        let expected: Vec<String> =
            [last].into_iter().chain(&owners).map(|o| format!("\"{o}\"")).collect();
        assert_eq!(reply.err(), format!("DEADLOCK {}", expected.join(" -> ")));
    }
}

fn the_error_names_at_most_eight_owners(flavour: &Flavour) {
    for size in [8, 9, 10] {
        let server = flavour.start();
        let owners: Vec<Vec<u8>> =
            (0..size).map(|n| format!("owner-{n}").into()).collect();
        let reply = close_cycle(&server, &owners);
        let named = named(&reply);
        assert!((2..=8).contains(&named.len()), "{reply:?}");
        assert_eq!(named[0], format!("owner-{}", size - 1), "{reply:?}");
        assert_eq!(named[1], "owner-0", "{reply:?}");
    }
}

fn owners_are_truncated_to_64_bytes_and_escaped(flavour: &Flavour) {
    let server = flavour.start();
    let unprintable = b"\0\r\n\"\\\xff -> ".to_vec();
    let owners = [unprintable, vec![b'x'; 1024], vec![b'y'; 64], vec![b'z'; 65]];
    let reply = close_cycle(&server, &owners);
    let expected = format!(
        r#"DEADLOCK "{z}" -> "\x00\r\n\"\\\xff -> " -> "{x}" -> "{y}" -> "{z}""#,
        x = "x".repeat(64),
        y = "y".repeat(64),
        z = "z".repeat(64)
    );
    assert_eq!(reply.err(), expected);
    // Also with bytes that are longer when escaped, the error is one short line.
    let server = flavour.start();
    let owners: Vec<Vec<u8>> = (0..10u8)
        .map(|n| [vec![n, b'\r', b'\n'], vec![b'\xff'; 1021]].concat())
        .collect();
    let reply = close_cycle(&server, &owners);
    assert!(named(&reply).len() <= 8, "{reply:?}");
    assert!(reply.err().len() < 8 * (64 * 4 + 6) + 32, "{reply:?}");
}

fn a_refusal_is_counted_and_logged(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("SELECT 3");
    acquire_all(&mut client, &["GPULOCK.ACQUIRE one a UNIQUE"]);
    let token = client.line("GPULOCK.ACQUIRE two b UNIQUE").int();
    let mut b = server.client();
    b.send_lines(&["SELECT 3", "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "one", &["b"]);
    client.line("CLIENT SETNAME worker-7");
    client.line("GPULOCK.RESETSTATS");
    client.line("GPULOCK.LOG RESET");
    for n in 1..=2 {
        let reply = client.line("GPULOCK.ACQUIRE two a BLOCK 1000 UNIQUE");
        assert_eq!(reply.err(), r#"DEADLOCK "a" -> "b" -> "a""#);
        for key in [None, Some("two")] {
            let counters = match key {
                None => stats(&mut client),
                Some(key) => flatten(&call!(client, "GPULOCK.STATS", "KEY", key)),
            };
            assert_eq!(counters["deadlocks"], n);
            assert_eq!(counters["acquire_requests"], n);
            for other in ["refused", "wait_timeouts", "waits_abandoned", "acquired"] {
                assert_eq!(counters[other], 0, "{other}");
            }
        }
        assert_eq!(server.info("gpulock")["gpulock_deadlocks"], n.to_string());
    }
    let log = client.line("GPULOCK.LOG");
    assert_eq!(log.list().len(), 1, "{log:?}");
    let entry = &log.list()[0];
    for (field, value) in
        [("kind", "deadlock"), ("key", "two"), ("holder", "b"), ("caller", "a")]
    {
        assert_eq!(entry.field(field), value, "{field}");
    }
    assert_eq!(entry.field("token"), token);
    assert_eq!((entry.field("db").int(), entry.field("count").int()), (3, 2));
    assert!(entry.field("client").text().contains(" name=worker-7 "), "{entry:?}");
    assert!(entry.field("reason").text().contains(r#""a" -> "b""#), "{entry:?}");
}

fn a_call_that_does_not_wait_is_not_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut b = half_a_cycle(&server, &mut client);
    // Without a wait, the reply is the usual one.
    assert_eq!(client.line("GPULOCK.ACQUIRE two a UNIQUE"), Value::Null);
    client.send_lines(&["MULTI", "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE", "EXEC"]);
    client.read();
    client.read();
    assert_eq!(client.read().list(), [Value::Null]);
    let script = "return redis.call('GPULOCK.ACQUIRE',KEYS[1],'a','BLOCK',0,'UNIQUE')";
    assert_eq!(call!(client, "EVAL", script, 1, "two"), Value::Null);
    // An owner may request a lock that it holds.
    assert!(client.line("GPULOCK.ACQUIRE one a BLOCK 0 UNIQUE").int() > 0);
    assert_eq!(refusals(&mut client), 0);
    // After it releases its lock, it may wait.
    assert!(client.line("GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE").is_err());
    assert_eq!(client.line("GPULOCK.RELEASE one a"), 1);
    assert!(b.read().int() > 0);
    let mut a = waiter(&server, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE");
    wait_queue(&mut client, "two", &["a"]);
    assert_eq!(client.line("GPULOCK.RELEASE two b"), 1);
    assert!(a.read().int() > 0);
}

fn a_cycle_can_span_databases(flavour: &Flavour) {
    let server = flavour.start();
    let (mut a, mut b) = (server.client(), server.client());
    acquire_all(&mut a, &["GPULOCK.ACQUIRE k a UNIQUE"]);
    b.line("SELECT 1");
    acquire_all(&mut b, &["GPULOCK.ACQUIRE k b UNIQUE"]);
    b.line("SELECT 0");
    send!(b, "GPULOCK.ACQUIRE", "k", "b", "BLOCK", 0, "UNIQUE");
    wait_queue(&mut a, "k", &["b"]);
    a.line("SELECT 1");
    let reply = a.line("GPULOCK.ACQUIRE k a BLOCK 0 UNIQUE");
    assert_eq!(reply.err(), r#"DEADLOCK "a" -> "b" -> "a""#);
    // The caller's selected database is unchanged.
    assert_eq!(a.line("GET k"), "b");
    // One of the keys is deleted just before.
    a.send_lines(&[
        "SELECT 0",
        "DEL k",
        "SELECT 1",
        "GPULOCK.ACQUIRE k a BLOCK 0 UNIQUE",
    ]);
    assert_eq!((a.read(), a.read()), (Value::Simple("OK".into()), Value::Int(1)));
    assert_eq!(a.read(), "OK");
    assert!(b.read().int() > 0);
    assert_eq!(refusals(&mut b), 1);
    b.line("SELECT 1");
    assert_eq!(b.line("GPULOCK.RELEASE k b"), 1);
    assert!(a.read().int() > 0);
}

/// A wait that does not close a cycle.
struct NoCycle {
    why: &'static str,
    /// Sent on one connection, without waits.
    before: &'static [&'static str],
    /// Sent on a connection each, and waiting.
    waiting: &'static [&'static str],
    /// The request that must not be refused.
    request: &'static str,
}

#[rustfmt::skip]
const NO_CYCLES: &[NoCycle] = &[
    NoCycle { why: "the lock waited for is adopted",
        before: &["SET two b PX 100000", "GPULOCK.ACQUIRE one a UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the lock waited for is adopted, and renewed by UNIQUE",
        before: &["SET two b PX 100000", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE one a UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the caller's own lock is adopted",
        before: &["SET one a PX 100000", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the holder is not UNIQUE",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the caller holds without UNIQUE",
        before: &["GPULOCK.ACQUIRE one a", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the waiter is not UNIQUE",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the caller is not UNIQUE",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0" },
    NoCycle { why: "the holder waits for another lock too",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE three b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the holder waits for another lock too, and did so first",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE three b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "the caller waits for another lock already",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE three a BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "a third owner breaks it",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE two c BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE three a BLOCK 0 UNIQUE" },
    NoCycle { why: "names with a common prefix",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one bb BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE one B BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCycle { why: "a queue before the caller, but no cycle",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one c BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE two d BLOCK 0 UNIQUE"],
        request: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
];

fn a_wait_that_something_can_still_end_is_not_refused(flavour: &Flavour) {
    for case in NO_CYCLES {
        eprintln!("{}", case.why);
        let server = flavour.start();
        let mut client = server.client();
        for request in case.before {
            assert!(!client.line(request).is_err(), "{request}");
        }
        let mut waiting: Vec<Client> = Vec::new();
        for request in case.waiting.iter().chain([&case.request]) {
            waiting.push(waiter(&server, request));
            server.wait_blocked(i64::try_from(waiting.len()).expect("a small number"));
        }
        assert_eq!(refusals(&mut client), 0, "{}", case.why);
    }
}

fn a_kept_position_does_not_count_as_a_wait(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut b) = (server.client(), server.client());
    acquire_all(
        &mut client,
        &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
    );
    assert_eq!(b.line("GPULOCK.ACQUIRE one b BLOCK 1 UNIQUE"), Value::Null);
    let a = waiter(&server, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE");
    wait_queue(&mut client, "two", &["a"]);
    assert_eq!(refusals(&mut client), 0);
    // The owner of the kept position waits again: that closes a cycle, and it is refused.
    let reply = b.line("GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
    assert_eq!(reply.err(), r#"DEADLOCK "b" -> "a" -> "b""#);
    // A closed connection does not wait either.
    drop(a);
    wait_queue(&mut client, "two", &["(a)"]);
    b.send_lines(&["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "one", &["b"]);
    assert_eq!(refusals(&mut client), 1);
}

/// Commands that change `one`, on which `b` waits and which `a` holds, in the iteration of the
/// event loop in which `a` sends its request.
const CHANGES: &[(&[&str], Option<&str>)] = &[
    (&["DEL one"], None),
    (&["UNLINK one"], None),
    (&["RENAME one elsewhere"], None),
    (&["MOVE one 1"], None),
    (&["PEXPIRE one -1"], None),
    (&["MULTI", "DEL one", "EXEC"], None),
    (&["SET one other PX 100000"], Some("other")),
    (&["SET one x PX 100000"], Some("x")),
    // A value of the same length, with the same lease.
    (&["SET one x KEEPTTL"], Some("x")),
    (&["SETRANGE one 0 x"], Some("x")),
    (&["DEL one", "SET one other PX 100000"], Some("other")),
];

fn a_lock_changed_just_before_closes_no_cycle(flavour: &Flavour) {
    for (steps, next) in CHANGES {
        eprintln!("{steps:?}");
        let server = flavour.start();
        let mut client = server.client();
        let mut b = half_a_cycle(&server, &mut client);
        let mut a = server.client();
        let request = "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE";
        let lines: Vec<&str> = steps.iter().copied().chain([request]).collect();
        a.send_lines(&lines);
        for step in *steps {
            assert!(!a.read().is_err(), "{step}");
        }
        wait_not_refused(&mut a, &mut client, "two", "a");
        match next {
            // b is granted it, so a can get what b holds.
            None => assert!(b.read().int() > 0),
            Some(next) => assert_eq!(client.line("GET one"), *next),
        }
    }
}

fn a_lock_changed_just_before_closes_no_cycle_of_three(flavour: &Flavour) {
    for (steps, _) in CHANGES {
        eprintln!("{steps:?}");
        let server = flavour.start();
        let mut client = server.client();
        // a -> (two) b -> (three) c -> (one) a
        acquire_all(&mut client, &["GPULOCK.ACQUIRE two b UNIQUE"]);
        acquire_all(&mut client, &["GPULOCK.ACQUIRE one c UNIQUE"]);
        acquire_all(&mut client, &["GPULOCK.ACQUIRE three a UNIQUE"]);
        let _b = waiter(&server, "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
        let _c = waiter(&server, "GPULOCK.ACQUIRE three c BLOCK 0 UNIQUE");
        server.wait_blocked(2);
        let mut a = server.client();
        let request = "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE";
        let lines: Vec<&str> = steps.iter().copied().chain([request]).collect();
        a.send_lines(&lines);
        for step in *steps {
            assert!(!a.read().is_err(), "{step}");
        }
        wait_not_refused(&mut a, &mut client, "two", "a");
    }
}

fn a_lease_or_wait_that_ended_just_before_closes_no_cycle(flavour: &Flavour) {
    for (lease, block) in [("PX 2000", "BLOCK 0"), ("PX 100000", "BLOCK 2000")] {
        eprintln!("{lease}, {block}");
        let server = flavour.start();
        let mut client = server.client();
        acquire_all(&mut client, &["GPULOCK.ACQUIRE two b UNIQUE"]);
        acquire_all(&mut client, &[&format!("GPULOCK.ACQUIRE one a {lease} UNIQUE")]);
        let mut b = waiter(&server, &format!("GPULOCK.ACQUIRE one b {block} UNIQUE"));
        wait_queue(&mut client, "one", &["b"]);
        let mut a = server.client();
        // A sleeping server sends no replies.
        a.send_lines(&["DEBUG SLEEP 2.5", "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE"]);
        assert_eq!(a.read(), "OK");
        wait_not_refused(&mut a, &mut client, "two", "a");
        assert_eq!(b.read().is_null(), block != "BLOCK 0");
    }
}

fn a_waiter_disconnected_just_before_closes_no_cycle(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut b) = (server.client(), server.client());
    let id = b.id();
    acquire_all(
        &mut client,
        &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
    );
    b.send_lines(&["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "one", &["b"]);
    let mut a = server.client();
    let kill = format!("CLIENT KILL ID {id}");
    a.send_lines(&[&kill, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE"]);
    assert_eq!(a.read(), 1);
    wait_not_refused(&mut a, &mut client, "two", "a");
}

fn a_session_that_ended_just_before_closes_no_cycle(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let id = holder.id();
    assert!(holder.line("GPULOCK.ACQUIRE one a UNIQUE SESSION").int() > 0);
    acquire_all(&mut client, &["GPULOCK.ACQUIRE two b UNIQUE"]);
    let mut b = waiter(&server, "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
    wait_queue(&mut client, "one", &["b"]);
    let mut a = server.client();
    let kill = format!("CLIENT KILL ID {id}");
    a.send_lines(&[&kill, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE"]);
    assert_eq!(a.read(), 1);
    wait_not_refused(&mut a, &mut client, "two", "a");
    assert!(b.read().int() > 0);
}

fn a_flushed_or_swapped_database_closes_no_cycle(flavour: &Flavour) {
    for steps in [&["SWAPDB 0 1"][..], &["FLUSHALL"], &["FLUSHDB ASYNC"]] {
        let server = flavour.start();
        let mut client = server.client();
        let _b = half_a_cycle(&server, &mut client);
        let mut a = server.client();
        let request = "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE";
        let lines: Vec<&str> = steps.iter().copied().chain([request]).collect();
        a.send_lines(&lines);
        for _ in steps {
            assert_eq!(a.read(), "OK");
        }
        assert!(a.read().int() > 0, "{steps:?}");
        assert_eq!(refusals(&mut client), 0);
    }
    // A lock with this name in another database is another lock.
    let server = flavour.start();
    let mut client = server.client();
    acquire_all(
        &mut client,
        &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
    );
    let mut elsewhere = server.client();
    elsewhere.line("SELECT 1");
    acquire_all(&mut elsewhere, &["GPULOCK.ACQUIRE one c UNIQUE"]);
    elsewhere.send_lines(&["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    server.wait_blocked(1);
    let _a = waiter(&server, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE");
    wait_queue(&mut client, "two", &["a"]);
    assert_eq!(refusals(&mut client), 0);
}

/// The server's own time for one ACQUIRE, in microseconds.
#[track_caller]
fn acquire_took(client: &mut Client) -> f64 {
    let stats = client.info("commandstats");
    // Redis shows the name as it was registered, Valkey in lower case.
    let line = stats
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("cmdstat_gpulock.acquire"));
    let line = line.expect("a call was made").1;
    let took = line.split(',').find_map(|part| part.strip_prefix("usec_per_call="));
    took.and_then(|number| number.parse().ok()).expect("a number")
}

fn a_chain_of_2000_owners_without_a_cycle_is_checked_fast(flavour: &Flavour) {
    const CHAIN: usize = 2_000;
    let server = flavour.start();
    let mut client = server.client();
    let mut waiting: Vec<Client> = Vec::new();
    for n in 0..CHAIN {
        let owner = format!("o{n}");
        let held = format!("gpu:{n}");
        assert!(call!(client, "GPULOCK.ACQUIRE", held, owner, "UNIQUE").int() > 0);
    }
    for n in 0..CHAIN - 1 {
        let mut one = server.client();
        let (next, owner) = (format!("gpu:{}", n + 1), format!("o{n}"));
        send!(one, "GPULOCK.ACQUIRE", next, owner, "BLOCK", 0, "UNIQUE");
        waiting.push(one);
    }
    server.wait_blocked(i64::try_from(waiting.len()).expect("a small number"));
    assert_eq!(client.line("CONFIG RESETSTAT"), "OK");
    let mut last = server.client();
    for _ in 0..10 {
        let reply = last.line("GPULOCK.ACQUIRE gpu:0 last BLOCK 1 UNIQUE");
        assert_eq!(reply, Value::Null);
    }
    let took = acquire_took(&mut client);
    eprintln!("a chain of {CHAIN}: {took} us on {flavour}");
    assert!(took < 5_000.0, "{took} us");
    assert_eq!(refusals(&mut client), 0);
    assert_eq!(stats(&mut client)["clients_waiting"], waiting.len() as i64);
}

/// Lets two owners wait for each other's lock in a cluster: whether the second is refused.
#[track_caller]
fn is_refused_in_cluster(cluster: &Cluster, one: &str, two: &str) -> bool {
    let node = cluster.primary_of(one);
    let mut client = node.client();
    assert!(call!(client, "GPULOCK.ACQUIRE", one, "a", "UNIQUE").int() > 0);
    assert!(call!(client, "GPULOCK.ACQUIRE", two, "b", "UNIQUE").int() > 0);
    let mut b = node.client();
    send!(b, "GPULOCK.ACQUIRE", one, "b", "BLOCK", 0, "UNIQUE");
    wait_queue(&mut client, one, &["b"]);
    let mut a = node.client();
    send!(a, "GPULOCK.ACQUIRE", two, "a", "BLOCK", 200, "UNIQUE");
    match a.read() {
        Value::Null => false,
        reply => {
            assert_eq!(reply.err(), r#"DEADLOCK "a" -> "b" -> "a""#);
            true
        }
    }
}

fn cluster(flavour: &Flavour) -> Cluster {
    Cluster::start(flavour, 1)
}

fn in_a_cluster_a_cycle_in_one_slot_is_refused(flavour: &Flavour) {
    assert!(is_refused_in_cluster(&cluster(flavour), "{node7}:0", "{node7}:1"));
}

fn in_a_cluster_locks_in_other_slots_close_no_cycle(flavour: &Flavour) {
    assert!(!is_refused_in_cluster(&cluster(flavour), "one", "two"));
}
