//! A wait that would close a circle of owners is refused when it begins, with the circle
//! named; and no wait is ever refused that something could still end.

use std::time::Duration;

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::{flatten, stats};
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    a_circle_is_refused_and_named_in_order,
    of_a_big_circle_at_most_eight_owners_are_named,
    owners_are_cut_at_64_bytes_and_escaped,
    a_refusal_is_counted_and_logged,
    only_a_wait_is_refused,
    circles_go_through_databases,
    what_something_could_still_end_is_not_refused,
    a_place_that_is_only_kept_is_no_wait,
    a_holder_who_lost_its_lock_a_moment_before_closes_no_circle,
    nor_does_one_in_the_middle_of_the_circle,
    nor_does_one_whose_lease_or_wait_was_over_a_moment_before,
    nor_does_one_whose_connection_was_closed_a_moment_before,
    nor_does_one_whose_session_ended_a_moment_before,
    nor_does_one_whose_lock_another_database_took_the_place_of,
    a_chain_of_2000_without_a_circle_is_answered_fast,
    in_a_cluster_a_circle_within_a_slot_is_refused,
    in_a_cluster_no_wait_is_refused_because_of_other_slots,
}

/// Waits until the asker stands in line, alone; an answer instead ends the test.
#[track_caller]
fn wait_not_refused(asker: &mut Client, client: &mut Client, key: &str, owner: &str) {
    wait_until(DEADLINE, format!("{owner} to wait for {key}"), || {
        if let Some(answer) = asker.read_within(Duration::ZERO) {
            panic!("{owner} is told {answer:?}");
        }
        queue_of(client, key) == [owner]
    });
    assert_eq!(alarms(client), 0);
}

/// Carries out the requests, each to be answered with a token.
#[track_caller]
fn take(client: &mut Client, requests: &[&str]) {
    for request in requests {
        assert!(client.line(request).int() > 0, "{request}");
    }
}

/// The owners that `-DEADLOCK` names, quotes off.
#[track_caller]
fn named(answer: &Value) -> Vec<String> {
    let chain = answer.err().strip_prefix("DEADLOCK ");
    let chain = chain.unwrap_or_else(|| panic!("{answer:?}"));
    let quoted = |name: &str| name.starts_with('"') && name.ends_with('"');
    let names = chain.split(" -> ").filter(|name| quoted(name));
    names.map(|name| name[1..name.len() - 1].to_owned()).collect()
}

/// How often a wait was refused.
#[track_caller]
fn alarms(client: &mut Client) -> i64 {
    stats(client)["deadlocks"]
}

/// Half of a circle: `b` holds `two` and waits for `one`, which `a` holds.
/// So `a` must not wait for `two`.
fn half_a_circle(server: &Server, client: &mut Client) -> Client {
    take(client, &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"]);
    let b = waiter(server, "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
    wait_queue(client, "one", &["b"]);
    b
}

/// Owners in a ring: each holds its own lock, and all but the last wait for the next
/// one's; the last one then asks for the first one's.
#[track_caller]
fn close_circle(server: &Server, owners: &[Vec<u8>]) -> Value {
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
    server.wait_blocked(i64::try_from(waiting.len()).expect("not so many"));
    let last = &owners[owners.len() - 1];
    // It is told when it asks, not when its time is over.
    send!(client, "GPULOCK.ACQUIRE", "gpu:0", last, "BLOCK", 0, "UNIQUE");
    let answer = client.read_within(DEADLINE).expect("an answer at once");
    assert_eq!(alarms(&mut client), 1);
    // It holds its locks still, and stands in no line.
    assert_eq!(stats(&mut client)["clients_waiting"], waiting.len() as i64);
    assert!(queue_of(&mut client, "gpu:0").is_empty());
    // When it lets go, all the others have their turn.
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
    answer
}

fn a_circle_is_refused_and_named_in_order(flavour: &Flavour) {
    for size in [2, 3, 7] {
        let server = flavour.start();
        let owners: Vec<String> = (0..size).map(|n| format!("o{n}")).collect();
        let bytes: Vec<Vec<u8>> =
            owners.iter().map(|owner| owner.clone().into()).collect();
        let answer = close_circle(&server, &bytes);
        // Each waits for what the next one holds.
        let last = &owners[size - 1];
        let expected: Vec<String> =
            [last].into_iter().chain(&owners).map(|o| format!("\"{o}\"")).collect();
        assert_eq!(answer.err(), format!("DEADLOCK {}", expected.join(" -> ")));
    }
}

fn of_a_big_circle_at_most_eight_owners_are_named(flavour: &Flavour) {
    for size in [8, 9, 10] {
        let server = flavour.start();
        let owners: Vec<Vec<u8>> =
            (0..size).map(|n| format!("owner-{n}").into()).collect();
        let answer = close_circle(&server, &owners);
        let named = named(&answer);
        assert!((2..=8).contains(&named.len()), "{answer:?}");
        assert_eq!(named[0], format!("owner-{}", size - 1), "{answer:?}");
        assert_eq!(named[1], "owner-0", "{answer:?}");
    }
}

fn owners_are_cut_at_64_bytes_and_escaped(flavour: &Flavour) {
    let server = flavour.start();
    let ugly = b"\0\r\n\"\\\xff -> ".to_vec();
    let owners = [ugly, vec![b'x'; 1024], vec![b'y'; 64], vec![b'z'; 65]];
    let answer = close_circle(&server, &owners);
    let expected = format!(
        r#"DEADLOCK "{z}" -> "\x00\r\n\"\\\xff -> " -> "{x}" -> "{y}" -> "{z}""#,
        x = "x".repeat(64),
        y = "y".repeat(64),
        z = "z".repeat(64)
    );
    assert_eq!(answer.err(), expected);
    // Bytes that look long when escaped keep the reply on one line as well.
    let server = flavour.start();
    let owners: Vec<Vec<u8>> = (0..10u8)
        .map(|n| [vec![n, b'\r', b'\n'], vec![b'\xff'; 1021]].concat())
        .collect();
    let answer = close_circle(&server, &owners);
    assert!(named(&answer).len() <= 8, "{answer:?}");
    assert!(answer.err().len() < 8 * (64 * 4 + 6) + 32, "{answer:?}");
}

fn a_refusal_is_counted_and_logged(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("SELECT 3");
    take(&mut client, &["GPULOCK.ACQUIRE one a UNIQUE"]);
    let token = client.line("GPULOCK.ACQUIRE two b UNIQUE").int();
    let mut b = server.client();
    b.send_lines(&["SELECT 3", "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "one", &["b"]);
    client.line("CLIENT SETNAME worker-7");
    client.line("GPULOCK.RESETSTATS");
    client.line("GPULOCK.LOG RESET");
    for n in 1..=2 {
        let answer = client.line("GPULOCK.ACQUIRE two a BLOCK 1000 UNIQUE");
        assert_eq!(answer.err(), r#"DEADLOCK "a" -> "b" -> "a""#);
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

fn only_a_wait_is_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut b = half_a_circle(&server, &mut client);
    // Who does not wait is told what everybody is told.
    assert_eq!(client.line("GPULOCK.ACQUIRE two a UNIQUE"), Value::Null);
    client.send_lines(&["MULTI", "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE", "EXEC"]);
    client.read();
    client.read();
    assert_eq!(client.read().list(), [Value::Null]);
    let script = "return redis.call('GPULOCK.ACQUIRE',KEYS[1],'a','BLOCK',0,'UNIQUE')";
    assert_eq!(call!(client, "EVAL", script, 1, "two"), Value::Null);
    // What one holds one may ask for.
    assert!(client.line("GPULOCK.ACQUIRE one a BLOCK 0 UNIQUE").int() > 0);
    assert_eq!(alarms(&mut client), 0);
    // Once it has let go, it may wait.
    assert!(client.line("GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE").is_err());
    assert_eq!(client.line("GPULOCK.RELEASE one a"), 1);
    assert!(b.read().int() > 0);
    let mut a = waiter(&server, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE");
    wait_queue(&mut client, "two", &["a"]);
    assert_eq!(client.line("GPULOCK.RELEASE two b"), 1);
    assert!(a.read().int() > 0);
}

fn circles_go_through_databases(flavour: &Flavour) {
    let server = flavour.start();
    let (mut a, mut b) = (server.client(), server.client());
    take(&mut a, &["GPULOCK.ACQUIRE k a UNIQUE"]);
    b.line("SELECT 1");
    take(&mut b, &["GPULOCK.ACQUIRE k b UNIQUE"]);
    b.line("SELECT 0");
    send!(b, "GPULOCK.ACQUIRE", "k", "b", "BLOCK", 0, "UNIQUE");
    wait_queue(&mut a, "k", &["b"]);
    a.line("SELECT 1");
    let answer = a.line("GPULOCK.ACQUIRE k a BLOCK 0 UNIQUE");
    assert_eq!(answer.err(), r#"DEADLOCK "a" -> "b" -> "a""#);
    // Whoever asked is where it was.
    assert_eq!(a.line("GET k"), "b");
    // One of the keys is gone a moment before.
    a.send_lines(&[
        "SELECT 0",
        "DEL k",
        "SELECT 1",
        "GPULOCK.ACQUIRE k a BLOCK 0 UNIQUE",
    ]);
    assert_eq!((a.read(), a.read()), (Value::Simple("OK".into()), Value::Int(1)));
    assert_eq!(a.read(), "OK");
    assert!(b.read().int() > 0);
    assert_eq!(alarms(&mut b), 1);
    b.line("SELECT 1");
    assert_eq!(b.line("GPULOCK.RELEASE k b"), 1);
    assert!(a.read().int() > 0);
}

/// Why there is no circle.
struct NoCircle {
    why: &'static str,
    /// Said on one connection, each answered at once.
    before: &'static [&'static str],
    /// Each on a connection of its own, waiting; the key is the third word's line.
    waiting: &'static [&'static str],
    /// The request that must not be refused.
    asks: &'static str,
}

#[rustfmt::skip]
const NO_CIRCLES: &[NoCircle] = &[
    NoCircle { why: "the lock waited for is adopted",
        before: &["SET two b PX 100000", "GPULOCK.ACQUIRE one a UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the lock waited for is adopted, and renewed by UNIQUE",
        before: &["SET two b PX 100000", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE one a UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the asker's own lock is adopted",
        before: &["SET one a PX 100000", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the holder is not UNIQUE",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the asker holds without UNIQUE",
        before: &["GPULOCK.ACQUIRE one a", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the waiter is not UNIQUE",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the asker is not UNIQUE",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0" },
    NoCircle { why: "the holder waits for another lock too",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE three b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the holder waits for another lock too, first of all",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE three b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "the asker waits for another lock already",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE three a BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "a third owner breaks it",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b", "GPULOCK.ACQUIRE three c UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE two c BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE three a BLOCK 0 UNIQUE" },
    NoCircle { why: "names that only begin alike",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one bb BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE one B BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
    NoCircle { why: "a line before the asker, but no circle",
        before: &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"],
        waiting: &["GPULOCK.ACQUIRE one c BLOCK 0 UNIQUE", "GPULOCK.ACQUIRE two d BLOCK 0 UNIQUE"],
        asks: "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE" },
];

fn what_something_could_still_end_is_not_refused(flavour: &Flavour) {
    for case in NO_CIRCLES {
        eprintln!("{}", case.why);
        let server = flavour.start();
        let mut client = server.client();
        for request in case.before {
            assert!(!client.line(request).is_err(), "{request}");
        }
        let mut waiting: Vec<Client> = Vec::new();
        for request in case.waiting.iter().chain([&case.asks]) {
            waiting.push(waiter(&server, request));
            server.wait_blocked(i64::try_from(waiting.len()).expect("few"));
        }
        assert_eq!(alarms(&mut client), 0, "{}", case.why);
    }
}

fn a_place_that_is_only_kept_is_no_wait(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut b) = (server.client(), server.client());
    take(&mut client, &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"]);
    assert_eq!(b.line("GPULOCK.ACQUIRE one b BLOCK 1 UNIQUE"), Value::Null);
    let a = waiter(&server, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE");
    wait_queue(&mut client, "two", &["a"]);
    assert_eq!(alarms(&mut client), 0);
    // Its owner comes back to it: now there is a circle, and it is the one who is told.
    let answer = b.line("GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
    assert_eq!(answer.err(), r#"DEADLOCK "b" -> "a" -> "b""#);
    // A connection that is gone waits no more either.
    drop(a);
    wait_queue(&mut client, "two", &["(a)"]);
    b.send_lines(&["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "one", &["b"]);
    assert_eq!(alarms(&mut client), 1);
}

/// Something that other commands do to `one`, on which `b` waits, and whose holder is `a`,
/// in the turn of the loop in which `a` asks.
const UNDONE: &[(&[&str], Option<&str>)] = &[
    (&["DEL one"], None),
    (&["UNLINK one"], None),
    (&["RENAME one elsewhere"], None),
    (&["MOVE one 1"], None),
    (&["PEXPIRE one -1"], None),
    (&["MULTI", "DEL one", "EXEC"], None),
    (&["SET one other PX 100000"], Some("other")),
    (&["SET one x PX 100000"], Some("x")),
    // Of the same length under the same lease.
    (&["SET one x KEEPTTL"], Some("x")),
    (&["SETRANGE one 0 x"], Some("x")),
    (&["DEL one", "SET one other PX 100000"], Some("other")),
];

fn a_holder_who_lost_its_lock_a_moment_before_closes_no_circle(flavour: &Flavour) {
    for (steps, next) in UNDONE {
        eprintln!("{steps:?}");
        let server = flavour.start();
        let mut client = server.client();
        let mut b = half_a_circle(&server, &mut client);
        let mut a = server.client();
        let ask = "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE";
        let lines: Vec<&str> = steps.iter().copied().chain([ask]).collect();
        a.send_lines(&lines);
        for step in *steps {
            assert!(!a.read().is_err(), "{step}");
        }
        wait_not_refused(&mut a, &mut client, "two", "a");
        match next {
            // b has it, and so a will have what b holds.
            None => assert!(b.read().int() > 0),
            Some(next) => assert_eq!(client.line("GET one"), *next),
        }
    }
}

fn nor_does_one_in_the_middle_of_the_circle(flavour: &Flavour) {
    for (steps, _) in UNDONE {
        eprintln!("{steps:?}");
        let server = flavour.start();
        let mut client = server.client();
        // a -> (two) b -> (three) c -> (one) a
        take(&mut client, &["GPULOCK.ACQUIRE two b UNIQUE"]);
        take(&mut client, &["GPULOCK.ACQUIRE one c UNIQUE"]);
        take(&mut client, &["GPULOCK.ACQUIRE three a UNIQUE"]);
        let _b = waiter(&server, "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
        let _c = waiter(&server, "GPULOCK.ACQUIRE three c BLOCK 0 UNIQUE");
        server.wait_blocked(2);
        let mut a = server.client();
        let ask = "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE";
        let lines: Vec<&str> = steps.iter().copied().chain([ask]).collect();
        a.send_lines(&lines);
        for step in *steps {
            assert!(!a.read().is_err(), "{step}");
        }
        wait_not_refused(&mut a, &mut client, "two", "a");
    }
}

fn nor_does_one_whose_lease_or_wait_was_over_a_moment_before(flavour: &Flavour) {
    for (lease, block) in [("PX 2000", "BLOCK 0"), ("PX 100000", "BLOCK 2000")] {
        eprintln!("{lease}, {block}");
        let server = flavour.start();
        let mut client = server.client();
        take(&mut client, &["GPULOCK.ACQUIRE two b UNIQUE"]);
        take(&mut client, &[&format!("GPULOCK.ACQUIRE one a {lease} UNIQUE")]);
        let mut b = waiter(&server, &format!("GPULOCK.ACQUIRE one b {block} UNIQUE"));
        wait_queue(&mut client, "one", &["b"]);
        let mut a = server.client();
        // While the server sleeps it tells nobody.
        a.send_lines(&["DEBUG SLEEP 2.5", "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE"]);
        assert_eq!(a.read(), "OK");
        wait_not_refused(&mut a, &mut client, "two", "a");
        assert_eq!(b.read().is_null(), block != "BLOCK 0");
    }
}

fn nor_does_one_whose_connection_was_closed_a_moment_before(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut b) = (server.client(), server.client());
    let id = b.id();
    take(&mut client, &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"]);
    b.send_lines(&["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "one", &["b"]);
    let mut a = server.client();
    let kill = format!("CLIENT KILL ID {id}");
    a.send_lines(&[&kill, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE"]);
    assert_eq!(a.read(), 1);
    wait_not_refused(&mut a, &mut client, "two", "a");
}

fn nor_does_one_whose_session_ended_a_moment_before(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let id = holder.id();
    assert!(holder.line("GPULOCK.ACQUIRE one a UNIQUE SESSION").int() > 0);
    take(&mut client, &["GPULOCK.ACQUIRE two b UNIQUE"]);
    let mut b = waiter(&server, "GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE");
    wait_queue(&mut client, "one", &["b"]);
    let mut a = server.client();
    let kill = format!("CLIENT KILL ID {id}");
    a.send_lines(&[&kill, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE"]);
    assert_eq!(a.read(), 1);
    wait_not_refused(&mut a, &mut client, "two", "a");
    assert!(b.read().int() > 0);
}

fn nor_does_one_whose_lock_another_database_took_the_place_of(flavour: &Flavour) {
    for steps in [&["SWAPDB 0 1"][..], &["FLUSHALL"], &["FLUSHDB ASYNC"]] {
        let server = flavour.start();
        let mut client = server.client();
        let _b = half_a_circle(&server, &mut client);
        let mut a = server.client();
        let ask = "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE";
        let lines: Vec<&str> = steps.iter().copied().chain([ask]).collect();
        a.send_lines(&lines);
        for _ in steps {
            assert_eq!(a.read(), "OK");
        }
        assert!(a.read().int() > 0, "{steps:?}");
        assert_eq!(alarms(&mut client), 0);
    }
    // The lock of that name in another database is another lock.
    let server = flavour.start();
    let mut client = server.client();
    take(&mut client, &["GPULOCK.ACQUIRE one a UNIQUE", "GPULOCK.ACQUIRE two b UNIQUE"]);
    let mut elsewhere = server.client();
    elsewhere.line("SELECT 1");
    take(&mut elsewhere, &["GPULOCK.ACQUIRE one c UNIQUE"]);
    elsewhere.send_lines(&["GPULOCK.ACQUIRE one b BLOCK 0 UNIQUE"]);
    server.wait_blocked(1);
    let _a = waiter(&server, "GPULOCK.ACQUIRE two a BLOCK 0 UNIQUE");
    wait_queue(&mut client, "two", &["a"]);
    assert_eq!(alarms(&mut client), 0);
}

/// The server's own time for one ACQUIRE, in microseconds.
#[track_caller]
fn acquire_took(client: &mut Client) -> f64 {
    let stats = client.info("commandstats");
    // Redis writes the name as it was registered, Valkey in small letters.
    let line = stats
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("cmdstat_gpulock.acquire"));
    let line = line.expect("a call was made").1;
    let took = line.split(',').find_map(|part| part.strip_prefix("usec_per_call="));
    took.and_then(|number| number.parse().ok()).expect("a number")
}

fn a_chain_of_2000_without_a_circle_is_answered_fast(flavour: &Flavour) {
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
    server.wait_blocked(i64::try_from(waiting.len()).expect("few"));
    assert_eq!(client.line("CONFIG RESETSTAT"), "OK");
    let mut last = server.client();
    for _ in 0..10 {
        let answer = last.line("GPULOCK.ACQUIRE gpu:0 last BLOCK 1 UNIQUE");
        assert_eq!(answer, Value::Null);
    }
    let took = acquire_took(&mut client);
    eprintln!("a chain of {CHAIN}: {took} us on {flavour}");
    assert!(took < 5_000.0, "{took} us");
    assert_eq!(alarms(&mut client), 0);
    assert_eq!(stats(&mut client)["clients_waiting"], waiting.len() as i64);
}

/// A ring of two in a cluster: whether the second wait is refused.
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
        answer => {
            assert_eq!(answer.err(), r#"DEADLOCK "a" -> "b" -> "a""#);
            true
        }
    }
}

fn cluster(flavour: &Flavour) -> Cluster {
    Cluster::start(flavour, 1)
}

fn in_a_cluster_a_circle_within_a_slot_is_refused(flavour: &Flavour) {
    assert!(is_refused_in_cluster(&cluster(flavour), "{node7}:0", "{node7}:1"));
}

fn in_a_cluster_no_wait_is_refused_because_of_other_slots(flavour: &Flavour) {
    assert!(!is_refused_in_cluster(&cluster(flavour), "one", "two"));
}
