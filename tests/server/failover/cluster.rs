//! A replica of a cluster is promoted: owners keep their locks, clients find the new primary
//! and queue there, and tokens keep rising. A grant of the old primary has a smaller token,
//! and is gone once the old primary is demoted.

use std::thread;
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call, send, wait_until};

use crate::support::background_load::with_background_load;
use crate::support::clock::DEADLINE;
use crate::support::cluster_client::ClusterClient;
use crate::support::cluster_worker::ClusterWorker;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::ownership::Ownership;
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    owners_keep_their_locks_when_a_primary_is_killed,
    late_grants_of_an_isolated_primary_have_smaller_tokens,
    planned_failovers_grant_no_lock_twice,
}

/// The primary that fails, with its replica. The test kit reads the state of the cluster from
/// node 0, so that one must not fail.
const FAILING: usize = 1;

/// Three primaries and a replica of each.
struct Nodes {
    cluster: Cluster,
    /// The replica of the failing primary.
    replica: usize,
    /// A hash tag that the failing primary serves, and one that another primary serves.
    tag: String,
    elsewhere: String,
}

impl Nodes {
    #[track_caller]
    fn create(flavour: &Flavour) -> Self {
        let mut cluster = Cluster::start_with(flavour, 3, |node| {
            // No replica is promoted before the test allows it, even on a busy machine.
            let node = node.arg("cluster-replica-no-failover", "yes");
            node.arg("appendonly", "yes").arg("cluster-node-timeout", 1_000)
        });
        let replicas = [0, 1, 2].map(|primary| cluster.add_replica(primary));
        cluster.wait_healthy();
        let tag_at = |node: usize| {
            let mut tags = (0..1_000).map(|n| format!("{{{n}}}"));
            tags.find(|tag| cluster.primary_index(tag) == node).expect("a tag")
        };
        let (tag, elsewhere) = (tag_at(FAILING), tag_at(2));
        Self { replica: replicas[FAILING], tag, elsewhere, cluster }
    }

    fn failing(&self) -> &Server {
        &self.cluster.nodes()[FAILING]
    }

    fn replica(&self) -> &Server {
        &self.cluster.nodes()[self.replica]
    }

    /// A key that the failing primary serves.
    fn lock(&self, name: &str) -> String {
        format!("{}:{name}", self.tag)
    }

    /// Allows the replica to replace a primary that does not reply.
    #[track_caller]
    fn allow_failover(&self) {
        let line = "CONFIG SET cluster-replica-no-failover no";
        assert_eq!(self.replica().client().line(line), "OK");
    }

    /// Waits until the replica serves the slots of the failing primary, and all nodes know it.
    #[track_caller]
    fn wait_promoted(&self) {
        wait_until(DEADLINE, "the replica to be promoted", || {
            let knows = |node: usize| {
                let mut client = self.cluster.nodes()[node].client();
                let info = client.line("CLUSTER INFO").text();
                let slots = client.line("CLUSTER SLOTS");
                let at_replica = slots.list().iter().any(|range| {
                    range.list()[2].list()[1] == i64::from(self.replica().port())
                });
                at_replica && info.contains("cluster_state:ok")
            };
            [0, 2, self.replica].into_iter().all(knows)
        });
    }
}

/// Waits until the old primary follows the new one.
#[track_caller]
fn wait_replicates(old: &Server, new: &Server) {
    old.wait_link_up();
    old.wait_caught_up_with(new);
}

/// The queue of a lock, sorted by owner.
#[track_caller]
fn sorted_queue(client: &mut Client, key: &str) -> Vec<String> {
    let mut queue = queue_of(client, key);
    queue.sort();
    queue
}

/// Waits for a lock on any node, releases it, and returns the token.
#[track_caller]
fn wait_and_release(mut client: ClusterClient, key: &str, owner: &str) -> i64 {
    let wait = format!("GPULOCK.ACQUIRE {key} {owner} PX 600000 BLOCK 0 UNIQUE");
    let token = client.line(&wait).int();
    assert_eq!(client.line(&format!("GPULOCK.RELEASE {key} {owner}")), 1);
    token
}

fn owners_keep_their_locks_when_a_primary_is_killed(flavour: &Flavour) {
    let mut nodes = Nodes::create(flavour);
    let (tied, plain) = (nodes.lock("tied"), nodes.lock("plain"));
    let elsewhere = format!("{}:k", nodes.elsewhere);
    let mut client = nodes.failing().client();
    acquire(&mut client, &plain, "plain");
    let mut holder = ClusterClient::new(&nodes.cluster);
    let hold = format!("GPULOCK.ACQUIRE {tied} holder PX 600000 UNIQUE SESSION");
    let last = holder.line(&hold).int();
    let mut other = nodes.cluster.nodes()[2].client();
    acquire(&mut other, &elsewhere, "other");
    nodes.replica().wait_caught_up_with(nodes.failing());

    thread::scope(|scope| {
        let waits = |key: &str, owner: &'static str| {
            let (client, key) = (ClusterClient::new(&nodes.cluster), key.to_owned());
            scope.spawn(move || wait_and_release(client, &key, owner))
        };
        let waiters = ["a", "b", "c"].map(|owner| (owner, waits(&tied, owner)));
        let bystander = waits(&elsewhere, "bystander");
        wait_until(DEADLINE, "all clients to wait", || {
            sorted_queue(&mut client, &tied) == ["a", "b", "c"]
                && queue_of(&mut other, &elsewhere) == ["bystander"]
        });
        nodes.allow_failover();
        nodes.cluster.node_mut(FAILING).kill9();
        nodes.wait_promoted();

        let mut client = nodes.replica().client();
        let seen = call!(client, "GPULOCK.INSPECT", tied);
        assert_eq!(seen.field("owner"), "holder");
        assert_eq!(seen.field("adopted"), 1);
        assert!(seen.field("token").is_null(), "{seen:?}");
        let renewed = holder.line(&hold).int();
        assert!(renewed > last, "{renewed} after {last}");
        let extended = call!(client, "GPULOCK.EXTEND", plain, "plain").int();
        assert!(extended > renewed, "{extended} after {renewed}");
        wait_until(DEADLINE, "all waiters to reconnect", || {
            sorted_queue(&mut client, &tied) == ["a", "b", "c"]
        });
        let order = queue_of(&mut client, &tied);
        // The holder's session is tied to the new connection.
        holder.disconnect();
        let mut tokens = waiters.map(|(owner, waiter)| {
            let position = order.iter().position(|one| one == owner);
            (position.expect("a position"), waiter.join().expect("no panic"))
        });
        tokens.sort();
        let tokens = tokens.map(|(_, token)| token);
        assert!(tokens[0] > extended && tokens.is_sorted(), "{tokens:?}");
        // This waiter is granted its lock, whether it noticed the failover or not.
        assert_eq!(call!(other, "GPULOCK.RELEASE", elsewhere, "other"), 1);
        assert!(bystander.join().expect("no panic") > 0);
        assert_counters(&mut client, 1, 0);
    });

    // The restarted node becomes a replica.
    nodes.cluster.node_mut(FAILING).restart();
    wait_replicates(nodes.failing(), nodes.replica());
    let mut old = nodes.failing().client();
    assert_eq!(old.line("READONLY"), "OK");
    assert_eq!(call!(old, "GET", plain), "plain");
    assert_eq!(call!(old, "EXISTS", tied), 0);
    assert_eq!(stats(&mut old)["locks_held"], 0);
}

/// Locks that an isolated primary may still grant to `late`, each in a different way.
const LATE_LOCKS: [&str; 4] = ["lease", "session", "released", "free"];

/// The lease of the first of them: it ends after the primary was isolated.
const LEASE_MS: u64 = 4_000;

/// Prepares these locks, isolates the primary, and returns the clients that wait there.
#[track_caller]
fn isolate(nodes: &mut Nodes) -> [Client; 4] {
    let locks = LATE_LOCKS.map(|name| nodes.lock(name));
    let [lease, session, released, free] = &locks;
    let primary = nodes.failing();
    let (mut client, mut tied) = (primary.client(), primary.client());
    let session_lock =
        call!(tied, "GPULOCK.ACQUIRE", session, "holder", "PX", 600_000, "SESSION");
    assert!(session_lock.int() > 0);
    acquire(&mut client, lease, "holder");
    acquire(&mut client, released, "holder");
    let [on_lease, on_session, on_release] = [lease, session, released].map(|key| {
        let request = format!("GPULOCK.ACQUIRE {key} late PX 600000 BLOCK 0");
        let late = waiter(primary, &request);
        wait_queue(&mut client, key, &["late"]);
        late
    });
    let mut on_free = primary.client();
    assert!(call!(client, "GPULOCK.EXTEND", lease, "holder", "PX", LEASE_MS).int() > 0);
    nodes.replica().wait_caught_up_with(primary);
    nodes.allow_failover();
    nodes.cluster.node_mut(FAILING).freeze();
    drop(tied);
    send!(client, "GPULOCK.RELEASE", released, "holder");
    send!(on_free, "GPULOCK.ACQUIRE", free, "late", "PX", 600_000);
    [on_lease, on_session, on_release, on_free]
}

/// Has all of these locks granted to `new` by the new primary, and returns the tokens.
#[track_caller]
fn grant_on_the_new_primary(nodes: &Nodes) -> [i64; 4] {
    let mut client = nodes.replica().client();
    LATE_LOCKS.map(|name| {
        let key = nodes.lock(name);
        let mut new = waiter(
            nodes.replica(),
            &format!("GPULOCK.ACQUIRE {key} new PX 600000 BLOCK 0"),
        );
        if ["session", "released"].contains(&name) {
            wait_queue(&mut client, &key, &["new"]);
            assert_eq!(call!(client, "GPULOCK.FORCERELEASE", key), "holder");
        }
        new.read().int()
    })
}

fn late_grants_of_an_isolated_primary_have_smaller_tokens(flavour: &Flavour) {
    let mut nodes = Nodes::create(flavour);
    let late = isolate(&mut nodes);
    nodes.wait_promoted();
    let new_tokens = grant_on_the_new_primary(&nodes);
    nodes.cluster.node_mut(FAILING).thaw();
    // The old primary may grant locks before it learns of the failover.
    let replies: Vec<Option<Value>> = late
        .into_iter()
        .filter_map(|mut client| client.try_read(DEADLINE).ok())
        .collect();
    for reply in &replies {
        match reply.as_ref().expect("a reply, or the end of the connection") {
            Value::Int(token) => {
                let first = new_tokens.iter().min();
                assert!(Some(token) < first, "{token} and {new_tokens:?}");
            }
            error => {
                let code = error.err().split(' ').next();
                let known = ["MOVED", "UNBLOCKED", "TRYAGAIN", "CLUSTERDOWN"];
                assert!(code.is_some_and(|code| known.contains(&code)), "{error:?}");
            }
        }
    }
    wait_replicates(nodes.failing(), nodes.replica());
    let mut old = nodes.failing().client();
    assert_eq!(old.line("READONLY"), "OK");
    for name in LATE_LOCKS {
        assert_eq!(call!(old, "GET", nodes.lock(name)), "new", "{name}");
    }
    assert_counters(&mut old, 0, 0);
    assert_counters(&mut nodes.replica().client(), 4, 0);
}

/// The time in which a replica attempts a failover.
const ATTEMPT: Duration = Duration::from_secs(6);

/// Promotes a replica without the loss of a write.
#[track_caller]
fn fail_over(replica: &Server) {
    let mut client = replica.client();
    let mut requested: Option<Instant> = None;
    wait_until(DEADLINE, format!("{} to be promoted", replica.name()), || {
        if requested.is_none_or(|requested| requested.elapsed() > ATTEMPT) {
            requested = Some(Instant::now());
            assert!(!client.line("CLUSTER FAILOVER").is_err());
        }
        client.info("replication")["role"] == "master"
    });
}

fn planned_failovers_grant_no_lock_twice(flavour: &Flavour) {
    let nodes = Nodes::create(flavour);
    let [one, two] = ["one", "two"].map(|name| nodes.lock(name));
    let lock_sets: [&[&str]; 3] = [&[&one], &[&two], &[&one, &two]];
    let ownership = Ownership::default();
    let workers = ["a", "b", "c", "d"].map(|name| {
        let mut worker = ClusterWorker::new(name, &nodes.cluster, &lock_sets, &ownership);
        move || worker.hold_once()
    });
    with_background_load(workers.into(), || {
        for (from, to) in
            [(nodes.failing(), nodes.replica()), (nodes.replica(), nodes.failing())]
        {
            fail_over(to);
            wait_replicates(from, to);
            let before = [&one, &two].map(|key| ownership.grants_of(key));
            wait_until(DEADLINE, "grants at the new primary", || {
                let after = [&one, &two].map(|key| ownership.grants_of(key));
                after[0] > before[0] && after[1] > before[1]
            });
        }
    });
    for node in [nodes.failing(), nodes.replica()] {
        let mut client = node.client();
        wait_until(DEADLINE, "the end of all locks", || {
            stats(&mut client)["locks_held"] == 0
        });
        assert_counters(&mut client, 0, 0);
        assert_eq!(stats(&mut client)["internal_errors"], 0);
    }
}
