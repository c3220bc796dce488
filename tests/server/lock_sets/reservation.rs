//! Reserved locks: a released lock is kept for the first waiter of its queue until the rest of
//! the lock set is free. The server does not keep it for a waiter that leaves.

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::lock_sets::{
    AT_ONCE, BOTH, TwoLocks, join_as, release, reserved_for, reserved_for_first, served,
    wait_reserved,
};
use crate::support::locks::{acquire_each, granted};
use crate::support::queue::{assert_no_reply, queue_of, wait_queue};

tests! {
    a_released_lock_is_reserved_until_the_lock_set_is_complete,
    a_free_lock_is_reserved_when_the_waiter_joins,
    no_more_than_count_locks_are_reserved,
    a_plain_set_on_a_reserved_lock_is_waited_for,
    a_reserved_lock_goes_to_the_next_waiter_when_the_waiter_leaves,
    a_reserved_lock_is_free_when_its_only_waiter_leaves,
    a_demoted_server_unblocks_the_waiter_and_reserves_nothing,
}

fn a_released_lock_is_reserved_until_the_lock_set_is_complete(flavour: &Flavour) {
    let mut scene =
        TwoLocks::start(flavour, "GPULOCK.ACQUIREANY 2 k1 k2 both COUNT 2 BLOCK 0");
    assert_counters(&mut scene.actor, 2, 1);
    scene.reserve_k1();
    let mut newcomer = scene.server.client();
    // The key does not exist, but no other client is granted the lock.
    assert_eq!(newcomer.line("EXISTS k1"), 0);
    for request in [
        "GPULOCK.ACQUIRE k1 newcomer",
        "GPULOCK.ACQUIRE k1 newcomer UNIQUE SESSION",
        "GPULOCK.ACQUIRE k1 newcomer BLOCK 1",
        "GPULOCK.ACQUIREANY 2 k1 k2 newcomer",
        "GPULOCK.ACQUIREANY 2 k1 k3 newcomer COUNT 2",
    ] {
        assert_eq!(newcomer.line(request), Value::Null, "{request}");
        assert_eq!(newcomer.line("DBSIZE"), 1, "{request}");
    }
    let reply = newcomer.line("GPULOCK.ACQUIREANY 2 k1 k3 newcomer");
    assert_eq!(granted(&reply)[0].0, "k3");
    for mut client in [scene.server.client(), scene.server.client3()] {
        let seen = client.line("GPULOCK.INSPECT k1");
        assert_eq!(seen.field("owner"), Value::Null);
        assert_eq!(seen.field("token"), Value::Null);
        assert_eq!(seen.field("reserved_for"), "both");
        let held = client.line("GPULOCK.INSPECT k2");
        assert_eq!(held.field("reserved_for"), Value::Null);
        assert_eq!(held.field("owner"), "holder");
        for seen in [seen, held] {
            let waiters = seen.field("waiters");
            let [position] = waiters.list() else { panic!("{waiters:?}") };
            assert_eq!(position.field("owner"), "both");
            assert_eq!(position.field("client"), scene.id);
            assert_eq!(
                (position.field("wants").int(), position.field("of").int()),
                (2, 2)
            );
            let reserved = position.field("reserved");
            assert!(
                reserved.list().len() == 1 && reserved.list()[0] == "k1",
                "{reserved:?}"
            );
        }
    }
    // A reserved lock is not held.
    assert_counters(&mut scene.actor, 2, 1);
    release(&mut scene.actor, &["k2"], "holder");
    assert_eq!(served(&mut scene.both), ["k1", "k2"]);
    for key in ["k1", "k2"] {
        assert_eq!(call!(scene.actor, "GET", key), "both");
        assert_eq!(reserved_for(&mut scene.actor, key), None);
        assert_eq!(queue_of(&mut scene.actor, key), [""; 0]);
    }
    assert_eq!(stats(&mut scene.actor)["acquired_after_wait"], 2);
    assert_counters(&mut scene.actor, 3, 0);
}

fn a_free_lock_is_reserved_when_the_waiter_joins(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire_each(&mut actor, &["k2"], "holder");
    let mut both = join_as(&server, &mut actor, BOTH, "k2", &["both"]);
    wait_reserved(&mut actor, "k1", "both");
    assert_eq!(actor.line("EXISTS k1"), 0);
    assert_eq!(actor.line("GPULOCK.ACQUIRE k1 newcomer"), Value::Null);
    assert_eq!(reserved_for_first(&mut actor, "k2"), ["k1"]);
    release(&mut actor, &["k2"], "holder");
    assert_eq!(served(&mut both), ["k1", "k2"]);
    assert_counters(&mut actor, 2, 0);
}

fn no_more_than_count_locks_are_reserved(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let keys = ["k1", "k2", "k3", "k4"];
    acquire_each(&mut actor, &keys, "holder");
    let any = "GPULOCK.ACQUIREANY 4 k1 k2 k3 k4 three COUNT 3 BLOCK 0";
    let mut three = join_as(&server, &mut actor, any, "k4", &["three"]);
    let behind = "GPULOCK.ACQUIREANY 4 k1 k2 k3 k4 behind BLOCK 0";
    let mut behind = join_as(&server, &mut actor, behind, "k4", &["three", "behind"]);
    for (n, key) in ["k4", "k2"].into_iter().enumerate() {
        release(&mut actor, &[key], "holder");
        assert_eq!(reserved_for_first(&mut actor, "k1").len(), n + 1);
        assert_eq!(reserved_for(&mut actor, key).as_deref(), Some("three"));
        assert_no_reply(&mut actor, &mut three);
        assert_no_reply(&mut actor, &mut behind);
    }
    release(&mut actor, &["k1"], "holder");
    let mut keys = served(&mut three);
    keys.sort();
    assert_eq!(keys, ["k1", "k2", "k4"]);
    assert_no_reply(&mut actor, &mut behind);
    release(&mut actor, &["k3"], "holder");
    assert_eq!(served(&mut behind), ["k3"]);
    assert_counters(&mut actor, 4, 0);
}

fn a_plain_set_on_a_reserved_lock_is_waited_for(flavour: &Flavour) {
    let mut scene = TwoLocks::start(flavour, BOTH);
    scene.reserve_k1();
    // Also in the iteration of the event loop in which the other lock is released.
    scene.actor.send_lines(&["SET k1 plain NX PX 100000", "GPULOCK.RELEASE k2 holder"]);
    assert_eq!((scene.actor.read(), scene.actor.read()), {
        (Value::Simple("OK".into()), Value::Int(1))
    });
    wait_reserved(&mut scene.actor, "k2", "both");
    wait_until(DEADLINE, "the plain key to be noticed", || {
        reserved_for_first(&mut scene.actor, "k2") == ["k2"]
    });
    assert_no_reply(&mut scene.actor, &mut scene.both);
    assert_eq!(scene.actor.line("GET k1"), "plain");
    assert_eq!(scene.actor.line("EXISTS k2"), 0);
    assert_eq!(reserved_for(&mut scene.actor, "k1"), None);
    assert_eq!(queue_of(&mut scene.actor, "k1"), ["both"]);
    wait_until(DEADLINE, "the key to be adopted", || {
        stats(&mut scene.actor)["adopted"] == 1
    });
    assert_counters(&mut scene.actor, 1, 1);
    assert_eq!(scene.actor.line("DEL k1"), 1);
    assert_eq!(served(&mut scene.both), ["k1", "k2"]);
    assert_eq!(scene.actor.line("GET k1"), "both");
    assert_counters(&mut scene.actor, 2, 0);
}

/// Ends a wait, with another connection, the waiter's connection and its client id.
type Leaves = fn(&mut Client, Client, i64) -> Option<Client>;

const WAYS: [(&str, Leaves); 6] = [
    ("FIN", |_, both, _| {
        drop(both);
        None
    }),
    ("RST", |_, both, _| {
        both.reset();
        None
    }),
    ("CLIENT KILL", |actor, mut both, id| {
        assert_eq!(call!(actor, "CLIENT", "KILL", "ID", id), 1);
        both.wait_closed();
        None
    }),
    ("CLIENT UNBLOCK", |actor, both, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id), 1);
        Some(both)
    }),
    ("CLIENT UNBLOCK ERROR", |actor, both, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, "ERROR"), 1);
        Some(both)
    }),
    ("timeout", |_, both, _| Some(both)),
];

fn a_reserved_lock_goes_to_the_next_waiter_when_the_waiter_leaves(flavour: &Flavour) {
    for (way, leaves) in WAYS {
        if way.starts_with("CLIENT UNBLOCK") && !flavour.can_unblock() {
            continue;
        }
        eprintln!("{way}");
        let block = if way == "timeout" { 3_000 } else { 0 };
        let request = format!("GPULOCK.ACQUIREANY 2 k1 k2 both COUNT 2 BLOCK {block}");
        let mut scene = TwoLocks::start(flavour, &request);
        let next = "GPULOCK.ACQUIRE k1 next BLOCK 0";
        let mut next =
            join_as(&scene.server, &mut scene.actor, next, "k1", &["both", "next"]);
        scene.reserve_k1();
        assert_no_reply(&mut scene.actor, &mut next);
        assert_counters(&mut scene.actor, 1, 2);
        let mut left = leaves(&mut scene.actor, scene.both, scene.id);
        if let Some(both) = &mut left {
            match way {
                "CLIENT UNBLOCK ERROR" => {
                    assert!(both.read().err().starts_with("UNBLOCKED "));
                }
                _ => assert_eq!(both.read(), Value::Null),
            }
        }
        let token =
            next.read_within(AT_ONCE).expect("the next waiter is granted the lock");
        assert!(token.int() > 0, "{way}: {token:?}");
        assert_eq!(scene.actor.line("GET k1"), "next", "{way}");
        assert_eq!(reserved_for(&mut scene.actor, "k1"), None, "{way}");
        assert_eq!(queue_of(&mut scene.actor, "k2"), [""; 0], "{way}");
        let stats = stats(&mut scene.actor);
        let timed = i64::from(way == "timeout" || way == "CLIENT UNBLOCK");
        let counted = (stats["wait_timeouts"], stats["waits_abandoned"]);
        assert_eq!(counted, (timed, 1 - timed), "{way}");
        assert_counters(&mut scene.actor, 2, 0);
        release(&mut scene.actor, &["k1"], "next");
        release(&mut scene.actor, &["k2"], "holder");
        assert_eq!(scene.actor.line("DBSIZE"), 0, "{way}");
        assert_counters(&mut scene.actor, 0, 0);
    }
}

fn a_reserved_lock_is_free_when_its_only_waiter_leaves(flavour: &Flavour) {
    let mut scene = TwoLocks::start(flavour, BOTH);
    scene.reserve_k1();
    drop(scene.both);
    wait_queue(&mut scene.actor, "k2", &[]);
    assert!(scene.actor.line("GPULOCK.INSPECT k1").is_null());
    acquire_each(&mut scene.actor, &["k1"], "newcomer");
    assert_counters(&mut scene.actor, 2, 0);
}

fn a_demoted_server_unblocks_the_waiter_and_reserves_nothing(flavour: &Flavour) {
    let mut scene = TwoLocks::start(flavour, &format!("{BOTH} UNIQUE"));
    scene.reserve_k1();
    assert_eq!(scene.actor.line("REPLICAOF 127.0.0.1 1"), "OK");
    let reply = scene.both.read();
    assert!(reply.err().starts_with("UNBLOCKED "), "{reply:?}");
    assert!(scene.actor.line("GPULOCK.INSPECT k1").is_null());
    assert_eq!(stats(&mut scene.actor)["clients_waiting"], 0);
    assert_eq!(scene.actor.line("REPLICAOF NO ONE"), "OK");
    acquire_each(&mut scene.actor, &["k1"], "newcomer");
}
