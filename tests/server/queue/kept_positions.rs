//! Kept positions: how long a call's KEEP keeps them, that they never keep a client from waiting,
//! and that they do not count as clients that wait.

use gpulock_testkit::{Client, Flavour, Value, call};

use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    keep_overrides_place_keep,
    a_call_that_takes_over_a_position_uses_its_own_keep,
    an_undelivered_grant_with_keep_0_leaves_nothing_behind,
    owners_that_give_up_never_fill_the_server,
    the_position_kept_longest_gives_way_and_clients_stay,
    with_a_lower_limit_kept_positions_give_way_and_clients_stay,
    kept_positions_are_not_counted_as_waiting,
}

/// An owner waits for a millisecond, gets null, and is away.
#[track_caller]
fn give_up(client: &mut Client, key: &str, owner: &str, options: &str) {
    let line = format!("GPULOCK.ACQUIRE {key} {owner} BLOCK 1 UNIQUE {options}");
    assert_eq!(client.line(&line), Value::Null);
}

fn keep_overrides_place_keep(flavour: &Flavour) {
    for (place_keep, options, expected) in
        [("3600000", "KEEP 0", &[][..]), ("0", "KEEP 3600000", &["(me)"]), ("0", "", &[])]
    {
        let server =
            flavour.server().module_args(&["gpulock.place-keep", place_keep]).start();
        let mut client = server.client();
        client.line("GPULOCK.ACQUIRE k holder");
        give_up(&mut client, "k", "me", options);
        assert_eq!(queue_of(&mut client, "k"), expected, "{options}, a wait expires");
        let line =
            format!("GPULOCK.ACQUIREANY 2 k j me COUNT 2 BLOCK 0 UNIQUE {options}");
        let lost = waiter(&server, &line);
        wait_queue(&mut client, "j", &["me"]);
        drop(lost);
        wait_queue(&mut client, "j", expected);
        assert_eq!(
            queue_of(&mut client, "k"),
            expected,
            "{options}, a connection closes"
        );
    }
}

fn a_call_that_takes_over_a_position_uses_its_own_keep(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k holder");
    give_up(&mut client, "k", "me", "KEEP 3600000");
    let _other = waiter(&server, "GPULOCK.ACQUIRE k other BLOCK 0");
    wait_queue(&mut client, "k", &["(me)", "other"]);
    give_up(&mut client, "k", "me", "");
    assert_eq!(queue_of(&mut client, "k"), ["(me)", "other"]);
    // The last slice.
    give_up(&mut client, "k", "me", "KEEP 0");
    assert_eq!(queue_of(&mut client, "k"), ["other"]);
}

fn an_undelivered_grant_with_keep_0_leaves_nothing_behind(flavour: &Flavour) {
    for (options, expected) in [("", &["(me)"][..]), ("KEEP 0", &[])] {
        let server = flavour.start();
        let mut client = server.client();
        client.line("GPULOCK.ACQUIRE k holder");
        let mut me = server.client();
        let id = me.id();
        me.send_lines(&[&format!("GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE {options}")]);
        wait_queue(&mut client, "k", &["me"]);
        // The connection is closed in the same iteration of the event loop as the grant.
        client.send_lines(&[
            "MULTI",
            "GPULOCK.RELEASE k holder",
            &format!("CLIENT KILL ID {id}"),
            "EXEC",
        ]);
        for _ in 0..4 {
            client.read();
        }
        wait_queue(&mut client, "k", expected);
        assert_eq!(client.line("EXISTS k"), 0, "{options}");
        assert_eq!(stats(&mut client)["undelivered"], 1, "{options}");
        assert_counters(&mut client, 0, 0);
    }
}

fn owners_that_give_up_never_fill_the_server(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-waiters", "8"]).start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k holder");
    for n in 0..100 {
        give_up(&mut client, "k", &n.to_string(), "");
    }
    let newest: Vec<_> = (92..100).map(|n| format!("({n})")).collect();
    assert_eq!(queue_of(&mut client, "k"), newest);
    let counters = stats(&mut client);
    assert_eq!((counters["refused"], counters["wait_timeouts"]), (0, 100));
    client.line("GPULOCK.ACQUIRE j holder");
    let mut next = waiter(&server, "GPULOCK.ACQUIRE j next BLOCK 0");
    wait_queue(&mut client, "j", &["next"]);
    assert_eq!(queue_of(&mut client, "k"), newest[1..]);
    assert_eq!(client.line("GPULOCK.RELEASE j holder"), 1);
    assert!(next.read().int() > 0);
    assert_counters(&mut client, 2, 0);
}

fn the_position_kept_longest_gives_way_and_clients_stay(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-waiters", "2"]).start();
    let (mut client, mut me) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    client.line("GPULOCK.ACQUIRE j holder");
    // It is kept longest, although its time would end last.
    give_up(&mut me, "k", "me", "KEEP 3600000");
    give_up(&mut client, "k", "you", "");
    let _next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["(you)", "next"]);
    // A repeated call takes over its own position.
    for _ in 0..3 {
        give_up(&mut client, "k", "you", "");
    }
    assert_eq!(queue_of(&mut client, "k"), ["(you)", "next"]);
    me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "k", &["next", "me"]);
    for (refused, key) in [(1, "k"), (2, "j")] {
        let reply = call!(client, "GPULOCK.ACQUIRE", key, "third", "BLOCK", 0);
        assert!(reply.err().starts_with("MAXWAITERS "), "{reply:?}");
        assert_eq!(stats(&mut client)["refused"], refused);
    }
    // A call that does not wait is not refused for that reason, nor one that takes over from
    // another connection that waits.
    assert_eq!(client.line("GPULOCK.ACQUIRE k third"), Value::Null);
    let _again = waiter(&server, "GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE");
    assert_eq!(me.read(), Value::Null);
    assert_eq!(queue_of(&mut client, "k"), ["next", "me"]);
}

fn with_a_lower_limit_kept_positions_give_way_and_clients_stay(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k holder");
    for owner in ["a", "b", "c"] {
        give_up(&mut client, "k", owner, "KEEP 3600000");
    }
    let clients: Vec<_> = ["d", "e"]
        .iter()
        .map(|owner| waiter(&server, &format!("GPULOCK.ACQUIRE k {owner} BLOCK 0")))
        .collect();
    server.wait_blocked(2);
    for (limit, expected) in [
        (5, &["(a)", "(b)", "(c)", "d", "e"][..]),
        (4, &["(b)", "(c)", "d", "e"]),
        (1, &["d", "e"]),
    ] {
        assert_eq!(call!(client, "CONFIG", "SET", "gpulock.max-waiters", limit), "OK");
        wait_queue(&mut client, "k", expected);
    }
    let reply = client.line("GPULOCK.ACQUIRE k f BLOCK 0");
    assert!(reply.err().starts_with("MAXWAITERS "), "{reply:?}");
    drop(clients);
    wait_queue(&mut client, "k", &[]);
    give_up(&mut client, "k", "f", "");
    assert_eq!(queue_of(&mut client, "k"), ["(f)"]);
}

fn kept_positions_are_not_counted_as_waiting(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k holder");
    give_up(&mut client, "k", "me", "");
    for (clients, is_held) in [(0, true), (1, true), (0, false)] {
        let _waits = (clients > 0).then(|| {
            let waits = waiter(&server, "GPULOCK.ACQUIRE k other BLOCK 0");
            wait_queue(&mut client, "k", &["(me)", "other"]);
            waits
        });
        if !is_held {
            wait_queue(&mut client, "k", &["(me)"]);
            assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
        }
        let inspected = client.line("GPULOCK.INSPECT k");
        let listed = client.line("GPULOCK.LIST");
        let rows = listed.list();
        assert_eq!(rows.len(), 1);
        assert_eq!(inspected.field("owner").is_null(), !is_held);
        assert_eq!(inspected.field("waiting"), clients);
        assert_eq!(rows[0].field("waiting"), clients);
        assert_eq!(stats(&mut client)["clients_waiting"], clients);
    }
    // Neither held nor waited for, and no position is kept.
    assert!(client.line("GPULOCK.ACQUIRE k me UNIQUE").int() > 0);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert_eq!(client.line("GPULOCK.INSPECT k"), Value::Null);
}
