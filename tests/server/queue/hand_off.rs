//! Whatever frees a lock, the next in line has it: at once when a GPULOCK command did it,
//! within ten milliseconds when any other did, or its lease was over; also when the server's
//! own clock ticks once a second, and when it never looks for keys that are over.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use gpulock_testkit::{Builder, Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::median::median;
use crate::support::queue::{
    assert_no_reply, join_queue, queue_length, wait_queue_length,
};

tests! {
    whatever_takes_the_key_away_the_next_has_the_lock_within_ten_milliseconds,
    a_release_hands_over_in_the_same_instant,
    when_the_lease_is_over_the_next_has_the_lock_within_ten_milliseconds,
    a_lease_that_was_taken_away_wakes_nobody,
    a_lock_that_was_overwritten_is_held_by_the_new_one_and_the_line_waits_on,
    who_overwrites_a_lock_that_is_waited_for_is_adopted_unasked,
    what_is_no_lock_and_who_can_be_no_owner_is_waited_for_as_well,
    only_the_lines_of_the_databases_that_were_emptied_move_on,
    three_hundred_lines_freed_together_are_served_at_once,
    whatever_workers_do_to_the_key_the_line_never_stands_still,
}

const FOREVER: &str = "PX 100000 BLOCK 0";

/// The contract's ten milliseconds.
const WITHIN: Duration = Duration::from_millis(10);

/// The same for hundreds at once, whose answers are read one by one. A look from time to time
/// would take twice as long.
const ALL_WITHIN: Duration = Duration::from_millis(50);

/// Ways in which the key `k`, held by `holder`, goes away: all of it in one write.
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

/// Ways in which its lease is over soon.
#[rustfmt::skip]
const SOON_OVER: &[&[&str]] = &[
    &["GPULOCK.EXTEND k holder PX 15"],
    &["GPULOCK.ACQUIRE k holder UNIQUE PX 15"],
    &["PEXPIRE k 15"],
    &["GETEX k PX 15"],
    &["SET k holder PX 15"],
    // Renewed from outside, shortened, taken away and given anew: the last word counts.
    &["GPULOCK.EXTEND k holder PX 10", "PEXPIRE k 30"],
    &["GPULOCK.EXTEND k holder PX 10", "PERSIST k", "PEXPIRE k 30"],
    &["PEXPIRE k 10", "GPULOCK.EXTEND k holder PX 30"],
    &["GPULOCK.EXTEND k holder PX 30", "PEXPIRE k 10"],
    &["PERSIST k", "GPULOCK.EXTEND k holder PX 15"],
];

fn starts(flavour: &Flavour) -> [(&'static str, Builder); 3] {
    [
        ("as it is", flavour.server()),
        ("hz 1", flavour.server().arg("hz", 1)),
        ("no active expiry", flavour.server()),
    ]
}

fn start(how: &str, builder: Builder) -> Server {
    let server = builder.start();
    if how == "no active expiry" {
        assert_eq!(call!(server.client(), "DEBUG", "SET-ACTIVE-EXPIRE", 0), "OK");
    }
    server
}

fn since_epoch() -> Duration {
    UNIX_EPOCH.elapsed().expect("a clock after 1970")
}

fn from_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).expect("not negative"))
}

/// Carries out lines in one write.
#[track_caller]
fn in_one_write(client: &mut Client, lines: &[&str]) {
    client.send_lines(lines);
    for line in lines {
        let answer = client.read();
        assert!(!answer.is_err(), "{line}: {answer:?}");
    }
}

/// Holds `k` as the module's own grant, or as somebody's who never heard of the module.
#[track_caller]
fn hold(client: &mut Client, adopted: bool) {
    client.line("FLUSHALL");
    if adopted {
        assert_eq!(client.line("SET k holder NX PX 100000"), "OK");
    } else {
        acquire(client, "k", "holder");
    }
}

/// Shows the middles of all ways: the fastest, the middle and the slowest of them.
fn show(flavour: &Flavour, how: &str, mut middles: Vec<(Duration, String)>) {
    middles.sort();
    let of = |at: usize| format!("{:.1?} ({})", middles[at].0, middles[at].1);
    let last = middles.len() - 1;
    eprintln!("{flavour}, {how}: {}, {}, {}", of(0), of(last / 2), of(last));
}

fn whatever_takes_the_key_away_the_next_has_the_lock_within_ten_milliseconds(
    flavour: &Flavour,
) {
    for (how, builder) in starts(flavour) {
        let server = start(how, builder);
        let mut actor = server.client();
        let mut middles = vec![];
        for way in WAYS {
            for adopted in [false, true] {
                let what = format!("{way:?}, {how}, adopted: {adopted}");
                let took = median(&what, WITHIN, || {
                    hold(&mut actor, adopted);
                    let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
                    in_one_write(&mut actor, way);
                    let freed = Instant::now();
                    assert!(waiter.read().int() > 0, "{what}");
                    let took = freed.elapsed();
                    assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
                    took
                });
                middles.push((took, format!("{way:?}")));
            }
        }
        show(flavour, how, middles);
        let stats = stats(&mut actor);
        assert_eq!((stats["clients_waiting"], stats["waits_abandoned"]), (0, 0));
    }
}

/// No later command meets the lock free.
fn a_release_hands_over_in_the_same_instant(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for frees in [
        &["GPULOCK.RELEASE k holder"][..],
        &["GPULOCK.FORCERELEASE k"],
        &["EVAL redis.call('GPULOCK.RELEASE',KEYS[1],'holder') 1 k"],
        &["MULTI", "GPULOCK.RELEASE k holder", "EXEC"],
    ] {
        hold(&mut actor, false);
        let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
        actor.send_lines(&[frees, &["GET k"]].concat());
        for _ in frees {
            actor.read();
        }
        assert_eq!(actor.read(), "w", "{frees:?}");
        assert!(waiter.read().int() > 0);
    }
}

fn when_the_lease_is_over_the_next_has_the_lock_within_ten_milliseconds(
    flavour: &Flavour,
) {
    for (how, builder) in starts(flavour) {
        let server = start(how, builder);
        let mut actor = server.client();
        let mut middles = vec![];
        for way in SOON_OVER {
            for adopted in [false, true] {
                let what = format!("{way:?}, {how}, adopted: {adopted}");
                let took = median(&what, WITHIN, || {
                    hold(&mut actor, adopted);
                    let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
                    actor.send_lines(&[way, &["PEXPIRETIME k"][..]].concat());
                    for _ in *way {
                        actor.read();
                    }
                    let end = from_ms(actor.read().int());
                    assert!(waiter.read().int() > 0, "{what}");
                    let over = since_epoch().checked_sub(end);
                    assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
                    over.unwrap_or_else(|| panic!("before the end: {what}"))
                });
                middles.push((took, format!("{way:?}")));
            }
        }
        show(flavour, how, middles);
    }
}

fn a_lease_that_was_taken_away_wakes_nobody(flavour: &Flavour) {
    for (how, builder) in starts(flavour) {
        let server = start(how, builder);
        let mut actor = server.client();
        hold(&mut actor, false);
        let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
        in_one_write(&mut actor, &["GPULOCK.EXTEND k holder PX 20", "PERSIST k"]);
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

/// What overwrites the lock `k`, and who holds it then.
#[rustfmt::skip]
const OVERWRITES: &[(&[&str], &str)] = &[
    (&["SET k other PX 90000"],                    "other"),
    (&["SET k other"],                             "other"),
    (&["SET k other KEEPTTL"],                     "other"),
    // As long as the one before.
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

fn a_lock_that_was_overwritten_is_held_by_the_new_one_and_the_line_waits_on(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut actor = server.client();
    for (way, other) in OVERWRITES {
        for adopted in [false, true] {
            for ends in ["RELEASE", "DEL", "PEXPIRE"] {
                let what = format!("{way:?}, {ends}, adopted: {adopted}");
                hold(&mut actor, adopted);
                let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
                in_one_write(&mut actor, way);
                let seen = actor.line("GPULOCK.INSPECT k");
                assert_eq!(seen.field("owner"), *other, "{what}");
                assert_eq!(seen.field("waiting"), 1, "{what}");
                assert_no_reply(&mut actor, &mut waiter);
                let answer = match ends {
                    "RELEASE" => call!(actor, "GPULOCK.RELEASE", "k", other),
                    "DEL" => call!(actor, "DEL", "k"),
                    _ => call!(actor, "PEXPIRE", "k", 5),
                };
                assert_eq!(answer, 1, "{what}");
                assert!(waiter.read().int() > 0, "{what}");
                assert_eq!(actor.line("GET k"), "w", "{what}");
                assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
            }
        }
    }
}

fn who_overwrites_a_lock_that_is_waited_for_is_adopted_unasked(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    hold(&mut actor, false);
    let _waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
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

fn what_is_no_lock_and_who_can_be_no_owner_is_waited_for_as_well(flavour: &Flavour) {
    for (how, builder) in starts(flavour) {
        let server = start(how, builder);
        let mut actor = server.client();
        let long = format!("SET k {}", "x".repeat(1025));
        for way in [
            &["DEL k", "RPUSH k x"][..],
            &["SADD new x", "RENAME new k"],
            &["SETRANGE k 2000 x"],
            &[&long],
            &["EVAL redis.call('SET',KEYS[1],'') 1 k"],
        ] {
            for ends in ["DEL k", "PEXPIRE k 20", "PEXPIRE k -1"] {
                let what = format!("{way:?}, {ends}, {how}");
                median(&what, WITHIN, || {
                    hold(&mut actor, false);
                    let mut waiter = join_queue(&server, &mut actor, "k", "w", FOREVER);
                    in_one_write(&mut actor, way);
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
                    actor.send_lines(&[ends, "PEXPIRETIME k"]);
                    assert_eq!(actor.read(), 1);
                    let end = match actor.read().int() {
                        ..=0 => since_epoch(),
                        end => from_ms(end),
                    };
                    assert!(waiter.read().int() > 0, "{what}");
                    let over = since_epoch().checked_sub(end);
                    assert_eq!(actor.line("GPULOCK.RELEASE k w"), 1, "{what}");
                    over.unwrap_or_else(|| panic!("before the end: {what}"))
                });
            }
        }
        assert_eq!(stats(&mut actor)["adopted"], 0);
    }
}

fn only_the_lines_of_the_databases_that_were_emptied_move_on(flavour: &Flavour) {
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
    // A line stays in its database: the lock of the other one comes to it.
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

fn three_hundred_lines_freed_together_are_served_at_once(flavour: &Flavour) {
    const LINES: usize = 300;
    let server = flavour.start();
    let mut actor = server.client();
    let names: Vec<_> = (0..LINES).map(|n| format!("k{n}")).collect();
    let mut clients: Vec<_> = names.iter().map(|_| server.client()).collect();
    let mut middles = vec![];
    for way in ["FLUSHALL".to_owned(), format!("DEL {}", names.join(" "))] {
        let what = way.split(' ').next().expect("a command").to_owned();
        let took = median(&what, ALL_WITHIN, || {
            for (name, client) in names.iter().zip(&mut clients) {
                acquire(&mut actor, name, "holder");
                client.line("PING");
                client.send(&["GPULOCK.ACQUIRE", name, "w", "BLOCK", "0"]);
            }
            server.wait_blocked(LINES as i64);
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
        middles.push((took, what));
    }
    show(flavour, "300 lines", middles);
}

/// No wake-up is ever lost: many workers, each with its own idea of how to give back.
fn whatever_workers_do_to_the_key_the_line_never_stands_still(flavour: &Flavour) {
    const WORKERS: usize = 8;
    const ROUNDS: usize = 60;
    let server = flavour.start();
    let served: BTreeMap<usize, usize> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|n| {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.client();
                    let owner = format!("w{n}");
                    for round in 0..ROUNDS {
                        let ask = ["GPULOCK.ACQUIRE", "k", &owner, "BLOCK", "0"];
                        assert!(client.cmd(&ask).int() > 0);
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
    assert_eq!(served.len(), WORKERS);
    let mut client = server.client();
    wait_until(DEADLINE, "the lock to be free", || {
        client.line("GPULOCK.INSPECT k").is_null()
    });
    let stats = stats(&mut client);
    assert_eq!(stats["acquired"], (WORKERS * ROUNDS) as i64);
    assert_eq!((stats["clients_waiting"], stats["locks_held"]), (0, 0));
}
