//! An address of any node of a cluster: a hold follows the slot of its lock.

use std::time::{Duration, Instant};

use gpulock_testkit::{
    Client, Cluster, Flavour, Server, call, on_every_server, wait_until,
};

use crate::gpulock_with;
use crate::job::{Job, TIMEOUT, UNTIL_STOPPED, is_alive};

/// A lease and a grace period that are longer than a failover.
const PATIENT: [&str; 6] = ["--key", "k", "--lease", "60s", "--grace", "60s"];

fn start(flavour: &Flavour) -> Cluster {
    Cluster::start_with(flavour, 3, |node| {
        node.arg("appendonly", "yes").arg("cluster-node-timeout", 2000)
    })
}

fn url(node: &Server) -> String {
    format!("redis://127.0.0.1:{}", node.port())
}

/// A node that does not serve the lock.
fn other_node(cluster: &Cluster) -> &Server {
    let owner = cluster.primary_index("k");
    &cluster.nodes()[(owner + 1) % 3]
}

fn owner_of(client: &mut Client) -> String {
    owner_of_key(client, "k")
}

fn owner_of_key(client: &mut Client, key: &str) -> String {
    let owner = call!(client, "GPULOCK.INSPECT", key);
    if owner.is_null() { String::new() } else { owner.field("owner").text() }
}

/// Waits until the lock is tied to a session of this node.
#[track_caller]
fn wait_tied(node: &Server) {
    let mut client = node.client();
    wait_until(TIMEOUT, "the lock to be tied to the node", || {
        let lock = call!(client, "GPULOCK.INSPECT", "k");
        !lock.is_err() && !lock.is_null() && !lock.field("session").is_null()
    });
}

/// Makes a replica the primary. A planned failover is given up if it takes too long.
#[track_caller]
fn fail_over_to(replica: &Server) {
    let mut client = replica.client();
    let mut next_try = Instant::now();
    wait_until(TIMEOUT, "the failover", || {
        if Instant::now() > next_try {
            let _in_progress = call!(client, "CLUSTER", "FAILOVER");
            next_try += Duration::from_secs(6);
        }
        client.info("replication")["role"] == "master"
    });
}

/// Checks that the job still runs under its lock at this node, and ends it.
#[track_caller]
fn end_normally(mut job: Job, node: &Server) {
    let mut client = node.client();
    assert_eq!(owner_of(&mut client), job.line("owner"));
    assert!(is_alive(&job.line("pid")), "{}", job.err());
    job.stop();
    assert_eq!(job.status(), 5, "{}", job.err());
    assert_eq!(owner_of(&mut client), "");
}

#[test]
fn every_command_about_a_lock_follows_its_slot() {
    on_every_server(|flavour| {
        let cluster = start(flavour);
        let node = cluster.primary_of("k");
        for at in cluster.nodes() {
            call!(node.client(), "GPULOCK.ACQUIRE", "k", "me");
            let calls: [(&[&str], &str); 6] = [
                (&["ls", "k"], "me"),
                (&["inspect", "k"], "me"),
                (&["queue", "k"], "k has no waiters"),
                (&["stats", "k"], "acquired"),
                (&["release", "k", "--owner", "me"], "k released"),
                (&["run", "--key", "k", "--no-wait", "--", "echo", "done"], "done"),
            ];
            for (args, expected) in calls {
                let result = gpulock_with(args, &[("GPULOCK_URL", &url(at))]);
                assert_eq!(
                    (result.status, &*result.err),
                    (0, ""),
                    "{args:?}: {result:?}"
                );
                assert!(result.out.contains(expected), "{args:?}: {result:?}");
            }
            call!(node.client(), "GPULOCK.ACQUIRE", "k", "me");
            let args = ["force", "k", "--any", "--yes"];
            let result = gpulock_with(&args, &[("GPULOCK_URL", &url(at))]);
            assert_eq!(result.status, 0, "{result:?}");
        }
    });
}

#[test]
fn locks_of_different_slots_are_refused_with_a_hint() {
    on_every_server(|flavour| {
        let cluster = start(flavour);
        let args = ["run", "--keys", "a,b", "-n", "2", "--", "true"];
        let result = gpulock_with(&args, &[("GPULOCK_URL", &url(&cluster.nodes()[0]))]);
        assert_eq!(result.status, 1, "{result:?}");
        assert!(result.err.contains("CROSSSLOT"), "{result:?}");
        assert!(result.err.contains("the same hash tag"), "{result:?}");
    });
}

/// Without the right to ask for the nodes, the redirections lead to the lock.
#[test]
fn a_user_without_permission_for_cluster_is_redirected() {
    on_every_server(|flavour| {
        let cluster = start(flavour);
        for node in cluster.nodes() {
            let set = "ACL SETUSER worker on >secret ~* &* -@all +gpulock.acquireany \
                       +gpulock.release +gpulock.extend +gpulock.inspect +asking";
            assert_eq!(node.client().line(set), "OK");
        }
        let at = url(other_node(&cluster)).replace("//", "//worker:secret@");
        let mut job = Job::start(&at, &["--key", "k"], UNTIL_STOPPED);
        let owner = job.line("owner");
        assert_eq!(owner_of(&mut cluster.primary_of("k").client()), owner);
        job.stop();
        assert_eq!(job.status(), 5);
        let result = gpulock_with(&["inspect", "k", "--url", &at], &[]);
        assert_eq!(result.status, 0, "{result:?}");
    });
}

#[test]
fn a_hold_survives_the_death_of_its_node() {
    on_every_server(|flavour| {
        let mut cluster = start(flavour);
        let primary = cluster.primary_index("k");
        let replica = cluster.add_replica(primary);
        // The address that was given is the one that dies.
        let at = url(&cluster.nodes()[primary]);
        let job = Job::start(&at, &PATIENT, UNTIL_STOPPED);
        job.line("pid");
        cluster.nodes()[replica].wait_caught_up_with(&cluster.nodes()[primary]);
        cluster.node_mut(primary).kill9();
        wait_tied(&cluster.nodes()[replica]);
        end_normally(job, &cluster.nodes()[replica]);
    });
}

/// The lease is too short for the failover: the command must be dead before the next owner can
/// have the lock.
#[test]
fn a_hold_that_does_not_survive_ends_the_command_first() {
    on_every_server(|flavour| {
        let mut cluster = start(flavour);
        let primary = cluster.primary_index("k");
        let replica = cluster.add_replica(primary);
        let args = ["--key", "k", "--lease", "3s", "--grace", "1s"];
        let mut job = Job::start(&url(other_node(&cluster)), &args, UNTIL_STOPPED);
        let pid = job.line("pid");
        cluster.nodes()[replica].wait_caught_up_with(&cluster.nodes()[primary]);
        cluster.node_mut(primary).kill9();
        assert_eq!(job.status(), 76, "{}", job.err());
        assert!(!is_alive(&pid));
        let mut next = cluster.nodes()[replica].client();
        wait_until(TIMEOUT, "the next owner", || {
            let granted = next.line("GPULOCK.ACQUIRE k next EX 60");
            !granted.is_err() && !granted.is_null() && granted.int() > 0
        });
    });
}

#[test]
fn a_hold_survives_a_planned_failover() {
    on_every_server(|flavour| {
        let mut cluster = start(flavour);
        let primary = cluster.primary_index("k");
        let replica = cluster.add_replica(primary);
        let job = Job::start(&url(other_node(&cluster)), &PATIENT, UNTIL_STOPPED);
        job.line("pid");
        let replica = &cluster.nodes()[replica];
        fail_over_to(replica);
        wait_tied(replica);
        end_normally(job, replica);
    });
}

/// Moves the slot of the lock key by key, as `redis-cli --cluster reshard` does.
#[test]
fn a_hold_survives_the_migration_of_its_slot() {
    on_every_server(|flavour| {
        let cluster = start(flavour);
        let from = cluster.primary_index("k");
        let to = (from + 1) % 3;
        let (source, target) = (&cluster.nodes()[from], &cluster.nodes()[to]);
        let slot = cluster.slot("k");
        let job =
            Job::start(&url(&cluster.nodes()[(from + 2) % 3]), &PATIENT, UNTIL_STOPPED);
        let owner = job.line("owner");
        let (mut at_source, mut at_target) = (source.client(), target.client());
        let set = |client: &mut Client, state: &str, node: usize| {
            let id = cluster.id(node);
            assert_eq!(call!(client, "CLUSTER", "SETSLOT", slot, state, id), "OK");
        };
        set(&mut at_target, "IMPORTING", from);
        set(&mut at_source, "MIGRATING", to);
        let moved =
            call!(at_source, "MIGRATE", "127.0.0.1", target.port(), "k", 0, 10_000);
        assert_eq!(moved, "OK");
        // The lock is tied to a session of the target while the slot is still migrating.
        wait_until(TIMEOUT, "the lock to be tied to the target", || {
            assert_eq!(at_target.line("ASKING"), "OK");
            let lock = call!(at_target, "GPULOCK.INSPECT", "k");
            !lock.is_null() && !lock.field("session").is_null()
        });
        // Other commands are led to it, too.
        let result = gpulock_with(&["inspect", "k"], &[("GPULOCK_URL", &url(source))]);
        assert!(result.out.contains(&owner), "{result:?}");
        for client in [&mut at_target, &mut at_source] {
            set(client, "NODE", to);
        }
        end_normally(job, target);
    });
}

/// One of two locks has been migrated, the other one has not. Neither node has both.
#[test]
fn a_hold_of_two_locks_survives_an_unfinished_migration() {
    on_every_server(|flavour| {
        let cluster = start(flavour);
        let from = cluster.primary_index("k");
        let to = (from + 1) % 3;
        let (source, target) = (&cluster.nodes()[from], &cluster.nodes()[to]);
        let args = ["--keys", "{k}0,{k}1", "-n", "2", "--lease", "60s", "--grace", "60s"];
        let mut job = Job::start(&url(source), &args, UNTIL_STOPPED);
        let owner = job.line("owner");
        let (mut at_source, mut at_target) = (source.client(), target.client());
        let slot = cluster.slot("k");
        let set = |client: &mut Client, state: &str, node: usize| {
            let id = cluster.id(node);
            assert_eq!(call!(client, "CLUSTER", "SETSLOT", slot, state, id), "OK");
        };
        set(&mut at_target, "IMPORTING", from);
        set(&mut at_source, "MIGRATING", to);
        let mut migrate = |key: &str| {
            let port = target.port();
            let moved = call!(at_source, "MIGRATE", "127.0.0.1", port, key, 0, 10_000);
            assert_eq!(moved, "OK");
        };
        migrate("{k}1");
        wait_until(TIMEOUT, "several calls at the target", || {
            let all = at_target.info("commandstats");
            let calls =
                all.get("cmdstat_asking").and_then(|one| one.split([',', '=']).nth(1));
            calls.is_some_and(|calls| calls.parse::<u32>().expect("a number") >= 8)
        });
        migrate("{k}0");
        for client in [&mut at_target, &mut source.client()] {
            set(client, "NODE", to);
        }
        for key in ["{k}0", "{k}1"] {
            assert_eq!(owner_of_key(&mut at_target, key), owner, "{}", job.err());
        }
        assert!(is_alive(&job.line("pid")), "{}", job.err());
        job.stop();
        assert_eq!(job.status(), 5, "{}", job.err());
        for key in ["{k}0", "{k}1"] {
            assert_eq!(owner_of_key(&mut at_target, key), "");
        }
    });
}
