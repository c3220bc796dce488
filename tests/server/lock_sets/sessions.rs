//! Sessions with several locks.

use gpulock_testkit::{Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::lock_sets::{AT_ONCE, BOTH, TwoLocks, join_as, release, served};
use crate::support::locks::granted;
use crate::support::queue::waiter;

tests! {
    all_locks_of_a_session_end_together,
    the_grace_period_applies_to_all_locks_of_a_set,
}

fn all_locks_of_a_session_end_together(flavour: &Flavour) {
    let mut scene = TwoLocks::start(flavour, &format!("{BOTH} SESSION"));
    release(&mut scene.actor, &["k1", "k2"], "holder");
    assert_eq!(served(&mut scene.both), ["k1", "k2"]);
    // Other locks of that connection, granted without a wait.
    let reply = scene.both.line("GPULOCK.ACQUIREANY 2 k3 k4 both COUNT 2 SESSION");
    assert_eq!(granted(&reply).len(), 2);
    assert!(scene.both.line("GPULOCK.ACQUIRE k5 both").int() > 0);
    for key in ["k1", "k2", "k3", "k4"] {
        let seen = call!(scene.actor, "GPULOCK.INSPECT", key);
        assert_eq!(seen.field("session"), scene.id, "{key}");
    }
    let two = "GPULOCK.ACQUIREANY 3 k1 k2 k3 two COUNT 3 BLOCK 0";
    let mut two = join_as(&scene.server, &mut scene.actor, two, "k3", &["two"]);
    drop(scene.both);
    let reply = two.read_within(AT_ONCE).expect("all of them at once");
    assert_eq!(granted(&reply).len(), 3);
    wait_until(DEADLINE, "the session's end", || scene.actor.line("EXISTS k4") == 0);
    assert_eq!(scene.actor.line("GET k5"), "both");
    assert_eq!(stats(&mut scene.actor)["session_releases"], 4);
    assert_counters(&mut scene.actor, 4, 0);
}

fn the_grace_period_applies_to_all_locks_of_a_set(flavour: &Flavour) {
    let server = flavour.start();
    let (mut actor, mut both) = (server.client(), server.client());
    let any = "GPULOCK.ACQUIREANY 2 k1 k2 both COUNT 2 UNIQUE SESSION GRACE";
    let first = both.line(&format!("{any} 60000"));
    let keys = ["k1", "k2"];
    drop(both);
    for key in keys {
        wait_until(DEADLINE, "the grace to run", || {
            !call!(actor, "GPULOCK.INSPECT", key).field("grace_ms").is_null()
        });
        assert!(call!(actor, "PTTL", key).int() <= 60_000);
    }
    assert_eq!(actor.line("GPULOCK.ACQUIREANY 2 k1 k2 other"), Value::Null);
    // The owner reconnects in time, and keeps its tokens.
    let mut both = server.client();
    assert_eq!(both.line(&format!("{any} 50")), first);
    for key in keys {
        let seen = call!(actor, "GPULOCK.INSPECT", key);
        assert_eq!(seen.field("grace_ms"), Value::Null);
        assert!(seen.field("lease_ms").int() > 60_000);
    }
    assert_counters(&mut actor, 2, 0);
    drop(both);
    let mut other = waiter(&server, "GPULOCK.ACQUIREANY 2 k1 k2 other COUNT 2 BLOCK 0");
    assert_eq!(served(&mut other), keys);
    assert_eq!(stats(&mut actor)["session_releases"], 2);
    assert_counters(&mut actor, 2, 0);
}
