//! A lock taken with `SESSION` ends with the connection that got it, however that ends,
//! and the next waiter has it at once; with `GRACE` the owner may come back. Nothing else
//! ends it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::median::median;
use crate::support::queue::{wait_queue, waiter};

tests! {
    the_next_waiter_has_the_lock_within_5_ms_however_the_connection_ends,
    the_end_of_an_adopted_locks_session_is_told_as_well,
    the_lock_passes_on_in_the_very_instant,
    with_nobody_waiting_the_lock_is_free,
    a_grace_cuts_the_lease_and_then_the_lock_is_the_next_ones,
    a_grace_is_over_by_itself,
    a_grace_makes_no_lease_longer,
    within_the_grace_the_owner_comes_back_with_a_session_of_its_new_connection,
    within_the_grace_the_owner_may_extend_and_is_tied_to_nothing,
    an_owner_that_is_back_in_the_instant_of_the_close_is_back,
    the_last_connection_that_got_it_by_session_is_the_one_that_counts,
    nothing_else_ties_or_unties,
    a_lock_that_is_no_longer_the_connections_outlives_it,
    waits_with_session_that_end_without_a_grant_tie_nothing,
    a_session_is_refused_where_there_is_no_connection,
    a_session_may_begin_in_a_transaction,
    a_server_that_closes_idle_connections_is_warned_of,
    a_holder_that_the_server_finds_idle_loses_its_lock,
    a_process_that_is_shot_frees_its_lock,
    a_key_set_anew_by_an_equal_name_after_the_lease_is_nobodys_session,
}

/// The contract's five milliseconds.
const WITHIN: Duration = Duration::from_millis(5);

/// A subscriber to the events of all locks.
fn listener(server: &Server) -> Client {
    let mut listener = server.client();
    listener.send(&["PSUBSCRIBE", "gpu_lock:*"]);
    assert_eq!(listener.read().list()[0], "psubscribe");
    listener
}

/// The next event, as `serde_json` reads it.
#[track_caller]
fn event(listener: &mut Client) -> serde_json::Value {
    let message = listener.read_within(DEADLINE).expect("an event");
    serde_json::from_slice(message.list()[3].bytes()).expect("an event is JSON")
}

#[track_caller]
fn inspect(client: &mut Client, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", "k").field(field)
}

/// Waits until the server knows of no client of this id.
#[track_caller]
fn wait_gone(client: &mut Client, id: i64) {
    wait_until(DEADLINE, format!("client {id} to be gone"), || {
        !call!(client, "CLIENT", "LIST").text().contains(&format!("id={id} "))
    });
}

/// Closes a holder's connection and waits until its grace runs.
#[track_caller]
fn close_into_grace(holder: Client, client: &mut Client) {
    close(holder, client);
    wait_until(DEADLINE, "the grace to run", || !inspect(client, "grace_ms").is_null());
}

/// Closes a connection and waits until the server has noticed.
#[track_caller]
fn close(mut gone: Client, client: &mut Client) {
    let id = gone.id();
    drop(gone);
    wait_gone(client, id);
}

/// A way for a connection to end: its own end of it, somebody else's, its id.
type Way = (&'static str, fn(Client, &mut Client, i64));

const WAYS: [Way; 5] = [
    ("FIN", |holder, _, _| drop(holder)),
    ("half closed", |mut holder, _, _| {
        holder.half_close();
        holder.wait_closed();
    }),
    ("RST", |holder, _, _| holder.reset()),
    ("CLIENT KILL", |_holder, other, id| {
        assert_eq!(call!(other, "CLIENT", "KILL", "ID", id), 1);
    }),
    ("QUIT", |mut holder, _, _| holder.send(&["QUIT"])),
];

/// How a holder came to its lock; each ends with `k` held by `me` for 100 s.
type Start = (&'static str, fn(&mut Client, &mut Client));

const STARTS: [Start; 4] = [
    ("granted at once", |holder, _| {
        let answer = holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION");
        assert!(answer.int() > 0);
    }),
    ("granted after a wait", |holder, other| {
        other.line("GPULOCK.ACQUIRE k first");
        holder.send_lines(&["GPULOCK.ACQUIRE k me PX 100000 BLOCK 0 SESSION"]);
        wait_queue(other, "k", &["me"]);
        assert_eq!(other.line("GPULOCK.RELEASE k first"), 1);
        assert!(holder.read().int() > 0);
    }),
    ("renewed", |holder, other| {
        let token = other.line("GPULOCK.ACQUIRE k me PX 50000 UNIQUE").int();
        let renewed = holder.line("GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION");
        assert_eq!(renewed, token);
    }),
    ("adopted and renewed", |holder, other| {
        assert_eq!(other.line("SET k me PX 50000"), "OK");
        let renewed = holder.line("GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION");
        assert!(renewed.int() > 0);
    }),
];

fn the_next_waiter_has_the_lock_within_5_ms_however_the_connection_ends(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut client = server.client();
    let mut took = Vec::new();
    for (start, begin) in STARTS {
        for (way, end) in WAYS {
            took.push(median(&format!("{start}, {way}"), WITHIN, || {
                client.line("GPULOCK.RESETSTATS");
                client.line("GPULOCK.LOG RESET");
                let mut listener = listener(&server);
                let mut holder = server.client();
                let id = holder.id();
                begin(&mut holder, &mut client);
                assert_eq!(inspect(&mut client, "session"), id, "{start}, {way}");
                let token = inspect(&mut client, "token").int();
                let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
                wait_queue(&mut client, "k", &["next"]);
                // The first holder's release, where there was one.
                if start == "granted after a wait" {
                    assert_eq!(event(&mut listener)["owner"], "first");
                }

                let began = Instant::now();
                end(holder, &mut client, id);
                let passed_on = next.read().int();
                let took = began.elapsed();

                assert!(passed_on > token, "{start}, {way}");
                assert_eq!(inspect(&mut client, "owner"), "next");
                let stats = stats(&mut client);
                assert_eq!(stats["session_releases"], 1, "{start}, {way}");
                for other in ["expired", "removed", "undelivered", "emergency_releases"] {
                    assert_eq!(stats[other], 0, "{other}: {start}, {way}");
                }
                let log = client.line("GPULOCK.LOG");
                let entry = &log.list()[0];
                assert_eq!(entry.field("kind"), "disconnected", "{start}, {way}");
                assert_eq!(entry.field("key"), "k");
                assert_eq!(entry.field("holder"), "me");
                assert_eq!(entry.field("token"), token);
                assert_eq!(entry.field("reason"), "disconnect");
                assert_eq!(entry.field("client"), Value::Null);
                if start != "adopted and renewed" {
                    let event = event(&mut listener);
                    assert_eq!(event["release_reason"], "disconnect", "{start}, {way}");
                    assert_eq!(event["owner"], "me");
                    assert_eq!(event["token"], token);
                }
                assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
                took
            }));
        }
    }
    took.sort();
    let (middle, worst) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{flavour}: middle {middle:?}, worst {worst:?}");
}

fn the_end_of_an_adopted_locks_session_is_told_as_well(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let mut listener = listener(&server);
    assert_eq!(client.line("SET k me PX 100000"), "OK");
    let token = holder.line("GPULOCK.ACQUIRE k me UNIQUE SESSION").int();
    close(holder, &mut client);
    // It is GPULOCK that ended it.
    let event = event(&mut listener);
    assert_eq!(event["release_reason"], "disconnect");
    assert_eq!(event["token"], token);
}

fn the_lock_passes_on_in_the_very_instant(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // The next command in the same turn of the server's loop finds it done.
    for (line, found) in [(&["next"][..], "next"), (&[], "newcomer")] {
        let mut holder = server.client();
        let kill = format!("CLIENT KILL ID {}", holder.id());
        assert!(holder.line("GPULOCK.ACQUIRE k me SESSION").int() > 0);
        let mut next = server.client();
        if !line.is_empty() {
            next.send_lines(&["GPULOCK.ACQUIRE k next BLOCK 0"]);
        }
        wait_queue(&mut client, "k", line);
        client.send_lines(&[&kill, "GPULOCK.ACQUIRE k newcomer", "GET k"]);
        assert_eq!(client.read(), 1);
        let answer = client.read();
        assert_eq!(client.read(), found);
        assert_eq!(answer.is_null(), found == "next", "{answer:?}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", found), 1);
    }
}

fn with_nobody_waiting_the_lock_is_free(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (way, end) in WAYS {
        let mut holder = server.client();
        let id = holder.id();
        // All that it holds, in whichever database.
        for n in 0..50 {
            let lock = format!("gpu:{n}");
            holder.line(&format!("SELECT {}", n % 3));
            let token = call!(holder, "GPULOCK.ACQUIRE", lock, "me", "SESSION");
            assert!(token.int() > 0);
        }
        // But not one that is tied to nothing.
        holder.line("SELECT 0");
        assert!(holder.line("GPULOCK.ACQUIRE untied me").int() > 0);
        assert_eq!(stats(&mut client)["locks_held"], 51);
        end(holder, &mut client, id);
        wait_until(DEADLINE, way, || stats(&mut client)["locks_held"] == 1);
        assert_eq!(server.info("keyspace").len(), 1, "{way}");
        assert_eq!(client.line("GPULOCK.RELEASE untied me"), 1);
    }
    let stats = stats(&mut client);
    assert_eq!(stats["session_releases"], 50 * WAYS.len() as i64);
}

fn a_grace_cuts_the_lease_and_then_the_lock_is_the_next_ones(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (way, end) in WAYS {
        client.line("GPULOCK.RESETSTATS");
        client.line("GPULOCK.LOG RESET");
        let mut listener = listener(&server);
        let mut holder = server.client();
        let id = holder.id();
        let asked = "GPULOCK.ACQUIRE k me PX 100000 SESSION GRACE 2000";
        let token = holder.line(asked).int();
        assert_eq!(inspect(&mut client, "grace_ms"), Value::Null);
        let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["next"]);
        let began = Instant::now();
        end(holder, &mut client, id);
        wait_until(DEADLINE, format!("the grace to run: {way}"), || {
            !inspect(&mut client, "grace_ms").is_null()
        });
        let seen = client.line("GPULOCK.INSPECT k");
        assert!((1..=2000).contains(&seen.field("grace_ms").int()), "{seen:?}");
        assert!((1..=2000).contains(&seen.field("lease_ms").int()), "{seen:?}");
        assert_eq!(seen.field("session"), Value::Null);
        assert_eq!(seen.field("owner"), "me");
        assert_eq!(seen.field("token"), token);
        // The key itself says so.
        assert!((1..=2000).contains(&client.line("PTTL k").int()));
        assert_eq!(stats(&mut client)["session_releases"], 0);

        assert!(next.read().int() > token);
        let took = began.elapsed();
        // Kept in whole milliseconds, cut off.
        let (early, late) = (Duration::from_millis(1_999), Duration::from_secs(6));
        assert!((early..late).contains(&took), "{took:?}");
        let stats = stats(&mut client);
        assert_eq!((stats["session_releases"], stats["expired"]), (1, 0), "{way}");
        assert_eq!(event(&mut listener)["release_reason"], "disconnect");
        let log = client.line("GPULOCK.LOG");
        assert_eq!(log.list()[0].field("kind"), "disconnected");
        assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
    }
}

fn a_grace_is_over_by_itself(flavour: &Flavour) {
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    let mut round = 0;
    // The server itself looks once in a second.
    median("the end of a grace", Duration::from_millis(500), || {
        round += 1;
        let mut holder = server.client();
        holder.line("GPULOCK.ACQUIRE k me SESSION GRACE 50");
        close(holder, &mut client);
        // Nobody touches the key: the module itself looks when it is over.
        let began = Instant::now();
        wait_until(DEADLINE, "the end of the grace", || {
            stats(&mut client)["session_releases"] == round
        });
        let took = began.elapsed();
        assert_eq!(client.line("EXISTS k"), 0);
        took
    });
}

fn a_grace_makes_no_lease_longer(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    holder.line("GPULOCK.ACQUIRE k me PX 2000 SESSION GRACE 100000");
    let until = client.line("PEXPIRETIME k");
    close(holder, &mut client);
    assert_eq!(client.line("PEXPIRETIME k"), until);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    assert!(next.read().int() > 0);
    assert_eq!(stats(&mut client)["locks_held"], 1);
}

fn within_the_grace_the_owner_comes_back_with_a_session_of_its_new_connection(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let asked = "GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION GRACE 60000";
    let token = holder.line(asked).int();
    let _next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    for _ in 0..3 {
        close_into_grace(holder, &mut client);
        assert!(inspect(&mut client, "grace_ms").int() <= 60_000);
        assert!(client.line("PTTL k").int() <= 60_000);
        // Nobody else's, though nobody is connected.
        assert_eq!(client.line("GPULOCK.ACQUIRE k other UNIQUE"), Value::Null);
        holder = server.client();
        assert_eq!(holder.line(asked), token);
        assert!(client.line("PTTL k").int() > 90_000);
        assert_eq!(inspect(&mut client, "grace_ms"), Value::Null);
        assert_eq!(inspect(&mut client, "session"), holder.id());
    }
    let stats = stats(&mut client);
    assert_eq!((stats["session_releases"], stats["renewed"]), (0, 3));
    // Without a grace this time.
    let last = "GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION";
    assert_eq!(holder.line(last), token);
    drop(holder);
    wait_until(DEADLINE, "the lock to pass on", || {
        inspect(&mut client, "owner") == "next"
    });
}

fn within_the_grace_the_owner_may_extend_and_is_tied_to_nothing(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let asked = "GPULOCK.ACQUIRE k me PX 100000 SESSION GRACE 60000";
    let token = holder.line(asked).int();
    close_into_grace(holder, &mut client);
    let mut back = server.client();
    // Not by anybody else, though.
    assert_eq!(back.line("GPULOCK.EXTEND k other PX 90000"), Value::Null);
    assert!(!inspect(&mut client, "grace_ms").is_null());
    assert_eq!(back.line("GPULOCK.EXTEND k me PX 90000"), token);
    for gone in [false, true] {
        let seen = client.line("GPULOCK.INSPECT k");
        assert_eq!(seen.field("token"), token, "gone: {gone}");
        assert_eq!(seen.field("session"), Value::Null);
        assert_eq!(seen.field("grace_ms"), Value::Null);
        assert!(seen.field("lease_ms").int() > 80_000);
        if !gone {
            close(std::mem::replace(&mut back, server.client()), &mut client);
        }
    }
    // Its end is a lease's.
    assert_eq!(client.line("GPULOCK.EXTEND k me PX 1"), token);
    wait_until(DEADLINE, "the lease to be over", || stats(&mut client)["expired"] == 1);
    assert_eq!(stats(&mut client)["session_releases"], 0);
}

fn an_owner_that_is_back_in_the_instant_of_the_close_is_back(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (back, session) in
        [("ACQUIRE k me PX 90000 UNIQUE SESSION", true), ("EXTEND k me PX 90000", false)]
    {
        let mut holder = server.client();
        let kill = format!("CLIENT KILL ID {}", holder.id());
        let asked = "GPULOCK.ACQUIRE k me PX 100000 SESSION GRACE 60000";
        let token = holder.line(asked).int();
        client.send_lines(&[&kill, &format!("GPULOCK.{back}")]);
        assert_eq!((client.read(), client.read()), (Value::Int(1), Value::Int(token)));
        // The server's clock has ticked since: by then all that was owed is done.
        let ticks = |client: &mut Client| {
            client.line("GPULOCK.ACQUIRE k other BLOCK 20").is_null()
        };
        assert!(ticks(&mut server.client()));
        assert!(client.line("PTTL k").int() > 80_000, "{back}");
        let id = if session { Value::Int(client.id()) } else { Value::Null };
        assert_eq!(inspect(&mut client, "session"), id, "{back}");
        assert_eq!(inspect(&mut client, "grace_ms"), Value::Null, "{back}");
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    }
}

fn the_last_connection_that_got_it_by_session_is_the_one_that_counts(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut first) = (server.client(), server.client());
    let asked = "GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION";
    let token = first.line(asked).int();
    let mut second = server.client();
    assert_eq!(second.line(asked), token);
    assert_eq!(inspect(&mut client, "session"), second.id());
    close(first, &mut client);
    assert_eq!(inspect(&mut client, "token"), token);
    assert_eq!(inspect(&mut client, "session"), second.id());
    close(second, &mut client);
    wait_until(DEADLINE, "the lock to be free", || {
        client.line("GPULOCK.INSPECT k").is_null()
    });
}

fn nothing_else_ties_or_unties(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut holder = server.client();
    let token = holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION").int();
    let id = holder.id();
    // Renewals of whoever, other connections and their ends.
    let mut other = server.client();
    assert_eq!(other.line("GPULOCK.ACQUIRE k me PX 90000 UNIQUE"), token);
    assert_eq!(other.line("GPULOCK.EXTEND k me PX 90000"), token);
    assert_eq!(other.line("GPULOCK.ACQUIRE k other SESSION"), Value::Null);
    close(other, &mut client);
    assert_eq!(holder.line("GPULOCK.EXTEND k me PX 80000"), token);
    assert_eq!(holder.line("GPULOCK.ACQUIRE k me PX 80000 UNIQUE"), token);
    assert_eq!(client.line("PEXPIRE k 70000"), 1);
    assert_eq!(holder.line("RESET"), "RESET");
    assert_eq!((holder.id(), inspect(&mut client, "session")), (id, Value::Int(id)));
    assert!(client.line("PTTL k").int() > 60_000);
    close(holder, &mut client);
    wait_until(DEADLINE, "the lock to be free", || {
        client.line("GPULOCK.INSPECT k").is_null()
    });
    assert_eq!(stats(&mut client)["session_releases"], 1);
}

fn a_lock_that_is_no_longer_the_connections_outlives_it(flavour: &Flavour) {
    let ends: [(&str, &[&str]); 5] = [
        ("released", &["GPULOCK.RELEASE k me"]),
        ("taken away", &["GPULOCK.FORCERELEASE k"]),
        ("deleted", &["DEL k"]),
        ("overwritten", &["SET k me2 PX 100000", "DEL k"]),
        ("flushed", &["FLUSHALL"]),
    ];
    let server = flavour.start();
    let mut client = server.client();
    for (how, steps) in ends {
        let mut holder = server.client();
        assert!(holder.line("GPULOCK.ACQUIRE k me SESSION").int() > 0);
        for step in steps {
            assert!(!client.line(step).is_err(), "{step}");
        }
        // Held again by the same owner, and by the same connection without a session.
        let token = holder.line("GPULOCK.ACQUIRE k me").int();
        assert_eq!(inspect(&mut client, "session"), Value::Null, "{how}");
        close(holder, &mut client);
        assert_eq!(inspect(&mut client, "token"), token, "{how}");
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    }
    // Overwritten by another in the turn in which the connection ends.
    let mut holder = server.client();
    assert!(holder.line("GPULOCK.ACQUIRE k me SESSION").int() > 0);
    let id = holder.id();
    let kill = format!("CLIENT KILL ID {id}");
    for step in ["SET k xx KEEPTTL", "SET k xx PX 90000"] {
        client.send_lines(&[step, &kill]);
        assert_eq!(client.read(), "OK");
        client.read();
        wait_gone(&mut client, id);
        assert_eq!(client.line("GET k"), "xx");
        assert_eq!(client.line("GPULOCK.ACQUIRE k me"), Value::Null);
    }
    assert_eq!(stats(&mut client)["session_releases"], 0);
}

fn waits_with_session_that_end_without_a_grant_tie_nothing(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut late) = (server.client(), server.client());
    let token = client.line("GPULOCK.ACQUIRE k me PX 100000").int();
    let answer = late.line("GPULOCK.ACQUIRE k late BLOCK 1 SESSION");
    assert_eq!(answer, Value::Null);
    assert_eq!(late.line("GPULOCK.ACQUIRE k late SESSION GRACE 5"), Value::Null);
    close(late, &mut client);
    let gone = waiter(&server, "GPULOCK.ACQUIRE k gone BLOCK 0 SESSION");
    wait_queue(&mut client, "k", &["gone"]);
    drop(gone);
    wait_queue(&mut client, "k", &[]);
    assert_eq!(inspect(&mut client, "token"), token);
    assert_eq!(stats(&mut client)["session_releases"], 0);
}

fn a_session_is_refused_where_there_is_no_connection(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for wrong in ["GRACE 5", "UNIQUE GRACE 5 PX 10", "BLOCK 0 GRACE 0"] {
        let answer = client.line(&format!("GPULOCK.ACQUIRE k me {wrong}"));
        assert_eq!(answer.err(), "ERR syntax error", "{wrong}");
    }
    for wrong in ["SESSION SESSION", "SESSION GRACE", "SESSION GRACE 1 GRACE 1"] {
        let answer = client.line(&format!("GPULOCK.ACQUIRE k me {wrong}"));
        assert_eq!(answer.err(), "ERR syntax error", "{wrong}");
    }
    for wrong in ["-1", "x", "9007199254740992", "1.5"] {
        let answer =
            call!(client, "GPULOCK.ACQUIRE", "k", "me", "SESSION", "GRACE", wrong);
        assert!(answer.err().starts_with("ERR "), "{wrong}");
    }
    let script = "return redis.call('GPULOCK.ACQUIRE',KEYS[1],'me','SESSION')";
    let function = "#!lua name=locks\n\
            redis.register_function('take', function(keys) \
            return redis.call('GPULOCK.ACQUIRE',keys[1],'me','SESSION') end)";
    assert_eq!(call!(client, "FUNCTION", "LOAD", function), "locks");
    for answer in
        [call!(client, "EVAL", script, 1, "k"), call!(client, "FCALL", "take", 1, "k")]
    {
        assert!(answer.err().contains("SESSION"), "{answer:?}");
    }
    assert!(client.line("GPULOCK.INSPECT k").is_null());
    // Neither does a script renew into a session.
    let token = client.line("GPULOCK.ACQUIRE k me PX 100000 UNIQUE").int();
    let script = script.replace("'SESSION'", "'UNIQUE','SESSION'");
    assert!(call!(client, "EVAL", &script, 1, "k").is_err());
    let seen = client.line("GPULOCK.INSPECT k");
    assert_eq!(seen.field("token"), token);
    assert_eq!(seen.field("session"), Value::Null);
}

fn a_session_may_begin_in_a_transaction(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    for line in ["MULTI", "GPULOCK.ACQUIRE k me PX 100000 SESSION"] {
        holder.line(line);
    }
    let token = holder.line("EXEC").list()[0].int();
    assert_eq!(inspect(&mut client, "token"), token);
    assert_eq!(inspect(&mut client, "session"), holder.id());
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    drop(holder);
    assert!(next.read().int() > token);
}

/// The warnings in the log that speak of the server's `timeout`.
fn warnings(client: &mut Client) -> usize {
    let log = client.line("GPULOCK.LOG");
    let warns = |entry: &&Value| {
        let reason = || entry.field("reason").text();
        entry.field("kind") == "warning" && reason().contains("timeout")
    };
    log.list().iter().filter(warns).count()
}

fn a_server_that_closes_idle_connections_is_warned_of(flavour: &Flavour) {
    let server = flavour.server().arg("timeout", 100).start();
    let mut client = server.client();
    assert_eq!(warnings(&mut client), 1);
    server.wait_log("<gpulock> the server's timeout");

    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(warnings(&mut client), 0);
    assert!(!server.log().contains("<gpulock> the server's timeout"));
    assert_eq!(client.line("CONFIG SET timeout 100"), "OK");
    assert_eq!(warnings(&mut client), 1);
    server.wait_log("<gpulock> the server's timeout");
    // Safe again, and then once more in danger.
    client.line("GPULOCK.LOG RESET");
    assert_eq!(client.line("CONFIG SET timeout 0"), "OK");
    assert_eq!(warnings(&mut client), 0);
    assert_eq!(client.line("CONFIG SET timeout 50"), "OK");
    assert_eq!(warnings(&mut client), 1);
}

fn a_holder_that_the_server_finds_idle_loses_its_lock(flavour: &Flavour) {
    let server = flavour.server().arg("timeout", 1).arg("hz", 100).start();
    let (mut client, mut holder) = (server.client(), server.client());
    assert!(holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION").int() > 0);
    // Who waits is not idle.
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    assert!(next.read().int() > 0);
    holder.wait_closed();
    assert_eq!(stats(&mut server.client())["session_releases"], 1);
}

fn a_process_that_is_shot_frees_its_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut shot = 0;
    let took = median("a process that is shot", Duration::from_millis(10), || {
        shot += 1;
        // The connection belongs to a process of its own, which alone holds it open.
        let address = (Ipv4Addr::LOCALHOST, server.port());
        let mut socket = TcpStream::connect(address).expect("connecting");
        socket.write_all(b"GPULOCK.ACQUIRE k me PX 100000 SESSION\r\n").expect("sending");
        let mut answer = [0; 64];
        let length = socket.read(&mut answer).expect("an answer");
        assert!(answer[..length].starts_with(b":"), "{answer:?}");
        let mut process = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .spawn()
            .expect("starting sleep");
        let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["next"]);
        let began = Instant::now();
        process.kill().expect("shooting it");
        assert!(next.read().int() > 0);
        let took = began.elapsed();
        process.wait().expect("its end");
        assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
        took
    });
    assert_eq!(stats(&mut client)["session_releases"], shot);
    eprintln!("{flavour}: shot, middle {took:?}");
}

fn a_key_set_anew_by_an_equal_name_after_the_lease_is_nobodys_session(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let id = holder.id();
    let old = holder.line("GPULOCK.ACQUIRE k me PX 20 SESSION UNIQUE").int();
    // One turn of the server, so that nobody looks in between.
    client.send_lines(&[
        "DEBUG SLEEP 0.05",
        "SET k me NX PX 60000",
        &format!("GPULOCK.EXTEND k me PX 60000 TOKEN {old}"),
    ]);
    assert_eq!(client.read(), "OK");
    assert_eq!(client.read(), "OK", "the lease was over");
    let token = client.read().int();
    assert!(token > old, "a new hold has a token of its own");
    let stats = stats(&mut client);
    assert_eq!((stats["expired"], stats["adopted"]), (1, 1));
    drop(holder);
    wait_gone(&mut client, id);
    assert_eq!(client.line("GET k"), "me");
    assert_eq!(inspect(&mut client, "session"), Value::Null);
}
