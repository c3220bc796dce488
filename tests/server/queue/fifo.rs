//! The wait queue is first in, first out: the lock passes directly from owner to owner without
//! being free in between, and no newcomer passes the queue.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gpulock_testkit::{Client, Flavour, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::events::{next_message, subscriber};
use crate::support::locks::acquire;
use crate::support::locks::in_one_write;
use crate::support::queue::{NO_TIMEOUT, queue_of};
use crate::support::queue::{assert_no_reply, join_queue, wait_queue_length};

tests! {
    each_queue_of_each_database_is_fifo,
    the_key_is_never_absent_during_a_hand_off,
    a_newcomer_never_passes_the_queue,
    a_newcomer_that_waits_joins_last,
    each_release_in_one_write_grants_the_next_waiter,
    the_queue_waits_for_a_plain_set_to_end,
}

fn each_queue_of_each_database_is_fifo(flavour: &Flavour) {
    const WAITERS: usize = 6;
    let server = flavour.start();
    let queues = [(0, "k"), (1, "k"), (0, "other")];
    let mut actor = server.client();
    let mut waiters: Vec<Vec<Client>> = vec![];
    for (db, key) in queues {
        call!(actor, "SELECT", db);
        acquire(&mut actor, key, "holder");
        waiters.push(vec![]);
    }
    // In turns, so that all queues grow at the same time.
    for n in 0..WAITERS {
        for ((db, key), queue) in queues.iter().zip(&mut waiters) {
            call!(actor, "SELECT", db);
            let mut client = server.client();
            call!(client, "SELECT", db);
            send!(client, "GPULOCK.ACQUIRE", key, format!("w{n}"), "BLOCK", 0);
            wait_queue_length(&mut actor, key, n as i64 + 1);
            queue.push(client);
        }
    }
    let mut last = 0;
    for ((db, key), queue) in queues.iter().zip(&mut waiters).rev() {
        call!(actor, "SELECT", db);
        let mut holder = "holder".to_owned();
        for n in 0..WAITERS {
            let names: Vec<_> = (n..WAITERS).map(|n| format!("w{n}")).collect();
            assert_eq!(queue_of(&mut actor, key), names);
            assert_eq!(call!(actor, "GPULOCK.RELEASE", key, holder), 1);
            holder.clone_from(&names[0]);
            let token = queue[n].read().int();
            assert!(token > last, "{token} after {last}");
            last = token;
            assert_eq!(call!(actor, "GET", key), &*holder);
            for behind in &mut queue[n + 1..] {
                assert_no_reply(&mut actor, behind);
            }
        }
        assert_eq!(call!(actor, "GPULOCK.RELEASE", key, holder), 1);
        assert!(call!(actor, "GPULOCK.INSPECT", key).is_null());
    }
}

fn the_key_is_never_absent_during_a_hand_off(flavour: &Flavour) {
    const HAND_OFFS: usize = 200;
    let server = flavour.server().arg("notify-keyspace-events", "KA").start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "w");
    let mut queue: Vec<_> =
        (0..4).map(|_| join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT)).collect();
    let mut subscriber = subscriber(&server, "__keyspace@0__:k");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let poller = scope.spawn(|| {
            let mut poller = server.client();
            let mut polls = 0;
            while !stop.load(Ordering::Relaxed) {
                poller.send_lines(&["EXISTS k"; 50]);
                for _ in 0..50 {
                    assert_eq!(poller.read(), 1);
                }
                polls += 50;
            }
            polls
        });
        for n in 0..HAND_OFFS {
            let freeing = ["GPULOCK.RELEASE k w", "GPULOCK.FORCERELEASE k"][n % 2];
            assert!(!actor.line(freeing).is_null());
            let mut first = queue.remove(0);
            assert!(first.read().int() > 0);
            assert_eq!(next_message(&mut subscriber).1, b"set");
            assert_eq!(next_message(&mut subscriber).1, b"expire");
            // The owner queues again, last.
            first.line("PING");
            send!(first, "GPULOCK.ACQUIRE", "k", "w", "PX", 100_000, "BLOCK", 0);
            wait_queue_length(&mut actor, "k", 4);
            queue.push(first);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(poller.join().expect("the key always exists") > 0);
    });
    // At the end of a lease, the server first publishes that the key expired.
    assert_eq!(actor.line("PEXPIRE k 5"), 1);
    assert!(queue.remove(0).read().int() > 0);
    for value in ["expire", "expired", "set", "expire"] {
        assert_eq!(next_message(&mut subscriber).1, value.as_bytes());
    }
}

/// For each way in which the lock becomes free, and each request in the same write.
fn a_newcomer_never_passes_the_queue(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for freeing in [
        "DEL k",
        "UNLINK k",
        "GETDEL k",
        "RENAME k away",
        "MOVE k 1",
        "PEXPIRE k -1",
        "FLUSHALL",
        "SWAPDB 0 1",
        "EVAL redis.call('DEL',KEYS[1]) 1 k",
        "GPULOCK.RELEASE k holder",
        "GPULOCK.FORCERELEASE k",
    ] {
        for transaction in [false, true] {
            for request in [
                "GPULOCK.ACQUIRE k newcomer",
                "GPULOCK.ACQUIRE k newcomer UNIQUE",
                "GPULOCK.ACQUIRE k newcomer SESSION",
                "EVAL return{redis.call('GPULOCK.ACQUIRE',KEYS[1],'newcomer')} 1 k",
            ] {
                let what = format!("{freeing}, {request}, transaction: {transaction}");
                actor.line("FLUSHALL");
                acquire(&mut actor, "k", "holder");
                let mut first = join_queue(&server, &mut actor, "k", "first", NO_TIMEOUT);
                let second = join_queue(&server, &mut actor, "k", "second", NO_TIMEOUT);
                let replies = in_one_write(&mut actor, &[freeing, request], transaction);
                let refused = match &replies[1] {
                    Value::Array(items) => items.is_empty() || items[0].is_null(),
                    reply => reply.is_null(),
                };
                assert!(refused, "{what}: {replies:?}");
                assert!(first.read().int() > 0, "{what}");
                assert_eq!(actor.line("GET k"), "first", "{what}");
                assert_eq!(queue_of(&mut actor, "k"), ["second"], "{what}");
                drop(second);
                wait_queue_length(&mut actor, "k", 0);
            }
        }
    }
}

fn a_newcomer_that_waits_joins_last(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for freeing in ["DEL k", "GPULOCK.RELEASE k holder", "FLUSHALL"] {
        acquire(&mut actor, "k", "holder");
        let mut first = join_queue(&server, &mut actor, "k", "first", NO_TIMEOUT);
        let mut second = join_queue(&server, &mut actor, "k", "second", NO_TIMEOUT);
        let mut newcomer = server.client();
        newcomer.send_lines(&[freeing, "GPULOCK.ACQUIRE k newcomer BLOCK 0", "PING"]);
        newcomer.read();
        assert!(first.read().int() > 0);
        assert_eq!(queue_of(&mut actor, "k"), ["second", "newcomer"], "{freeing}");
        assert_eq!(actor.line("GPULOCK.RELEASE k first"), 1);
        assert!(second.read().int() > 0);
        assert_no_reply(&mut actor, &mut newcomer);
        assert_eq!(actor.line("GPULOCK.RELEASE k second"), 1);
        assert!(newcomer.read().int() > 0);
        // Its next command waits as well.
        assert_eq!(newcomer.read(), "PONG");
        assert_eq!(actor.line("GPULOCK.RELEASE k newcomer"), 1);
    }
}

fn each_release_in_one_write_grants_the_next_waiter(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for transaction in [false, true] {
        acquire(&mut actor, "k", "holder");
        let mut queue: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|owner| join_queue(&server, &mut actor, "k", owner, NO_TIMEOUT))
            .collect();
        let newcomer = "GPULOCK.ACQUIRE k newcomer";
        let steps = ["DEL k", newcomer, newcomer, "DEL k", newcomer, "DEL k", newcomer];
        let replies = in_one_write(&mut actor, &steps, transaction);
        for (step, reply) in steps.iter().zip(&replies) {
            match *step {
                "DEL k" => assert_eq!(*reply, 1),
                _ => assert!(reply.is_null(), "{replies:?}"),
            }
        }
        let tokens: Vec<_> = queue.iter_mut().map(|client| client.read().int()).collect();
        assert!(tokens.is_sorted(), "{tokens:?}");
        assert_eq!(actor.line("GET k"), "c");
        assert_eq!(actor.line("GPULOCK.RELEASE k c"), 1);
    }
}

fn the_queue_waits_for_a_plain_set_to_end(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let mut first = join_queue(&server, &mut actor, "k", "first", NO_TIMEOUT);
    let steps = ["DEL k", "SET k outsider NX PX 100000"];
    assert_eq!(in_one_write(&mut actor, &steps, false)[1], "OK");
    wait_until(DEADLINE, "the outsider to be adopted", || {
        stats(&mut actor)["adopted"] == 1
    });
    assert_eq!(queue_of(&mut actor, "k"), ["first"]);
    assert_no_reply(&mut actor, &mut first);
    assert_eq!(actor.line("GPULOCK.RELEASE k outsider"), 1);
    assert!(first.read().int() > 0);
    assert_eq!(actor.line("GET k"), "first");
}
