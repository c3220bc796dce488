//! Waiters that leave the queue: a waiter leaves at once, gets at most one reply, and those
//! behind it move up.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Value, call, send};

use crate::harness::skip;
use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::queue::{
    NO_TIMEOUT, assert_no_waiters, join_queue_with_id, queue_of,
};
use crate::support::queue::{
    assert_no_reply, join_queue, queue_length, wait_queue_length,
};

tests! {
    a_waiter_leaves_at_once_and_those_behind_move_up,
    client_unblock_has_no_effect_on_servers_without_support,
    a_waiter_that_times_out_leaves_and_those_behind_move_up,
    a_demoted_server_unblocks_each_waiter_once,
}

/// Makes a waiter leave before it is granted the lock; returns its connection if it is open.
type Leave = fn(&mut Client, Client, i64) -> Option<Client>;

const WAYS: &[(&str, Leave)] = &[
    ("FIN", |_, waiter, _| {
        drop(waiter);
        None
    }),
    ("RST", |_, waiter, _| {
        waiter.reset();
        None
    }),
    ("half closed", |_, mut waiter, _| {
        waiter.half_close();
        waiter.wait_closed();
        None
    }),
    ("CLIENT KILL ID", |actor, mut waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "KILL", "ID", id), 1);
        waiter.wait_closed();
        None
    }),
    ("CLIENT UNBLOCK", |actor, waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id), 1);
        Some(waiter)
    }),
    ("CLIENT UNBLOCK TIMEOUT", |actor, waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, "TIMEOUT"), 1);
        Some(waiter)
    }),
    ("CLIENT UNBLOCK ERROR", |actor, waiter, id| {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, "ERROR"), 1);
        Some(waiter)
    }),
];

fn a_waiter_leaves_at_once_and_those_behind_move_up(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for (way, leave) in WAYS {
        if way.starts_with("CLIENT UNBLOCK") && !flavour.can_unblock() {
            continue;
        }
        for position in 0..3 {
            let what = format!("{way}, from position {position}");
            actor.line("GPULOCK.RESETSTATS");
            acquire(&mut actor, "k", "holder");
            let mut owners = vec!["a", "b", "c"];
            let mut queue: Vec<_> = owners
                .iter()
                .map(|owner| join_queue_with_id(&server, &mut actor, owner))
                .collect();
            let (client, id) = queue.remove(position);
            owners.remove(position);
            let since = Instant::now();
            let mut left = leave(&mut actor, client, id);
            wait_queue_length(&mut actor, "k", 2);
            // Far below the interval of any background check.
            assert!(since.elapsed() < Duration::from_secs(5), "{what}");
            assert_eq!(queue_of(&mut actor, "k"), owners, "{what}");
            let (timeouts, abandoned) = match (*way, &mut left) {
                ("CLIENT UNBLOCK ERROR", Some(client)) => {
                    let reply = client.read();
                    assert!(reply.err().starts_with("UNBLOCKED "), "{reply:?}");
                    (0, 1)
                }
                (_, Some(client)) => {
                    assert_eq!(client.read(), Value::Null, "{what}");
                    (1, 0)
                }
                (_, None) => (0, 1),
            };
            let stats = stats(&mut actor);
            let counted = (stats["wait_timeouts"], stats["waits_abandoned"]);
            assert_eq!(counted, (timeouts, abandoned), "{what}");
            // The connection of an unblocked waiter still works.
            if let Some(client) = &mut left {
                assert_eq!(client.line("PING"), "PONG", "{what}");
                assert_eq!(client.line("GPULOCK.ACQUIRE k d"), Value::Null, "{what}");
            }
            let mut holder = "holder";
            for ((client, _), owner) in queue.iter_mut().zip(&owners) {
                assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", holder), 1, "{what}");
                assert!(client.read().int() > 0, "{what}");
                holder = owner;
            }
            assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", holder), 1, "{what}");
            assert_no_waiters(&mut actor);
        }
    }
}

fn client_unblock_has_no_effect_on_servers_without_support(flavour: &Flavour) {
    if flavour.can_unblock() {
        return skip("CLIENT UNBLOCK works on this server");
    }
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let (mut waiter, id) = join_queue_with_id(&server, &mut actor, "w");
    for how in ["TIMEOUT", "ERROR"] {
        assert_eq!(call!(actor, "CLIENT", "UNBLOCK", id, how), 0);
        assert_no_reply(&mut actor, &mut waiter);
    }
    assert_eq!(queue_length(&mut actor, "k"), 1);
    assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
    assert!(waiter.read().int() > 0);
    assert_eq!(actor.line("GET k"), "w");
}

fn a_waiter_that_times_out_leaves_and_those_behind_move_up(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let _first = join_queue(&server, &mut actor, "k", "a", NO_TIMEOUT);
    let mut short = join_queue(&server, &mut actor, "k", "b", "BLOCK 2000");
    let mut behind = join_queue(&server, &mut actor, "k", "c", NO_TIMEOUT);
    assert_eq!(short.read(), Value::Null);
    assert_eq!(queue_of(&mut actor, "k"), ["a", "c"]);
    // Its next call joins last.
    send!(short, "GPULOCK.ACQUIRE", "k", "b", "BLOCK", 0);
    wait_queue_length(&mut actor, "k", 3);
    assert_eq!(queue_of(&mut actor, "k"), ["a", "c", "b"]);
    for owner in ["holder", "a"] {
        assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", owner), 1);
    }
    assert!(behind.read().int() > 0);
    assert_eq!(stats(&mut actor)["wait_timeouts"], 1);
}

fn a_demoted_server_unblocks_each_waiter_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let mut waiters = vec![];
    for db in 0..2 {
        call!(actor, "SELECT", db);
        for key in ["k", "other"] {
            acquire(&mut actor, key, "holder");
            for (n, options) in ["", "UNIQUE", "SESSION"].into_iter().enumerate() {
                let mut client = if n == 1 { server.client3() } else { server.client() };
                call!(client, "SELECT", db);
                let queue = format!("GPULOCK.ACQUIRE {key} w{n} BLOCK 0 {options}");
                client.send(&queue.split_whitespace().collect::<Vec<_>>());
                wait_queue_length(&mut actor, key, n as i64 + 1);
                waiters.push(client);
            }
        }
    }
    assert_eq!(actor.line("REPLICAOF 127.0.0.1 1"), "OK");
    for waiter in &mut waiters {
        let reply = waiter.read();
        assert!(reply.err().starts_with("UNBLOCKED "), "{reply:?}");
        // Some servers close the connection after the error.
        match waiter.try_read(Duration::ZERO) {
            Ok(Some(more)) => panic!("{more:?} after {reply:?}"),
            Err(_) => {}
            Ok(None) => {
                send!(waiter, "PING");
                if let Ok(Some(reply)) = waiter.try_read(DEADLINE) {
                    assert_eq!(reply, "PONG");
                }
            }
        }
    }
    assert_no_waiters(&mut actor);
    let counted = stats(&mut actor);
    assert_eq!((counted["waits_abandoned"], counted["locks_held"]), (12, 0));
    let refused = actor.line("GPULOCK.ACQUIRE k w BLOCK 0");
    assert!(refused.err().starts_with("READONLY "), "{refused:?}");
    // After a promotion the locks are still held, and the queues start empty.
    assert_eq!(actor.line("REPLICAOF NO ONE"), "OK");
    assert_eq!(actor.line("SELECT 0"), "OK");
    let mut waiter = join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
    let mut client = server.client();
    assert_eq!(client.line("GPULOCK.RELEASE k holder"), 1);
    assert!(waiter.read().int() > 0);
}
