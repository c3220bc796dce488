//! Grants to waiters for any or several of many locks.

use gpulock_testkit::{Flavour, Value, call};

use crate::support::aof::commands_since;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::lock_sets::{AT_ONCE, BOTH, TwoLocks, join_as, release, served};
use crate::support::locks::{acquire_each, granted};
use crate::support::queue::{assert_no_reply, queue_of, waiter};

tests! {
    a_waiter_for_any_lock_is_granted_the_first_released_one,
    a_lock_goes_to_the_client_that_has_waited_longest,
    a_lock_set_granted_after_a_wait_is_replicated_as_one_transaction,
    two_lock_sets_in_opposite_order_are_both_granted,
    a_large_lock_set_does_not_starve,
    expired_leases_complete_a_lock_set,
    keys_removed_by_other_commands_complete_a_lock_set,
    a_waiter_killed_when_its_lock_set_is_granted_hands_all_locks_off,
    a_lock_set_waiter_counts_once_for_max_waiters,
}

fn a_waiter_for_any_lock_is_granted_the_first_released_one(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let keys = ["k1", "k2", "k3"];
    for first in keys {
        acquire_each(&mut actor, &keys, "holder");
        let any = "GPULOCK.ACQUIREANY 3 k1 k2 k3 w PX 100000 BLOCK 0";
        let mut waiter = join_as(&server, &mut actor, any, "k3", &["w"]);
        // One position, shown in the queue of each key.
        for key in keys {
            assert_eq!(queue_of(&mut actor, key), ["w"]);
            let position = call!(actor, "GPULOCK.INSPECT", key).field("waiters");
            let position = &position.list()[0];
            assert_eq!(
                (position.field("wants").int(), position.field("of").int()),
                (1, 3)
            );
            assert_eq!(position.field("reserved"), Value::Array(vec![]));
        }
        assert_counters(&mut actor, 3, 1);
        let last = call!(actor, "GPULOCK.INSPECT", "k3").field("token").int();
        release(&mut actor, &[first], "holder");
        let reply = waiter.read();
        let [(key, token)] = &granted(&reply)[..] else { panic!("{reply:?}") };
        assert!(key == first && *token > last, "{reply:?}");
        assert_eq!(call!(actor, "GET", first), "w");
        // It has left all queues.
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

fn a_lock_goes_to_the_client_that_has_waited_longest(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire_each(&mut actor, &["k1", "k2"], "holder");
    let mut one =
        join_as(&server, &mut actor, "GPULOCK.ACQUIRE k1 one BLOCK 0", "k1", &["one"]);
    let any = "GPULOCK.ACQUIREANY 2 k1 k2 any BLOCK 0";
    let mut any = join_as(&server, &mut actor, any, "k1", &["one", "any"]);
    let two = "GPULOCK.ACQUIRE k2 two BLOCK 0";
    let mut two = join_as(&server, &mut actor, two, "k2", &["any", "two"]);
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

fn a_lock_set_granted_after_a_wait_is_replicated_as_one_transaction(flavour: &Flavour) {
    let server =
        flavour.server().arg("appendonly", "yes").arg("appendfsync", "always").start();
    let mut actor = server.client();
    acquire_each(&mut actor, &["k1", "k2"], "holder");
    let both = "GPULOCK.ACQUIREANY 2 k1 k2 both COUNT 2 PX 70000 BLOCK 0";
    let mut both = join_as(&server, &mut actor, both, "k2", &["both"]);
    release(&mut actor, &["k1"], "holder");
    let before = server.aof().len();
    release(&mut actor, &["k2"], "holder");
    assert_eq!(served(&mut both), ["k1", "k2"]);
    let end = actor.line("PEXPIRETIME k1").int().to_string();
    let mut written = commands_since(&server, before);
    let frame: Vec<_> = written.iter().map(|words| &*words[0]).collect();
    assert_eq!(frame, ["MULTI", "SET", "SET", "EXEC"], "{written:?}");
    written[1..3].sort();
    assert_eq!(written[1][1..], ["k1", "both", "PXAT", &end]);
    assert_eq!(written[2][1..], ["k2", "both", "PXAT", &end]);
    assert_counters(&mut actor, 2, 0);
}

fn two_lock_sets_in_opposite_order_are_both_granted(flavour: &Flavour) {
    for order in [["k1", "k2"], ["k2", "k1"]] {
        let mut scene = TwoLocks::start(flavour, BOTH);
        let two = "GPULOCK.ACQUIREANY 2 k2 k1 two COUNT 2 BLOCK 0";
        let mut two =
            join_as(&scene.server, &mut scene.actor, two, "k2", &["both", "two"]);
        assert_counters(&mut scene.actor, 2, 2);
        release(&mut scene.actor, &order, "holder");
        assert_eq!(served(&mut scene.both), ["k1", "k2"]);
        assert_no_reply(&mut scene.actor, &mut two);
        release(&mut scene.actor, &order, "both");
        assert_eq!(served(&mut two), ["k2", "k1"]);
        release(&mut scene.actor, &order, "two");
        assert_eq!(scene.actor.line("DBSIZE"), 0);
        assert_counters(&mut scene.actor, 0, 0);
    }
}

fn a_large_lock_set_does_not_starve(flavour: &Flavour) {
    let mut scene = TwoLocks::start(flavour, BOTH);
    // Later waiters that want one lock queue behind the lock set.
    let mut small = vec![];
    for n in 0..4 {
        let key = ["k1", "k2"][n % 2];
        small.push(waiter(&scene.server, &format!("GPULOCK.ACQUIRE {key} s{n} BLOCK 0")));
        scene.server.wait_blocked(n as i64 + 2);
    }
    scene.reserve_k1();
    for small in &mut small {
        assert_no_reply(&mut scene.actor, small);
    }
    release(&mut scene.actor, &["k2"], "holder");
    assert_eq!(served(&mut scene.both), ["k1", "k2"]);
    release(&mut scene.actor, &["k1", "k2"], "both");
    for (n, small) in small.iter_mut().enumerate() {
        assert!(small.read().int() > 0);
        release(&mut scene.actor, &[["k1", "k2"][n % 2]], &format!("s{n}"));
    }
    assert_counters(&mut scene.actor, 0, 0);
}

fn expired_leases_complete_a_lock_set(flavour: &Flavour) {
    let mut scene = TwoLocks::start(flavour, BOTH);
    for key in ["k1", "k2"] {
        assert!(!call!(scene.actor, "GPULOCK.EXTEND", key, "holder", "PX", 30).is_null());
    }
    let reply = scene.both.read_within(AT_ONCE).expect("woken");
    assert_eq!(granted(&reply).len(), 2);
    assert_eq!(stats(&mut scene.actor)["expired"], 2);
    assert_counters(&mut scene.actor, 2, 0);
}

fn keys_removed_by_other_commands_complete_a_lock_set(flavour: &Flavour) {
    for steps in [
        &["DEL k1", "DEL k2"][..],
        &["DEL k1 k2"],
        &["UNLINK k2", "RENAME k1 elsewhere"],
        &["FLUSHALL"],
        &["PEXPIRE k1 -1", "GPULOCK.FORCERELEASE k2"],
        &["EVAL return{redis.call('DEL',KEYS[1]),redis.call('DEL',KEYS[2])} 2 k1 k2"],
    ] {
        let mut scene = TwoLocks::start(flavour, BOTH);
        for step in steps {
            let reply = scene.actor.line(step);
            assert!(!reply.is_err(), "{step}: {reply:?}");
        }
        let reply = scene.both.read_within(AT_ONCE).expect("woken");
        assert_eq!(granted(&reply).len(), 2, "{steps:?}");
        let stats = stats(&mut scene.actor);
        assert_eq!(stats["acquired_after_wait"], 2, "{steps:?}");
        assert_counters(&mut scene.actor, 2, 0);
    }
}

fn a_waiter_killed_when_its_lock_set_is_granted_hands_all_locks_off(flavour: &Flavour) {
    for (freeing, order) in [
        ("GPULOCK.RELEASE k2 holder", "kill last"),
        ("GPULOCK.RELEASE k2 holder", "kill first"),
        ("DEL k2", "kill first"),
    ] {
        let mut scene = TwoLocks::start(flavour, BOTH);
        let next = "GPULOCK.ACQUIREANY 2 k2 k1 next COUNT 2 BLOCK 0";
        let mut next =
            join_as(&scene.server, &mut scene.actor, next, "k1", &["both", "next"]);
        scene.reserve_k1();
        let kill = format!("CLIENT KILL ID {}", scene.id);
        let steps =
            if order == "kill last" { [freeing, &kill] } else { [&*kill, freeing] };
        scene.actor.send_lines(&steps);
        assert_eq!(
            (scene.actor.read(), scene.actor.read()),
            (Value::Int(1), Value::Int(1))
        );
        scene.both.wait_closed();
        assert_eq!(served(&mut next), ["k2", "k1"], "{freeing}, {order}");
        let counters = stats(&mut scene.actor);
        let undelivered = if order == "kill last" { 2 } else { 0 };
        assert_eq!(counters["undelivered"], undelivered, "{freeing}, {order}");
        assert_counters(&mut scene.actor, 2, 0);
    }
}

fn a_lock_set_waiter_counts_once_for_max_waiters(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-waiters", "1"]).start();
    let mut actor = server.client();
    acquire_each(&mut actor, &["k1", "k2", "k3"], "holder");
    let both = "GPULOCK.ACQUIREANY 3 k1 k2 k3 both COUNT 2 BLOCK 0";
    let mut both = join_as(&server, &mut actor, both, "k3", &["both"]);
    for request in
        ["GPULOCK.ACQUIREANY 2 k1 k2 more BLOCK 0", "GPULOCK.ACQUIRE k1 m BLOCK 0"]
    {
        let reply = actor.line(request);
        assert!(reply.err().starts_with("MAXWAITERS "), "{request}: {reply:?}");
    }
    assert_counters(&mut actor, 3, 1);
    release(&mut actor, &["k3", "k1"], "holder");
    let mut keys = served(&mut both);
    keys.sort();
    assert_eq!(keys, ["k1", "k3"]);
    let more = "GPULOCK.ACQUIREANY 2 k1 k2 more BLOCK 0";
    let _more = join_as(&server, &mut actor, more, "k1", &["more"]);
    assert_counters(&mut actor, 3, 1);
}
