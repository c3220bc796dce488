//! PRIORITY and SHARE: which waiter is next, how far a call passes others, and what INSPECT shows.

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::lock_sets::{release, served};
use crate::support::locks::acquire;
use crate::support::queue::{join_queue, queue_length, wait_queue, waiter};

tests! {
    interactive_work_passes_batch_work_but_does_not_starve_it,
    without_the_options_and_with_equal_ones_the_queue_is_fifo,
    the_jobs_of_two_shares_take_turns,
    lock_sets_of_two_shares_take_turns,
    a_newcomer_gets_a_reserved_lock_only_if_its_turn_is_before_the_first_waiters,
    a_kept_and_a_taken_over_place_keep_their_turn,
    another_priority_or_share_is_a_new_call,
    inspect_shows_turns_priorities_and_shares,
    the_priority_is_limited,
    a_share_is_1_to_256_bytes_of_any_kind,
    waiters_of_several_priorities_queue_again_after_a_failover,
    a_cluster_knows_turns,
}

/// The options of a call that waits for a minute.
const WAIT: &str = "PX 600000 BLOCK 60000";

/// Calls that wait for `k`, in this order of arrival: the owner, and further options.
fn join(server: &Server, actor: &mut Client, calls: &[(&str, &str)]) -> Vec<Client> {
    let join = |(owner, options): &(&str, &str)| {
        join_queue(server, actor, "k", owner, &format!("{WAIT} {options}"))
    };
    calls.iter().map(join).collect()
}

/// The holder of a lock gives it back. Returns the next holder.
#[track_caller]
fn pass_on(actor: &mut Client, key: &str, holder: &str) -> String {
    release(actor, &[key], holder);
    call!(actor, "GET", key).text()
}

/// Who holds `k` after `holder`, in order, until its queue is empty.
#[track_caller]
fn holders_after(actor: &mut Client, holder: &str) -> Vec<String> {
    let mut holders = vec![holder.to_owned()];
    while queue_length(actor, "k") > 0 {
        let next = pass_on(actor, "k", &holders[holders.len() - 1]);
        holders.push(next);
    }
    holders.remove(0);
    holders
}

fn interactive_work_passes_batch_work_but_does_not_starve_it(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.round", "3"]).start();
    let mut actor = server.client();
    for (batch, interactive, bound) in
        [("", "PRIORITY 1", 3), ("PRIORITY -1", "", 3), ("PRIORITY -1", "PRIORITY 1", 6)]
    {
        acquire(&mut actor, "k", "holder");
        let mut waiting = join(&server, &mut actor, &[("batch", batch)]);
        let mut holder = "holder".to_owned();
        // There is always somebody with a higher priority.
        for passed in 0..=bound {
            waiting.extend(join(&server, &mut actor, &[("urgent", interactive)]));
            holder = pass_on(&mut actor, "k", &holder);
            let expected = if passed < bound { "urgent" } else { "batch" };
            assert_eq!(
                holder, expected,
                "{batch:?}, {interactive:?} after {passed} grants"
            );
        }
        assert!(waiting[0].read().int() > 0);
        assert_eq!(holders_after(&mut actor, "batch"), ["urgent"]);
        release(&mut actor, &["k"], "urgent");
    }
}

fn without_the_options_and_with_equal_ones_the_queue_is_fifo(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for options in ["", "PRIORITY 0", "PRIORITY 100", "PRIORITY -100 SHARE all"] {
        let holding = format!("GPULOCK.ACQUIRE k 0 PX 600000 {options}");
        assert!(actor.line(&holding).int() > 0);
        let owners: Vec<String> = (1..40).map(|n| n.to_string()).collect();
        let (mut holder, mut holders) = ("0".to_owned(), vec![]);
        let mut waiting = vec![];
        for two in owners.chunks(2) {
            for owner in two {
                waiting.extend(join(&server, &mut actor, &[(owner, options)]));
            }
            holder = pass_on(&mut actor, "k", &holder);
            holders.push(holder.clone());
        }
        holders.extend(holders_after(&mut actor, &holder));
        assert_eq!(holders, owners, "{options}");
        release(&mut actor, &["k"], &owners[owners.len() - 1]);
    }
}

fn the_jobs_of_two_shares_take_turns(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    assert!(actor.line("GPULOCK.ACQUIRE k ana PX 600000 SHARE ana").int() > 0);
    let _ana: Vec<_> = (0..100)
        .map(|n| {
            let client =
                waiter(&server, "GPULOCK.ACQUIRE k ana PX 600000 BLOCK 0 SHARE ana");
            wait_until(DEADLINE, "ana's job to wait", || {
                queue_length(&mut actor, "k") == n + 1
            });
            client
        })
        .collect();
    let _ben = join(&server, &mut actor, &[("ben", "SHARE ben"), ("ben", "SHARE ben")]);
    let mut holders = vec!["ana".to_owned()];
    for _ in 0..6 {
        let next = pass_on(&mut actor, "k", &holders[holders.len() - 1]);
        holders.push(next);
    }
    assert_eq!(holders, ["ana", "ben", "ana", "ben", "ana", "ana", "ana"]);
}

fn lock_sets_of_two_shares_take_turns(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let ask = |share: &str| {
        format!("GPULOCK.ACQUIREANY 3 k k2 k3 {share} COUNT 2 {WAIT} SHARE {share}")
    };
    let of_ana = actor.line(&ask("ana"));
    assert_eq!(of_ana.list().len(), 2);
    // Two holds, and then a place as well.
    let mut queue = vec![];
    let mut waiting = vec![];
    for (share, expected) in [
        ("ana", &["ana"][..]),
        ("ana", &["ana", "ana"]),
        ("ben", &["ben", "ana", "ana"]),
        ("ben", &["ben", "ben", "ana", "ana"]),
    ] {
        waiting.push(waiter(&server, &ask(share)));
        wait_queue(&mut actor, "k", expected);
        queue = expected.to_vec();
    }
    // k3 is free, and reserved for ben's first job.
    release(&mut actor, &["k"], "ana");
    assert_eq!(served(&mut waiting[2]), ["k", "k3"]);
    wait_queue(&mut actor, "k2", &queue[1..]);
}

fn a_newcomer_gets_a_reserved_lock_only_if_its_turn_is_before_the_first_waiters(
    flavour: &Flavour,
) {
    let server = flavour.server().module_args(&["gpulock.round", "2"]).start();
    let mut actor = server.client();
    acquire(&mut actor, "k2", "holder");
    let mut both =
        waiter(&server, &format!("GPULOCK.ACQUIREANY 2 k k2 both COUNT 2 {WAIT}"));
    wait_queue(&mut actor, "k", &["both"]);
    let ask = |actor: &mut Client, options: &str| {
        !call!(actor, "GPULOCK.INSPECT", "k").is_null()
            && !actor
                .line(&format!("GPULOCK.ACQUIRE k new PX 600000 {options}"))
                .is_null()
    };
    for (options, expected) in [
        ("", false),
        ("PRIORITY 0 SHARE s", false),
        ("PRIORITY 1", true),
        ("PRIORITY 1", true),
        ("PRIORITY 1", false),
        ("PRIORITY 2", true),
    ] {
        assert_eq!(ask(&mut actor, options), expected, "{options}");
        if expected {
            release(&mut actor, &["k"], "new");
        }
    }
    // A call for any lock gets it in the same way.
    let any = actor.line("GPULOCK.ACQUIREANY 2 k2 k new PX 600000 PRIORITY 3");
    assert_eq!(any.list().len(), 1);
    release(&mut actor, &["k2"], "holder");
    release(&mut actor, &["k"], "new");
    assert_eq!(served(&mut both), ["k", "k2"]);
}

fn a_kept_and_a_taken_over_place_keep_their_turn(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.round", "2"]).start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let unique = "UNIQUE PRIORITY -1 SHARE s";
    let _first = join(&server, &mut actor, &[("a", "")]);
    let mine = join_queue(&server, &mut actor, "k", "me", &format!("{WAIT} {unique}"));
    let _b = join(&server, &mut actor, &[("b", "")]);
    wait_queue(&mut actor, "k", &["a", "b", "me"]);
    // Two grants later, a new call like it would be behind c.
    assert_eq!(pass_on(&mut actor, "k", "holder"), "a");
    assert_eq!(pass_on(&mut actor, "k", "a"), "b");
    drop(mine);
    wait_queue(&mut actor, "k", &["(me)"]);
    let _c = join(&server, &mut actor, &[("c", "")]);
    wait_queue(&mut actor, "k", &["(me)", "c"]);
    let again = waiter(&server, &format!("GPULOCK.ACQUIRE k me {WAIT} {unique}"));
    wait_queue(&mut actor, "k", &["me", "c"]);
    // It is taken over while it waits.
    let mut last = waiter(&server, &format!("GPULOCK.ACQUIRE k me {WAIT} {unique}"));
    wait_until(DEADLINE, "the place to be taken over", || {
        stats(&mut actor)["waits_abandoned"] == 2
    });
    wait_queue(&mut actor, "k", &["me", "c"]);
    assert_eq!(pass_on(&mut actor, "k", "b"), "me");
    assert!(last.read().int() > 0);
    drop(again);
}

fn another_priority_or_share_is_a_new_call(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let mut place = join(&server, &mut actor, &[("me", "UNIQUE SHARE s"), ("b", "")]);
    wait_queue(&mut actor, "k", &["me", "b"]);
    let ask = |options: &str| {
        waiter(&server, &format!("GPULOCK.ACQUIRE k me {WAIT} UNIQUE {options}"))
    };
    let mut other_share = ask("SHARE t");
    wait_queue(&mut actor, "k", &["b", "me"]);
    assert_eq!(place[0].read(), Value::Null);
    let _urgent = ask("SHARE t PRIORITY 1");
    wait_queue(&mut actor, "k", &["me", "b"]);
    assert_eq!(other_share.read(), Value::Null);
}

fn inspect_shows_turns_priorities_and_shares(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    assert_eq!(actor.line("GPULOCK.INSPECT k").field("share"), Value::Null);
    // A renewal sets the share, and one without leaves it.
    for renewal in ["SHARE s", "", "PRIORITY 1"] {
        let line = format!("GPULOCK.ACQUIRE k holder PX 600000 UNIQUE {renewal}");
        assert!(actor.line(&line).int() > 0);
        assert_eq!(actor.line("GPULOCK.INSPECT k").field("share"), "s", "{renewal}");
    }
    let calls = [
        ("a", ""),
        ("b", "PRIORITY -3 SHARE t"),
        ("c", "SHARE s"),
        ("d", "PRIORITY 100"),
    ];
    let _waiting = join(&server, &mut actor, &calls);
    for client in [&mut actor, &mut server.client3()] {
        let positions = client.line("GPULOCK.INSPECT k").field("waiters");
        let shown: Vec<(String, i64, Value)> = positions
            .list()
            .iter()
            .map(|it| {
                (it.field("owner").text(), it.field("priority").int(), it.field("share"))
            })
            .collect();
        let share = |name: &str| Value::Bulk(name.into());
        assert_eq!(
            shown,
            [
                ("d".into(), 100, Value::Null),
                ("a".into(), 0, Value::Null),
                ("c".into(), 0, share("s")),
                ("b".into(), -3, share("t")),
            ]
        );
    }
    assert_eq!(pass_on(&mut actor, "k", "holder"), "d");
    assert_eq!(actor.line("GPULOCK.INSPECT k").field("share"), Value::Null);
    assert_eq!(holders_after(&mut actor, "d"), ["a", "c", "b"]);
    assert_eq!(actor.line("GPULOCK.INSPECT k").field("share"), "t");
}

fn the_priority_is_limited(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-priority", "0"]).start();
    let mut actor = server.client();
    let too_high = "ERR PRIORITY exceeds gpulock.max-priority (0)";
    for ask in ["GPULOCK.ACQUIRE k me", "GPULOCK.ACQUIREANY 2 k k2 me"] {
        for block in ["", " BLOCK 10"] {
            assert_eq!(actor.line(&format!("{ask} PRIORITY 1{block}")).err(), too_high);
        }
        for invalid in ["101", "-101", "x", "1.5", ""] {
            let reply = call!(actor, "GPULOCK.ACQUIRE", "k", "me", "PRIORITY", invalid);
            assert_eq!(reply.err(), "ERR PRIORITY must be an integer from -100 to 100");
        }
        assert_eq!(actor.line("DBSIZE"), 0, "{ask}");
    }
    assert!(actor.line("GPULOCK.ACQUIRE k me PRIORITY -100").int() > 0);
    assert!(actor.line("GPULOCK.ACQUIRE k2 me PRIORITY 0").int() > 0);
    assert_eq!(actor.line("CONFIG SET gpulock.max-priority 5"), "OK");
    assert!(actor.line("GPULOCK.ACQUIRE k3 me PRIORITY 5").int() > 0);
    assert!(actor.line("GPULOCK.ACQUIRE k4 me PRIORITY 6").err().contains("(5)"));
    assert_eq!(actor.line("CONFIG SET gpulock.max-priority -100"), "OK");
    assert!(actor.line("GPULOCK.ACQUIRE k4 me").int() > 0, "0 needs no permission");
}

fn a_share_is_1_to_256_bytes_of_any_kind(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for invalid in [vec![], vec![b's'; 257]] {
        let reply = call!(actor, "GPULOCK.ACQUIRE", "k", "me", "SHARE", &invalid[..]);
        assert_eq!(reply.err(), "ERR SHARE must be 1 to 256 bytes long");
        assert_eq!(actor.line("DBSIZE"), 0);
    }
    for share in [vec![b's'; 256], b"\x00\xff\r\n".to_vec()] {
        let token = call!(actor, "GPULOCK.ACQUIRE", "k", "me", "SHARE", &share[..]);
        assert!(token.int() > 0);
        assert_eq!(actor.line("GPULOCK.INSPECT k").field("share").bytes(), share);
        release(&mut actor, &["k"], "me");
    }
}

fn waiters_of_several_priorities_queue_again_after_a_failover(flavour: &Flavour) {
    let primary = flavour.start();
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    let mut actor = primary.client();
    acquire(&mut actor, "k", "holder");
    let calls = [("batch", "PRIORITY -1"), ("plain", ""), ("urgent", "PRIORITY 1")];
    let mut waiting = join(&primary, &mut actor, &calls);
    wait_queue(&mut actor, "k", &["urgent", "plain", "batch"]);
    replica.wait_caught_up_with(&primary);
    let port = replica.port().to_string();
    let mut promoted = replica.client();
    assert_eq!(promoted.line("REPLICAOF NO ONE"), "OK");
    assert_eq!(call!(actor, "REPLICAOF", "127.0.0.1", port), "OK");
    for client in &mut waiting {
        let reply = client.read();
        assert!(reply.err().starts_with("UNBLOCKED "), "{reply:?}");
    }
    let _again = join(&replica, &mut promoted, &calls);
    wait_queue(&mut promoted, "k", &["urgent", "plain", "batch"]);
    assert_eq!(holders_after(&mut promoted, "holder"), ["urgent", "plain", "batch"]);
}

fn a_cluster_knows_turns(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 2);
    let keys = ["{t}1", "{t}2", "{t}3"];
    let server = cluster.primary_of(keys[0]);
    let mut actor = server.client();
    for key in keys {
        let line = format!("GPULOCK.ACQUIRE {key} ana PX 600000 SHARE ana");
        assert!(actor.line(&line).int() > 0);
    }
    let ask = |owner: &str, options: &str| {
        let [a, b, c] = keys;
        let line =
            format!("GPULOCK.ACQUIREANY 3 {a} {b} {c} {owner} COUNT 2 {WAIT} {options}");
        waiter(server, &line)
    };
    let _ana = ask("ana", "SHARE ana");
    wait_queue(&mut actor, keys[0], &["ana"]);
    let mut ben = ask("ben", "SHARE ben");
    wait_queue(&mut actor, keys[0], &["ben", "ana"]);
    let mut urgent = ask("urgent", "PRIORITY 2");
    wait_queue(&mut actor, keys[2], &["urgent", "ben", "ana"]);
    release(&mut actor, &keys[..2], "ana");
    assert_eq!(served(&mut urgent), &keys[..2]);
    release(&mut actor, &keys[..2], "urgent");
    assert_eq!(served(&mut ben), &keys[..2]);
}
