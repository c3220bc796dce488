//! Slots of a cluster move to and fro, key by key and as a whole, while clients contend for
//! the locks in them, wait for one or several, let leases and sessions end: never two hold
//! one lock, tokens rise, nobody waits in vain.
//!
//! Each slot moves `GPULOCK_MOVES` times (10 if not set).

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use gpulock_testkit::{Cluster, Flavour, Server, call, wait_until};

use crate::support::background_load::with_background_load;
use crate::support::clock::DEADLINE;
use crate::support::cluster_worker::ClusterWorker;
use crate::support::counter_law::assert_counters;
use crate::support::counters::{Counters, stats};
use crate::support::ownership::Ownership;
use crate::support::rng::{Pick, seeded_rng};

tests! {
    slots_that_move_under_contending_clients_give_no_lock_to_two,
}

const CONTENDERS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What they want: the locks of two slots, in one of them also both at once.
const SETS: [&[&str]; 4] =
    [&["{one}:0"], &["{one}:1"], &["{one}:0", "{one}:1"], &["{two}:0"]];

/// How often each slot moves.
fn moves() -> usize {
    let given = std::env::var("GPULOCK_MOVES").ok();
    given.map_or(10, |text| text.parse().expect("GPULOCK_MOVES is a number"))
}

/// How a slot moves.
#[derive(Clone, Copy, Debug)]
enum Way {
    KeyByKey,
    AsAWhole,
}

/// A slot, a lock in it, and the node where it is.
struct Slot {
    number: i64,
    lock: &'static str,
    at: usize,
}

impl Slot {
    fn of(cluster: &Cluster, lock: &'static str) -> Self {
        Self { number: cluster.slot(lock), lock, at: cluster.primary_index(lock) }
    }

    #[track_caller]
    fn moves(&mut self, cluster: &Cluster, to: usize, way: Way) {
        match way {
            Way::KeyByKey => self.move_key_by_key(cluster, to),
            Way::AsAWhole => self.move_as_a_whole(cluster, to),
        }
        self.at = to;
        wait_agreed(cluster);
    }

    #[track_caller]
    fn move_key_by_key(&self, cluster: &Cluster, to: usize) {
        let nodes = cluster.nodes();
        let set = |node: usize, state: &str, other: usize| {
            let (mut client, id) = (nodes[node].client(), cluster.id(other));
            let set = call!(client, "CLUSTER", "SETSLOT", self.number, state, id);
            assert_eq!(set, "OK", "{state} at {}", nodes[node].name());
        };
        set(to, "IMPORTING", self.at);
        set(self.at, "MIGRATING", to);
        let (mut source, port) = (nodes[self.at].client(), nodes[to].port());
        loop {
            let keys = call!(source, "CLUSTER", "GETKEYSINSLOT", self.number, 100);
            let Some(key) = keys.list().first() else { break };
            // NOKEY, too, when its lock was released meanwhile.
            let moved =
                call!(source, "MIGRATE", "127.0.0.1", port, key.bytes(), 0, 5_000);
            assert!(!moved.is_err(), "{moved:?}");
        }
        // First where it goes: in between it would be nobody's.
        let third = nodes.len() - self.at - to;
        for node in [to, self.at, third] {
            set(node, "NODE", to);
        }
    }

    #[track_caller]
    fn move_as_a_whole(&self, cluster: &Cluster, to: usize) {
        let (slot, id) = (self.number, cluster.id(to));
        let migrate = format!("CLUSTER MIGRATESLOTS SLOTSRANGE {slot} {slot} NODE {id}");
        assert_eq!(cluster.nodes()[self.at].client().line(&migrate), "OK");
        let mut there = cluster.nodes()[to].client();
        wait_until(DEADLINE, format!("slot {slot} to move"), || {
            !call!(there, "GPULOCK.INSPECT", self.lock).is_err()
        });
    }
}

/// Waits until all nodes see the same owners of slots, in the same epochs. Before that the
/// next move may be undone by what a node said earlier.
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

/// Waits until the clock is where each node's tokens began, ten seconds ahead of it: only
/// then do the tokens of two nodes compare.
#[track_caller]
fn wait_comparable(cluster: &Cluster) {
    for (number, node) in cluster.nodes().iter().enumerate() {
        let mut keys = (0..).map(|n| format!("probe:{n}"));
        let key =
            keys.find(|key| cluster.primary_index(key) == number).expect("some key");
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

/// Moves each slot to and fro while clients contend for its locks.
#[track_caller]
fn move_under_load(cluster: &Cluster, way: Way) {
    let witness = Ownership::default();
    let contenders = CONTENDERS.map(|name| {
        let mut contender = ClusterWorker::new(name, cluster, &SETS, &witness);
        move || contender.hold_once()
    });
    with_background_load(contenders.into(), || {
        let mut slots = ["{one}:0", "{two}:0"].map(|lock| Slot::of(cluster, lock));
        let mut rng = seeded_rng();
        for _ in 0..moves() {
            for slot in &mut slots {
                let others = (0..cluster.nodes().len()).filter(|node| *node != slot.at);
                let to = rng.pick(&others.collect::<Vec<_>>());
                slot.moves(cluster, to, way);
                let before = witness.grants_of(slot.lock);
                wait_until(DEADLINE, "a grant after the move", || {
                    witness.grants_of(slot.lock) > before
                });
            }
        }
    });
    let total = |name: &str| {
        let of = |node: &Server| stats(&mut node.client())[name];
        cluster.nodes().iter().map(of).sum::<i64>()
    };
    for happened in ["moved", "acquired_after_wait", "expired", "session_releases"] {
        assert!(total(happened) > 0, "{way:?}: {happened}");
        eprintln!("{way:?}: {} {happened}", total(happened));
    }
}

/// Waits until all locks have ended, and checks the books of each node.
#[track_caller]
fn assert_all_over(cluster: &Cluster) {
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

fn slots_that_move_under_contending_clients_give_no_lock_to_two(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 3);
    wait_comparable(&cluster);
    move_under_load(&cluster, Way::KeyByKey);
    assert_all_over(&cluster);
    if flavour.is_valkey() && flavour.version() >= (9, 0, 0) {
        for node in cluster.nodes() {
            assert_eq!(node.client().line("GPULOCK.RESETSTATS"), "OK");
        }
        move_under_load(&cluster, Way::AsAWhole);
        assert_all_over(&cluster);
    }
}
