//! Clients that wait for any, or for several, of many locks: each has one place, whoever
//! needs several has its share set aside until it is complete, what it leaves behind is the
//! next one's, and at the end nothing is held, waited for or set aside.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::queue::{queue_of, wait_queue, waiter};
use crate::support::rng::{Pick, seeded_rng};

tests! {
    a_pools_waiter_gets_the_first_lock_that_is_given_up,
    a_lock_goes_to_the_longest_waiting_client_that_wants_it,
    a_gangs_share_is_set_aside_until_it_is_complete,
    what_is_free_when_a_gang_comes_is_its_share_as_well,
    some_of_many_are_enough_and_no_more_are_set_aside,
    completed_it_is_one_unit_in_the_stream,
    a_plain_set_on_what_is_set_aside_is_waited_for,
    what_was_set_aside_goes_to_the_next_when_the_gang_leaves,
    what_was_set_aside_for_one_who_left_is_free_where_nobody_wants_it,
    two_gangs_in_opposite_order_are_both_served,
    a_big_request_does_not_starve,
    the_end_of_a_lease_wakes_a_gang,
    what_others_do_to_the_keys_wakes_a_gang,
    an_equal_call_of_a_unique_owner_takes_over_its_place_and_share,
    a_call_for_another_count_or_other_keys_stands_last,
    a_gang_that_waits_in_slices_keeps_its_place_and_no_share,
    what_a_unique_gang_holds_is_part_of_its_answer,
    a_circle_through_a_set_that_wants_all_is_refused,
    what_another_lock_could_still_serve_is_not_refused,
    a_session_ends_with_all_its_locks,
    a_grace_is_given_to_all_the_locks_of_a_set,
    a_gang_killed_in_the_turn_of_its_grant_passes_all_on,
    a_gang_whose_grant_was_lost_keeps_no_second_place_beside_a_newer_call,
    a_gang_is_one_waiter_of_those_that_may_be,
    a_server_that_becomes_a_replica_tells_a_gang_once_and_sets_nothing_aside,
    in_a_storm_every_survivor_is_served_and_nothing_is_left,
}

/// Within 10 ms as a rule; a busy machine may add to that.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Two locks at once, in either order.
const GANG: &str = "GPULOCK.ACQUIREANY 2 k1 k2 gang COUNT 2 BLOCK 0";

/// The same, once it stands in the line of a key as the last of these.
#[track_caller]
fn join_queue(
    server: &Server,
    asker: &mut Client,
    request: &str,
    key: &str,
    line: &[&str],
) -> Client {
    let client = waiter(server, request);
    wait_queue(asker, key, line);
    client
}

/// Takes locks for 100 s, one by one.
#[track_caller]
fn take(client: &mut Client, keys: &[&str], owner: &str) {
    for key in keys {
        assert!(call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 100_000).int() > 0);
    }
}

/// Gives locks back.
#[track_caller]
fn release(client: &mut Client, keys: &[&str], owner: &str) {
    for key in keys {
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, owner), 1, "{key} of {owner}");
    }
}

/// What was granted: keys and tokens, in the order of the answer.
#[track_caller]
fn granted(answer: &Value) -> Vec<(String, i64)> {
    let pair = |pair: &Value| match pair.list() {
        [key, token] => (key.text(), token.int()),
        other => panic!("no pair: {other:?}"),
    };
    answer.list().iter().map(pair).collect()
}

/// The keys that a waiter is granted next, in the order of the answer.
#[track_caller]
fn served(waiter: &mut Client) -> Vec<String> {
    let answer = waiter.read();
    let pairs = granted(&answer);
    assert!(pairs.is_sorted_by_key(|(_, token)| *token), "{answer:?}");
    pairs.into_iter().map(|(key, _)| key).collect()
}

/// Checks that a waiter has heard nothing, after all that was to come before.
#[track_caller]
fn assert_no_reply(asker: &mut Client, waiter: &mut Client) {
    assert_eq!(asker.line("ECHO now"), "now");
    assert_eq!(waiter.read_within(Duration::ZERO), None);
}

/// For whom a lock is set aside.
#[track_caller]
fn reserved_for(client: &mut Client, key: &str) -> Option<String> {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    let owner = if seen.is_null() { Value::Null } else { seen.field("reserved_for") };
    (!owner.is_null()).then(|| owner.text())
}

/// Waits until a lock is set aside for an owner.
#[track_caller]
fn wait_reserved(client: &mut Client, key: &str, owner: &str) {
    wait_until(DEADLINE, format!("{key} to be set aside for {owner}"), || {
        reserved_for(client, key).as_deref() == Some(owner)
    });
}

/// The keys set aside for the first in the line of a lock.
#[track_caller]
fn share_of_first(client: &mut Client, key: &str) -> Vec<String> {
    let waiters = call!(client, "GPULOCK.INSPECT", key).field("waiters");
    let share = waiters.list()[0].field("reserved");
    share.list().iter().map(Value::text).collect()
}

/// Two locks that `holder` has, and a gang that waits for both.
struct Gang {
    server: Server,
    actor: Client,
    gang: Client,
    id: i64,
}

impl Gang {
    #[track_caller]
    fn start(flavour: &Flavour, request: &str) -> Self {
        let server = flavour.start();
        let (mut actor, mut gang) = (server.client(), server.client());
        take(&mut actor, &["k1", "k2"], "holder");
        let id = gang.id();
        gang.send_lines(&[request]);
        wait_queue(&mut actor, "k1", &["gang"]);
        wait_queue(&mut actor, "k2", &["gang"]);
        Self { server, actor, gang, id }
    }

    /// Gives the first lock back, which is then the gang's share.
    #[track_caller]
    fn set_k1_aside(&mut self) {
        release(&mut self.actor, &["k1"], "holder");
        assert_eq!(reserved_for(&mut self.actor, "k1").as_deref(), Some("gang"));
        assert_no_reply(&mut self.actor, &mut self.gang);
    }
}

fn a_pools_waiter_gets_the_first_lock_that_is_given_up(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let keys = ["k1", "k2", "k3"];
    for first in keys {
        take(&mut actor, &keys, "holder");
        let any = "GPULOCK.ACQUIREANY 3 k1 k2 k3 w PX 100000 BLOCK 0";
        let mut waiter = join_queue(&server, &mut actor, any, "k3", &["w"]);
        // One place, seen in the line of each.
        for key in keys {
            assert_eq!(queue_of(&mut actor, key), ["w"]);
            let place = call!(actor, "GPULOCK.INSPECT", key).field("waiters");
            let place = &place.list()[0];
            assert_eq!((place.field("wants").int(), place.field("of").int()), (1, 3));
            assert_eq!(place.field("reserved"), Value::Array(vec![]));
        }
        assert_counters(&mut actor, 3, 1);
        let last = call!(actor, "GPULOCK.INSPECT", "k3").field("token").int();
        release(&mut actor, &[first], "holder");
        let answer = waiter.read();
        let [(key, token)] = &granted(&answer)[..] else { panic!("{answer:?}") };
        assert!(key == first && *token > last, "{answer:?}");
        assert_eq!(call!(actor, "GET", first), "w");
        // It stands in no line any more.
        for key in keys {
            assert_eq!(queue_of(&mut actor, key), [""; 0]);
        }
        assert_counters(&mut actor, 3, 0);
        for key in keys {
            release(&mut actor, &[key], if key == first { "w" } else { "holder" });
        }
    }
    assert_eq!(stats(&mut actor)["acquired_after_wait"], 3);
    assert_counters(&mut actor, 0, 0);
}

fn a_lock_goes_to_the_longest_waiting_client_that_wants_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    take(&mut actor, &["k1", "k2"], "holder");
    let mut one =
        join_queue(&server, &mut actor, "GPULOCK.ACQUIRE k1 one BLOCK 0", "k1", &["one"]);
    let any = "GPULOCK.ACQUIREANY 2 k1 k2 any BLOCK 0";
    let mut any = join_queue(&server, &mut actor, any, "k1", &["one", "any"]);
    let two = "GPULOCK.ACQUIRE k2 two BLOCK 0";
    let mut two = join_queue(&server, &mut actor, two, "k2", &["any", "two"]);
    assert_counters(&mut actor, 2, 3);
    release(&mut actor, &["k2"], "holder");
    assert_eq!(served(&mut any), ["k2"]);
    assert_eq!(queue_of(&mut actor, "k1"), ["one"]);
    assert_no_reply(&mut actor, &mut one);
    assert_no_reply(&mut actor, &mut two);
    release(&mut actor, &["k2"], "any");
    assert!(two.read().int() > 0);
    release(&mut actor, &["k1"], "holder");
    assert!(one.read().int() > 0);
    assert_counters(&mut actor, 2, 0);
}

fn a_gangs_share_is_set_aside_until_it_is_complete(flavour: &Flavour) {
    let mut it = Gang::start(flavour, "GPULOCK.ACQUIREANY 2 k1 k2 gang COUNT 2 BLOCK 0");
    assert_counters(&mut it.actor, 2, 1);
    it.set_k1_aside();
    let mut newcomer = it.server.client();
    // Free for everyone who looks, and for nobody who asks.
    assert_eq!(newcomer.line("EXISTS k1"), 0);
    for ask in [
        "GPULOCK.ACQUIRE k1 newcomer",
        "GPULOCK.ACQUIRE k1 newcomer UNIQUE SESSION",
        "GPULOCK.ACQUIRE k1 newcomer BLOCK 1",
        "GPULOCK.ACQUIREANY 2 k1 k2 newcomer",
        "GPULOCK.ACQUIREANY 2 k1 k3 newcomer COUNT 2",
    ] {
        assert_eq!(newcomer.line(ask), Value::Null, "{ask}");
        assert_eq!(newcomer.line("DBSIZE"), 1, "{ask}");
    }
    let answer = newcomer.line("GPULOCK.ACQUIREANY 2 k1 k3 newcomer");
    assert_eq!(granted(&answer)[0].0, "k3");
    for mut client in [it.server.client(), it.server.client3()] {
        let seen = client.line("GPULOCK.INSPECT k1");
        assert_eq!(seen.field("owner"), Value::Null);
        assert_eq!(seen.field("token"), Value::Null);
        assert_eq!(seen.field("reserved_for"), "gang");
        let held = client.line("GPULOCK.INSPECT k2");
        assert_eq!(held.field("reserved_for"), Value::Null);
        assert_eq!(held.field("owner"), "holder");
        for seen in [seen, held] {
            let waiters = seen.field("waiters");
            let [place] = waiters.list() else { panic!("{waiters:?}") };
            assert_eq!(place.field("owner"), "gang");
            assert_eq!(place.field("client"), it.id);
            assert_eq!((place.field("wants").int(), place.field("of").int()), (2, 2));
            let share = place.field("reserved");
            assert!(share.list().len() == 1 && share.list()[0] == "k1", "{share:?}");
        }
    }
    // Set aside is not held.
    assert_counters(&mut it.actor, 2, 1);
    release(&mut it.actor, &["k2"], "holder");
    assert_eq!(served(&mut it.gang), ["k1", "k2"]);
    for key in ["k1", "k2"] {
        assert_eq!(call!(it.actor, "GET", key), "gang");
        assert_eq!(reserved_for(&mut it.actor, key), None);
        assert_eq!(queue_of(&mut it.actor, key), [""; 0]);
    }
    assert_eq!(stats(&mut it.actor)["acquired_after_wait"], 2);
    assert_counters(&mut it.actor, 3, 0);
}

fn what_is_free_when_a_gang_comes_is_its_share_as_well(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    take(&mut actor, &["k2"], "holder");
    let mut gang = join_queue(&server, &mut actor, GANG, "k2", &["gang"]);
    wait_reserved(&mut actor, "k1", "gang");
    assert_eq!(actor.line("EXISTS k1"), 0);
    assert_eq!(actor.line("GPULOCK.ACQUIRE k1 newcomer"), Value::Null);
    assert_eq!(share_of_first(&mut actor, "k2"), ["k1"]);
    release(&mut actor, &["k2"], "holder");
    assert_eq!(served(&mut gang), ["k1", "k2"]);
    assert_counters(&mut actor, 2, 0);
}

fn some_of_many_are_enough_and_no_more_are_set_aside(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let keys = ["k1", "k2", "k3", "k4"];
    take(&mut actor, &keys, "holder");
    let any = "GPULOCK.ACQUIREANY 4 k1 k2 k3 k4 gang COUNT 3 BLOCK 0";
    let mut gang = join_queue(&server, &mut actor, any, "k4", &["gang"]);
    let behind = "GPULOCK.ACQUIREANY 4 k1 k2 k3 k4 behind BLOCK 0";
    let mut behind = join_queue(&server, &mut actor, behind, "k4", &["gang", "behind"]);
    for (n, key) in ["k4", "k2"].into_iter().enumerate() {
        release(&mut actor, &[key], "holder");
        assert_eq!(share_of_first(&mut actor, "k1").len(), n + 1);
        assert_eq!(reserved_for(&mut actor, key).as_deref(), Some("gang"));
        assert_no_reply(&mut actor, &mut gang);
        assert_no_reply(&mut actor, &mut behind);
    }
    release(&mut actor, &["k1"], "holder");
    let mut keys = served(&mut gang);
    keys.sort();
    assert_eq!(keys, ["k1", "k2", "k4"]);
    assert_no_reply(&mut actor, &mut behind);
    release(&mut actor, &["k3"], "holder");
    assert_eq!(served(&mut behind), ["k3"]);
    assert_counters(&mut actor, 4, 0);
}

fn completed_it_is_one_unit_in_the_stream(flavour: &Flavour) {
    let server =
        flavour.server().arg("appendonly", "yes").arg("appendfsync", "always").start();
    let mut actor = server.client();
    take(&mut actor, &["k1", "k2"], "holder");
    let gang = "GPULOCK.ACQUIREANY 2 k1 k2 gang COUNT 2 PX 70000 BLOCK 0";
    let mut gang = join_queue(&server, &mut actor, gang, "k2", &["gang"]);
    release(&mut actor, &["k1"], "holder");
    let before = server.aof().len();
    release(&mut actor, &["k2"], "holder");
    assert_eq!(served(&mut gang), ["k1", "k2"]);
    let end = actor.line("PEXPIRETIME k1").int().to_string();
    let mut written = server.aof().split_off(before);
    written.retain(|words| words[0].to_uppercase() != "SELECT");
    let frame: Vec<_> = written.iter().map(|words| words[0].to_uppercase()).collect();
    assert_eq!(frame, ["MULTI", "SET", "SET", "EXEC"], "{written:?}");
    written[1..3].sort();
    assert_eq!(written[1][1..], ["k1", "gang", "PXAT", &end]);
    assert_eq!(written[2][1..], ["k2", "gang", "PXAT", &end]);
    assert_counters(&mut actor, 2, 0);
}

fn a_plain_set_on_what_is_set_aside_is_waited_for(flavour: &Flavour) {
    let mut it = Gang::start(flavour, GANG);
    it.set_k1_aside();
    // Also in the turn of the loop in which the other lock comes.
    it.actor.send_lines(&["SET k1 plain NX PX 100000", "GPULOCK.RELEASE k2 holder"]);
    assert_eq!((it.actor.read(), it.actor.read()), {
        (Value::Simple("OK".into()), Value::Int(1))
    });
    wait_reserved(&mut it.actor, "k2", "gang");
    wait_until(DEADLINE, "the plain one to be seen", || {
        share_of_first(&mut it.actor, "k2") == ["k2"]
    });
    assert_no_reply(&mut it.actor, &mut it.gang);
    assert_eq!(it.actor.line("GET k1"), "plain");
    assert_eq!(it.actor.line("EXISTS k2"), 0);
    assert_eq!(reserved_for(&mut it.actor, "k1"), None);
    assert_eq!(queue_of(&mut it.actor, "k1"), ["gang"]);
    wait_until(DEADLINE, "it to be adopted", || stats(&mut it.actor)["adopted"] == 1);
    assert_counters(&mut it.actor, 1, 1);
    assert_eq!(it.actor.line("DEL k1"), 1);
    assert_eq!(served(&mut it.gang), ["k1", "k2"]);
    assert_eq!(it.actor.line("GET k1"), "gang");
    assert_counters(&mut it.actor, 2, 0);
}

/// A gang that leaves, by whatever its connection, another one and its number can do.
type Leaves = fn(&mut Client, Client, i64) -> Option<Client>;

const WAYS: [(&str, Leaves); 6] = [
    ("FIN", |_, gang, _| {
        drop(gang);
        None
    }),
    ("RST", |_, gang, _| {
        gang.reset();
        None
    }),
    ("CLIENT KILL", |actor, mut gang, id| {
        assert_eq!(call!(actor, "CLIENT", "KILL", "ID", id), 1);
        gang.wait_closed();
        None
    }),
    ("CLIENT UNBLOCK", |actor, gang, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id), 1);
        Some(gang)
    }),
    ("CLIENT UNBLOCK ERROR", |actor, gang, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, "ERROR"), 1);
        Some(gang)
    }),
    ("its time", |_, gang, _| Some(gang)),
];

fn what_was_set_aside_goes_to_the_next_when_the_gang_leaves(flavour: &Flavour) {
    for (way, leaves) in WAYS {
        if way.starts_with("CLIENT UNBLOCK") && !flavour.can_unblock() {
            continue;
        }
        eprintln!("{way}");
        let block = if way == "its time" { 3_000 } else { 0 };
        let request = format!("GPULOCK.ACQUIREANY 2 k1 k2 gang COUNT 2 BLOCK {block}");
        let mut it = Gang::start(flavour, &request);
        let next = "GPULOCK.ACQUIRE k1 next BLOCK 0";
        let mut next =
            join_queue(&it.server, &mut it.actor, next, "k1", &["gang", "next"]);
        it.set_k1_aside();
        assert_no_reply(&mut it.actor, &mut next);
        assert_counters(&mut it.actor, 1, 2);
        let mut left = leaves(&mut it.actor, it.gang, it.id);
        if let Some(gang) = &mut left {
            match way {
                "CLIENT UNBLOCK ERROR" => {
                    assert!(gang.read().err().starts_with("UNBLOCKED "));
                }
                _ => assert_eq!(gang.read(), Value::Null),
            }
        }
        let token = next.read_within(AT_ONCE).expect("the next is served at once");
        assert!(token.int() > 0, "{way}: {token:?}");
        assert_eq!(it.actor.line("GET k1"), "next", "{way}");
        assert_eq!(reserved_for(&mut it.actor, "k1"), None, "{way}");
        assert_eq!(queue_of(&mut it.actor, "k2"), [""; 0], "{way}");
        let stats = stats(&mut it.actor);
        let timed = i64::from(way == "its time" || way == "CLIENT UNBLOCK");
        let counted = (stats["wait_timeouts"], stats["waits_abandoned"]);
        assert_eq!(counted, (timed, 1 - timed), "{way}");
        assert_counters(&mut it.actor, 2, 0);
        release(&mut it.actor, &["k1"], "next");
        release(&mut it.actor, &["k2"], "holder");
        assert_eq!(it.actor.line("DBSIZE"), 0, "{way}");
        assert_counters(&mut it.actor, 0, 0);
    }
}

fn what_was_set_aside_for_one_who_left_is_free_where_nobody_wants_it(flavour: &Flavour) {
    let mut it = Gang::start(flavour, GANG);
    it.set_k1_aside();
    drop(it.gang);
    wait_queue(&mut it.actor, "k2", &[]);
    assert!(it.actor.line("GPULOCK.INSPECT k1").is_null());
    take(&mut it.actor, &["k1"], "newcomer");
    assert_counters(&mut it.actor, 2, 0);
}

fn two_gangs_in_opposite_order_are_both_served(flavour: &Flavour) {
    for order in [["k1", "k2"], ["k2", "k1"]] {
        let mut it = Gang::start(flavour, GANG);
        let two = "GPULOCK.ACQUIREANY 2 k2 k1 two COUNT 2 BLOCK 0";
        let mut two = join_queue(&it.server, &mut it.actor, two, "k2", &["gang", "two"]);
        assert_counters(&mut it.actor, 2, 2);
        release(&mut it.actor, &order, "holder");
        assert_eq!(served(&mut it.gang), ["k1", "k2"]);
        assert_no_reply(&mut it.actor, &mut two);
        release(&mut it.actor, &order, "gang");
        assert_eq!(served(&mut two), ["k2", "k1"]);
        release(&mut it.actor, &order, "two");
        assert_eq!(it.actor.line("DBSIZE"), 0);
        assert_counters(&mut it.actor, 0, 0);
    }
}

fn a_big_request_does_not_starve(flavour: &Flavour) {
    let mut it = Gang::start(flavour, GANG);
    // Those who come later and want little stand behind it, again and again.
    let mut small = vec![];
    for n in 0..4 {
        let key = ["k1", "k2"][n % 2];
        small.push(waiter(&it.server, &format!("GPULOCK.ACQUIRE {key} s{n} BLOCK 0")));
        it.server.wait_blocked(n as i64 + 2);
    }
    it.set_k1_aside();
    for small in &mut small {
        assert_no_reply(&mut it.actor, small);
    }
    release(&mut it.actor, &["k2"], "holder");
    assert_eq!(served(&mut it.gang), ["k1", "k2"]);
    release(&mut it.actor, &["k1", "k2"], "gang");
    for (n, small) in small.iter_mut().enumerate() {
        assert!(small.read().int() > 0);
        release(&mut it.actor, &[["k1", "k2"][n % 2]], &format!("s{n}"));
    }
    assert_counters(&mut it.actor, 0, 0);
}

fn the_end_of_a_lease_wakes_a_gang(flavour: &Flavour) {
    let mut it = Gang::start(flavour, GANG);
    for key in ["k1", "k2"] {
        assert!(!call!(it.actor, "GPULOCK.EXTEND", key, "holder", "PX", 30).is_null());
    }
    let answer = it.gang.read_within(AT_ONCE).expect("woken");
    assert_eq!(granted(&answer).len(), 2);
    assert_eq!(stats(&mut it.actor)["expired"], 2);
    assert_counters(&mut it.actor, 2, 0);
}

fn what_others_do_to_the_keys_wakes_a_gang(flavour: &Flavour) {
    for steps in [
        &["DEL k1", "DEL k2"][..],
        &["DEL k1 k2"],
        &["UNLINK k2", "RENAME k1 elsewhere"],
        &["FLUSHALL"],
        &["PEXPIRE k1 -1", "GPULOCK.FORCERELEASE k2"],
        &["EVAL return{redis.call('DEL',KEYS[1]),redis.call('DEL',KEYS[2])} 2 k1 k2"],
    ] {
        let mut it = Gang::start(flavour, GANG);
        for step in steps {
            let answer = it.actor.line(step);
            assert!(!answer.is_err(), "{step}: {answer:?}");
        }
        let answer = it.gang.read_within(AT_ONCE).expect("woken");
        assert_eq!(granted(&answer).len(), 2, "{steps:?}");
        let stats = stats(&mut it.actor);
        assert_eq!(stats["acquired_after_wait"], 2, "{steps:?}");
        assert_counters(&mut it.actor, 2, 0);
    }
}

fn an_equal_call_of_a_unique_owner_takes_over_its_place_and_share(flavour: &Flavour) {
    let request = format!("{GANG} UNIQUE");
    let mut it = Gang::start(flavour, &request);
    let next = "GPULOCK.ACQUIREANY 2 k1 k2 next BLOCK 0 UNIQUE";
    let mut next = join_queue(&it.server, &mut it.actor, next, "k1", &["gang", "next"]);
    it.set_k1_aside();
    let mut newer = it.server.client();
    let id = newer.id();
    newer.send_lines(&[&format!("{request} PX 90000")]);
    assert_eq!(it.gang.read(), Value::Null);
    for key in ["k1", "k2"] {
        assert_eq!(queue_of(&mut it.actor, key), ["gang", "next"]);
    }
    let waiters = it.actor.line("GPULOCK.INSPECT k2").field("waiters");
    assert_eq!(waiters.list()[0].field("client"), id);
    assert_eq!(stats(&mut it.actor)["waits_abandoned"], 1);
    assert_counters(&mut it.actor, 1, 2);
    assert_no_reply(&mut it.actor, &mut next);
    release(&mut it.actor, &["k2"], "holder");
    assert_eq!(served(&mut newer), ["k1", "k2"]);
    assert!(it.actor.line("PTTL k1").int() <= 90_000);
    assert_eq!(it.gang.line("ECHO nothing-more"), "nothing-more");
    release(&mut it.actor, &["k2"], "gang");
    assert_eq!(served(&mut next), ["k2"]);
    assert_counters(&mut it.actor, 2, 0);
}

fn a_call_for_another_count_or_other_keys_stands_last(flavour: &Flavour) {
    for other in ["3 k1 k2 k3 gang COUNT 2", "2 k1 k2 gang COUNT 1"] {
        let mut it = Gang::start(flavour, &format!("{GANG} UNIQUE"));
        take(&mut it.actor, &["k3"], "holder");
        let next = "GPULOCK.ACQUIRE k1 next BLOCK 0";
        let mut next =
            join_queue(&it.server, &mut it.actor, next, "k1", &["gang", "next"]);
        let request = format!("GPULOCK.ACQUIREANY {other} BLOCK 0 UNIQUE");
        let mut newer =
            join_queue(&it.server, &mut it.actor, &request, "k1", &["next", "gang"]);
        assert_eq!(it.gang.read(), Value::Null, "{other}");
        assert_eq!(queue_of(&mut it.actor, "k2"), ["gang"], "{other}");
        assert_eq!(stats(&mut it.actor)["waits_abandoned"], 1, "{other}");
        assert_counters(&mut it.actor, 3, 2);
        release(&mut it.actor, &["k1"], "holder");
        assert!(next.read().int() > 0, "{other}");
        release(&mut it.actor, &["k1"], "next");
        if other.ends_with('2') {
            release(&mut it.actor, &["k2"], "holder");
            assert_eq!(served(&mut newer), ["k1", "k2"]);
            assert_counters(&mut it.actor, 3, 0);
        } else {
            assert_eq!(served(&mut newer), ["k1"]);
            assert_counters(&mut it.actor, 3, 0);
        }
    }
}

fn a_gang_that_waits_in_slices_keeps_its_place_and_no_share(flavour: &Flavour) {
    let slice = |ms| format!("GPULOCK.ACQUIREANY 2 k1 k2 gang COUNT 2 BLOCK {ms} UNIQUE");
    let mut it = Gang::start(flavour, &slice(3_000));
    let next = "GPULOCK.ACQUIRE k1 next BLOCK 0";
    let mut next = join_queue(&it.server, &mut it.actor, next, "k1", &["gang", "next"]);
    it.set_k1_aside();
    let third = "GPULOCK.ACQUIREANY 2 k1 k2 third COUNT 2 BLOCK 0";
    let line = ["gang", "next", "third"];
    let mut third = join_queue(&it.server, &mut it.actor, third, "k1", &line);
    assert_eq!(it.gang.read(), Value::Null);
    // While it is away its share is another's, and its place is its own.
    assert!(next.read_within(AT_ONCE).expect("served at once").int() > 0);
    assert_eq!(queue_of(&mut it.actor, "k1"), ["(gang)", "third"]);
    assert_eq!(queue_of(&mut it.actor, "k2"), ["(gang)", "third"]);
    assert_counters(&mut it.actor, 2, 1);
    it.gang.send_lines(&[&slice(0)]);
    wait_queue(&mut it.actor, "k1", &["gang", "third"]);
    wait_queue(&mut it.actor, "k2", &["gang", "third"]);
    release(&mut it.actor, &["k1"], "next");
    release(&mut it.actor, &["k2"], "holder");
    assert_eq!(served(&mut it.gang), ["k1", "k2"]);
    assert_no_reply(&mut it.actor, &mut third);
    release(&mut it.actor, &["k2", "k1"], "gang");
    assert_eq!(served(&mut third), ["k1", "k2"]);
    assert_counters(&mut it.actor, 2, 0);
}

fn what_a_unique_gang_holds_is_part_of_its_answer(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let own = actor.line("GPULOCK.ACQUIRE k2 gang UNIQUE").int();
    take(&mut actor, &["k1"], "holder");
    let request = format!("{GANG} UNIQUE");
    let mut gang = join_queue(&server, &mut actor, &request, "k1", &["gang"]);
    assert_counters(&mut actor, 2, 1);
    release(&mut actor, &["k1"], "holder");
    let answer = gang.read();
    let pairs: BTreeMap<_, _> = granted(&answer).into_iter().collect();
    assert_eq!((pairs.len(), pairs["k2"]), (2, own), "{answer:?}");
    assert!(pairs["k1"] > own, "{answer:?}");
    assert_counters(&mut actor, 2, 0);
}

/// Requests carried out, those that wait, and one that is refused or, alas, not.
type Circle = (&'static [&'static str], &'static [&'static str], &'static str);

#[rustfmt::skip]
const CIRCLES: &[Circle] = &[
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIRE k1 b BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k1 k2 a COUNT 2 BLOCK 0 UNIQUE"),
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k2 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIRE k2 a BLOCK 0 UNIQUE"),
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k2 k1 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k1 k2 a COUNT 2 BLOCK 0 UNIQUE"),
    // It waits for a third as well: without the circle it still has no chance.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c"],
     &["GPULOCK.ACQUIREANY 3 k3 k1 k4 b COUNT 3 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k2 k5 a COUNT 2 BLOCK 0 UNIQUE"),
];

fn a_circle_through_a_set_that_wants_all_is_refused(flavour: &Flavour) {
    for (n, (before, waits, asks)) in CIRCLES.iter().enumerate() {
        let server = flavour.start();
        let mut client = server.client();
        for request in *before {
            assert!(client.line(request).int() > 0, "{request}");
        }
        let mut waiting: Vec<_> =
            waits.iter().map(|request| waiter(&server, request)).collect();
        server.wait_blocked(waiting.len() as i64);
        client.send_lines(&[asks]);
        let answer = client.read_within(AT_ONCE);
        let answer = answer.unwrap_or_else(|| panic!("no answer to {asks}"));
        assert_eq!(answer.err(), r#"DEADLOCK "a" -> "b" -> "a""#, "case {n}");
        let counters = stats(&mut client);
        assert_eq!((counters["deadlocks"], counters["clients_waiting"]), (1, 1));
        assert_eq!(client.line("EXISTS k5"), 0);
        assert!(client.line("GPULOCK.INSPECT k5").is_null());
        assert_eq!(stats(&mut client)["locks_held"], before.len() as i64);
        // When the asker lets go, the other has its turn.
        release(&mut client, &["k1"], "a");
        if before.len() > 2 {
            release(&mut client, &["k3"], "c");
        }
        assert!(!waiting[0].read().is_null(), "case {n}");
    }
}

#[rustfmt::skip]
const NO_CIRCLES: &[Circle] = &[
    // The other could be served by k3, which somebody else holds.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIRE k2 a BLOCK 0 UNIQUE"),
    // So could the asker.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c UNIQUE"],
     &["GPULOCK.ACQUIRE k1 b BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k2 k3 a BLOCK 0 UNIQUE"),
    // Two of three.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE", "GPULOCK.ACQUIRE k3 c", "GPULOCK.ACQUIRE k4 c"],
     &["GPULOCK.ACQUIREANY 3 k1 k3 k4 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 3 k2 k3 k4 a COUNT 2 BLOCK 0 UNIQUE"),
    // Not UNIQUE, on either side.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b COUNT 2 BLOCK 0"],
     "GPULOCK.ACQUIRE k2 a BLOCK 0 UNIQUE"),
    (&["GPULOCK.ACQUIRE k1 a UNIQUE", "GPULOCK.ACQUIRE k2 b UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 k2 k4 a COUNT 2 BLOCK 0"),
    // An adopted lock.
    (&["GPULOCK.ACQUIRE k1 a UNIQUE"],
     &["GPULOCK.ACQUIREANY 2 k1 k3 b COUNT 2 BLOCK 0 UNIQUE"],
     "GPULOCK.ACQUIREANY 2 plain k4 a COUNT 2 BLOCK 0 UNIQUE"),
];

fn what_another_lock_could_still_serve_is_not_refused(flavour: &Flavour) {
    for (before, waits, asks) in NO_CIRCLES {
        let server = flavour.start();
        let mut client = server.client();
        assert_eq!(client.line("SET plain b PX 100000"), "OK");
        for request in *before {
            assert!(client.line(request).int() > 0, "{request}");
        }
        let _waiting: Vec<_> =
            waits.iter().map(|request| waiter(&server, request)).collect();
        server.wait_blocked(waits.len() as i64);
        let mut asker = waiter(&server, asks);
        server.wait_blocked(waits.len() as i64 + 1);
        assert_no_reply(&mut client, &mut asker);
        assert_eq!(stats(&mut client)["deadlocks"], 0, "{asks}");
    }
}

fn a_session_ends_with_all_its_locks(flavour: &Flavour) {
    let mut it = Gang::start(flavour, &format!("{GANG} SESSION"));
    release(&mut it.actor, &["k1", "k2"], "holder");
    assert_eq!(served(&mut it.gang), ["k1", "k2"]);
    // Others of that connection that came at once.
    let answer = it.gang.line("GPULOCK.ACQUIREANY 2 k3 k4 gang COUNT 2 SESSION");
    assert_eq!(granted(&answer).len(), 2);
    assert!(it.gang.line("GPULOCK.ACQUIRE k5 gang").int() > 0);
    for key in ["k1", "k2", "k3", "k4"] {
        let seen = call!(it.actor, "GPULOCK.INSPECT", key);
        assert_eq!(seen.field("session"), it.id, "{key}");
    }
    let two = "GPULOCK.ACQUIREANY 3 k1 k2 k3 two COUNT 3 BLOCK 0";
    let mut two = join_queue(&it.server, &mut it.actor, two, "k3", &["two"]);
    drop(it.gang);
    let answer = two.read_within(AT_ONCE).expect("all of them at once");
    assert_eq!(granted(&answer).len(), 3);
    wait_until(DEADLINE, "the session's end", || it.actor.line("EXISTS k4") == 0);
    assert_eq!(it.actor.line("GET k5"), "gang");
    assert_eq!(stats(&mut it.actor)["session_releases"], 4);
    assert_counters(&mut it.actor, 4, 0);
}

fn a_grace_is_given_to_all_the_locks_of_a_set(flavour: &Flavour) {
    let server = flavour.start();
    let (mut actor, mut gang) = (server.client(), server.client());
    let any = "GPULOCK.ACQUIREANY 2 k1 k2 gang COUNT 2 UNIQUE SESSION GRACE";
    let first = gang.line(&format!("{any} 60000"));
    let keys = ["k1", "k2"];
    drop(gang);
    for key in keys {
        wait_until(DEADLINE, "the grace to run", || {
            !call!(actor, "GPULOCK.INSPECT", key).field("grace_ms").is_null()
        });
        assert!(call!(actor, "PTTL", key).int() <= 60_000);
    }
    assert_eq!(actor.line("GPULOCK.ACQUIREANY 2 k1 k2 other"), Value::Null);
    // Back in time, with the same tokens.
    let mut gang = server.client();
    assert_eq!(gang.line(&format!("{any} 50")), first);
    for key in keys {
        let seen = call!(actor, "GPULOCK.INSPECT", key);
        assert_eq!(seen.field("grace_ms"), Value::Null);
        assert!(seen.field("lease_ms").int() > 60_000);
    }
    assert_counters(&mut actor, 2, 0);
    drop(gang);
    let mut other = waiter(&server, "GPULOCK.ACQUIREANY 2 k1 k2 other COUNT 2 BLOCK 0");
    assert_eq!(served(&mut other), keys);
    assert_eq!(stats(&mut actor)["session_releases"], 2);
    assert_counters(&mut actor, 2, 0);
}

fn a_gang_killed_in_the_turn_of_its_grant_passes_all_on(flavour: &Flavour) {
    for (frees, order) in [
        ("GPULOCK.RELEASE k2 holder", "kill last"),
        ("GPULOCK.RELEASE k2 holder", "kill first"),
        ("DEL k2", "kill first"),
    ] {
        let mut it = Gang::start(flavour, GANG);
        let next = "GPULOCK.ACQUIREANY 2 k2 k1 next COUNT 2 BLOCK 0";
        let mut next =
            join_queue(&it.server, &mut it.actor, next, "k1", &["gang", "next"]);
        it.set_k1_aside();
        let kill = format!("CLIENT KILL ID {}", it.id);
        let steps = if order == "kill last" { [frees, &kill] } else { [&*kill, frees] };
        it.actor.send_lines(&steps);
        assert_eq!((it.actor.read(), it.actor.read()), (Value::Int(1), Value::Int(1)));
        it.gang.wait_closed();
        assert_eq!(served(&mut next), ["k2", "k1"], "{frees}, {order}");
        let counters = stats(&mut it.actor);
        let undelivered = if order == "kill last" { 2 } else { 0 };
        assert_eq!(counters["undelivered"], undelivered, "{frees}, {order}");
        assert_counters(&mut it.actor, 2, 0);
    }
}

fn a_gang_whose_grant_was_lost_keeps_no_second_place_beside_a_newer_call(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut actor = server.client();
    let take_both = "GPULOCK.ACQUIREANY 2 {g}0 {g}1 a COUNT 2 PX 60000";
    assert_eq!(actor.line(take_both).list().len(), 2);
    let mut gang = server.client();
    let id = gang.id();
    gang.send_lines(&["GPULOCK.ACQUIREANY 2 {g}0 {g}1 b UNIQUE BLOCK 0"]);
    server.wait_blocked(1);
    // In one turn: it is granted {g}0, dies, and its owner asks for {g}1 alone.
    let mut again = server.client();
    again.send_lines(&[
        "GPULOCK.RELEASE {g}0 a",
        &format!("CLIENT KILL ID {id}"),
        "GPULOCK.ACQUIRE {g}1 b UNIQUE BLOCK 60000",
    ]);
    assert_eq!(again.read(), 1);
    assert_eq!(again.read(), 1);
    wait_until(DEADLINE, "the grant to be taken back", || {
        actor.line("GPULOCK.STATS").field("undelivered") == 1
    });
    let line = actor.line("GPULOCK.INSPECT {g}1").field("waiters");
    assert_eq!(line.list().len(), 1, "{flavour}: {line:?}");
}

fn a_gang_is_one_waiter_of_those_that_may_be(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-waiters", "1"]).start();
    let mut actor = server.client();
    take(&mut actor, &["k1", "k2", "k3"], "holder");
    let gang = "GPULOCK.ACQUIREANY 3 k1 k2 k3 gang COUNT 2 BLOCK 0";
    let mut gang = join_queue(&server, &mut actor, gang, "k3", &["gang"]);
    for ask in ["GPULOCK.ACQUIREANY 2 k1 k2 more BLOCK 0", "GPULOCK.ACQUIRE k1 m BLOCK 0"]
    {
        let answer = actor.line(ask);
        assert!(answer.err().starts_with("MAXWAITERS "), "{ask}: {answer:?}");
    }
    assert_counters(&mut actor, 3, 1);
    release(&mut actor, &["k3", "k1"], "holder");
    let mut keys = served(&mut gang);
    keys.sort();
    assert_eq!(keys, ["k1", "k3"]);
    let more = "GPULOCK.ACQUIREANY 2 k1 k2 more BLOCK 0";
    let _more = join_queue(&server, &mut actor, more, "k1", &["more"]);
    assert_counters(&mut actor, 3, 1);
}

fn a_server_that_becomes_a_replica_tells_a_gang_once_and_sets_nothing_aside(
    flavour: &Flavour,
) {
    let mut it = Gang::start(flavour, &format!("{GANG} UNIQUE"));
    it.set_k1_aside();
    assert_eq!(it.actor.line("REPLICAOF 127.0.0.1 1"), "OK");
    let answer = it.gang.read();
    assert!(answer.err().starts_with("UNBLOCKED "), "{answer:?}");
    assert!(it.actor.line("GPULOCK.INSPECT k1").is_null());
    assert_eq!(stats(&mut it.actor)["clients_waiting"], 0);
    assert_eq!(it.actor.line("REPLICAOF NO ONE"), "OK");
    take(&mut it.actor, &["k1"], "newcomer");
}

const KEYS: usize = 64;
const CLIENTS: usize = 1000;

/// One of the storm's clients: a connection that is never waited on.
struct Runner {
    stream: TcpStream,
    unread: Vec<u8>,
    id: i64,
    owner: String,
    keys: Vec<String>,
    count: usize,
    /// 0: for ever.
    block: usize,
    session: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Waits,
    Killed,
    Left,
    Served,
    TimedOut,
}

impl Runner {
    fn new(server: &Server, rng: &mut Rng, number: usize) -> Self {
        let address = (Ipv4Addr::LOCALHOST, server.port());
        let stream = TcpStream::connect(address).expect("connecting");
        stream.set_nonblocking(true).expect("a socket that does not block");
        let count = 1 + rng.usize(..8);
        let mut keys: Vec<_> = (0..KEYS).map(|key| format!("gpu:{key}")).collect();
        for chosen in 0..KEYS - 1 {
            keys.swap(chosen, chosen + rng.usize(..KEYS - chosen));
        }
        keys.truncate(count + rng.usize(..9));
        Self {
            stream,
            unread: vec![],
            id: 0,
            owner: format!("r{number}"),
            keys,
            count,
            block: rng.pick(&[0, 0, 0, 1 + dice_ms(number)]),
            session: rng.usize(..2) == 0,
            state: State::Waits,
        }
    }

    /// Asks who it is, and for its locks.
    fn ask(&mut self, rng: &mut Rng) {
        let (owner, keys) = (&self.owner, self.keys.join(" "));
        let options = rng.pick(&["", " UNIQUE"]);
        let session = if self.session { " SESSION" } else { "" };
        let line = format!(
            "CLIENT ID\r\nGPULOCK.ACQUIREANY {} {keys} {owner} COUNT {} BLOCK {} PX \
             600000{options}{session}\r\n",
            self.keys.len(),
            self.count,
            self.block
        );
        self.stream.write_all(line.as_bytes()).expect("sending");
    }

    /// What has come in the meantime; that the server closed the connection is its end.
    fn hear(&mut self) -> Option<Value> {
        if let Some(value) = self.parsed() {
            return Some(value);
        }
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) if !self.is_gone() => panic!("{}: disconnected", self.owner),
            Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) if self.is_gone() => {}
            Err(error) => panic!("{}: {error}", self.owner),
        }
        self.parsed()
    }

    /// Whether its connection was closed, by whichever side.
    fn is_gone(&self) -> bool {
        matches!(self.state, State::Killed | State::Left)
    }

    fn parsed(&mut self) -> Option<Value> {
        let (value, used) = Value::parse(&self.unread).expect("RESP")?;
        self.unread.drain(..used);
        Some(value)
    }
}

/// A time-out from 1 ms to 2 s, spread over the clients.
const fn dice_ms(number: usize) -> usize {
    number * 7919 % 2000
}

/// The storm: who runs, and who holds which lock as far as can be told from outside.
struct Storm {
    actor: Client,
    rng: Rng,
    runners: Vec<Runner>,
    holders: BTreeMap<String, String>,
    /// Owners and what they were granted, to be given back soon.
    to_release: Vec<(String, Vec<String>)>,
    /// Locks that nobody has had yet.
    seeds: Vec<String>,
    kills: usize,
    last_token: BTreeMap<String, i64>,
}

impl Storm {
    fn start(server: &Server) -> Self {
        let (mut actor, mut rng) = (server.client(), seeded_rng());
        let seeds: Vec<_> = (0..KEYS).map(|key| format!("gpu:{key}")).collect();
        let all: Vec<_> = seeds.iter().map(String::as_str).collect();
        take(&mut actor, &all, "seed");
        let mut runners: Vec<_> =
            (0..CLIENTS).map(|n| Runner::new(server, &mut rng, n)).collect();
        for runner in &mut runners {
            runner.ask(&mut rng);
        }
        let holders = seeds.iter().map(|key| (key.clone(), "seed".to_owned())).collect();
        wait_until(DEADLINE, "all to have asked", || {
            stats(&mut actor)["acquire_requests"] == (KEYS + CLIENTS) as i64
        });
        let patient = runners.iter().filter(|runner| runner.block == 0).count();
        let waiting = stats(&mut actor)["clients_waiting"];
        assert!((patient as i64..=CLIENTS as i64).contains(&waiting), "{waiting}");
        Self {
            actor,
            rng,
            runners,
            holders,
            to_release: vec![],
            seeds,
            kills: 0,
            last_token: BTreeMap::new(),
        }
    }

    /// One look at every client, and one thing or another done; true when none waits.
    fn turn(&mut self) -> bool {
        for index in 0..self.runners.len() {
            while let Some(answer) = self.runners[index].hear() {
                self.heard(index, &answer);
            }
        }
        self.give_back();
        // Who is killed may have been told a moment before: that is heard in the next turn.
        if self.kills < CLIENTS / 5 && self.kill() {
            return false;
        }
        self.runners.iter().all(|runner| runner.state != State::Waits)
            && self.to_release.is_empty()
            && self.seeds.is_empty()
    }

    fn heard(&mut self, index: usize, answer: &Value) {
        let runner = &mut self.runners[index];
        match answer {
            Value::Int(id) => runner.id = *id,
            Value::Null => {
                assert!(runner.block > 0, "{} waits for ever", runner.owner);
                assert!(runner.state != State::Served, "{} is told twice", runner.owner);
                if runner.state == State::Waits {
                    runner.state = State::TimedOut;
                }
            }
            Value::Array(_) => self.granted(index, answer),
            other => panic!("{}: {other:?}", runner.owner),
        }
    }

    fn granted(&mut self, index: usize, answer: &Value) {
        let runner = &mut self.runners[index];
        let pairs = granted(answer);
        assert_eq!(pairs.len(), runner.count, "{}: {answer:?}", runner.owner);
        let dead = runner.is_gone();
        assert!(dead || runner.state == State::Waits, "{} twice", runner.owner);
        // Its session has ended and the locks may be anyone's by now.
        if dead && runner.session {
            return;
        }
        let mut keys: Vec<String> = vec![];
        for (key, token) in pairs {
            assert!(runner.keys.contains(&key), "{key} for {}", runner.owner);
            assert!(!keys.contains(&key), "{key} twice for {}", runner.owner);
            let last = self.last_token.insert(key.clone(), token);
            assert!(
                last.is_none_or(|last| last < token),
                "{key}: {token} after {last:?}"
            );
            let holder = self.holders.insert(key.clone(), runner.owner.clone());
            assert_eq!(holder, None, "{key} for {}", runner.owner);
            keys.push(key);
        }
        if !dead {
            runner.state = State::Served;
        }
        self.to_release.push((runner.owner.clone(), keys));
    }

    /// Some of those who hold give back what they have.
    fn give_back(&mut self) {
        let mut freed = vec![];
        for _ in 0..self.rng.usize(..4).min(self.seeds.len()) {
            let which = self.rng.usize(..self.seeds.len());
            freed.push((self.seeds.swap_remove(which), "seed".to_owned()));
        }
        for _ in 0..self.rng.usize(..self.to_release.len() + 1) {
            let which = self.rng.usize(..self.to_release.len());
            let (owner, keys) = self.to_release.swap_remove(which);
            freed.extend(keys.into_iter().map(|key| (key, owner.clone())));
        }
        let line =
            |(key, owner): &(String, String)| format!("GPULOCK.RELEASE {key} {owner}");
        let lines: Vec<_> = freed.iter().map(line).collect();
        for (key, owner) in &freed {
            assert_eq!(self.holders.remove(key).as_ref(), Some(owner), "{key}");
        }
        self.actor.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for line in lines {
            assert_eq!(self.actor.read(), 1, "{line}");
        }
    }

    /// One of those who wait is killed, or hangs up; unless the one picked does not wait.
    fn kill(&mut self) -> bool {
        let which = self.rng.usize(..self.runners.len());
        let runner = &mut self.runners[which];
        if runner.state != State::Waits || runner.id == 0 {
            return false;
        }
        self.kills += 1;
        // What it was told a moment before nobody would give back.
        if runner.session && self.rng.usize(..2) == 0 {
            runner.stream.shutdown(std::net::Shutdown::Both).expect("hanging up");
            runner.state = State::Left;
            return true;
        }
        let killed = call!(self.actor, "CLIENT", "KILL", "ID", runner.id);
        assert_eq!(killed, 1, "{}", runner.owner);
        runner.state = State::Killed;
        true
    }
}

fn in_a_storm_every_survivor_is_served_and_nothing_is_left(flavour: &Flavour) {
    let server = flavour
        .server()
        .module_args(&["gpulock.place-keep", "100", "gpulock.log-len", "0"])
        .start();
    let began = Instant::now();
    let mut storm = Storm::start(&server);
    wait_until(Duration::from_secs(90), "every survivor to be served", || storm.turn());
    let Storm { mut actor, runners, .. } = storm;
    let of = |state| runners.iter().filter(|runner| runner.state == state).count();
    let [served, timed_out, killed, left] =
        [State::Served, State::TimedOut, State::Killed, State::Left].map(of);
    eprintln!(
        "{flavour}: {served} served, {timed_out} timed out, {killed} killed, {left} \
             left in {:?}",
        began.elapsed()
    );
    assert!(served > CLIENTS / 3, "{served}");
    for key in 0..KEYS {
        let key = format!("gpu:{key}");
        wait_until(DEADLINE, format!("nobody at {key}"), || {
            call!(actor, "GPULOCK.INSPECT", key).is_null()
        });
    }
    assert_eq!(actor.line("DBSIZE"), 0);
    assert_eq!(server.info("clients")["blocked_clients"], "0");
    let stats = stats(&mut actor);
    assert_eq!((stats["deadlocks"], stats["internal_errors"]), (0, 0));
    assert_counters(&mut actor, 0, 0);
}
