//! Waiting in the queue: leases, timeouts, limits, and calls that cannot wait.

use std::time::Instant;

use gpulock_testkit::{Client, Flavour, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::clock::unix_ms;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::locks::in_one_write;
use crate::support::queue::{NO_TIMEOUT, queue_of};
use crate::support::queue::{
    assert_no_reply, join_queue, queue_length, wait_queue_length,
};

tests! {
    the_lease_starts_at_the_grant,
    a_wait_times_out_within_a_few_milliseconds,
    block_is_ignored_in_transactions_and_scripts,
    a_waiter_beyond_max_waiters_is_refused,
    without_memory_hand_offs_work_but_new_waiters_are_refused,
    a_waiter_gets_its_reply_in_its_protocol,
}

/// The delay of a timeout in ms, on an idle and on a busy machine.
const IDLE_MS: i64 = 5;

const BUSY_MS: i64 = 5_000;

fn the_lease_starts_at_the_grant(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for (options, lease_ms) in
        [("PX 5000", 5_000), ("EX 7", 7_000), ("", 600_000), ("PX 9000 SESSION", 9_000)]
    {
        acquire(&mut actor, "k", "holder");
        let options = format!("{options} BLOCK 0");
        let mut waiter = join_queue(&server, &mut actor, "k", "w", &options);
        wait_until(DEADLINE, "a wait of 30 ms", || {
            let seen = actor.line("GPULOCK.INSPECT k");
            seen.field("waiters").list()[0].field("waited_ms").int() >= 30
        });
        let before = unix_ms();
        assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
        let after = unix_ms();
        assert!(waiter.read().int() > 0);
        let end = actor.line("PEXPIRETIME k").int();
        assert!(
            (before + lease_ms..=after + lease_ms).contains(&end),
            "{options}: {end} is not {lease_ms} after {before} to {after}"
        );
        assert_eq!(actor.line("GPULOCK.FORCERELEASE k"), "w");
    }
    // A lease that is too long is refused before the wait.
    acquire(&mut actor, "k", "holder");
    let max = "CONFIG SET gpulock.max-lease 1000";
    assert_eq!(actor.line(max), "OK");
    assert!(actor.line("GPULOCK.ACQUIRE k w PX 1001 BLOCK 0").is_err());
    assert_eq!(queue_length(&mut actor, "k"), 0);
}

fn a_wait_times_out_within_a_few_milliseconds(flavour: &Flavour) {
    for hz in [1, 10] {
        let server = flavour.server().arg("hz", hz).start();
        let mut actor = server.client();
        acquire(&mut actor, "k", "holder");
        let mut late = vec![];
        // For each kind of lease, and with other waiters in the queue.
        for lease in ["PEXPIRE k 100000", "PERSIST k"] {
            actor.line(lease);
            let mut patient = join_queue(&server, &mut actor, "k", "patient", NO_TIMEOUT);
            let most = format!("BLOCK {}", (1_i64 << 53) - 1);
            let mut most = join_queue(&server, &mut actor, "k", "most", &most);
            let mut queue: Vec<_> = [300, 1, 2, 5, 100, 50, 20, 10]
                .into_iter()
                .map(|ms: i64| {
                    let mut client = server.client();
                    client.line("PING");
                    let since = Instant::now();
                    send!(client, "GPULOCK.ACQUIRE", "k", "w", "BLOCK", ms);
                    (ms, since, client)
                })
                .collect();
            queue.sort_by_key(|(ms, ..)| *ms);
            for (ms, since, client) in &mut queue {
                assert_eq!(client.read(), Value::Null);
                let took = i64::try_from(since.elapsed().as_millis()).expect("short");
                // The server's clock has whole milliseconds.
                assert!(took >= *ms - 1, "{took} for {ms}");
                late.push(took - *ms);
            }
            for client in [&mut patient, &mut most] {
                assert_no_reply(&mut actor, client);
            }
            assert_eq!(queue_of(&mut actor, "k"), ["patient", "most"]);
            drop((patient, most));
            wait_queue_length(&mut actor, "k", 0);
        }
        late.sort_unstable();
        eprintln!("late by {late:?} ms with hz {hz}");
        let (median, worst) = (late[late.len() / 2], late[late.len() - 1]);
        assert!(median <= IDLE_MS && worst <= BUSY_MS, "late by {late:?} ms");
        let stats = stats(&mut actor);
        assert_eq!((stats["wait_timeouts"], stats["waits_abandoned"]), (16, 4));
    }
}

fn block_is_ignored_in_transactions_and_scripts(flavour: &Flavour) {
    const LIBRARY: &str = "#!lua name=wait\nredis.register_function('wait', \
        function(keys, args) \
            return {redis.call('GPULOCK.ACQUIRE', keys[1], 'w', 'BLOCK', 0)} \
        end)";
    let server = flavour.start();
    for mut client in [server.client(), server.client3()] {
        assert!(!call!(client, "FUNCTION", "LOAD", "REPLACE", LIBRARY).is_err());
        client.line("GPULOCK.RESETSTATS");
        acquire(&mut client, "k", "holder");
        let script = "return {redis.call('GPULOCK.ACQUIRE', KEYS[1], 'w', 'BLOCK', 0)}";
        let mut refused = 0;
        for held in [true, false] {
            let request = ["GPULOCK.ACQUIRE k w BLOCK 0"];
            let mut check = |client: &mut Client, reply: &Value| {
                if held {
                    // In RESP2, a script's null ends the array.
                    let null = match reply {
                        Value::Array(items) => items.first().is_none_or(Value::is_null),
                        reply => *reply == Value::Null,
                    };
                    assert!(null, "{reply:?}");
                    refused += 1;
                } else {
                    assert_eq!(client.line("GPULOCK.RELEASE k w"), 1, "{reply:?}");
                }
            };
            let reply = in_one_write(&mut client, &request, true).remove(0);
            check(&mut client, &reply);
            let reply = call!(client, "EVAL", script, 1, "k");
            check(&mut client, &reply);
            let reply = call!(client, "FCALL", "wait", 1, "k");
            check(&mut client, &reply);
            client.line("GPULOCK.FORCERELEASE k");
        }
        let stats = stats(&mut client);
        assert_eq!((stats["refused"], stats["clients_waiting"]), (refused, 0));
        assert_eq!((stats["acquired"], stats["acquired_after_wait"]), (4, 0));
        assert_eq!(refused, 3);
    }
}

fn a_waiter_beyond_max_waiters_is_refused(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-waiters", "3"]).start();
    let (mut actor, mut newcomer) = (server.client(), server.client());
    acquire(&mut actor, "k", "holder");
    acquire(&mut actor, "other", "holder");
    let first = join_queue(&server, &mut actor, "k", "a", NO_TIMEOUT);
    let mut second = join_queue(&server, &mut actor, "other", "b", NO_TIMEOUT);
    let _third = join_queue(&server, &mut actor, "k", "c", NO_TIMEOUT);
    for (n, request) in
        ["GPULOCK.ACQUIRE k d BLOCK 0", "GPULOCK.ACQUIRE other d UNIQUE BLOCK 1"]
            .iter()
            .enumerate()
    {
        let reply = newcomer.line(request);
        assert!(reply.err().starts_with("MAXWAITERS "), "{reply:?}");
        assert_eq!(stats(&mut actor)["refused"], n as i64 + 1);
    }
    // Calls that need not wait do not count as waiters.
    acquire(&mut newcomer, "free", "d");
    assert_eq!(newcomer.line("GPULOCK.ACQUIRE k d"), Value::Null);
    assert_eq!(queue_of(&mut actor, "k"), ["a", "c"]);
    drop(first);
    wait_queue_length(&mut actor, "k", 1);
    let _fourth = join_queue(&server, &mut actor, "k", "d", NO_TIMEOUT);
    assert!(newcomer.line("GPULOCK.ACQUIRE k e BLOCK 0").is_err());
    // A grant also makes room.
    assert_eq!(actor.line("GPULOCK.RELEASE other holder"), 1);
    assert!(second.read().int() > 0);
    let _fifth = join_queue(&server, &mut actor, "k", "e", NO_TIMEOUT);
    // A smaller limit does not remove waiters.
    assert_eq!(actor.line("CONFIG SET gpulock.max-waiters 0"), "OK");
    assert_eq!(queue_of(&mut actor, "k"), ["c", "d", "e"]);
    let reply = newcomer.line("GPULOCK.ACQUIRE other f BLOCK 0");
    assert!(reply.err().starts_with("MAXWAITERS "), "{reply:?}");
    acquire(&mut newcomer, "free:2", "d");
}

fn without_memory_hand_offs_work_but_new_waiters_are_refused(flavour: &Flavour) {
    let server = flavour.start();
    let (mut actor, mut newcomer) = (server.client(), server.client());
    acquire(&mut actor, "k", "holder");
    let mut queue: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .map(|owner| join_queue(&server, &mut actor, "k", owner, NO_TIMEOUT))
        .collect();
    assert_eq!(actor.line("CONFIG SET maxmemory 1"), "OK");
    for request in
        ["GPULOCK.ACQUIRE k new BLOCK 0", "GPULOCK.ACQUIRE k new UNIQUE BLOCK 5"]
    {
        let reply = newcomer.line(request);
        assert!(reply.err().starts_with("OOM "), "{reply:?}");
    }
    assert_eq!(queue_of(&mut actor, "k"), ["a", "b", "c", "d"]);
    for (client, freeing) in queue.iter_mut().zip([
        "GPULOCK.RELEASE k holder",
        "GPULOCK.FORCERELEASE k",
        "DEL k",
        "PEXPIRE k 5",
    ]) {
        assert!(!actor.line(freeing).is_err(), "{freeing}");
        assert!(client.read().int() > 0, "{freeing}");
    }
    assert_eq!(actor.line("GET k"), "d");
    assert_eq!(actor.line("GPULOCK.RELEASE k d"), 1);
    assert_eq!(actor.line("CONFIG SET maxmemory 0"), "OK");
    acquire(&mut newcomer, "k", "new");
}

fn a_waiter_gets_its_reply_in_its_protocol(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for mut waiter in [server.client(), server.client3()] {
        acquire(&mut actor, "k", "holder");
        send!(waiter, "GPULOCK.ACQUIRE", "k", "w", "BLOCK", 0);
        wait_queue_length(&mut actor, "k", 1);
        assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
        let reply = waiter.read();
        assert_eq!(reply, actor.line("GPULOCK.INSPECT k").field("token"));
        assert_eq!(call!(waiter, "GPULOCK.ACQUIRE", "k", "v", "BLOCK", 1), Value::Null);
        let bad = call!(waiter, "GPULOCK.ACQUIRE", "k", "v", "BLOCK", -1);
        assert!(bad.err().starts_with("ERR "), "{bad:?}");
        actor.line("GPULOCK.FORCERELEASE k");
    }
}
