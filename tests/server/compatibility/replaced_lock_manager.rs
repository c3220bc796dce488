//! The acceptance tests of the lock manager that the module replaces, under their original
//! names. Its clients used `SET NX PX` and a Lua script, and each process counted its own
//! errors.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use gpulock_testkit::{Client, Flavour, Server, Value, call, send};

use crate::support::clock::DEADLINE;
use crate::support::counters::{Counters, stats};

tests! {
    release_lock_ownership_verification,
    release_lock_success,
    concurrent_release_no_race_condition,
    release_error_handling,
    release_lock_redis_unavailable,
    exception_stats_initialization,
    concurrent_lock_acquisition,
    emergency_release_on_normal_failure,
}

const LOCK: &str = "gpu_lock:0";

/// Sends one command from each client at the same time, and returns the replies in the order
/// of the clients.
fn all_at_once(
    clients: &mut [Client],
    command: impl Fn(usize) -> Vec<String>,
) -> Vec<Value> {
    let start = Barrier::new(clients.len());
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(i, client)| {
                let (command, start) = (command(i), &start);
                scope.spawn(move || {
                    start.wait();
                    client.cmd(&command)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn clients(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| server.client()).collect()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// The counters that changed, and by how much.
fn changes(before: &Counters, after: &Counters) -> Vec<(String, i64)> {
    assert!(before.keys().eq(after.keys()), "the names of the counters changed");
    let differ = |(name, was): (&String, &i64)| {
        let by = after[name] - was;
        (by != 0).then(|| (name.clone(), by))
    };
    before.iter().filter_map(differ).collect()
}

fn named(changes: &[(&str, i64)]) -> Vec<(String, i64)> {
    changes.iter().map(|(name, by)| ((*name).to_owned(), *by)).collect()
}

fn release_lock_ownership_verification(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let token = call!(client, "GPULOCK.ACQUIRE", LOCK, "asr-1", "PX", 60_000).int();
    let expires = call!(client, "PEXPIRETIME", LOCK).int();

    let others: [&[u8]; 6] =
        [b"asr-2", b"asr-", b"asr-11", b"ASR-1", b"asr-1\0", b"\0asr-1"];
    let before = stats(&mut client);
    for other in others {
        let reply = call!(client, "GPULOCK.RELEASE", LOCK, other);
        assert_eq!(reply, 0, "{}", other.escape_ascii());
    }
    assert_eq!(
        changes(&before, &stats(&mut client)),
        named(&[("normal_release_failures", 6), ("ownership_violations", 6)]),
    );
    let newest = &call!(client, "GPULOCK.LOG", 1).list()[0].clone();
    assert_eq!(newest.field("kind"), "ownership_violation");
    assert_eq!(newest.field("holder"), "asr-1");
    assert_eq!(newest.field("caller").bytes(), b"\0asr-1");

    assert_eq!(call!(client, "GET", LOCK), "asr-1");
    assert_eq!(call!(client, "PEXPIRETIME", LOCK), expires);
    assert_eq!(call!(client, "GPULOCK.INSPECT", LOCK).field("token"), token);
    assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, "asr-1"), 1);
}

fn release_lock_success(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let first = call!(client, "GPULOCK.ACQUIRE", LOCK, "asr-1", "EX", 60).int();
    let before = stats(&mut client);

    assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, "asr-1"), 1);
    let after = stats(&mut client);
    assert_eq!((after["releases"], after["locks_held"]), (1, 0));
    for failure in [
        "ownership_violations",
        "release_script_errors",
        "normal_release_failures",
        "emergency_releases",
    ] {
        assert_eq!(after[failure], before[failure], "{failure}");
    }
    assert_eq!(call!(client, "EXISTS", LOCK), 0);
    assert!(call!(client, "GPULOCK.INSPECT", LOCK).is_null());

    // Nothing is left to release, and the next owner is granted the lock.
    assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, "asr-1"), 0);
    assert_eq!(stats(&mut client)["stale_releases"], 1);
    let second = call!(client, "GPULOCK.ACQUIRE", LOCK, "asr-2", "EX", 60).int();
    assert!(second > first, "{second} after {first}");
}

fn concurrent_release_no_race_condition(flavour: &Flavour) {
    const ROUNDS: i64 = 20;
    const RELEASERS: usize = 8;
    let server = flavour.start();
    let mut releasers = clients(&server, RELEASERS);
    let mut successor = server.client();
    let mut client = server.client();
    for round in 0..ROUNDS {
        assert!(call!(client, "GPULOCK.ACQUIRE", LOCK, "old", "EX", 60).int() > 0);
        // The successor acquires the lock as soon as it is free, in the middle of the
        // releases. A late release must not take the lock from the successor.
        let replies = thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                while call!(successor, "GPULOCK.ACQUIRE", LOCK, "new", "EX", 60).is_null()
                {
                    assert!(start.elapsed() < DEADLINE, "the lock was not released");
                }
            });
            all_at_once(&mut releasers, |_| words(&format!("GPULOCK.RELEASE {LOCK} old")))
        });
        let freed: i64 = replies.iter().map(Value::int).sum();
        assert_eq!(freed, 1, "round {round}: {replies:?}");
        assert_eq!(call!(client, "GET", LOCK), "new", "round {round}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, "new"), 1);
    }
    let after = stats(&mut client);
    assert_eq!(after["acquired"], 2 * ROUNDS);
    assert_eq!(after["releases"], 2 * ROUNDS);
    let too_late = ROUNDS * i64::try_from(RELEASERS - 1).expect("a small number");
    assert_eq!(after["ownership_violations"], too_late);
    assert_eq!(after["normal_release_failures"], too_late);
}

fn release_error_handling(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let list = "a list";
    assert_eq!(call!(client, "RPUSH", list, "asr-1"), 1);
    assert!(call!(client, "GPULOCK.ACQUIRE", LOCK, "asr-1", "EX", 60).int() > 0);
    let long = "x".repeat(1025);
    let state = |client: &mut Client| {
        let held = call!(client, "GPULOCK.INSPECT", LOCK);
        (
            call!(client, "DUMP", list),
            call!(client, "DUMP", LOCK),
            call!(client, "PEXPIRETIME", LOCK),
            (held.field("owner"), held.field("token"), held.field("adopted")),
            // The number of writes to the append-only file and to replicas.
            client.info("persistence")["rdb_changes_since_last_save"].clone(),
        )
    };
    let intact = state(&mut client);

    #[rustfmt::skip]
    let cases: &[(&[&str], &str)] = &[
        // after GPULOCK.RELEASE                        the error starts with
        (&[list, "asr-1"],                              "WRONGTYPE "),
        (&[list, "asr-1", "TOKEN", "1"],                "WRONGTYPE "),
        (&[LOCK, ""],                                   "ERR owner "),
        (&[LOCK, &long],                                "ERR owner "),
        (&[LOCK, "asr-1", "NOW"],                       "ERR syntax error"),
        (&[LOCK, "asr-1", ""],                          "ERR syntax error"),
        (&[LOCK, "asr-1", "EX", "5"],                   "ERR syntax error"),
        (&[LOCK, "asr-1", "OWNER", "asr-1"],            "ERR syntax error"),
        (&[LOCK, "asr-1", "REASON"],                    "ERR syntax error"),
        (&[LOCK, "asr-1", "REASON", "a", "REASON", "b"], "ERR syntax error"),
        (&[LOCK, "asr-1", "REASON", &long[..65]],       "ERR REASON "),
        (&[LOCK, "asr-1", "TOKEN"],                     "ERR syntax error"),
        (&[LOCK, "asr-1", "TOKEN", "1", "TOKEN", "1"],  "ERR syntax error"),
        (&[LOCK, "asr-1", "TOKEN", "0"],                "ERR TOKEN "),
        (&[LOCK, "asr-1", "TOKEN", "-1"],               "ERR TOKEN "),
        (&[LOCK, "asr-1", "TOKEN", "1.5"],              "ERR TOKEN "),
        (&[LOCK, "asr-1", "TOKEN", "9007199254740992"], "ERR TOKEN "),
        (&[LOCK, "asr-1", "TOKEN", "token"],            "ERR TOKEN "),
    ];
    for (arguments, expected) in cases {
        let before = stats(&mut client);
        let reply = client.cmd(&[&["GPULOCK.RELEASE"], *arguments].concat());
        assert!(reply.err().starts_with(expected), "{arguments:?}: {reply:?}");
        assert_eq!(
            changes(&before, &stats(&mut client)),
            named(&[("normal_release_failures", 1), ("release_script_errors", 1)]),
            "{arguments:?}"
        );
        assert_eq!(state(&mut client), intact, "{arguments:?}");
    }

    // The server refuses this call itself; it does not reach the module.
    let before = stats(&mut client);
    assert!(call!(client, "GPULOCK.RELEASE", LOCK).is_err());
    assert_eq!(changes(&before, &stats(&mut client)), []);
    assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, "asr-1"), 1);
}

fn release_lock_redis_unavailable(flavour: &Flavour) {
    let mut server =
        flavour.server().arg("appendonly", "yes").arg("appendfsync", "always").start();
    let (kept, released) = (LOCK, "gpu_lock:1");
    let mut client = server.client();
    assert!(call!(client, "GPULOCK.ACQUIRE", kept, "asr-1", "EX", 600).int() > 0);
    let token = call!(client, "GPULOCK.ACQUIRE", released, "asr-2", "EX", 600).int();
    assert_eq!(call!(client, "GPULOCK.RELEASE", released, "asr-2"), 1);
    let expires = call!(client, "PEXPIRETIME", kept).int();

    // The server dies after the release was sent and before it is read.
    server.freeze();
    send!(client, "GPULOCK.RELEASE", kept, "asr-1");
    server.kill9();
    client.wait_closed();
    assert!(Client::connect(server.port(), server.name()).is_err());

    server.restart();
    let mut client = server.client();
    assert_eq!(call!(client, "EXISTS", released), 0);
    assert_eq!(call!(client, "GET", kept), "asr-1");
    assert_eq!(call!(client, "PEXPIRETIME", kept), expires);
    // No other owner is granted the lock, and its owner can still release it.
    assert!(call!(client, "GPULOCK.ACQUIRE", kept, "asr-2", "EX", 600).is_null());
    assert_eq!(call!(client, "GPULOCK.RELEASE", kept, "asr-2"), 0);
    assert_eq!(call!(client, "GPULOCK.RELEASE", kept, "asr-1"), 1);
    let next = call!(client, "GPULOCK.ACQUIRE", kept, "asr-2", "EX", 600).int();
    assert!(next > token, "{next} after {token}");
}

fn exception_stats_initialization(flavour: &Flavour) {
    #[rustfmt::skip]
    let counters = [
        "ownership_violations", "release_script_errors", "normal_release_failures",
        "emergency_releases", "stale_releases", "acquire_requests", "acquired",
        "acquired_after_wait", "renewed", "refused", "wait_timeouts", "waits_abandoned",
        "deadlocks", "adopted", "releases", "expired", "session_releases", "removed",
        "evicted", "moved", "undelivered", "extends", "extend_failures", "revocations",
        "internal_errors", "locks_held", "clients_waiting",
        "wait_ms.count", "wait_ms.sum", "wait_ms.+Inf",
        "hold_ms.count", "hold_ms.sum", "hold_ms.+Inf",
    ];
    let mut server = flavour.start();
    let all_zero = |server: &Server| {
        let mut client = server.client();
        let stats = stats(&mut client);
        for name in counters {
            assert_eq!(stats.get(name), Some(&0), "{name}");
        }
        let not_zero: Vec<_> = stats.iter().filter(|(_, n)| **n != 0).collect();
        assert!(not_zero.is_empty(), "{not_zero:?}");
        assert!(call!(client, "GPULOCK.STATS", "KEY", LOCK).is_null());
        assert!(call!(client, "GPULOCK.LOG").list().is_empty());
    };
    all_zero(&server);

    // The counters belong to the server: a new connection sees the same values, and a new
    // server starts at zero.
    let mut client = server.client();
    assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, "asr-1"), 0);
    drop(client);
    let seen = stats(&mut server.client());
    assert_eq!((seen["ownership_violations"], seen["stale_releases"]), (1, 1));
    server.restart();
    all_zero(&server);
}

fn concurrent_lock_acquisition(flavour: &Flavour) {
    const ROUNDS: i64 = 5;
    for count in [5, 100] {
        let server = flavour.start();
        let mut rivals = clients(&server, count);
        let mut client = server.client();
        let mut last_token = 0;
        for round in 0..ROUNDS {
            let replies = all_at_once(&mut rivals, |i| {
                words(&format!("GPULOCK.ACQUIRE {LOCK} rival-{i} EX 60"))
            });
            let winners: Vec<usize> =
                (0..count).filter(|i| !replies[*i].is_null()).collect();
            let [winner] = winners[..] else {
                panic!("round {round}, {count} clients: {winners:?} have it")
            };
            let token = replies[winner].int();
            assert!(token > last_token, "{token} after {last_token}");
            last_token = token;
            let owner = format!("rival-{winner}");
            assert_eq!(call!(client, "GET", LOCK), &*owner);
            assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, owner), 1);
        }
        let after = stats(&mut client);
        let requests = ROUNDS * i64::try_from(count).expect("a small number");
        assert_eq!(after["acquire_requests"], requests);
        assert_eq!(after["acquired"], ROUNDS);
        assert_eq!(after["refused"], requests - ROUNDS);
    }
}

fn emergency_release_on_normal_failure(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let first = call!(client, "GPULOCK.ACQUIRE", LOCK, "asr-1", "EX", 60).int();
    let before = stats(&mut client);
    assert_eq!(call!(client, "GPULOCK.RELEASE", LOCK, "watchdog"), 0);
    let forced = call!(client, "GPULOCK.FORCERELEASE", LOCK, "OWNER", "asr-1");
    assert_eq!(forced, "asr-1");
    assert_eq!(call!(client, "EXISTS", LOCK), 0);
    let plain = |changes: Vec<(String, i64)>| -> Vec<(String, i64)> {
        changes.into_iter().filter(|(name, _)| !name.starts_with("hold_ms")).collect()
    };
    assert_eq!(
        plain(changes(&before, &stats(&mut client))),
        named(&[
            ("emergency_releases", 1),
            ("locks_held", -1),
            ("normal_release_failures", 1),
            ("ownership_violations", 1),
        ]),
    );
    let newest = call!(client, "GPULOCK.LOG", 1).list()[0].clone();
    assert_eq!(
        (newest.field("kind").text(), newest.field("token").int()),
        ("forced".to_owned(), first)
    );

    // The watchdog saw a hold that has ended. The next holder keeps the lock, even one with
    // the same name.
    assert!(call!(client, "GPULOCK.ACQUIRE", LOCK, "asr-2", "EX", 60).int() > first);
    let before = stats(&mut client);
    let first = first.to_string();
    for condition in [
        &["OWNER", "asr-1"][..],
        &["TOKEN", &first],
        &["OWNER", "asr-1", "TOKEN", &first],
        &["OWNER", "asr-2", "TOKEN", &first],
    ] {
        let command = [&["GPULOCK.FORCERELEASE", LOCK], condition].concat();
        assert!(client.cmd(&command).is_null(), "{condition:?}");
        assert_eq!(call!(client, "GET", LOCK), "asr-2", "{condition:?}");
    }
    assert_eq!(changes(&before, &stats(&mut client)), []);

    // Without a condition it releases any hold; a free lock has none.
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", LOCK), "asr-2");
    assert!(call!(client, "GPULOCK.FORCERELEASE", LOCK).is_null());
    assert_eq!(stats(&mut client)["emergency_releases"], 2);
}
