//! Slots of a cluster migrate back and forth, key by key and as a whole, while clients compete
//! for the locks in them: no lock has two holders, tokens rise, and all waiters are granted
//! their locks.
//!
//! Each slot migrates `GPULOCK_MOVES` times (default: 10).

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use gpulock_testkit::{Cluster, Flavour, Server, call, wait_until};

use crate::harness::skip;
use crate::support::background_load::with_background_load;
use crate::support::clock::DEADLINE;
use crate::support::cluster_worker::ClusterWorker;
use crate::support::counter_law::assert_counters;
use crate::support::counters::{Counters, stats};
use crate::support::ownership::Ownership;
use crate::support::rng::{Pick, seeded_rng};

tests! {
    locks_in_slots_that_migrate_key_by_key_have_one_holder,
    locks_in_slots_that_migrate_as_a_whole_have_one_holder,
}

const WORKERS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The lock sets of the workers: locks in two slots, and two in one slot.
const LOCK_SETS: [&[&str]; 4] =
    [&["{one}:0"], &["{one}:1"], &["{one}:0", "{one}:1"], &["{two}:0"]];

/// The number of migrations of each slot.
fn migrate() -> usize {
    let given = std::env::var("GPULOCK_MOVES").ok();
    given.map_or(10, |text| text.parse().expect("GPULOCK_MOVES: a number"))
}

/// How a slot migrates.
#[derive(Clone, Copy, Debug)]
enum Method {
    KeyByKey,
    WholeSlot,
}

/// A slot, a lock in it, and its current node.
struct Slot {
    number: i64,
    lock: &'static str,
    node_index: usize,
}

impl Slot {
    fn of(cluster: &Cluster, lock: &'static str) -> Self {
        Self { number: cluster.slot(lock), lock, node_index: cluster.primary_index(lock) }
    }

    #[track_caller]
    fn migrate(&mut self, cluster: &Cluster, to: usize, method: Method) {
        match method {
            Method::KeyByKey => self.migrate_key_by_key(cluster, to),
            Method::WholeSlot => self.migrate_whole_slot(cluster, to),
        }
        self.node_index = to;
        wait_agreed(cluster);
    }

    #[track_caller]
    fn migrate_key_by_key(&self, cluster: &Cluster, to: usize) {
        let nodes = cluster.nodes();
        let set = |node: usize, state: &str, other: usize| {
            let (mut client, id) = (nodes[node].client(), cluster.id(other));
            let set = call!(client, "CLUSTER", "SETSLOT", self.number, state, id);
            assert_eq!(set, "OK", "{state} at {}", nodes[node].name());
        };
        set(to, "IMPORTING", self.node_index);
        set(self.node_index, "MIGRATING", to);
        let (mut source, port) = (nodes[self.node_index].client(), nodes[to].port());
        loop {
            let keys = call!(source, "CLUSTER", "GETKEYSINSLOT", self.number, 100);
            let Some(key) = keys.list().first() else { break };
            // NOKEY if its lock was released in the meantime.
            let moved =
                call!(source, "MIGRATE", "127.0.0.1", port, key.bytes(), 0, 5_000);
            assert!(!moved.is_err(), "{moved:?}");
        }
        // The target first: otherwise no node would serve the slot in between.
        let third = nodes.len() - self.node_index - to;
        for node in [to, self.node_index, third] {
            set(node, "NODE", to);
        }
    }

    #[track_caller]
    fn migrate_whole_slot(&self, cluster: &Cluster, to: usize) {
        let (slot, id) = (self.number, cluster.id(to));
        let migrate = format!("CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {id}");
        assert_eq!(cluster.nodes()[self.node_index].client().line(&migrate), "OK");
        let mut there = cluster.nodes()[to].client();
        wait_until(DEADLINE, format!("slot {slot} to migrate"), || {
            !call!(there, "GPULOCK.INSPECT", self.lock).is_err()
        });
    }
}

/// Waits until all nodes agree on the slots and their epochs. Otherwise an earlier message of a
/// node may revert the next migration.
#[track_caller]
fn wait_agreed(cluster: &Cluster) {
    // id, address, flags, primary, ping, pong, epoch, link, slots …
    let seen = |line: &str| {
        let fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
        (fields[0].clone(), fields[6].clone(), fields[8..].to_vec())
    };
    let view = |node: &Server| {
        let nodes = node.client().line("CLUSTER NODES").text();
        nodes.lines().map(seen).collect::<BTreeSet<_>>()
    };
    wait_until(DEADLINE, "the nodes to agree", || {
        let first = view(&cluster.nodes()[0]);
        cluster.nodes().iter().all(|node| view(node) == first)
    });
}

/// Tokens start ten seconds ahead of the clock. Waits until the clock has reached them, because
/// only then are the tokens of two nodes comparable.
#[track_caller]
fn wait_comparable(cluster: &Cluster) {
    for (number, node) in cluster.nodes().iter().enumerate() {
        let mut keys = (0..).map(|n| format!("probe:{n}"));
        let key = keys.find(|key| cluster.primary_index(key) == number).expect("a key");
        let mut client = node.client();
        let what = format!("the tokens of {} to follow the clock", node.name());
        wait_until(DEADLINE, what, || {
            let token = call!(client, "GPULOCK.ACQUIRE", key, "probe").int();
            let now = UNIX_EPOCH.elapsed().expect("a clock after 1970").as_micros();
            assert_eq!(call!(client, "GPULOCK.RELEASE", key, "probe"), 1);
            u128::try_from(token).is_ok_and(|token| token <= now)
        });
    }
}

/// Migrates each slot back and forth while clients compete for its locks.
#[track_caller]
fn migrate_under_load(cluster: &Cluster, method: Method) {
    let ownership = Ownership::default();
    let workers = WORKERS.map(|name| {
        let mut worker = ClusterWorker::new(name, cluster, &LOCK_SETS, &ownership);
        move || worker.hold_once()
    });
    with_background_load(workers.into(), || {
        let mut slots = ["{one}:0", "{two}:0"].map(|lock| Slot::of(cluster, lock));
        let mut rng = seeded_rng();
        for _ in 0..migrate() {
            for slot in &mut slots {
                let others =
                    (0..cluster.nodes().len()).filter(|node| *node != slot.node_index);
                let to = rng.pick(&others.collect::<Vec<_>>());
                slot.migrate(cluster, to, method);
                let before = ownership.grants_of(slot.lock);
                wait_until(DEADLINE, "a grant after the move", || {
                    ownership.grants_of(slot.lock) > before
                });
            }
        }
    });
    let total = |name: &str| {
        let of = |node: &Server| stats(&mut node.client())[name];
        cluster.nodes().iter().map(of).sum::<i64>()
    };
    for counter in ["moved", "acquired_after_wait", "expired", "session_releases"] {
        assert!(total(counter) > 0, "{method:?}: {counter}");
        eprintln!("{method:?}: {} {counter}", total(counter));
    }
}

/// Waits until all holds have ended, and checks the counters of each node.
#[track_caller]
fn assert_all_ended(cluster: &Cluster) {
    for node in cluster.nodes() {
        let mut client = node.client();
        let mut seen = Counters::new();
        wait_until(DEADLINE, format!("the end of all locks of {}", node.name()), || {
            seen = stats(&mut client);
            seen["locks_held"] == 0
        });
        assert_counters(&mut client, 0, 0);
        assert_eq!(seen["internal_errors"], 0);
    }
}

fn locks_in_slots_that_migrate_key_by_key_have_one_holder(flavour: &Flavour) {
    contend_while_slots_migrate(flavour, Method::KeyByKey);
}

fn locks_in_slots_that_migrate_as_a_whole_have_one_holder(flavour: &Flavour) {
    if !flavour.migrates_whole_slots() {
        return skip("this server has no CLUSTER MIGRATESLOTS");
    }
    contend_while_slots_migrate(flavour, Method::WholeSlot);
}

#[track_caller]
fn contend_while_slots_migrate(flavour: &Flavour, method: Method) {
    let cluster = Cluster::start(flavour, 3);
    wait_comparable(&cluster);
    for node in cluster.nodes() {
        assert_eq!(node.client().line("GPULOCK.RESETSTATS"), "OK");
    }
    migrate_under_load(&cluster, method);
    assert_all_ended(&cluster);
}
