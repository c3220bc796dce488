//! Waiters in a slot that migrates: the source grants none of them a lock that it no longer
//! serves, and each gets the error TRYAGAIN.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Cluster, Flavour, Server, call, wait_until};

use crate::harness::skip;
use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::queue::{queue_of, wait_queue};

tests! {
    a_migrated_lock_with_waiters_has_one_holder,
    in_a_migrating_slot_a_release_hands_off_and_a_delete_does_not,
    in_a_migrating_slot_an_expired_lock_is_not_handed_off,
    waiters_in_a_slot_that_migrates_without_keys_get_tryagain,
    waiters_in_a_slot_that_migrates_as_a_whole_get_tryagain,
}

const MOVING: &str =
    "TRYAGAIN the slot of this lock is being migrated, retry the command";

/// Two primaries, and a slot that migrates from one to the other.
struct Migration {
    cluster: Cluster,
    slot: i64,
    from: usize,
    to: usize,
}

impl Migration {
    #[track_caller]
    fn prepare(flavour: &Flavour) -> Self {
        let cluster =
            Cluster::start_with(flavour, 2, |node| node.arg("appendonly", "yes"));
        let (slot, from) = (cluster.slot("k"), cluster.primary_index("k"));
        Self { cluster, slot, from, to: 1 - from }
    }

    fn source(&self) -> &Server {
        &self.cluster.nodes()[self.from]
    }

    fn target(&self) -> &Server {
        &self.cluster.nodes()[self.to]
    }

    #[track_caller]
    fn set_slot(&self, on: &Server, state: &str, node: usize) {
        let (mut client, id) = (on.client(), self.cluster.id(node));
        assert_eq!(call!(client, "CLUSTER", "SETSLOT", self.slot, state, id), "OK");
    }

    #[track_caller]
    fn begin(&self) {
        self.set_slot(self.target(), "IMPORTING", self.from);
        self.set_slot(self.source(), "MIGRATING", self.to);
    }

    #[track_caller]
    fn end(&self) {
        self.set_slot(self.target(), "NODE", self.to);
        self.set_slot(self.source(), "NODE", self.to);
    }

    /// Two waiters for `k` on the source, the first of them UNIQUE.
    #[track_caller]
    fn waiters(&self, client: &mut Client) -> [Client; 2] {
        let (mut first, mut second) = (self.source().client(), self.source().client());
        first.send_lines(&["GPULOCK.ACQUIRE k first BLOCK 0 UNIQUE"]);
        wait_queue(client, "k", &["first"]);
        second.send_lines(&["GPULOCK.ACQUIRE k second BLOCK 0 SESSION"]);
        wait_queue(client, "k", &["first", "second"]);
        [first, second]
    }
}

/// Checks that each waiter gets one TRYAGAIN error, within a second on an idle machine.
#[track_caller]
fn assert_tryagain(waiters: &mut [Client], since: Instant) {
    for waiter in &mut *waiters {
        assert_eq!(waiter.read().err(), MOVING);
    }
    let took = since.elapsed();
    eprintln!("TRYAGAIN after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    for waiter in waiters {
        assert_eq!(waiter.line("PING"), "PONG");
    }
}

/// Checks that `me` holds the lock on the target, which is handed off there.
#[track_caller]
fn assert_held_on_target(migration: &Migration) {
    let mut target = migration.target().client();
    assert_eq!(target.line("GET k"), "me");
    let mut next = migration.target().client();
    next.send_lines(&["GPULOCK.ACQUIRE k next BLOCK 0"]);
    wait_queue(&mut target, "k", &["next"]);
    assert_eq!(target.line("GPULOCK.RELEASE k me"), 1);
    assert!(next.read().int() > 0);
    let mut source = migration.source().client();
    assert!(source.line("GPULOCK.INSPECT k").err().starts_with("MOVED "));
    assert_eq!(stats(&mut source)["locks_held"], 0);
}

fn a_migrated_lock_with_waiters_has_one_holder(flavour: &Flavour) {
    let migration = Migration::prepare(flavour);
    let mut client = migration.source().client();
    let mut holder = migration.source().client();
    let held = "GPULOCK.ACQUIRE k me PX 600000 SESSION";
    assert!(holder.line(held).int() > 0);
    let mut waiters = migration.waiters(&mut client);
    migration.begin();
    // While the slot migrates, nothing has changed.
    assert_eq!(queue_of(&mut client, "k"), ["first", "second"]);
    let since = Instant::now();
    let port = migration.target().port();
    let reply = call!(client, "MIGRATE", "127.0.0.1", port, "k", 0, 5_000);
    assert_eq!(reply, "OK");
    assert_tryagain(&mut waiters, since);
    // The session ended here when the lock was migrated.
    drop(holder);
    let stats = stats(&mut client);
    assert_eq!((stats["moved"], stats["acquired_after_wait"]), (1, 0));
    assert_eq!((stats["session_releases"], stats["clients_waiting"]), (0, 0));
    migration.end();
    assert_held_on_target(&migration);
}

fn in_a_migrating_slot_a_release_hands_off_and_a_delete_does_not(flavour: &Flavour) {
    let migration = Migration::prepare(flavour);
    let mut client = migration.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    let mut waiters = migration.waiters(&mut client);
    migration.begin();
    // The key is still here, and so is the lock.
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert!(waiters[0].read().int() > 0);
    assert_eq!(queue_of(&mut client, "k"), ["second"]);
    let since = Instant::now();
    assert_eq!(client.line("DEL k"), 1);
    assert_tryagain(&mut waiters[1..], since);
    migration.end();
    let mut target = migration.target().client();
    assert!(target.line("GPULOCK.ACQUIRE k me").int() > 0);
    assert_held_on_target(&migration);
}

fn in_a_migrating_slot_an_expired_lock_is_not_handed_off(flavour: &Flavour) {
    let migration = Migration::prepare(flavour);
    let mut client = migration.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    let mut waiters = migration.waiters(&mut client);
    migration.begin();
    let since = Instant::now();
    assert!(client.line("GPULOCK.EXTEND k me PX 1").int() > 0);
    assert_tryagain(&mut waiters, since);
    assert_eq!(stats(&mut client)["acquired_after_wait"], 0);
    migration.end();
    let mut target = migration.target().client();
    assert!(target.line("GPULOCK.ACQUIRE k me").int() > 0);
    assert_held_on_target(&migration);
}

fn waiters_in_a_slot_that_migrates_without_keys_get_tryagain(flavour: &Flavour) {
    let migration = Migration::prepare(flavour);
    let mut client = migration.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    let mut waiters = migration.waiters(&mut client);
    let id = migration.cluster.id(migration.to);
    let since = Instant::now();
    client
        .send_lines(&["DEL k", &format!("CLUSTER SETSLOT {} NODE {id}", migration.slot)]);
    assert_eq!(client.read(), 1);
    assert_eq!(client.read(), "OK");
    migration.set_slot(migration.target(), "NODE", migration.to);
    assert_tryagain(&mut waiters, since);
    assert_eq!(stats(&mut client)["acquired_after_wait"], 0);
    let mut target = migration.target().client();
    assert!(target.line("GPULOCK.ACQUIRE k me").int() > 0);
    assert_held_on_target(&migration);
}

fn waiters_in_a_slot_that_migrates_as_a_whole_get_tryagain(flavour: &Flavour) {
    if !flavour.migrates_whole_slots() {
        return skip("this server has no CLUSTER MIGRATESLOTS");
    }
    let migration = Migration::prepare(flavour);
    let mut client = migration.source().client();
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000 SESSION").int() > 0);
    let mut waiters = migration.waiters(&mut client);
    let (slot, id) = (migration.slot, migration.cluster.id(migration.to));
    let migrate = format!("CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {id}");
    assert_eq!(client.line(&migrate), "OK");
    let mut waiting = migration.source().client();
    wait_until(DEADLINE, "the slot to migrate", || {
        waiting.line("GPULOCK.INSPECT k").is_err()
    });
    assert_tryagain(&mut waiters, Instant::now());
    let stats = stats(&mut client);
    assert_eq!((stats["moved"], stats["acquired_after_wait"]), (1, 0));
    wait_until(DEADLINE, "the target to serve the slot", || {
        !migration.target().client().line("GET k").is_err()
    });
    assert_held_on_target(&migration);
}
