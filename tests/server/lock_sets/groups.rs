//! `GPULOCK.ACQUIREANY … GROUPS`: locks of each of several groups, all at once. A waiting call
//! reserves locks only in the groups that lack the fewest.

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::lock_sets::{
    AT_ONCE, join_as, release, reserved_for, reserved_for_first, served, wait_reserved,
};
use crate::support::locks::{acquire, acquire_each, granted};
use crate::support::queue::{assert_no_reply, queue_of, wait_queue, waiter};

tests! {
    four_gpus_of_one_node_are_granted_together,
    slots_of_one_card_or_of_whole_cards_are_granted,
    a_call_is_granted_all_or_nothing,
    a_unique_owner_gets_the_group_that_it_holds_locks_of,
    a_waiting_call_reserves_locks_only_where_it_lacks_the_fewest,
    a_call_that_turns_to_another_group_passes_on_what_was_reserved,
    a_call_is_served_by_a_group_that_it_does_not_collect,
    small_calls_behind_it_do_not_starve_a_call_with_groups,
    what_was_reserved_passes_on_when_the_client_is_killed,
    a_plain_set_takes_a_reserved_lock_and_its_end_is_noticed,
    the_same_call_of_a_unique_owner_takes_over_its_position,
    a_release_in_a_transaction_or_script_completes_a_group,
    invalid_groups_are_rejected_and_change_nothing,
    a_call_over_1024_groups_waits_and_is_served,
    in_a_cluster_all_groups_must_share_a_slot,
}

/// The keys of two nodes of two GPUs, and a call for two GPUs of one node.
const NODES: [&str; 4] = ["a:0", "a:1", "b:0", "b:1"];
const ONE_NODE: &str = "GPULOCK.ACQUIREANY 4 a:0 a:1 b:0 b:1 job COUNT 2 GROUPS 1 2 2 2";

#[track_caller]
fn keys_of(reply: &Value) -> Vec<String> {
    granted(reply).into_iter().map(|(key, _)| key).collect()
}

/// A server on which `holder` holds all GPUs, and `job` waits for two of one node.
fn start(flavour: &Flavour) -> (Server, Client, Client) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire_each(&mut actor, &NODES, "holder");
    let call = format!("{ONE_NODE} BLOCK 0");
    let job = join_as(&server, &mut actor, &call, "b:1", &["job"]);
    (server, actor, job)
}

fn four_gpus_of_one_node_are_granted_together(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let keys: Vec<String> = (0..24).map(|n| format!("n{}:{}", n / 8, n % 8)).collect();
    let call = |owner: &str| {
        format!(
            "GPULOCK.ACQUIREANY 24 {} {owner} COUNT 4 GROUPS 1 3 8 8 8",
            keys.join(" ")
        )
    };
    // Each node has three GPUs less than it needs for two calls.
    for key in ["n0:0", "n0:1", "n0:2", "n0:3", "n0:4", "n1:7"] {
        acquire(&mut client, key, "other");
    }
    let reply = client.line(&call("one"));
    assert_eq!(keys_of(&reply), ["n1:0", "n1:1", "n1:2", "n1:3"]);
    let reply = client.line(&call("two"));
    assert_eq!(keys_of(&reply), ["n2:0", "n2:1", "n2:2", "n2:3"]);
    let reply = client.line(&call("three"));
    assert_eq!(keys_of(&reply), ["n2:4", "n2:5", "n2:6", "n2:7"]);
    // Node 0 has three left, and node 1 as well.
    assert_eq!(client.line(&call("four")), Value::Null);
    assert_counters(&mut client, 18, 0);
}

fn slots_of_one_card_or_of_whole_cards_are_granted(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let keys = "c0:0 c0:1 c0:2 c0:3 c1:0 c1:1 c1:2 c1:3 c2:0 c2:1 c2:2 c2:3";
    let call = |options: &str| format!("GPULOCK.ACQUIREANY 12 {keys} {options}");
    let part = client.line(&call("part COUNT 3 GROUPS 1 3 4 4 4"));
    assert_eq!(keys_of(&part), ["c0:0", "c0:1", "c0:2"]);
    let two_cards = client.line(&call("two COUNT 4 GROUPS 2 3 4 4 4"));
    let whole = ["c1:0", "c1:1", "c1:2", "c1:3", "c2:0", "c2:1", "c2:2", "c2:3"];
    assert_eq!(keys_of(&two_cards), whole);
    // One slot of any card.
    let slot = client.line(&call("slot COUNT 1 GROUPS 1 3 4 4 4"));
    assert_eq!(keys_of(&slot), ["c0:3"]);
    assert_counters(&mut client, 12, 0);
}

fn a_call_is_granted_all_or_nothing(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire(&mut client, "a:1", "other");
    acquire(&mut client, "b:0", "other");
    for options in ["", "UNIQUE", "UNIQUE SESSION", "PRIORITY 100"] {
        assert_eq!(client.line(&format!("{ONE_NODE} {options}")), Value::Null);
    }
    assert_eq!(client.line("DBSIZE"), 2);
    release(&mut client, &["a:1"], "other");
    assert_eq!(keys_of(&client.line(ONE_NODE)), ["a:0", "a:1"]);
    // One lock of each node.
    release(&mut client, &["b:0"], "other");
    release(&mut client, &["a:1"], "job");
    let both = "GPULOCK.ACQUIREANY 4 a:0 a:1 b:0 b:1 job2 COUNT 1 GROUPS 2 2 2 2";
    assert_eq!(keys_of(&client.line(both)), ["a:1", "b:0"]);
    assert_eq!(client.line(both), Value::Null);
    assert_counters(&mut client, 3, 0);
}

fn a_unique_owner_gets_the_group_that_it_holds_locks_of(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let held = call!(client, "GPULOCK.ACQUIRE", "b:1", "job", "UNIQUE").int();
    let reply = client.line(&format!("{ONE_NODE} UNIQUE"));
    assert_eq!(keys_of(&reply), ["b:0", "b:1"]);
    assert_eq!(granted(&reply)[1].1, held, "the lock held before keeps its token");
    // A retry after a lost reply.
    assert_eq!(granted(&client.line(&format!("{ONE_NODE} UNIQUE"))), granted(&reply));
    assert_eq!(client.line("EXISTS a:0 a:1"), 0);
    assert_counters(&mut client, 2, 0);
}

fn a_waiting_call_reserves_locks_only_where_it_lacks_the_fewest(flavour: &Flavour) {
    let (server, mut actor, mut job) = start(flavour);
    release(&mut actor, &["b:0"], "holder");
    assert_eq!(reserved_for(&mut actor, "b:0").as_deref(), Some("job"));
    release(&mut actor, &["a:1"], "holder");
    assert_eq!(reserved_for(&mut actor, "a:1"), None, "node a does not lack fewer");
    assert_eq!(reserved_for_first(&mut actor, "a:0"), ["b:0"]);
    let waiters = actor.line("GPULOCK.INSPECT a:0").field("waiters");
    let numbers =
        ["wants", "of", "groups"].map(|field| waiters.list()[0].field(field).int());
    assert_eq!(numbers, [2, 4, 1]);
    let mut newcomer = server.client();
    assert_eq!(newcomer.line("GPULOCK.ACQUIRE b:0 newcomer"), Value::Null);
    assert!(newcomer.line("GPULOCK.ACQUIRE a:1 newcomer").int() > 0);
    assert_no_reply(&mut actor, &mut job);
    release(&mut actor, &["b:1"], "holder");
    assert_eq!(served(&mut job), ["b:0", "b:1"]);
    assert_eq!(queue_of(&mut actor, "a:0"), [""; 0]);
    assert_counters(&mut actor, 4, 0);
}

fn a_call_that_turns_to_another_group_passes_on_what_was_reserved(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let keys = ["a:0", "a:1", "a:2", "b:0", "b:1", "b:2"];
    acquire_each(&mut actor, &keys, "holder");
    let call = "GPULOCK.ACQUIREANY 6 a:0 a:1 a:2 b:0 b:1 b:2 job COUNT 3 GROUPS 1 2 3 3 \
                BLOCK 0";
    let mut job = join_as(&server, &mut actor, call, "b:2", &["job"]);
    let next = "GPULOCK.ACQUIRE a:0 next BLOCK 0";
    let mut next = join_as(&server, &mut actor, next, "a:0", &["job", "next"]);
    release(&mut actor, &["a:0", "b:2"], "holder");
    assert_eq!(reserved_for_first(&mut actor, "a:0"), ["a:0"]);
    assert_no_reply(&mut actor, &mut next);
    // In the same command: its sender sees it done.
    release(&mut actor, &["b:1"], "holder");
    assert_eq!(actor.line("GET a:0"), "next");
    assert_eq!(reserved_for_first(&mut actor, "a:1"), ["b:1", "b:2"]);
    assert!(next.read().int() > 0);
    release(&mut actor, &["b:0"], "holder");
    assert_eq!(served(&mut job), ["b:0", "b:1", "b:2"]);
    assert_counters(&mut actor, 6, 0);
}

fn a_call_is_served_by_a_group_that_it_does_not_collect(flavour: &Flavour) {
    let (_server, mut actor, mut job) = start(flavour);
    release(&mut actor, &["a:0"], "holder");
    assert_eq!(reserved_for_first(&mut actor, "b:0"), ["a:0"]);
    assert_eq!(actor.line("DEL b:0 b:1"), 2);
    let reply = job.read_within(AT_ONCE).expect("the job is served");
    assert_eq!(keys_of(&reply), ["b:0", "b:1"]);
    assert!(actor.line("GPULOCK.ACQUIRE a:0 newcomer").int() > 0);
    assert_counters(&mut actor, 4, 0);
}

fn small_calls_behind_it_do_not_starve_a_call_with_groups(flavour: &Flavour) {
    let (server, mut actor, mut job) = start(flavour);
    // For each GPU two small jobs wait behind the call.
    let mut small: Vec<(Client, String, &str)> = Vec::new();
    for key in NODES {
        for n in 0..2 {
            let owner = format!("{key}-{n}");
            let call = format!("GPULOCK.ACQUIRE {key} {owner} BLOCK 0");
            small.push((waiter(&server, &call), owner, key));
        }
    }
    for key in NODES {
        wait_until(DEADLINE, "the small jobs to wait", || {
            queue_of(&mut actor, key).len() == 3
        });
    }
    release(&mut actor, &NODES, "holder");
    let first = served(&mut job);
    assert_eq!(first, ["a:0", "a:1"], "what it collects is kept for it");
    for key in &first {
        release(&mut actor, &[key], "job");
    }
    for (mut client, owner, key) in small {
        assert!(client.read_within(AT_ONCE).expect("a small job is served").int() > 0);
        release(&mut actor, &[key], &owner);
    }
    assert_eq!(actor.line("DBSIZE"), 0);
    assert_counters(&mut actor, 0, 0);
}

fn what_was_reserved_passes_on_when_the_client_is_killed(flavour: &Flavour) {
    let (server, mut actor, job) = start(flavour);
    let next = "GPULOCK.ACQUIRE a:0 next BLOCK 0";
    let mut next = join_as(&server, &mut actor, next, "a:0", &["job", "next"]);
    release(&mut actor, &["a:0"], "holder");
    assert_eq!(reserved_for(&mut actor, "a:0").as_deref(), Some("job"));
    assert_no_reply(&mut actor, &mut next);
    job.reset();
    assert!(
        next.read_within(AT_ONCE).expect("the next waiter is granted the lock").int() > 0
    );
    wait_queue(&mut actor, "b:1", &[]);
    release(&mut actor, &["b:1"], "holder");
    assert!(actor.line("GPULOCK.INSPECT b:1").is_null(), "nothing is reserved");
    assert_counters(&mut actor, 3, 0);
}

fn a_plain_set_takes_a_reserved_lock_and_its_end_is_noticed(flavour: &Flavour) {
    let (_server, mut actor, mut job) = start(flavour);
    release(&mut actor, &["a:0"], "holder");
    assert_eq!(actor.line("SET a:0 plain PX 600000"), "OK");
    wait_until(DEADLINE, "the plain key to be adopted", || {
        let waiters = actor.line("GPULOCK.INSPECT a:1").field("waiters");
        waiters.list()[0].field("reserved").list().is_empty()
    });
    release(&mut actor, &["a:1"], "holder");
    wait_reserved(&mut actor, "a:1", "job");
    assert_no_reply(&mut actor, &mut job);
    assert_eq!(actor.line("DEL a:0"), 1);
    let reply = job.read_within(AT_ONCE).expect("the job is served");
    assert_eq!(keys_of(&reply), ["a:0", "a:1"]);
    assert_counters(&mut actor, 4, 0);
}

fn the_same_call_of_a_unique_owner_takes_over_its_position(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire_each(&mut actor, &NODES, "holder");
    let call = format!("{ONE_NODE} UNIQUE BLOCK 0");
    let mut first = join_as(&server, &mut actor, &call, "b:1", &["job"]);
    let other = "GPULOCK.ACQUIRE b:1 other BLOCK 0";
    let mut other = join_as(&server, &mut actor, other, "b:1", &["job", "other"]);
    let mut again = join_as(&server, &mut actor, &call, "b:1", &["job", "other"]);
    assert_eq!(first.read(), Value::Null);
    assert_eq!(queue_of(&mut actor, "b:1"), ["job", "other"], "it keeps its turn");
    // Other groups are another call.
    let pair =
        "GPULOCK.ACQUIREANY 4 a:0 a:1 b:0 b:1 job COUNT 1 GROUPS 2 2 2 2 UNIQUE BLOCK 0";
    let mut pair = join_as(&server, &mut actor, pair, "b:1", &["other", "job"]);
    assert_eq!(again.read(), Value::Null);
    release(&mut actor, &["b:1"], "holder");
    assert!(other.read().int() > 0);
    release(&mut actor, &["a:1", "b:0"], "holder");
    assert_eq!(served(&mut pair), ["a:1", "b:0"]);
    assert_counters(&mut actor, 4, 0);
}

fn a_release_in_a_transaction_or_script_completes_a_group(flavour: &Flavour) {
    for in_script in [false, true] {
        let (_server, mut actor, mut job) = start(flavour);
        match in_script {
            false => {
                actor.send_lines(&[
                    "MULTI",
                    "GPULOCK.RELEASE b:0 holder",
                    "GPULOCK.RELEASE b:1 holder",
                    "EXISTS b:0 b:1",
                    "EXEC",
                ]);
                for _ in 0..4 {
                    assert!(!actor.read().is_err());
                }
                let results = actor.read();
                assert_eq!(results.list()[2], 0, "a transaction does not see the grant");
            }
            true => {
                let script = "for _, key in ipairs(KEYS) do \
                                redis.call('GPULOCK.RELEASE', key, ARGV[1]) \
                              end \
                              return redis.call('EXISTS', unpack(KEYS))";
                let reply = call!(actor, "EVAL", script, 2, "b:0", "b:1", "holder");
                assert_eq!(reply, 0);
            }
        }
        let reply = job.read_within(AT_ONCE).expect("the job is served");
        assert_eq!(keys_of(&reply), ["b:0", "b:1"]);
        assert_counters(&mut actor, 4, 0);
    }
}

fn invalid_groups_are_rejected_and_change_nothing(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let sizes = "ERR the sizes of GROUPS must add up to numkeys";
    let small = "ERR GROUPS m requires at least m groups with COUNT keys or more";
    for (options, error) in [
        ("GROUPS 1 2 2 2", "ERR syntax error"),
        ("COUNT 2 GROUPS", "ERR syntax error"),
        ("COUNT 2 GROUPS 1 2 2", "ERR syntax error"),
        ("COUNT 2 GROUPS 1 2 2 2 2", "ERR syntax error"),
        ("COUNT 2 GROUPS 1 2 2 2 GROUPS 1 2 2 2", "ERR syntax error"),
        ("COUNT 2 GROUPS 1 2 2 1", sizes),
        ("COUNT 2 GROUPS 1 2 3 2", sizes),
        ("COUNT 2 GROUPS 1 1 1", sizes),
        ("COUNT 3 GROUPS 1 2 2 2", small),
        ("COUNT 2 GROUPS 2 3 2 1 1", small),
        ("COUNT 2 GROUPS 0 2 2 2", "ERR GROUPS must be an integer from 1 to 2"),
        ("COUNT 2 GROUPS 3 2 2 2", "ERR GROUPS must be an integer from 1 to 2"),
        ("COUNT 2 GROUPS 1 5 1 1 1 1 0", "ERR numgroups must be an integer from 1 to 4"),
        ("COUNT 2 GROUPS 1 2 0 4", "ERR size must be an integer from 1 to 4"),
        ("COUNT 2 GROUPS 1 2 -1 4", "ERR size must be an integer from 1 to 4"),
        (
            "COUNT 2 GROUPS 1 2 2 9223372036854775808",
            "ERR size must be an integer from 1 to 4",
        ),
        ("COUNT 5 GROUPS 1 2 2 2", "ERR COUNT must be an integer from 1 to 4"),
    ] {
        for wait in ["", "BLOCK 1000 UNIQUE"] {
            let reply = client.line(&format!(
                "GPULOCK.ACQUIREANY 4 a:0 a:1 b:0 b:1 me {wait} {options}"
            ));
            assert_eq!(reply.err(), error, "{wait} {options}");
        }
    }
    assert_eq!(client.line("DBSIZE"), 0);
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    assert_counters(&mut client, 0, 0);
}

fn a_call_over_1024_groups_waits_and_is_served(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let keys: Vec<String> = (0..1024).map(|n| format!("k{n}")).collect();
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    acquire_each(&mut actor, &names, "holder");
    let sizes = ["1"; 1024].join(" ");
    let call = format!(
        "GPULOCK.ACQUIREANY 1024 {} job COUNT 1 GROUPS 1000 1024 {sizes} BLOCK 0",
        keys.join(" ")
    );
    let mut job = join_as(&server, &mut actor, &call, "k1023", &["job"]);
    release(&mut actor, &names[24..1023], "holder");
    assert_no_reply(&mut actor, &mut job);
    assert_eq!(reserved_for(&mut actor, "k24").as_deref(), Some("job"));
    release(&mut actor, &["k7"], "holder");
    let locks = served(&mut job);
    assert_eq!((locks.len(), locks[0].as_str()), (1_000, "k7"));
    assert_counters(&mut actor, 1_024, 0);
}

fn in_a_cluster_all_groups_must_share_a_slot(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 1);
    let mut client = cluster.nodes()[0].client();
    let reply = client
        .line("GPULOCK.ACQUIREANY 4 {a}:0 {a}:1 {b}:0 {b}:1 me COUNT 2 GROUPS 1 2 2 2");
    assert!(reply.err().starts_with("CROSSSLOT "), "{reply:?}");
    let keys = "{n}:a0 {n}:a1 {n}:b0 {n}:b1";
    let call = format!("GPULOCK.ACQUIREANY 4 {keys} me COUNT 2 GROUPS 1 2 2 2");
    assert_eq!(keys_of(&client.line(&call)), ["{n}:a0", "{n}:a1"]);
    acquire(&mut client, "{n}:b0", "other");
    let mut waits = cluster.nodes()[0].client();
    waits.send_lines(&[&format!(
        "GPULOCK.ACQUIREANY 4 {keys} second COUNT 2 GROUPS 1 2 2 2 BLOCK 0"
    )]);
    wait_queue(&mut client, "{n}:b1", &["second"]);
    release(&mut client, &["{n}:b0"], "other");
    assert_eq!(served(&mut waits), ["{n}:b0", "{n}:b1"]);
    assert_counters(&mut client, 4, 0);
}
