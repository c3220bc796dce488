//! `min-replicas-to-write`: a primary that is cut off from its replicas, or came back from
//! the dead while another serves, gives no lock to anybody, not even to those who wait for
//! one already. When its replicas are back, all is made good.

use std::time::Duration;

use gpulock_testkit::{Client, Flavour, Sentinel, Value, call, wait_until};

use crate::support::queue::waiter;
use crate::support::queue::{queue_of, wait_queue};

use crate::support::clock::DEADLINE;

tests! {
    a_primary_without_its_replicas_lets_nobody_have_a_lock,
    a_primary_back_from_the_dead_takes_no_lock_until_it_follows,
}

/// Of a lock with a line: its lease ends, its holder's connection closes, its waiter's
/// time is over.
const LOCKS: [&str; 3] = ["lease", "session", "deadline"];

/// How long the lease lasts, in ms, and how long the last of them waits: longer, so that
/// its null tells that the lease is over.
const LEASE_MS: u64 = 2_000;
const DEADLINE_MS: u64 = 4_000;

/// From now on so many replicas must listen.
#[track_caller]
fn demand(client: &mut Client, replicas: u32) {
    let set = call!(client, "CONFIG", "SET", "min-replicas-to-write", replicas);
    assert_eq!(set, "OK");
}

#[track_caller]
fn assert_refused(answer: &Value) {
    assert!(answer.err().starts_with("NOREPLICAS "), "{answer:?}");
}

fn a_primary_without_its_replicas_lets_nobody_have_a_lock(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    for key in LOCKS {
        let held =
            call!(holder, "GPULOCK.ACQUIRE", key, "holder", "PX", 600_000, "SESSION");
        assert!(held.int() > 0);
    }
    let [mut lease, mut session, mut deadline] = LOCKS.map(|key| {
        let block_ms = if key == "deadline" { DEADLINE_MS } else { 0 };
        let ask = format!("GPULOCK.ACQUIRE {key} waiter PX 600000 BLOCK {block_ms}");
        let waiter = waiter(&server, &ask);
        wait_queue(&mut client, key, &["waiter"]);
        waiter
    });
    let renewed = call!(client, "GPULOCK.EXTEND", "lease", "holder", "PX", LEASE_MS);
    assert!(renewed.int() > 0);

    demand(&mut client, 1);
    drop(holder);
    assert_refused(&client.line("GPULOCK.ACQUIRE free me"));
    assert_refused(&client.line("GPULOCK.RELEASE session holder"));
    assert_eq!(deadline.read(), Value::Null);
    for waiter in [&mut lease, &mut session] {
        assert_eq!(waiter.read_within(Duration::ZERO), None, "granted all the same");
    }
    assert_eq!(client.line("GET session"), "holder");
    assert_eq!(queue_of(&mut client, "lease"), ["waiter"]);

    demand(&mut client, 0);
    for waiter in [&mut lease, &mut session] {
        assert!(waiter.read().int() > 0);
    }
    // The session ended as well where nobody waits any more.
    wait_until(DEADLINE, "the end of the session", || {
        client.line("EXISTS deadline") == 0
    });
}

fn a_primary_back_from_the_dead_takes_no_lock_until_it_follows(flavour: &Flavour) {
    let server = |name: &str| {
        let builder = flavour.server().named(name).arg("appendonly", "yes");
        builder.arg("min-replicas-to-write", 1)
    };
    let mut primary = server("primary").start();
    let heir = server("heir").replica_of(&primary).start();
    // Never promoted.
    let below = flavour.server().named("below").arg("replica-priority", 0);
    let below = below.replica_of(&primary).start();
    let mut sentinel = Sentinel::start(&primary, 2);
    take(&mut primary.client(), "k", "holder");
    for replica in [&heir, &below] {
        replica.wait_caught_up_with(&primary);
    }
    primary.kill9();
    sentinel.detect_failure_and_promote(&heir);
    sentinel.wait_replicates(&below);
    let last = take(&mut heir.client(), "free", "new");

    // Nobody has told it yet.
    sentinel.freeze();
    primary.restart();
    let mut client = primary.client();
    assert_eq!(client.info("replication")["role"], "master");
    for refused in ["GPULOCK.ACQUIRE free old", "GPULOCK.RELEASE k holder"] {
        assert_refused(&client.line(refused));
    }
    sentinel.thaw();
    sentinel.wait_replicates(&primary);
    primary.wait_caught_up_with(&heir);
    assert_eq!(primary.client().line("GET free"), "new");
    assert!(take(&mut heir.client(), "more", "new") > last);
}

/// Takes a lock as soon as enough replicas listen.
#[track_caller]
fn take(client: &mut Client, key: &str, owner: &str) -> i64 {
    let mut answer = Value::Null;
    wait_until(DEADLINE, format!("{key} to be taken"), || {
        answer = call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 600_000);
        !answer.is_err()
    });
    answer.int()
}
