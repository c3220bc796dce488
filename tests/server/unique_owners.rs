//! UNIQUE owners: a repeated call returns the same token, and an owner has one position in a
//! queue, which is kept while it is disconnected. Owners without UNIQUE have neither.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::queue::{queue_of, wait_queue, waiter};

tests! {
    a_retry_returns_the_same_token_and_renews_the_lease,
    a_retry_after_a_wait_returns_the_token_of_the_grant,
    waiters_wait_for_the_end_of_a_renewed_lease,
    an_adopted_lock_keeps_the_token_of_its_first_renewal,
    a_newer_call_takes_over_the_position_and_the_older_returns_null,
    a_call_without_block_can_use_the_position_of_the_older_call,
    repeated_short_waits_keep_the_position,
    a_lost_connection_keeps_the_position,
    a_kept_position_is_skipped_while_its_owner_is_disconnected_and_stays_first,
    an_undelivered_grant_with_a_session_keeps_the_owners_position,
    a_free_lock_is_not_reserved_for_a_kept_position,
    a_kept_position_ends_after_place_keep,
    without_place_keep_no_position_is_kept,
    client_unblock_keeps_no_position,
    a_role_change_keeps_no_position,
    without_unique_each_call_has_its_own_position,
}

/// Checks that a connection received nothing else before this moment.
#[track_caller]
fn assert_nothing_received(client: &mut Client) {
    assert_eq!(client.line("ECHO nothing-more"), "nothing-more");
}

fn a_retry_returns_the_same_token_and_renews_the_lease(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut other) = (server.client(), server.client());
    let first = client.line("GPULOCK.ACQUIRE k me PX 50000 UNIQUE").int();
    // The reply comes without a wait, on any connection and with any options.
    for retry in [
        "GPULOCK.ACQUIRE k me PX 90000 UNIQUE",
        "GPULOCK.ACQUIRE k me PX 90000 UNIQUE BLOCK 0",
        "GPULOCK.ACQUIRE k me PX 90000 BLOCK 1 UNIQUE",
    ] {
        assert!(client.line("PTTL k").int() <= 50_000);
        assert_eq!(other.line(retry), first);
        assert!((80_000..=90_000).contains(&client.line("PTTL k").int()), "{retry}");
        assert_eq!(other.line("GPULOCK.EXTEND k me PX 50000"), first);
    }
    // A renewal does not count as a grant.
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["renewed"], stats["refused"]), (1, 3, 0));
    assert_eq!(client.line("GPULOCK.ACQUIRE k you UNIQUE"), Value::Null);
    assert_counters(&mut client, 1, 0);
}

fn a_retry_after_a_wait_returns_the_token_of_the_grant(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut other) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder UNIQUE");
    let mut me = waiter(&server, "GPULOCK.ACQUIRE k me PX 50000 UNIQUE BLOCK 0");
    wait_queue(&mut client, "k", &["me"]);
    let _next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["me", "next"]);
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    let token = me.read().int();
    // The holder renews its lock without passing the queue.
    assert_eq!(other.line("GPULOCK.ACQUIRE k me PX 90000 UNIQUE BLOCK 0"), token);
    assert!(client.line("PTTL k").int() > 80_000);
    assert_eq!(queue_of(&mut client, "k"), ["next"]);
    assert_counters(&mut client, 1, 1);
}

fn waiters_wait_for_the_end_of_a_renewed_lease(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k me PX 2000 UNIQUE");
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    let mut clock = waiter(&server, "GPULOCK.ACQUIRE k clock BLOCK 4000");
    wait_queue(&mut client, "k", &["next", "clock"]);
    let token = client.line("GPULOCK.ACQUIRE k me PX 100000 UNIQUE").int();
    assert_eq!(clock.read(), Value::Null);
    assert_eq!(client.line("GPULOCK.INSPECT k").field("token"), token);
    assert_eq!(queue_of(&mut client, "k"), ["next"]);
    // A shorter lease also counts.
    assert_eq!(client.line("GPULOCK.ACQUIRE k me PX 20 UNIQUE"), token);
    assert!(next.read().int() > token);
}

fn an_adopted_lock_keeps_the_token_of_its_first_renewal(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(client.line("SET k me PX 50000"), "OK");
    assert_eq!(client.line("GPULOCK.ACQUIRE k me"), Value::Null);
    assert_eq!(client.line("GPULOCK.INSPECT k").field("token"), Value::Null);
    let token = client.line("GPULOCK.ACQUIRE k me PX 90000 UNIQUE").int();
    assert!(token > 0);
    assert!(client.line("PTTL k").int() > 80_000);
    for _ in 0..2 {
        assert_eq!(client.line("GPULOCK.ACQUIRE k me PX 90000 UNIQUE"), token);
    }
    let seen = client.line("GPULOCK.INSPECT k");
    assert_eq!(seen.field("token"), token);
    assert_eq!(seen.field("adopted"), 1);
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["adopted"], stats["renewed"]), (0, 1, 3));
    assert_counters(&mut client, 1, 0);
}

fn a_newer_call_takes_over_the_position_and_the_older_returns_null(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k holder");
    let mut older = waiter(&server, "GPULOCK.ACQUIRE k me PX 1000 BLOCK 0 UNIQUE");
    wait_queue(&mut client, "k", &["me"]);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["me", "next"]);
    // For other keys and databases it has separate positions.
    client.line("GPULOCK.ACQUIRE j holder");
    let _other_key = waiter(&server, "GPULOCK.ACQUIRE j me BLOCK 0 UNIQUE");
    wait_queue(&mut client, "j", &["me"]);
    let mut other_db = server.client();
    other_db.send_lines(&[
        "SELECT 1",
        "GPULOCK.ACQUIRE k holder",
        "GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE",
    ]);
    server.wait_blocked(4);

    let mut newer = server.client();
    let id = newer.id();
    newer.send_lines(&["GPULOCK.ACQUIRE k me PX 90000 BLOCK 0 UNIQUE"]);
    assert_eq!(older.read(), Value::Null);
    let waiters = client.line("GPULOCK.INSPECT k").field("waiters");
    assert_eq!(waiters.list()[0].field("client"), id);
    assert_eq!(queue_of(&mut client, "k"), ["me", "next"]);
    assert_eq!(queue_of(&mut client, "j"), ["me"]);
    let stats = stats(&mut client);
    assert_eq!((stats["waits_abandoned"], stats["wait_timeouts"]), (1, 0));
    assert_counters(&mut client, 3, 4);

    // The options of the newer call apply.
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    let token = newer.read().int();
    assert!(client.line("PTTL k").int() > 80_000);
    assert_nothing_received(&mut older);
    assert_eq!(newer.line("GPULOCK.RELEASE k me"), 1);
    assert!(next.read().int() > token);
}

fn a_call_without_block_can_use_the_position_of_the_older_call(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut caller) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    let mut older = waiter(&server, "GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE");
    wait_queue(&mut client, "k", &["me"]);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0 UNIQUE");
    wait_queue(&mut client, "k", &["me", "next"]);
    // The first position in the queue is me's, not next's.
    caller.send_lines(&["DEL k", "GPULOCK.ACQUIRE k me UNIQUE"]);
    assert_eq!(caller.read(), 1);
    let token = caller.read().int();
    assert_eq!(older.read(), Value::Null);
    assert_eq!(queue_of(&mut client, "k"), ["next"]);
    let _third = waiter(&server, "GPULOCK.ACQUIRE k third BLOCK 0 UNIQUE");
    wait_queue(&mut client, "k", &["next", "third"]);
    caller.send_lines(&["DEL k", "GPULOCK.ACQUIRE k third UNIQUE"]);
    assert_eq!((caller.read(), caller.read()), (Value::Int(1), Value::Null));
    assert!(next.read().int() > token);
    assert_counters(&mut client, 1, 1);
}

fn repeated_short_waits_keep_the_position(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut me) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    assert_eq!(me.line("GPULOCK.ACQUIRE k me BLOCK 2 UNIQUE"), Value::Null);
    let mut others = Vec::new();
    let mut queue = vec!["(me)".to_owned()];
    for n in 0..20 {
        // Each time, another waiter joins behind, some of them UNIQUE.
        let owner = format!("o{n}");
        let unique = if n % 2 == 0 { "UNIQUE" } else { "" };
        others.push(waiter(
            &server,
            &format!("GPULOCK.ACQUIRE k {owner} BLOCK 0 {unique}"),
        ));
        queue.push(owner);
        wait_until(DEADLINE, "one more waiter", || queue_of(&mut client, "k") == queue);
        assert_eq!(me.line("GPULOCK.ACQUIRE k me BLOCK 2 UNIQUE"), Value::Null);
        assert_eq!(queue_of(&mut client, "k"), queue);
    }
    assert_eq!(stats(&mut client)["wait_timeouts"], 21);
    assert_counters(&mut client, 1, 20);
    me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
    queue[0] = "me".to_owned();
    wait_until(DEADLINE, "the owner to reconnect", || {
        queue_of(&mut client, "k") == queue
    });
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    let mut last = me.read().int();
    assert_eq!(me.line("GPULOCK.RELEASE k me"), 1);
    for (n, other) in others.iter_mut().enumerate() {
        let token = other.read().int();
        assert!(token > last);
        last = token;
        assert_eq!(client.line(&format!("GPULOCK.RELEASE k o{n}")), 1);
    }
    assert_counters(&mut client, 0, 0);
}

/// Closes a connection, with another connection and the client id.
type Loss = (&'static str, fn(Client, &mut Client, i64));

fn a_lost_connection_keeps_the_position(flavour: &Flavour) {
    let losses: [Loss; 4] = [
        ("FIN", |lost, _, _| drop(lost)),
        ("RST", |lost, _, _| lost.reset()),
        ("CLIENT KILL", |_lost, client, id| {
            assert_eq!(call!(client, "CLIENT", "KILL", "ID", id), 1);
        }),
        ("half closed", |mut lost, _, _| {
            lost.half_close();
            lost.wait_closed();
        }),
    ];
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k holder");
    let mut me = server.client();
    let mut id = me.id();
    me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "k", &["me"]);
    let _next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0 UNIQUE");
    wait_queue(&mut client, "k", &["me", "next"]);
    for (how, lose) in losses {
        eprintln!("{how}");
        lose(me, &mut client, id);
        wait_queue(&mut client, "k", &["(me)", "next"]);
        let waiters = client.line("GPULOCK.INSPECT k").field("waiters");
        assert_eq!(waiters.list()[0].field("client"), Value::Null);
        assert_counters(&mut client, 1, 1);
        me = server.client();
        id = me.id();
        me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
        wait_queue(&mut client, "k", &["me", "next"]);
    }
    assert_eq!(stats(&mut client)["waits_abandoned"], 4);
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(me.read().int() > 0);
}

fn a_kept_position_is_skipped_while_its_owner_is_disconnected_and_stays_first(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let (mut client, mut me) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    assert_eq!(me.line("GPULOCK.ACQUIRE k me BLOCK 1 UNIQUE"), Value::Null);
    let mut second = waiter(&server, "GPULOCK.ACQUIRE k second BLOCK 0");
    wait_queue(&mut client, "k", &["(me)", "second"]);
    let _third = waiter(&server, "GPULOCK.ACQUIRE k third BLOCK 0");
    wait_queue(&mut client, "k", &["(me)", "second", "third"]);
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(second.read().int() > 0);
    assert_eq!(queue_of(&mut client, "k"), ["(me)", "third"]);
    me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "k", &["me", "third"]);
    assert_eq!(second.line("GPULOCK.RELEASE k second"), 1);
    assert!(me.read().int() > 0);
    assert_eq!(queue_of(&mut client, "k"), ["third"]);
}

/// The server reports the closed connection before the undelivered reply: the session must not
/// end the hold first.
fn an_undelivered_grant_with_a_session_keeps_the_owners_position(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut me) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    let kill = format!("CLIENT KILL ID {}", me.id());
    me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE SESSION"]);
    wait_queue(&mut client, "k", &["me"]);
    let mut second = waiter(&server, "GPULOCK.ACQUIRE k second BLOCK 0");
    wait_queue(&mut client, "k", &["me", "second"]);
    client.send_lines(&["GPULOCK.RELEASE k holder", &kill]);
    assert_eq!([client.read(), client.read()], [1, 1].map(Value::Int));
    me.wait_closed();
    assert!(second.read().int() > 0);
    let counted = stats(&mut client);
    assert_eq!((counted["undelivered"], counted["session_releases"]), (1, 0));
    assert_eq!(queue_of(&mut client, "k"), ["(me)"]);
    let mut me = waiter(&server, "GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE SESSION");
    wait_queue(&mut client, "k", &["me"]);
    assert_eq!(second.line("GPULOCK.RELEASE k second"), 1);
    assert!(me.read().int() > 0);
}

fn a_free_lock_is_not_reserved_for_a_kept_position(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut me) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    assert_eq!(me.line("GPULOCK.ACQUIRE k me BLOCK 1 UNIQUE"), Value::Null);
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert_eq!(client.line("EXISTS k"), 0);
    // The reply shows both the free lock and the kept position.
    let seen = client.line("GPULOCK.INSPECT k");
    for name in ["owner", "token", "lease_ms", "held_ms", "session", "adopted"] {
        assert_eq!(seen.field(name), Value::Null, "{name}");
    }
    assert_eq!(queue_of(&mut client, "k"), ["(me)"]);
    assert!(client.line("GPULOCK.ACQUIRE k newcomer").int() > 0);
    assert_eq!(queue_of(&mut client, "k"), ["(me)"]);
    assert_eq!(client.line("GPULOCK.RELEASE k newcomer"), 1);
    // The owner acquires the free lock, which ends its position.
    assert!(me.line("GPULOCK.ACQUIRE k me UNIQUE").int() > 0);
    assert!(queue_of(&mut client, "k").is_empty());
    assert_counters(&mut client, 1, 0);
}

fn a_kept_position_ends_after_place_keep(flavour: &Flavour) {
    const KEEP: Duration = Duration::from_secs(2);
    let server = flavour.server().module_args(&["gpulock.place-keep", "2000"]).start();
    let (mut client, mut me) = (server.client(), server.client());
    for lost in [false, true] {
        client.line("GPULOCK.ACQUIRE k holder");
        let left = if lost {
            me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
            wait_queue(&mut client, "k", &["me"]);
            let left = Instant::now();
            me = server.client();
            left
        } else {
            let left = Instant::now();
            let reply = me.line("GPULOCK.ACQUIRE k me BLOCK 1 UNIQUE");
            assert_eq!(reply, Value::Null);
            left
        };
        let next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["(me)", "next"]);
        wait_queue(&mut client, "k", &["next"]);
        let kept = left.elapsed();
        // Times are truncated to whole milliseconds, and a busy machine adds some.
        let least = KEEP - Duration::from_millis(1);
        assert!((least..KEEP * 3).contains(&kept), "kept for {kept:?}");
        // An owner that returns later joins last.
        let again = waiter(&server, "GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE");
        wait_queue(&mut client, "k", &["next", "me"]);
        assert_eq!(client.line("FLUSHALL"), "OK");
        drop((next, again));
        wait_until(DEADLINE, "the end of all waits", || {
            client.line("FLUSHALL");
            client.line("GPULOCK.INSPECT k").is_null()
        });
    }
    assert_counters(&mut client, 0, 0);
}

fn without_place_keep_no_position_is_kept(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.place-keep", "0"]).start();
    let (mut client, mut me) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    assert_eq!(me.line("GPULOCK.ACQUIRE k me BLOCK 1 UNIQUE"), Value::Null);
    assert!(queue_of(&mut client, "k").is_empty());
    me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "k", &["me"]);
    drop(me);
    wait_queue(&mut client, "k", &[]);
}

fn client_unblock_keeps_no_position(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut me) = (server.client(), server.client());
    let id = me.id();
    client.line("GPULOCK.ACQUIRE k holder");
    for how in ["TIMEOUT", "ERROR"] {
        me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
        wait_queue(&mut client, "k", &["me"]);
        let unblocked = call!(client, "CLIENT", "UNBLOCK", id, how);
        if !flavour.can_unblock() {
            assert_eq!(unblocked, 0);
            assert_eq!(queue_of(&mut client, "k"), ["me"]);
            assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
            assert!(me.read().int() > 0);
            assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
            client.line("GPULOCK.ACQUIRE k holder");
            continue;
        }
        assert_eq!(unblocked, 1);
        match how {
            "ERROR" => assert!(me.read().err().starts_with("UNBLOCKED ")),
            _ => assert_eq!(me.read(), Value::Null),
        }
        assert!(queue_of(&mut client, "k").is_empty(), "{how}");
        assert_nothing_received(&mut me);
    }
    let stats = stats(&mut client);
    let counted = i64::from(flavour.can_unblock());
    assert_eq!(stats["wait_timeouts"], counted);
    assert_eq!(stats["waits_abandoned"], counted);
    assert_counters(&mut client, 1, 0);
}

fn a_role_change_keeps_no_position(flavour: &Flavour) {
    let primary = flavour.server().named("primary").start();
    let server = flavour.server().named("replica").start();
    let (mut client, mut away) = (server.client(), server.client());
    client.line("GPULOCK.ACQUIRE k holder");
    assert_eq!(away.line("GPULOCK.ACQUIRE k away BLOCK 1 UNIQUE"), Value::Null);
    let mut me = waiter(&server, "GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE");
    wait_queue(&mut client, "k", &["(away)", "me"]);
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", primary.port()), "OK");
    // The server closes connections after this error.
    assert!(me.read().err().starts_with("UNBLOCKED "));
    me = server.client();
    assert!(queue_of(&mut client, "k").is_empty());
    assert_eq!(client.line("REPLICAOF NO ONE"), "OK");
    assert!(queue_of(&mut client, "k").is_empty());
    client.line("GPULOCK.ACQUIRE k holder");
    let _first = waiter(&server, "GPULOCK.ACQUIRE k first BLOCK 0");
    wait_queue(&mut client, "k", &["first"]);
    me.send_lines(&["GPULOCK.ACQUIRE k me BLOCK 0 UNIQUE"]);
    wait_queue(&mut client, "k", &["first", "me"]);
}

fn without_unique_each_call_has_its_own_position(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let token = client.line("GPULOCK.ACQUIRE k me PX 50000").int();
    // It is refused like other owners, even if it acquired the lock with UNIQUE.
    assert_eq!(client.line("GPULOCK.ACQUIRE k me PX 90000"), Value::Null);
    assert_eq!(client.line("GPULOCK.ACQUIRE k me PX 50000 UNIQUE"), token);
    assert_eq!(client.line("GPULOCK.ACQUIRE k me PX 90000 BLOCK 1"), Value::Null);
    assert!(client.line("PTTL k").int() <= 50_000);
    // Each of its calls has a position of its own, which is not kept.
    assert!(queue_of(&mut client, "k").is_empty());
    let mut calls = Vec::new();
    for n in 1..=3 {
        calls.push(waiter(&server, "GPULOCK.ACQUIRE k you BLOCK 0"));
        wait_queue(&mut client, "k", &["you"; 3][..n]);
    }
    drop(calls.remove(1));
    wait_queue(&mut client, "k", &["you", "you"]);
    // A UNIQUE owner of the same name has its own position.
    let mut unique = waiter(&server, "GPULOCK.ACQUIRE k you BLOCK 0 UNIQUE");
    wait_queue(&mut client, "k", &["you", "you", "you"]);
    let mut last = server.client();
    assert_eq!(last.line("GPULOCK.ACQUIRE k you BLOCK 1"), Value::Null);
    assert_eq!(queue_of(&mut client, "k"), ["you", "you", "you"]);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    for call in &mut calls {
        assert!(call.read().int() > token);
        assert_eq!(client.line("GPULOCK.RELEASE k you"), 1);
    }
    assert!(unique.read().int() > token);
    assert_counters(&mut client, 1, 0);
}
