//! Repeated calls of UNIQUE owners that wait for several locks.

use std::collections::BTreeMap;

use gpulock_testkit::{Flavour, Value, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::lock_sets::{AT_ONCE, BOTH, TwoLocks, join_as, release, served};
use crate::support::locks::{acquire_each, granted};
use crate::support::queue::{assert_no_reply, queue_of, wait_queue};

tests! {
    a_repeated_call_of_a_unique_owner_takes_over_its_position,
    a_call_with_another_count_or_keys_joins_last,
    a_disconnected_unique_owner_keeps_its_position_but_no_reserved_lock,
    a_unique_owners_held_lock_is_part_of_the_reply,
    an_undelivered_grant_adds_no_second_position_beside_a_newer_call,
}

fn a_repeated_call_of_a_unique_owner_takes_over_its_position(flavour: &Flavour) {
    let request = format!("{BOTH} UNIQUE");
    let mut scene = TwoLocks::start(flavour, &request);
    let next = "GPULOCK.ACQUIREANY 2 k1 k2 next BLOCK 0 UNIQUE";
    let mut next =
        join_as(&scene.server, &mut scene.actor, next, "k1", &["both", "next"]);
    scene.reserve_k1();
    let mut newer = scene.server.client();
    let id = newer.id();
    newer.send_lines(&[&format!("{request} PX 90000")]);
    assert_eq!(scene.both.read(), Value::Null);
    for key in ["k1", "k2"] {
        assert_eq!(queue_of(&mut scene.actor, key), ["both", "next"]);
    }
    let waiters = scene.actor.line("GPULOCK.INSPECT k2").field("waiters");
    assert_eq!(waiters.list()[0].field("client"), id);
    assert_eq!(stats(&mut scene.actor)["waits_abandoned"], 1);
    assert_counters(&mut scene.actor, 1, 2);
    assert_no_reply(&mut scene.actor, &mut next);
    release(&mut scene.actor, &["k2"], "holder");
    assert_eq!(served(&mut newer), ["k1", "k2"]);
    assert!(scene.actor.line("PTTL k1").int() <= 90_000);
    assert_eq!(scene.both.line("ECHO nothing-more"), "nothing-more");
    release(&mut scene.actor, &["k2"], "both");
    assert_eq!(served(&mut next), ["k2"]);
    assert_counters(&mut scene.actor, 2, 0);
}

fn a_call_with_another_count_or_keys_joins_last(flavour: &Flavour) {
    for other in ["3 k1 k2 k3 both COUNT 2", "2 k1 k2 both COUNT 1"] {
        let mut scene = TwoLocks::start(flavour, &format!("{BOTH} UNIQUE"));
        acquire_each(&mut scene.actor, &["k3"], "holder");
        let next = "GPULOCK.ACQUIRE k1 next BLOCK 0";
        let mut next =
            join_as(&scene.server, &mut scene.actor, next, "k1", &["both", "next"]);
        let request = format!("GPULOCK.ACQUIREANY {other} BLOCK 0 UNIQUE");
        let mut newer =
            join_as(&scene.server, &mut scene.actor, &request, "k1", &["next", "both"]);
        assert_eq!(scene.both.read(), Value::Null, "{other}");
        assert_eq!(queue_of(&mut scene.actor, "k2"), ["both"], "{other}");
        assert_eq!(stats(&mut scene.actor)["waits_abandoned"], 1, "{other}");
        assert_counters(&mut scene.actor, 3, 2);
        release(&mut scene.actor, &["k1"], "holder");
        assert!(next.read().int() > 0, "{other}");
        release(&mut scene.actor, &["k1"], "next");
        if other.ends_with('2') {
            release(&mut scene.actor, &["k2"], "holder");
            assert_eq!(served(&mut newer), ["k1", "k2"]);
            assert_counters(&mut scene.actor, 3, 0);
        } else {
            assert_eq!(served(&mut newer), ["k1"]);
            assert_counters(&mut scene.actor, 3, 0);
        }
    }
}

fn a_disconnected_unique_owner_keeps_its_position_but_no_reserved_lock(
    flavour: &Flavour,
) {
    let slice = |ms| format!("GPULOCK.ACQUIREANY 2 k1 k2 both COUNT 2 BLOCK {ms} UNIQUE");
    let mut scene = TwoLocks::start(flavour, &slice(3_000));
    let next = "GPULOCK.ACQUIRE k1 next BLOCK 0";
    let mut next =
        join_as(&scene.server, &mut scene.actor, next, "k1", &["both", "next"]);
    scene.reserve_k1();
    let third = "GPULOCK.ACQUIREANY 2 k1 k2 third COUNT 2 BLOCK 0";
    let line = ["both", "next", "third"];
    let mut third = join_as(&scene.server, &mut scene.actor, third, "k1", &line);
    assert_eq!(scene.both.read(), Value::Null);
    // While its owner is disconnected, the reserved lock goes to the next waiter, and its
    // position is kept.
    assert!(next.read_within(AT_ONCE).expect("served at once").int() > 0);
    assert_eq!(queue_of(&mut scene.actor, "k1"), ["(both)", "third"]);
    assert_eq!(queue_of(&mut scene.actor, "k2"), ["(both)", "third"]);
    assert_counters(&mut scene.actor, 2, 1);
    scene.both.send_lines(&[&slice(0)]);
    wait_queue(&mut scene.actor, "k1", &["both", "third"]);
    wait_queue(&mut scene.actor, "k2", &["both", "third"]);
    release(&mut scene.actor, &["k1"], "next");
    release(&mut scene.actor, &["k2"], "holder");
    assert_eq!(served(&mut scene.both), ["k1", "k2"]);
    assert_no_reply(&mut scene.actor, &mut third);
    release(&mut scene.actor, &["k2", "k1"], "both");
    assert_eq!(served(&mut third), ["k1", "k2"]);
    assert_counters(&mut scene.actor, 2, 0);
}

fn a_unique_owners_held_lock_is_part_of_the_reply(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let own = actor.line("GPULOCK.ACQUIRE k2 both UNIQUE").int();
    acquire_each(&mut actor, &["k1"], "holder");
    let request = format!("{BOTH} UNIQUE");
    let mut both = join_as(&server, &mut actor, &request, "k1", &["both"]);
    assert_counters(&mut actor, 2, 1);
    release(&mut actor, &["k1"], "holder");
    let reply = both.read();
    let pairs: BTreeMap<_, _> = granted(&reply).into_iter().collect();
    assert_eq!((pairs.len(), pairs["k2"]), (2, own), "{reply:?}");
    assert!(pairs["k1"] > own, "{reply:?}");
    assert_counters(&mut actor, 2, 0);
}

fn an_undelivered_grant_adds_no_second_position_beside_a_newer_call(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let acquire_both = "GPULOCK.ACQUIREANY 2 {g}0 {g}1 a COUNT 2 PX 60000";
    assert_eq!(actor.line(acquire_both).list().len(), 2);
    let mut both = server.client();
    let id = both.id();
    both.send_lines(&["GPULOCK.ACQUIREANY 2 {g}0 {g}1 b UNIQUE BLOCK 0"]);
    server.wait_blocked(1);
    // In one iteration: the waiter is granted {g}0, is killed, and its owner requests {g}1 alone.
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
    let queue = actor.line("GPULOCK.INSPECT {g}1").field("waiters");
    assert_eq!(queue.list().len(), 1, "{flavour}: {queue:?}");
}
