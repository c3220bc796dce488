//! `min-replicas-to-write`: a primary that is cut off from its replicas, or restarts after
//! another was promoted, grants no lock, not even to a waiter. When its replicas are back, it
//! runs all deferred work.

use std::time::Duration;

use gpulock_testkit::{Client, Flavour, Sentinel, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    a_primary_without_its_replicas_grants_no_lock,
    a_restarted_primary_grants_no_lock_before_it_is_demoted,
}

/// Locks with a waiter: the lease ends, the holder disconnects, the waiter times out.
const LOCKS: [&str; 3] = ["lease", "session", "deadline"];

/// The lease, and the longer wait timeout of the last waiter, in ms: when it times out, the
/// lease has ended.
const LEASE_MS: u64 = 2_000;
const DEADLINE_MS: u64 = 4_000;

/// Requires a number of replicas from now on.
#[track_caller]
fn require_replicas(client: &mut Client, replicas: u32) {
    let set = call!(client, "CONFIG", "SET", "min-replicas-to-write", replicas);
    assert_eq!(set, "OK");
}

#[track_caller]
fn assert_refused(reply: &Value) {
    assert!(reply.err().starts_with("NOREPLICAS "), "{reply:?}");
}

fn a_primary_without_its_replicas_grants_no_lock(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    for key in LOCKS {
        let held =
            call!(holder, "GPULOCK.ACQUIRE", key, "holder", "PX", 600_000, "SESSION");
        assert!(held.int() > 0);
    }
    let [mut lease, mut session, mut deadline] = LOCKS.map(|key| {
        let block_ms = if key == "deadline" { DEADLINE_MS } else { 0 };
        let request = format!("GPULOCK.ACQUIRE {key} waiter PX 600000 BLOCK {block_ms}");
        let waiter = waiter(&server, &request);
        wait_queue(&mut client, key, &["waiter"]);
        waiter
    });
    let renewed = call!(client, "GPULOCK.EXTEND", "lease", "holder", "PX", LEASE_MS);
    assert!(renewed.int() > 0);

    require_replicas(&mut client, 1);
    drop(holder);
    assert_refused(&client.line("GPULOCK.ACQUIRE free me"));
    assert_refused(&client.line("GPULOCK.RELEASE session holder"));
    assert_eq!(deadline.read(), Value::Null);
    for waiter in [&mut lease, &mut session] {
        assert_eq!(waiter.read_within(Duration::ZERO), None, "granted while isolated");
    }
    assert_eq!(client.line("GET session"), "holder");
    assert_eq!(queue_of(&mut client, "lease"), ["waiter"]);

    require_replicas(&mut client, 0);
    for waiter in [&mut lease, &mut session] {
        assert!(waiter.read().int() > 0);
    }
    // A session without a waiter has ended, too.
    wait_until(DEADLINE, "the end of the session", || {
        client.line("EXISTS deadline") == 0
    });
}

fn a_restarted_primary_grants_no_lock_before_it_is_demoted(flavour: &Flavour) {
    let server = |name: &str| {
        let builder = flavour.server().named(name).arg("appendonly", "yes");
        builder.arg("min-replicas-to-write", 1)
    };
    let mut primary = server("primary").start();
    let promoted = server("promoted").replica_of(&primary).start();
    // This replica is never promoted.
    let other = flavour.server().named("other").arg("replica-priority", 0);
    let other = other.replica_of(&primary).start();
    let mut sentinel = Sentinel::start(&primary, 2);
    acquire_when_writable(&mut primary.client(), "k", "holder");
    for replica in [&promoted, &other] {
        replica.wait_caught_up_with(&primary);
    }
    primary.kill9();
    sentinel.detect_failure_and_promote(&promoted);
    sentinel.wait_replicates(&other);
    let last = acquire_when_writable(&mut promoted.client(), "free", "new");

    // The Sentinel cannot reconfigure it yet.
    sentinel.freeze();
    primary.restart();
    let mut client = primary.client();
    assert_eq!(client.info("replication")["role"], "master");
    for refused in ["GPULOCK.ACQUIRE free old", "GPULOCK.RELEASE k holder"] {
        assert_refused(&client.line(refused));
    }
    sentinel.thaw();
    sentinel.wait_replicates(&primary);
    primary.wait_caught_up_with(&promoted);
    assert_eq!(primary.client().line("GET free"), "new");
    assert!(acquire_when_writable(&mut promoted.client(), "more", "new") > last);
}

/// Acquires a lock as soon as enough replicas are connected.
#[track_caller]
fn acquire_when_writable(client: &mut Client, key: &str, owner: &str) -> i64 {
    let mut reply = Value::Null;
    wait_until(DEADLINE, format!("{key} to be acquired"), || {
        reply = call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 600_000);
        !reply.is_err()
    });
    reply.int()
}
