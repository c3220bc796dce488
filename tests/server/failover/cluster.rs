//! A replica of a cluster takes the place of its primary: the locks are held on by their
//! owners, clients find the new node and stand in line there, tokens rise over it; and what
//! the old primary still grants has a smaller token, and is gone once it follows.

use std::thread;
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call, send, wait_until};

use crate::support::background_load::with_background_load;
use crate::support::clock::DEADLINE;
use crate::support::cluster_client::ClusterClient;
use crate::support::cluster_worker::ClusterWorker;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::ownership::Ownership;
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    when_a_primary_is_killed_its_locks_go_on_at_its_replica,
    what_a_primary_grants_that_was_cut_off_is_seen_for_what_it_is,
    an_orderly_failover_and_the_way_back_give_no_lock_to_two,
}

/// A primary that fails, and who takes its place. The kit asks node 0 for the state of the
/// cluster, so that one lives.
const FAILING: usize = 1;

/// Three primaries and a replica of each.
struct Scene {
    cluster: Cluster,
    /// The replica of the one that fails.
    heir: usize,
    /// A hash tag that the failing one serves, and one that another serves.
    tag: String,
    elsewhere: String,
}

impl Scene {
    #[track_caller]
    fn set(flavour: &Flavour) -> Self {
        let mut cluster = Cluster::start_with(flavour, 3, |node| {
            // Nobody takes over before the test wants it, however busy the machine is.
            let node = node.arg("cluster-replica-no-failover", "yes");
            node.arg("appendonly", "yes").arg("cluster-node-timeout", 1_000)
        });
        let heirs = [0, 1, 2].map(|primary| cluster.add_replica(primary));
        cluster.wait_healthy();
        let tag_at = |node: usize| {
            let mut tags = (0..1_000).map(|n| format!("{{{n}}}"));
            tags.find(|tag| cluster.primary_index(tag) == node).expect("some tag")
        };
        let (tag, elsewhere) = (tag_at(FAILING), tag_at(2));
        Self { heir: heirs[FAILING], tag, elsewhere, cluster }
    }

    fn failing(&self) -> &Server {
        &self.cluster.nodes()[FAILING]
    }

    fn heir(&self) -> &Server {
        &self.cluster.nodes()[self.heir]
    }

    /// A lock of the primary that fails.
    fn lock(&self, name: &str) -> String {
        format!("{}:{name}", self.tag)
    }

    /// From now on the heir takes over from one that does not answer.
    #[track_caller]
    fn let_heir_take_over(&self) {
        let line = "CONFIG SET cluster-replica-no-failover no";
        assert_eq!(self.heir().client().line(line), "OK");
    }

    /// Waits until the heir serves what the failing one served, and all know.
    #[track_caller]
    fn wait_taken_over(&self) {
        wait_until(DEADLINE, "the heir to take over", || {
            let knows = |node: usize| {
                let mut client = self.cluster.nodes()[node].client();
                let info = client.line("CLUSTER INFO").text();
                let slots = client.line("CLUSTER SLOTS");
                let at_heir = slots.list().iter().any(|range| {
                    range.list()[2].list()[1] == i64::from(self.heir().port())
                });
                at_heir && info.contains("cluster_state:ok")
            };
            [0, 2, self.heir].into_iter().all(knows)
        });
    }
}

/// Waits until a primary that another took over from follows it.
#[track_caller]
fn wait_follows(old: &Server, new: &Server) {
    old.wait_link_up();
    old.wait_caught_up_with(new);
}

/// Takes a lock.
#[track_caller]
fn take(client: &mut Client, key: &str, owner: &str) -> i64 {
    call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", 600_000).int()
}

/// The line of a lock, whoever came first.
#[track_caller]
fn sorted_line(client: &mut Client, key: &str) -> Vec<String> {
    let mut line = queue_of(client, key);
    line.sort();
    line
}

/// Waits for a lock, wherever it is, gives it back, and answers with the token.
#[track_caller]
fn have(mut roamer: ClusterClient, key: &str, owner: &str) -> i64 {
    let wait = format!("GPULOCK.ACQUIRE {key} {owner} PX 600000 BLOCK 0 UNIQUE");
    let token = roamer.line(&wait).int();
    assert_eq!(roamer.line(&format!("GPULOCK.RELEASE {key} {owner}")), 1);
    token
}

fn when_a_primary_is_killed_its_locks_go_on_at_its_replica(flavour: &Flavour) {
    let mut scene = Scene::set(flavour);
    let (tied, plain) = (scene.lock("tied"), scene.lock("plain"));
    let elsewhere = format!("{}:k", scene.elsewhere);
    let mut client = scene.failing().client();
    take(&mut client, &plain, "plain");
    let mut holder = ClusterClient::new(&scene.cluster);
    let hold = format!("GPULOCK.ACQUIRE {tied} holder PX 600000 UNIQUE SESSION");
    let last = holder.line(&hold).int();
    let mut other = scene.cluster.nodes()[2].client();
    take(&mut other, &elsewhere, "other");
    scene.heir().wait_caught_up_with(scene.failing());

    thread::scope(|scope| {
        let waits = |key: &str, owner: &'static str| {
            let (roamer, key) = (ClusterClient::new(&scene.cluster), key.to_owned());
            scope.spawn(move || have(roamer, &key, owner))
        };
        let waiters = ["a", "b", "c"].map(|owner| (owner, waits(&tied, owner)));
        let bystander = waits(&elsewhere, "bystander");
        wait_until(DEADLINE, "all to wait", || {
            sorted_line(&mut client, &tied) == ["a", "b", "c"]
                && queue_of(&mut other, &elsewhere) == ["bystander"]
        });
        scene.let_heir_take_over();
        scene.cluster.node_mut(FAILING).kill9();
        scene.wait_taken_over();

        let mut client = scene.heir().client();
        let seen = call!(client, "GPULOCK.INSPECT", tied);
        assert_eq!(seen.field("owner"), "holder");
        assert_eq!(seen.field("adopted"), 1);
        assert!(seen.field("token").is_null(), "{seen:?}");
        let renewed = holder.line(&hold).int();
        assert!(renewed > last, "{renewed} after {last}");
        let extended = call!(client, "GPULOCK.EXTEND", plain, "plain").int();
        assert!(extended > renewed, "{extended} after {renewed}");
        wait_until(DEADLINE, "all to come back", || {
            sorted_line(&mut client, &tied) == ["a", "b", "c"]
        });
        let order = queue_of(&mut client, &tied);
        // The session is a session again.
        holder.disconnect();
        let mut tokens = waiters.map(|(owner, waiter)| {
            let place = order.iter().position(|one| one == owner);
            (place.expect("a place"), waiter.join().expect("no failure"))
        });
        tokens.sort();
        let tokens = tokens.map(|(_, token)| token);
        assert!(tokens[0] > extended && tokens.is_sorted(), "{tokens:?}");
        // Whether it noticed or not: it waits, and is served.
        assert_eq!(call!(other, "GPULOCK.RELEASE", elsewhere, "other"), 1);
        assert!(bystander.join().expect("no failure") > 0);
        assert_counters(&mut client, 1, 0);
    });

    // Who comes back from the dead follows.
    scene.cluster.node_mut(FAILING).restart();
    wait_follows(scene.failing(), scene.heir());
    let mut old = scene.failing().client();
    assert_eq!(old.line("READONLY"), "OK");
    assert_eq!(call!(old, "GET", plain), "plain");
    assert_eq!(call!(old, "EXISTS", tied), 0);
    assert_eq!(stats(&mut old)["locks_held"], 0);
}

/// Locks that a primary which was cut off may still grant, each another way, to `late`.
const LATE: [&str; 4] = ["lease", "session", "released", "free"];

/// How long the lease of the first of them lasts: the primary is cut off before its end.
const LEASE_MS: u64 = 4_000;

/// Prepares them, and cuts the primary off. Who waits there for an answer is returned.
#[track_caller]
fn cut_off(scene: &mut Scene) -> [Client; 4] {
    let locks = LATE.map(|name| scene.lock(name));
    let [lease, session, released, free] = &locks;
    let primary = scene.failing();
    let (mut client, mut tied) = (primary.client(), primary.client());
    let tie = call!(tied, "GPULOCK.ACQUIRE", session, "holder", "PX", 600_000, "SESSION");
    assert!(tie.int() > 0);
    take(&mut client, lease, "holder");
    take(&mut client, released, "holder");
    let [on_lease, on_session, on_release] = [lease, session, released].map(|key| {
        let request = format!("GPULOCK.ACQUIRE {key} late PX 600000 BLOCK 0");
        let late = waiter(primary, &request);
        wait_queue(&mut client, key, &["late"]);
        late
    });
    let mut on_free = primary.client();
    assert!(call!(client, "GPULOCK.EXTEND", lease, "holder", "PX", LEASE_MS).int() > 0);
    scene.heir().wait_caught_up_with(primary);
    scene.let_heir_take_over();
    scene.cluster.node_mut(FAILING).freeze();
    drop(tied);
    send!(client, "GPULOCK.RELEASE", released, "holder");
    send!(on_free, "GPULOCK.ACQUIRE", free, "late", "PX", 600_000);
    [on_lease, on_session, on_release, on_free]
}

/// At the heir all of them are granted to `new`; answers with which tokens.
#[track_caller]
fn go_on_at_the_heir(scene: &Scene) -> [i64; 4] {
    let mut client = scene.heir().client();
    LATE.map(|name| {
        let key = scene.lock(name);
        let mut new =
            waiter(scene.heir(), &format!("GPULOCK.ACQUIRE {key} new PX 600000 BLOCK 0"));
        if ["session", "released"].contains(&name) {
            wait_queue(&mut client, &key, &["new"]);
            assert_eq!(call!(client, "GPULOCK.FORCERELEASE", key), "holder");
        }
        new.read().int()
    })
}

fn what_a_primary_grants_that_was_cut_off_is_seen_for_what_it_is(flavour: &Flavour) {
    let mut scene = Scene::set(flavour);
    let late = cut_off(&mut scene);
    scene.wait_taken_over();
    let new_tokens = go_on_at_the_heir(&scene);
    scene.cluster.node_mut(FAILING).thaw();
    // It may grant before it hears what happened, or not.
    let heard: Vec<Option<Value>> = late
        .into_iter()
        .filter_map(|mut client| client.try_read(DEADLINE).ok())
        .collect();
    for answer in &heard {
        match answer.as_ref().expect("an answer, or the end of the connection") {
            Value::Int(token) => {
                let first = new_tokens.iter().min();
                assert!(Some(token) < first, "{token} and {new_tokens:?}");
            }
            told => {
                let code = told.err().split(' ').next();
                let known = ["MOVED", "UNBLOCKED", "TRYAGAIN", "CLUSTERDOWN"];
                assert!(code.is_some_and(|code| known.contains(&code)), "{told:?}");
            }
        }
    }
    wait_follows(scene.failing(), scene.heir());
    let mut old = scene.failing().client();
    assert_eq!(old.line("READONLY"), "OK");
    for name in LATE {
        assert_eq!(call!(old, "GET", scene.lock(name)), "new", "{name}");
    }
    assert_counters(&mut old, 0, 0);
    assert_counters(&mut scene.heir().client(), 4, 0);
}

/// How long a replica tries; then it gives up.
const TRIES_FOR: Duration = Duration::from_secs(6);

/// Lets a replica take the place of its primary, without a write being lost.
#[track_caller]
fn fail_over_orderly(replica: &Server) {
    let mut client = replica.client();
    let mut asked: Option<Instant> = None;
    wait_until(DEADLINE, format!("{} to take over", replica.name()), || {
        if asked.is_none_or(|asked| asked.elapsed() > TRIES_FOR) {
            asked = Some(Instant::now());
            assert!(!client.line("CLUSTER FAILOVER").is_err());
        }
        client.info("replication")["role"] == "master"
    });
}

fn an_orderly_failover_and_the_way_back_give_no_lock_to_two(flavour: &Flavour) {
    let scene = Scene::set(flavour);
    let [one, two] = ["one", "two"].map(|name| scene.lock(name));
    let sets: [&[&str]; 3] = [&[&one], &[&two], &[&one, &two]];
    let witness = Ownership::default();
    let contenders = ["a", "b", "c", "d"].map(|name| {
        let mut contender = ClusterWorker::new(name, &scene.cluster, &sets, &witness);
        move || contender.hold_once()
    });
    with_background_load(contenders.into(), || {
        for (from, to) in
            [(scene.failing(), scene.heir()), (scene.heir(), scene.failing())]
        {
            fail_over_orderly(to);
            wait_follows(from, to);
            let before = [&one, &two].map(|key| witness.grants_of(key));
            wait_until(DEADLINE, "grants at the new primary", || {
                let now = [&one, &two].map(|key| witness.grants_of(key));
                now[0] > before[0] && now[1] > before[1]
            });
        }
    });
    for node in [scene.failing(), scene.heir()] {
        let mut client = node.client();
        wait_until(DEADLINE, "the end of all locks", || {
            stats(&mut client)["locks_held"] == 0
        });
        assert_counters(&mut client, 0, 0);
        assert_eq!(stats(&mut client)["internal_errors"], 0);
    }
}
