//! However a waiter leaves the line, it leaves at once, hears at most one thing, and those
//! behind it go on; also when it leaves in the very turn of the server's loop in which the
//! lock becomes its own: never two owners then, and never nobody.
//!
//! The races are run `GPULOCK_RACES` times each (100 if not set).

use std::time::{Duration, Instant};

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::queue::{
    assert_no_reply, join_queue, queue_length, wait_queue_length,
};
use crate::support::rng::{Pick, seeded_rng};

tests! {
    whoever_leaves_leaves_at_once_and_those_behind_go_on,
    client_unblock_changes_nothing_where_a_module_cannot_obey,
    when_its_time_is_over_a_waiter_leaves_and_those_behind_go_on,
    a_server_that_becomes_a_replica_tells_each_waiter_once,
    a_waiter_killed_in_the_turn_of_its_grant_passes_the_lock_on,
    a_row_of_waiters_killed_in_the_turn_of_the_release_passes_it_to_who_is_left,
    a_waiter_whose_connection_ends_in_the_turn_of_its_grant_passes_the_lock_on,
    a_grant_and_a_deadline_in_one_turn_are_answered_once,
    a_grant_and_a_client_unblock_in_one_turn_are_answered_once,
    an_unblock_and_a_kill_in_one_turn_free_the_place_once,
    of_a_thousand_waiters_who_come_and_go_every_one_that_stays_is_served_in_order,
}

const FOREVER: &str = "PX 100000 BLOCK 0";

fn races() -> usize {
    let given = std::env::var("GPULOCK_RACES").ok();
    given.map_or(100, |text| text.parse().expect("GPULOCK_RACES is a number"))
}

/// Checks that nothing is left of any wait.
#[track_caller]
fn assert_nobody_waits(client: &mut Client) {
    assert_eq!(stats(client)["clients_waiting"], 0);
    assert_eq!(client.info("clients")["blocked_clients"], "0");
}

/// Who stands in a line, in order.
#[track_caller]
fn queue_of(client: &mut Client, key: &str) -> Vec<String> {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    if seen.is_null() {
        return vec![];
    }
    seen.field("waiters").list().iter().map(|place| place.field("owner").text()).collect()
}

/// A client that leaves before it is served, and what is left of it.
type Leaves = fn(&mut Client, Client, i64) -> Option<Client>;

const WAYS: &[(&str, Leaves)] = &[
    ("FIN", |_, waiter, _| {
        drop(waiter);
        None
    }),
    ("RST", |_, waiter, _| {
        waiter.reset();
        None
    }),
    ("half closed", |_, mut waiter, _| {
        waiter.half_close();
        waiter.wait_closed();
        None
    }),
    ("CLIENT KILL ID", |actor, mut waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "KILL", "ID", id), 1);
        waiter.wait_closed();
        None
    }),
    ("CLIENT UNBLOCK", |actor, waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id), 1);
        Some(waiter)
    }),
    ("CLIENT UNBLOCK TIMEOUT", |actor, waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, "TIMEOUT"), 1);
        Some(waiter)
    }),
    ("CLIENT UNBLOCK ERROR", |actor, waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, "ERROR"), 1);
        Some(waiter)
    }),
];

/// A client that knows its own number and stands last in the line of `k`.
#[track_caller]
fn joins_known(server: &Server, actor: &mut Client, owner: &str) -> (Client, i64) {
    let before = queue_length(actor, "k");
    let mut client = server.client();
    let id = client.id();
    send!(client, "GPULOCK.ACQUIRE", "k", owner, "PX", 100_000, "BLOCK", 0);
    wait_queue_length(actor, "k", before + 1);
    (client, id)
}

fn whoever_leaves_leaves_at_once_and_those_behind_go_on(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for (way, leaves) in WAYS {
        if way.starts_with("CLIENT UNBLOCK") && !flavour.can_unblock() {
            continue;
        }
        for place in 0..3 {
            let what = format!("{way}, from place {place}");
            actor.line("GPULOCK.RESETSTATS");
            acquire(&mut actor, "k", "holder");
            let mut owners = vec!["a", "b", "c"];
            let mut line: Vec<_> = owners
                .iter()
                .map(|owner| joins_known(&server, &mut actor, owner))
                .collect();
            let (client, id) = line.remove(place);
            owners.remove(place);
            let since = Instant::now();
            let mut left = leaves(&mut actor, client, id);
            wait_queue_length(&mut actor, "k", 2);
            // Far below any time after which anybody would look for it.
            assert!(since.elapsed() < Duration::from_secs(5), "{what}");
            assert_eq!(queue_of(&mut actor, "k"), owners, "{what}");
            let (timeouts, abandoned) = match (*way, &mut left) {
                ("CLIENT UNBLOCK ERROR", Some(client)) => {
                    let answer = client.read();
                    assert!(answer.err().starts_with("UNBLOCKED "), "{answer:?}");
                    (0, 1)
                }
                (_, Some(client)) => {
                    assert_eq!(client.read(), Value::Null, "{what}");
                    (1, 0)
                }
                (_, None) => (0, 1),
            };
            let stats = stats(&mut actor);
            let counted = (stats["wait_timeouts"], stats["waits_abandoned"]);
            assert_eq!(counted, (timeouts, abandoned), "{what}");
            // Who was told and lives on is a client like any other.
            if let Some(client) = &mut left {
                assert_eq!(client.line("PING"), "PONG", "{what}");
                assert_eq!(client.line("GPULOCK.ACQUIRE k d"), Value::Null, "{what}");
            }
            let mut holder = "holder";
            for ((client, _), owner) in line.iter_mut().zip(&owners) {
                assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", holder), 1, "{what}");
                assert!(client.read().int() > 0, "{what}");
                holder = owner;
            }
            assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", holder), 1, "{what}");
            assert_nobody_waits(&mut actor);
        }
    }
}

fn client_unblock_changes_nothing_where_a_module_cannot_obey(flavour: &Flavour) {
    if flavour.can_unblock() {
        return;
    }
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let (mut waiter, id) = joins_known(&server, &mut actor, "w");
    for how in ["TIMEOUT", "ERROR"] {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, how), 0);
        assert_no_reply(&mut actor, &mut waiter);
    }
    assert_eq!(queue_length(&mut actor, "k"), 1);
    assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
    assert!(waiter.read().int() > 0);
    assert_eq!(actor.line("GET k"), "w");
}

fn when_its_time_is_over_a_waiter_leaves_and_those_behind_go_on(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let _first = join_queue(&server, &mut actor, "k", "a", FOREVER);
    let mut short = join_queue(&server, &mut actor, "k", "b", "BLOCK 2000");
    let mut behind = join_queue(&server, &mut actor, "k", "c", FOREVER);
    assert_eq!(short.read(), Value::Null);
    assert_eq!(queue_of(&mut actor, "k"), ["a", "c"]);
    // Its next call stands last.
    send!(short, "GPULOCK.ACQUIRE", "k", "b", "BLOCK", 0);
    wait_queue_length(&mut actor, "k", 3);
    assert_eq!(queue_of(&mut actor, "k"), ["a", "c", "b"]);
    for frees in ["holder", "a"] {
        assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", frees), 1);
    }
    assert!(behind.read().int() > 0);
    assert_eq!(stats(&mut actor)["wait_timeouts"], 1);
}

fn a_server_that_becomes_a_replica_tells_each_waiter_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let mut waiters = vec![];
    for db in 0..2 {
        call!(actor, "SELECT", db);
        for key in ["k", "other"] {
            acquire(&mut actor, key, "holder");
            for (n, options) in ["", "UNIQUE", "SESSION"].into_iter().enumerate() {
                let mut client = if n == 1 { server.client3() } else { server.client() };
                call!(client, "SELECT", db);
                let line = format!("GPULOCK.ACQUIRE {key} w{n} BLOCK 0 {options}");
                client.send(&line.split_whitespace().collect::<Vec<_>>());
                wait_queue_length(&mut actor, key, n as i64 + 1);
                waiters.push(client);
            }
        }
    }
    assert_eq!(actor.line("REPLICAOF 127.0.0.1 1"), "OK");
    for waiter in &mut waiters {
        let answer = waiter.read();
        assert!(answer.err().starts_with("UNBLOCKED "), "{answer:?}");
        // The server's own way is to close the connection after it said so.
        match waiter.try_read(Duration::ZERO) {
            Ok(Some(more)) => panic!("{more:?} after {answer:?}"),
            Err(_) => {}
            Ok(None) => {
                send!(waiter, "PING");
                if let Ok(Some(answer)) = waiter.try_read(DEADLINE) {
                    assert_eq!(answer, "PONG");
                }
            }
        }
    }
    assert_nobody_waits(&mut actor);
    let counted = stats(&mut actor);
    assert_eq!((counted["waits_abandoned"], counted["locks_held"]), (12, 0));
    let refused = actor.line("GPULOCK.ACQUIRE k w BLOCK 0");
    assert!(refused.err().starts_with("READONLY "), "{refused:?}");
    // A primary again: the locks are still held, and the lines begin anew.
    assert_eq!(actor.line("REPLICAOF NO ONE"), "OK");
    assert_eq!(actor.line("SELECT 0"), "OK");
    let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
    let mut client = server.client();
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(waiter.read().int() > 0);
}

/// Two waiters of a lock that is held; the first is about to leave.
struct Pair {
    first: Client,
    first_id: i64,
    second: Client,
}

#[track_caller]
fn pair(server: &Server, actor: &mut Client) -> Pair {
    acquire(actor, "k", "holder");
    let (first, first_id) = joins_known(server, actor, "first");
    let second = join_queue(server, actor, "k", "second", FOREVER);
    Pair { first, first_id, second }
}

/// Checks that the second waiter has the lock, and gives it back.
#[track_caller]
fn goes_to_the_second(actor: &mut Client, second: &mut Client, what: &str) {
    assert!(second.read().int() > 0, "{what}");
    assert_eq!(actor.line("GET k"), "second", "{what}");
    assert_eq!(queue_of(actor, "k"), [""; 0], "{what}");
    assert_eq!(actor.line("GPULOCK.RELEASE k second"), 1, "{what}");
    assert!(actor.line("GPULOCK.INSPECT k").is_null(), "{what}");
}

/// Carries out lines in one write, as they are or as one transaction.
#[track_caller]
fn in_one_write(client: &mut Client, lines: &[&str], transaction: bool) -> Vec<Value> {
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

fn a_waiter_killed_in_the_turn_of_its_grant_passes_the_lock_on(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for steps in [
        &["GPULOCK.RELEASE k holder", "KILL"][..],
        &["KILL", "GPULOCK.RELEASE k holder"],
        &["GPULOCK.FORCERELEASE k", "KILL"],
        &["DEL k", "KILL"],
        &["KILL", "DEL k"],
        // The newcomer finds the lock free and the first waiter still there.
        &["DEL k", "GPULOCK.ACQUIRE k newcomer", "KILL"],
    ] {
        for transaction in [false, true] {
            let what = format!("{steps:?}, transaction: {transaction}");
            actor.line("GPULOCK.RESETSTATS");
            for _ in 0..races() {
                let mut pair = pair(&server, &mut actor);
                let kill = format!("CLIENT KILL ID {}", pair.first_id);
                let steps: Vec<_> = steps
                    .iter()
                    .map(|step| if *step == "KILL" { &*kill } else { *step })
                    .collect();
                for answer in in_one_write(&mut actor, &steps, transaction) {
                    assert!(!answer.is_err(), "{what}: {answer:?}");
                }
                // It never hears of a token.
                pair.first.wait_closed();
                goes_to_the_second(&mut actor, &mut pair.second, &what);
            }
            let stats = stats(&mut actor);
            let gone = (stats["undelivered"], stats["waits_abandoned"]);
            let granted_first = steps[0].starts_with("GPULOCK") || steps.len() == 3;
            let races = races() as i64;
            let expected = if granted_first { (races, 0) } else { (0, races) };
            assert_eq!(gone, expected, "{what}");
            assert_eq!(stats["locks_held"], 0, "{what}");
        }
    }
    assert_nobody_waits(&mut actor);
}

fn a_row_of_waiters_killed_in_the_turn_of_the_release_passes_it_to_who_is_left(
    flavour: &Flavour,
) {
    const ROW: usize = 8;
    let server = flavour.start();
    let mut actor = server.client();
    let mut rng = seeded_rng();
    for _ in 0..races() / 4 {
        acquire(&mut actor, "k", "holder");
        let mut row: Vec<_> = (0..ROW)
            .map(|n| joins_known(&server, &mut actor, &format!("w{n}")))
            .collect();
        // All but the last one go, in any order, the release anywhere among them.
        let mut steps = vec!["GPULOCK.RELEASE k holder".to_owned()];
        for (_, id) in &row[..ROW - 1] {
            let at = rng.usize(..steps.len() + 1);
            steps.insert(at, format!("CLIENT KILL ID {id}"));
        }
        let steps: Vec<_> = steps.iter().map(String::as_str).collect();
        for answer in in_one_write(&mut actor, &steps, rng.pick(&[false, true])) {
            assert_eq!(answer, 1);
        }
        assert!(row[ROW - 1].0.read().int() > 0);
        let last = format!("w{}", ROW - 1);
        assert_eq!(actor.line("GET k"), &*last);
        assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", last), 1);
    }
    // The last one killed as well: nobody is left, and nobody holds it.
    for steps in [["RELEASE", "KILL"], ["KILL", "RELEASE"]] {
        acquire(&mut actor, "k", "holder");
        let (_waiter, id) = joins_known(&server, &mut actor, "w");
        let kill = format!("CLIENT KILL ID {id}");
        let steps = steps
            .map(|step| if step == "KILL" { &*kill } else { "GPULOCK.RELEASE k holder" });
        in_one_write(&mut actor, &steps, false);
        wait_until(DEADLINE, "the lock to be free", || actor.line("EXISTS k") == 0);
        acquire(&mut actor, "k", "next");
        assert_eq!(actor.line("GPULOCK.RELEASE k next"), 1);
    }
    assert_nobody_waits(&mut actor);
}

/// The server sleeps in one turn of its loop, so that what two clients send meanwhile is met
/// in the next turn together.
fn a_waiter_whose_connection_ends_in_the_turn_of_its_grant_passes_the_lock_on(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let (mut actor, mut sleeper) = (server.client(), server.client());
    let mut undelivered = 0;
    // With SESSION it gives the lock back even if the answer was written already;
    // without, its lease ends soon.
    for options in ["PX 100000 SESSION", "PX 40"] {
        for reset in [false, true] {
            for release_first in [true, false] {
                let what = format!("{options}, {reset}, {release_first}");
                actor.line("GPULOCK.RESETSTATS");
                for _ in 0..races() {
                    acquire(&mut actor, "k", "holder");
                    let options = format!("{options} BLOCK 0");
                    let first = join_queue(&server, &mut actor, "k", "first", &options);
                    let mut second =
                        join_queue(&server, &mut actor, "k", "second", FOREVER);
                    send!(sleeper, "DEBUG", "SLEEP", 0.002);
                    if release_first {
                        send!(actor, "GPULOCK.RELEASE", "k", "holder");
                    }
                    if reset {
                        first.reset()
                    } else {
                        drop(first)
                    }
                    if !release_first {
                        send!(actor, "GPULOCK.RELEASE", "k", "holder");
                    }
                    assert_eq!(actor.read(), 1, "{what}");
                    assert_eq!(sleeper.read(), "OK");
                    goes_to_the_second(&mut actor, &mut second, &what);
                }
                let stats = stats(&mut actor);
                let ended =
                    ["undelivered", "waits_abandoned", "session_releases", "expired"];
                let ended = ended.map(|name| stats[name]);
                assert_eq!(ended.iter().sum::<i64>(), races() as i64, "{what}");
                undelivered += stats["undelivered"];
                assert_eq!(stats["locks_held"], 0, "{what}");
            }
        }
    }
    eprintln!("{flavour}: {undelivered} grants never arrived");
    assert!(undelivered > 0, "the race was never run");
    assert_nobody_waits(&mut actor);
}

/// What a waiter was told in a race, and that it was told but once.
#[derive(Debug, PartialEq)]
enum Told {
    Token,
    Null,
    Unblocked,
}

#[track_caller]
fn told_once(actor: &mut Client, waiter: &mut Client, what: &str) -> Told {
    let told = match waiter.read() {
        Value::Int(token) if token > 0 => Told::Token,
        Value::Null => Told::Null,
        Value::Error(text) if text.starts_with("UNBLOCKED ") => Told::Unblocked,
        other => panic!("{what}: {other:?}"),
    };
    assert_eq!(waiter.line("PING"), "PONG", "{what}");
    assert_no_reply(actor, waiter);
    told
}

/// After the race either the first has the lock, and the second waits on, or the second.
#[track_caller]
fn one_has_it(actor: &mut Client, pair: &mut Pair, what: &str) -> Told {
    let told = told_once(actor, &mut pair.first, what);
    if told == Told::Token {
        assert_eq!(actor.line("GET k"), "first", "{what}");
        assert_no_reply(actor, &mut pair.second);
        assert_eq!(actor.line("GPULOCK.RELEASE k first"), 1, "{what}");
    }
    goes_to_the_second(actor, &mut pair.second, what);
    told
}

fn a_grant_and_a_deadline_in_one_turn_are_answered_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    // What the server meets in one turn, and what the waiter can be told if no turn was
    // late: the sleep is longer than the wait.
    for (steps, expected) in [
        (&["DEBUG SLEEP 0.008", "GPULOCK.RELEASE k holder"][..], Told::Null),
        (&["GPULOCK.RELEASE k holder", "DEBUG SLEEP 0.008"], Told::Token),
        (&["DEBUG SLEEP 0.008", "DEL k"], Told::Null),
        (&["DEL k", "DEBUG SLEEP 0.008"], Told::Null),
        (&["DEL k", "GPULOCK.ACQUIRE k newcomer", "DEBUG SLEEP 0.008"], Told::Token),
        (&["GPULOCK.EXTEND k holder PX 5", "DEBUG SLEEP 0.008"], Told::Null),
        (&["PEXPIRE k 5", "DEBUG SLEEP 0.008"], Told::Null),
    ] {
        let mut as_expected = 0;
        for _ in 0..races() {
            let what = format!("{steps:?}");
            acquire(&mut actor, "k", "holder");
            let mut first = server.client();
            first.line("PING");
            let second = server.client();
            let mut pair = Pair { first, first_id: 0, second };
            // The second one's call comes right behind the first one's.
            let asked = stats(&mut actor)["acquire_requests"];
            let comes = |client: &mut Client, owner: &str, ms: i64| {
                send!(client, "GPULOCK.ACQUIRE", "k", owner, "PX", 100_000, "BLOCK", ms);
            };
            comes(&mut pair.first, "first", 5);
            wait_until(DEADLINE, "the first to ask", || {
                stats(&mut actor)["acquire_requests"] > asked
            });
            comes(&mut pair.second, "second", 0);
            wait_until(DEADLINE, "the second to ask", || {
                stats(&mut actor)["acquire_requests"] > asked + 1
            });
            for answer in in_one_write(&mut actor, steps, false) {
                assert!(!answer.is_err(), "{what}: {answer:?}");
            }
            let told = one_has_it(&mut actor, &mut pair, &what);
            as_expected += usize::from(told == expected);
        }
        assert!(as_expected > 0, "{steps:?} never did what it is for");
    }
    let stats = stats(&mut actor);
    assert_eq!((stats["locks_held"], stats["waits_abandoned"]), (0, 0));
    assert_nobody_waits(&mut actor);
}

fn a_grant_and_a_client_unblock_in_one_turn_are_answered_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let release = "GPULOCK.RELEASE k holder";
    for steps in [
        &[release, "UNBLOCK"][..],
        &["UNBLOCK", release],
        &[release, "UNBLOCK ERROR"],
        &["UNBLOCK ERROR", release],
        &["DEL k", "UNBLOCK"],
        &["DEL k", "UNBLOCK ERROR"],
        &["UNBLOCK", "UNBLOCK", release],
        &["UNBLOCK ERROR", "UNBLOCK", release],
        &["UNBLOCK", "UNBLOCK ERROR", release],
        &[release, "UNBLOCK", "UNBLOCK ERROR"],
        &[release, "UNBLOCK ERROR", "UNBLOCK ERROR"],
        &["DEL k", "GPULOCK.ACQUIRE k newcomer", "UNBLOCK", "UNBLOCK ERROR"],
    ] {
        for transaction in [false, true] {
            let what = format!("{steps:?}, transaction: {transaction}");
            for _ in 0..races() / 4 {
                let mut pair = pair(&server, &mut actor);
                let id = pair.first_id.to_string();
                let steps: Vec<_> = steps
                    .iter()
                    .map(|step| match step.strip_prefix("UNBLOCK") {
                        Some(how) => format!("CLIENT UNBLOCK {id}{how}"),
                        None => (*step).to_owned(),
                    })
                    .collect();
                let steps: Vec<_> = steps.iter().map(String::as_str).collect();
                for answer in in_one_write(&mut actor, &steps, transaction) {
                    assert!(!answer.is_err(), "{what}: {answer:?}");
                }
                let told = one_has_it(&mut actor, &mut pair, &what);
                if !flavour.can_unblock() {
                    assert_eq!(told, Told::Token, "{what}");
                } else if steps[0].contains("UNBLOCK") {
                    assert_ne!(told, Told::Token, "{what}");
                }
            }
        }
    }
    assert_eq!(stats(&mut actor)["locks_held"], 0);
    assert_nobody_waits(&mut actor);
}

fn an_unblock_and_a_kill_in_one_turn_free_the_place_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for steps in [["UNBLOCK", "KILL"], ["UNBLOCK ERROR", "KILL"]] {
        for transaction in [false, true] {
            for _ in 0..races() / 4 {
                let mut pair = pair(&server, &mut actor);
                let steps = steps.map(|step| match step.strip_prefix("UNBLOCK") {
                    Some(how) => format!("CLIENT UNBLOCK {}{how}", pair.first_id),
                    None => format!("CLIENT KILL ID {}", pair.first_id),
                });
                let steps: Vec<_> = steps.iter().map(String::as_str).collect();
                in_one_write(&mut actor, &steps, transaction);
                assert_eq!(queue_of(&mut actor, "k"), ["second"]);
                assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
                goes_to_the_second(&mut actor, &mut pair.second, &steps.join(", "));
            }
        }
    }
    assert_nobody_waits(&mut actor);
}

/// How one of a thousand waiters will fare.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Stays,
    TimesOut,
    Fin,
    Rst,
    Kill,
    Unblock,
    UnblockError,
    /// It got the lock before it could leave.
    Served,
}

struct Waiter {
    fate: Fate,
    id: i64,
    /// None when its connection is closed.
    client: Option<Client>,
    has_left: bool,
}

fn of_a_thousand_waiters_who_come_and_go_every_one_that_stays_is_served_in_order(
    flavour: &Flavour,
) {
    const WAITERS: usize = 1_000;
    const ROUNDS: i64 = 3;
    /// What the server keeps for good of so many clients: 170 bytes for each of ours.
    const SLACK: i64 = 512 << 10;
    let mut rng = seeded_rng();
    let server = flavour.start();
    let mut client = server.client();
    let mut used = || client.info("memory")["used_memory"].parse().expect("bytes");
    let before: i64 = used();
    for _ in 0..ROUNDS {
        thousand(&server, flavour, &mut rng, WAITERS);
    }
    // For each call that blocks the server has two clients of its own, of 17 KB each,
    // and gives back fifty of them every tenth of a second.
    let what = format!("the memory to be given back, {before} bytes in use before");
    wait_until(DEADLINE, what, || used() - before < SLACK);
}

fn thousand(server: &Server, flavour: &Flavour, rng: &mut Rng, count: usize) {
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let asked = stats(&mut actor)["acquire_requests"];
    let mut line: Vec<_> =
        (0..count).map(|n| comes(server, &mut actor, flavour, rng, n, asked)).collect();
    let of_fate = |line: &[Waiter], fates: &[Fate]| -> Vec<usize> {
        (0..count).filter(|n| fates.contains(&line[*n].fate)).collect()
    };
    let survivors = of_fate(&line, &[Fate::Stays]);
    let leaving = [Fate::Fin, Fate::Rst, Fate::Kill, Fate::Unblock, Fate::UnblockError];
    let mut leavers = of_fate(&line, &leaving);
    let mut served = vec![];
    let mut holder = "holder".to_owned();
    loop {
        // Some leave, wherever they stand, and the lock is given back, in one write.
        let mut steps = vec![format!("GPULOCK.RELEASE k {holder}")];
        for _ in 0..rng.usize(..3).min(leavers.len()) {
            let n = leavers.swap_remove(rng.usize(..leavers.len()));
            if let Some(step) = leaves(&mut line[n]) {
                steps.insert(rng.usize(..steps.len() + 1), step);
            }
        }
        let lines: Vec<_> = steps.iter().map(String::as_str).collect();
        for (line, answer) in lines.iter().zip(in_one_write(&mut actor, &lines, false)) {
            // Who is to leave may have been served and gone already.
            let is_fine = answer == 1 || line.starts_with("CLIENT") && answer == 0;
            let is_gone = answer.is_err() && line.starts_with("CLIENT KILL");
            assert!(is_fine || is_gone, "{line}: {answer:?}");
        }
        let Some(next) = next_holder(&mut actor, &mut line) else { break };
        assert!(served.last().is_none_or(|last| *last < next), "{next} after {served:?}");
        served.push(next);
        leavers.retain(|leaver| *leaver != next);
        holder = format!("w{next}");
    }
    served.retain(|n| survivors.contains(n));
    assert_eq!(served, survivors);
    // Who was not served was told so, once.
    for waiter in line.iter_mut().filter(|waiter| waiter.client.is_some()) {
        let client = waiter.client.as_mut().expect("it is there");
        match waiter.fate {
            Fate::Served | Fate::Kill => {}
            _ => {
                let answer = client.read();
                let unblocked = waiter.fate == Fate::UnblockError;
                assert!(
                    answer.is_null()
                        || unblocked && answer.err().starts_with("UNBLOCKED "),
                    "{:?}: {answer:?}",
                    waiter.fate
                );
            }
        }
    }
    assert_eq!(queue_length(&mut actor, "k"), 0);
    assert_nobody_waits(&mut actor);
    assert_eq!(stats(&mut actor)["locks_held"], 0);
}

/// The next waiter stands last in the line; `asked` calls were made before all of them.
fn comes(
    server: &Server,
    actor: &mut Client,
    flavour: &Flavour,
    rng: &mut Rng,
    n: usize,
    asked: i64,
) -> Waiter {
    let unblocks = if flavour.can_unblock() { 100 } else { 92 };
    let fate = match rng.usize(..unblocks) {
        0..=59 => Fate::Stays,
        60..=69 => Fate::TimesOut,
        70..=77 => Fate::Fin,
        78..=84 => Fate::Rst,
        85..=91 => Fate::Kill,
        92..=95 => Fate::Unblock,
        _ => Fate::UnblockError,
    };
    let mut client = server.client();
    let id = client.id();
    let block = if fate == Fate::TimesOut { 1 + rng.usize(..1_000) } else { 0 };
    // Its session ends what it is granted when it is gone already.
    let owner = format!("w{n}");
    send!(
        client,
        "GPULOCK.ACQUIRE",
        "k",
        owner,
        "BLOCK",
        block,
        "PX",
        100_000,
        "SESSION"
    );
    wait_until(DEADLINE, "the next to ask", || {
        stats(actor)["acquire_requests"] == asked + n as i64 + 1
    });
    Waiter { fate, id, client: Some(client), has_left: false }
}

/// Makes a waiter leave, or answers what is to be said to the server for that.
fn leaves(waiter: &mut Waiter) -> Option<String> {
    waiter.has_left = true;
    let id = waiter.id;
    match waiter.fate {
        Fate::Fin => waiter.client = None,
        Fate::Rst => {
            if let Some(client) = waiter.client.take() {
                client.reset();
            }
        }
        Fate::Kill => return Some(format!("CLIENT KILL ID {id}")),
        Fate::Unblock => return Some(format!("CLIENT UNBLOCK {id}")),
        Fate::UnblockError => return Some(format!("CLIENT UNBLOCK {id} ERROR")),
        Fate::Stays | Fate::TimesOut | Fate::Served => {}
    }
    None
}

/// Who was served next and knows it; none when the line is at its end. A lock granted to
/// somebody who is gone goes on by itself.
fn next_holder(actor: &mut Client, line: &mut [Waiter]) -> Option<usize> {
    let start = Instant::now();
    loop {
        assert!(
            start.elapsed() < DEADLINE,
            "the line stands still: {:?}",
            actor.line("GET k")
        );
        let owner = match actor.line("GET k") {
            Value::Null if queue_length(actor, "k") == 0 => return None,
            Value::Null => continue,
            owner => owner.text(),
        };
        let n: usize =
            owner.strip_prefix('w').expect("a waiter").parse().expect("its number");
        let waiter = &mut line[n];
        let is_gone =
            waiter.has_left && matches!(waiter.fate, Fate::Fin | Fate::Rst | Fate::Kill);
        let Some(client) = waiter.client.as_mut().filter(|_| !is_gone) else { continue };
        if let Some(answer) = client.read_within(Duration::from_millis(100)) {
            assert!(answer.int() > 0, "{owner}, {:?}: {answer:?}", waiter.fate);
            waiter.fate = Fate::Served;
            return Some(n);
        }
    }
}
