//! When a lock becomes free, the next waiter is granted it: at once after a GPULOCK command,
//! within ten milliseconds after another command or the end of the lease; also with `hz 1` and
//! without the server's active expiry.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::median::median;
use crate::support::queue::{
    NO_TIMEOUT, assert_no_reply, join_queue, queue_length, wait_queue_length,
};
use crate::support::server_variants::server_variants;

tests! {
    the_next_waiter_is_granted_a_removed_key_within_ten_milliseconds,
    a_release_hands_the_lock_off_at_once,
    the_next_waiter_is_granted_an_expired_lock_within_ten_milliseconds,
    a_removed_lease_does_not_wake_the_waiter,
    the_queue_waits_for_a_value_that_overwrote_the_lock,
    a_value_that_overwrites_a_lock_with_waiters_is_adopted_in_the_background,
    waiters_also_wait_for_other_types_and_invalid_owners,
    only_waiters_of_flushed_databases_are_granted,
    three_hundred_locks_removed_at_once_are_granted_at_once,
    workers_that_remove_the_key_in_any_way_never_block_the_queue,
}

/// The documented ten milliseconds.
const WITHIN: Duration = Duration::from_millis(10);

/// The limit for hundreds of locks at once, whose replies are read one by one. Periodic checks
/// would take twice as long.
const ALL_WITHIN: Duration = Duration::from_millis(50);

/// Commands in one write that remove the key `k`, which `holder` holds.
#[rustfmt::skip]
const WAYS: &[&[&str]] = &[
    &["GPULOCK.RELEASE k holder"],
    &["GPULOCK.FORCERELEASE k"],
    &["DEL k"],
    &["UNLINK k"],
    &["GETDEL k"],
    &["RENAME k away"],
    &["RENAMENX k away"],
    &["MOVE k 1"],
    &["EXPIRE k 0"],
    &["PEXPIRE k -1"],
    &["PEXPIREAT k 1"],
    &["GETEX k PXAT 1"],
    &["SORT none STORE k"],
    &["SUNIONSTORE k none"],
    &["BITOP AND k none none"],
    &["FLUSHDB"],
    &["FLUSHDB ASYNC"],
    &["FLUSHALL"],
    &["FLUSHALL ASYNC"],
    &["SWAPDB 0 1"],
    &["CONFIG SET maxmemory-policy allkeys-random", "CONFIG SET maxmemory 1", "PING", "CONFIG SET maxmemory 0"],
    &["EVAL redis.call('DEL',KEYS[1]) 1 k"],
    &["EVAL redis.call('SET',KEYS[1],'x')redis.call('UNLINK',KEYS[1]) 1 k"],
    &["EVAL redis.call('GPULOCK.RELEASE',KEYS[1],'holder') 1 k"],
    &["MULTI", "DEL k", "EXEC"],
    &["MULTI", "SET k x", "DEL k", "EXEC"],
    &["MULTI", "GPULOCK.RELEASE k holder", "EXEC"],
];

/// Commands that make the lease end soon.
#[rustfmt::skip]
const ENDING_LEASES: &[&[&str]] = &[
    &["GPULOCK.EXTEND k holder PX 15"],
    &["GPULOCK.ACQUIRE k holder UNIQUE PX 15"],
    &["PEXPIRE k 15"],
    &["GETEX k PX 15"],
    &["SET k holder PX 15"],
    // Leases that other commands extend, shorten or remove: the last command counts.
    &["GPULOCK.EXTEND k holder PX 10", "PEXPIRE k 30"],
    &["GPULOCK.EXTEND k holder PX 10", "PERSIST k", "PEXPIRE k 30"],
    &["PEXPIRE k 10", "GPULOCK.EXTEND k holder PX 30"],
    &["GPULOCK.EXTEND k holder PX 30", "PEXPIRE k 10"],
    &["PERSIST k", "GPULOCK.EXTEND k holder PX 15"],
];

fn since_epoch() -> Duration {
    UNIX_EPOCH.elapsed().expect("a clock after 1970")
}

fn from_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).expect("not negative"))
}

/// Sends several commands in one write; none may fail.
#[track_caller]
fn run(client: &mut Client, lines: &[&str]) {
    client.send_lines(lines);
    for line in lines {
        let reply = client.read();
        assert!(!reply.is_err(), "{line}: {reply:?}");
    }
}

/// Lets `holder` hold `k`, either granted by the module or set by another command.
#[track_caller]
fn set_holder(client: &mut Client, adopted: bool) {
    client.line("FLUSHALL");
    if adopted {
        assert_eq!(client.line("SET k holder NX PX 100000"), "OK");
    } else {
        acquire(client, "k", "holder");
    }
}

/// Prints the fastest, the median and the slowest of several medians.
fn print_medians(flavour: &Flavour, how: &str, mut medians: Vec<(Duration, String)>) {
    medians.sort();
    let of = |at: usize| format!("{:.1?} ({})", medians[at].0, medians[at].1);
    let last = medians.len() - 1;
    eprintln!("{flavour}, {how}: {}, {}, {}", of(0), of(last / 2), of(last));
}

fn the_next_waiter_is_granted_a_removed_key_within_ten_milliseconds(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut actor = server.client();
        let mut medians = vec![];
        for way in WAYS {
            for adopted in [false, true] {
                let what = format!("{way:?}, {how}, adopted: {adopted}");
                let took = median(&what, WITHIN, || {
                    set_holder(&mut actor, adopted);
                    let mut waiter =
                        join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
                    run(&mut actor, way);
                    let freed = Instant::now();
                    assert!(waiter.read().int() > 0, "{what}");
                    let took = freed.elapsed();
                    assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
                    took
                });
                medians.push((took, format!("{way:?}")));
            }
        }
        print_medians(flavour, how, medians);
        let stats = stats(&mut actor);
        assert_eq!((stats["clients_waiting"], stats["waits_abandoned"]), (0, 0));
    }
}

/// No later command finds the lock free.
fn a_release_hands_the_lock_off_at_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for freeing in [
        &["GPULOCK.RELEASE k holder"][..],
        &["GPULOCK.FORCERELEASE k"],
        &["EVAL redis.call('GPULOCK.RELEASE',KEYS[1],'holder') 1 k"],
        &["MULTI", "GPULOCK.RELEASE k holder", "EXEC"],
    ] {
        set_holder(&mut actor, false);
        let mut waiter = join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
        actor.send_lines(&[freeing, &["GET k"]].concat());
        for _ in freeing {
            actor.read();
        }
        assert_eq!(actor.read(), "w", "{freeing:?}");
        assert!(waiter.read().int() > 0);
    }
}

fn the_next_waiter_is_granted_an_expired_lock_within_ten_milliseconds(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut actor = server.client();
        let mut medians = vec![];
        for way in ENDING_LEASES {
            for adopted in [false, true] {
                let what = format!("{way:?}, {how}, adopted: {adopted}");
                let took = median(&what, WITHIN, || {
                    set_holder(&mut actor, adopted);
                    let mut waiter =
                        join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
                    actor.send_lines(&[way, &["PEXPIRETIME k"][..]].concat());
                    for _ in *way {
                        actor.read();
                    }
                    let end = from_ms(actor.read().int());
                    assert!(waiter.read().int() > 0, "{what}");
                    let delay = since_epoch().checked_sub(end);
                    assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
                    delay.unwrap_or_else(|| panic!("before the end: {what}"))
                });
                medians.push((took, format!("{way:?}")));
            }
        }
        print_medians(flavour, how, medians);
    }
}

fn a_removed_lease_does_not_wake_the_waiter(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut actor = server.client();
        set_holder(&mut actor, false);
        let mut waiter = join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
        run(&mut actor, &["GPULOCK.EXTEND k holder PX 20", "PERSIST k"]);
        let end = since_epoch() + Duration::from_millis(20 + 50);
        wait_until(DEADLINE, "the end that the lease had", || since_epoch() > end);
        assert_no_reply(&mut actor, &mut waiter);
        let seen = actor.line("GPULOCK.INSPECT k");
        assert_eq!(seen.field("owner"), "holder");
        assert_eq!(seen.field("lease_ms"), -1);
        assert_eq!(actor.line("PEXPIRE k 5"), 1);
        assert!(waiter.read().int() > 0, "{how}");
    }
}

/// Commands that overwrite the lock `k`, and its owner then.
#[rustfmt::skip]
const OVERWRITES: &[(&[&str], &str)] = &[
    (&["SET k other PX 90000"],                    "other"),
    (&["SET k other"],                             "other"),
    (&["SET k other KEEPTTL"],                     "other"),
    // A value of the same length.
    (&["SET k banker PX 90000"],                   "banker"),
    (&["GETSET k other"],                          "other"),
    (&["APPEND k s"],                              "holders"),
    (&["SETRANGE k 0 other:"],                     "other:"),
    (&["SET new other", "RENAME new k"],           "other"),
    (&["SET new other", "COPY new k REPLACE"],     "other"),
    (&["DEL k", "SET k other NX PX 90000"],        "other"),
    (&["MULTI", "DEL k", "SET k other", "EXEC"],   "other"),
    (&["SELECT 1", "SET k other", "SELECT 0", "SWAPDB 0 1"], "other"),
    (&["EVAL redis.call('SET',KEYS[1],42) 1 k"],   "42"),
    (&["INCRBY new 41", "RENAME new k", "INCR k"], "42"),
];

fn the_queue_waits_for_a_value_that_overwrote_the_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for (way, other) in OVERWRITES {
        for adopted in [false, true] {
            for freeing in ["RELEASE", "DEL", "PEXPIRE"] {
                let what = format!("{way:?}, {freeing}, adopted: {adopted}");
                set_holder(&mut actor, adopted);
                let mut waiter = join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
                run(&mut actor, way);
                let seen = actor.line("GPULOCK.INSPECT k");
                assert_eq!(seen.field("owner"), *other, "{what}");
                assert_eq!(seen.field("waiting"), 1, "{what}");
                assert_no_reply(&mut actor, &mut waiter);
                let reply = match freeing {
                    "RELEASE" => call!(actor, "GPULOCK.RELEASE", "k", other),
                    "DEL" => call!(actor, "DEL", "k"),
                    _ => call!(actor, "PEXPIRE", "k", 5),
                };
                assert_eq!(reply, 1, "{what}");
                assert!(waiter.read().int() > 0, "{what}");
                assert_eq!(actor.line("GET k"), "w", "{what}");
                assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
            }
        }
    }
}

fn a_value_that_overwrites_a_lock_with_waiters_is_adopted_in_the_background(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut actor = server.client();
    set_holder(&mut actor, false);
    let _waiter = join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
    for (n, other) in ["first", "second!", "third"].into_iter().enumerate() {
        assert_eq!(call!(actor, "SET", "k", other), "OK");
        wait_until(DEADLINE, "the adoption", || {
            let stats = stats(&mut actor);
            (stats["adopted"], stats["removed"]) == (n as i64 + 1, n as i64 + 1)
        });
        let listed = actor.line("GPULOCK.LIST").list()[0].clone();
        assert_eq!(
            (listed.field("owner"), listed.field("waiting")),
            (Value::Bulk(other.into()), Value::Int(1))
        );
        let seen = actor.line("GPULOCK.INSPECT k");
        assert_eq!((seen.field("adopted").int(), seen.field("waiting").int()), (1, 1));
    }
}

fn waiters_also_wait_for_other_types_and_invalid_owners(flavour: &Flavour) {
    for (how, server) in server_variants(flavour) {
        let mut actor = server.client();
        let long = format!("SET k {}", "x".repeat(1025));
        for way in [
            &["DEL k", "RPUSH k x"][..],
            &["SADD new x", "RENAME new k"],
            &["SETRANGE k 2000 x"],
            &[&long],
            &["EVAL redis.call('SET',KEYS[1],'') 1 k"],
        ] {
            for freeing in ["DEL k", "PEXPIRE k 20", "PEXPIRE k -1"] {
                let what = format!("{way:?}, {freeing}, {how}");
                median(&what, WITHIN, || {
                    set_holder(&mut actor, false);
                    let mut waiter =
                        join_queue(&server, &mut actor, "k", "w", NO_TIMEOUT);
                    run(&mut actor, way);
                    wait_until(DEADLINE, "the end of the hold", || {
                        stats(&mut actor)["locks_held"] == 0
                    });
                    assert_eq!(stats(&mut actor)["clients_waiting"], 1, "{what}");
                    let seen = actor.line("GPULOCK.INSPECT k");
                    if seen.is_err() {
                        assert!(seen.err().starts_with("WRONGTYPE "), "{what}");
                    } else {
                        assert_eq!(seen.field("owner"), Value::Null, "{what}");
                    }
                    assert_no_reply(&mut actor, &mut waiter);
                    actor.send_lines(&[freeing, "PEXPIRETIME k"]);
                    assert_eq!(actor.read(), 1);
                    let end = match actor.read().int() {
                        ..=0 => since_epoch(),
                        end => from_ms(end),
                    };
                    assert!(waiter.read().int() > 0, "{what}");
                    let delay = since_epoch().checked_sub(end);
                    assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
                    delay.unwrap_or_else(|| panic!("before the end: {what}"))
                });
            }
        }
        assert_eq!(stats(&mut actor)["adopted"], 0);
    }
}

fn only_waiters_of_flushed_databases_are_granted(flavour: &Flavour) {
    let server = flavour.start();
    let mut actors: Vec<_> = (0..3).map(|_| server.client()).collect();
    let mut waiters = vec![];
    for (db, actor) in actors.iter_mut().enumerate() {
        call!(actor, "SELECT", db);
        acquire(actor, "k", "holder");
        let mut waiter = server.client();
        call!(waiter, "SELECT", db);
        waiter.send(&["GPULOCK.ACQUIRE", "k", "w", "BLOCK", "0"]);
        wait_queue_length(actor, "k", 1);
        waiters.push(waiter);
    }
    assert_eq!(actors[1].line("FLUSHDB"), "OK");
    assert!(waiters[1].read().int() > 0);
    for db in [0, 2] {
        assert_no_reply(&mut actors[db], &mut waiters[db]);
        assert_eq!(queue_length(&mut actors[db], "k"), 1);
    }
    // A queue belongs to its database: after SWAPDB it waits for the other lock.
    actors[1].line("SET k banker");
    assert_eq!(actors[0].line("SWAPDB 0 1"), "OK");
    assert_eq!(actors[0].line("GPULOCK.INSPECT k").field("owner"), "banker");
    assert_eq!(queue_length(&mut actors[0], "k"), 1);
    assert_eq!(actors[1].line("GET k"), "holder");
    assert_eq!(queue_length(&mut actors[1], "k"), 0);
    assert_eq!(actors[1].line("FLUSHALL"), "OK");
    for db in [0, 2] {
        assert!(waiters[db].read().int() > 0);
        assert_eq!(actors[db].line("GET k"), "w");
    }
}

fn three_hundred_locks_removed_at_once_are_granted_at_once(flavour: &Flavour) {
    const LOCKS: usize = 300;
    let server = flavour.start();
    let mut actor = server.client();
    let names: Vec<_> = (0..LOCKS).map(|n| format!("k{n}")).collect();
    let mut clients: Vec<_> = names.iter().map(|_| server.client()).collect();
    let mut medians = vec![];
    for way in ["FLUSHALL".to_owned(), format!("DEL {}", names.join(" "))] {
        let what = way.split(' ').next().expect("a command").to_owned();
        let took = median(&what, ALL_WITHIN, || {
            for (name, client) in names.iter().zip(&mut clients) {
                acquire(&mut actor, name, "holder");
                client.line("PING");
                client.send(&["GPULOCK.ACQUIRE", name, "w", "BLOCK", "0"]);
            }
            server.wait_blocked(LOCKS as i64);
            actor.line(&way);
            let freed = Instant::now();
            for client in &mut clients {
                assert!(client.read().int() > 0, "{what}");
            }
            let took = freed.elapsed();
            for name in &names {
                assert_eq!(call!(actor, "GPULOCK.RELEASE", name, "w"), 1);
            }
            took
        });
        medians.push((took, what));
    }
    print_medians(flavour, "300 locks", medians);
}

/// Workers that remove the key in many ways: no waiter is forgotten.
fn workers_that_remove_the_key_in_any_way_never_block_the_queue(flavour: &Flavour) {
    const WORKERS: usize = 8;
    const ROUNDS: usize = 60;
    let server = flavour.start();
    let rounds: BTreeMap<usize, usize> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|n| {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.client();
                    let owner = format!("w{n}");
                    for round in 0..ROUNDS {
                        let request = ["GPULOCK.ACQUIRE", "k", &owner, "BLOCK", "0"];
                        assert!(client.cmd(&request).int() > 0);
                        assert_eq!(client.line("GET k"), &*owner);
                        client.line(match (n + round) % 6 {
                            0 => "DEL k",
                            1 => "PEXPIRE k 1",
                            2 => "RENAME k away",
                            3 => "EVAL redis.call('DEL',KEYS[1]) 1 k",
                            4 => "GPULOCK.FORCERELEASE k",
                            _ => "GETDEL k",
                        });
                    }
                    (n, ROUNDS)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).collect()
    });
    assert_eq!(rounds.len(), WORKERS);
    let mut client = server.client();
    wait_until(DEADLINE, "the lock to be free", || {
        client.line("GPULOCK.INSPECT k").is_null()
    });
    let stats = stats(&mut client);
    assert_eq!(stats["acquired"], (WORKERS * ROUNDS) as i64);
    assert_eq!((stats["clients_waiting"], stats["locks_held"]), (0, 0));
}
