//! A lock acquired with `SESSION` ends with its connection, and the next waiter is granted it
//! at once; with `GRACE` the owner can reconnect first.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::events::{next_event, subscriber};
use crate::support::median::median;
use crate::support::queue::{wait_queue, waiter};

tests! {
    the_next_waiter_is_granted_the_lock_within_5_ms_of_a_disconnect,
    the_end_of_an_adopted_locks_session_is_published,
    the_lock_is_handed_off_at_once,
    without_waiters_the_locks_of_a_session_are_free,
    a_grace_period_shortens_the_lease_and_then_hands_the_lock_off,
    a_grace_period_ends_without_a_command,
    a_grace_period_does_not_extend_the_lease,
    an_owner_that_reconnects_in_the_grace_period_has_a_new_session,
    extend_in_the_grace_period_ends_the_session,
    an_owner_that_reconnects_at_once_keeps_the_lock,
    the_session_belongs_to_the_last_connection_that_requested_it,
    nothing_else_changes_the_session,
    a_lock_acquired_again_without_session_outlives_the_connection,
    a_wait_that_ends_without_a_grant_creates_no_session,
    session_is_refused_in_scripts_and_with_invalid_options,
    a_session_can_start_in_a_transaction,
    a_server_that_closes_idle_connections_is_warned_about,
    a_holder_that_is_closed_as_idle_loses_its_lock,
    a_killed_process_releases_its_lock,
    a_key_set_by_the_same_owner_after_the_lease_has_no_session,
}

/// The documented five milliseconds.
const WITHIN: Duration = Duration::from_millis(5);

#[track_caller]
fn inspect(client: &mut Client, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", "k").field(field)
}

/// Waits until the server has closed the client.
#[track_caller]
fn wait_disconnected(client: &mut Client, id: i64) {
    wait_until(DEADLINE, format!("client {id} to be disconnected"), || {
        !call!(client, "CLIENT", "LIST").text().contains(&format!("id={id} "))
    });
}

/// Closes a holder's connection and waits for its grace period.
#[track_caller]
fn close_with_grace(holder: Client, client: &mut Client) {
    close(holder, client);
    wait_until(DEADLINE, "the grace period", || !inspect(client, "grace_ms").is_null());
}

/// Closes a connection and waits until the server has noticed.
#[track_caller]
fn close(mut closed: Client, client: &mut Client) {
    let id = closed.id();
    drop(closed);
    wait_disconnected(client, id);
}

/// Closes a connection, with another connection and the client id.
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

/// Lets a client hold `k` as `me` for 100 s.
type Start = (&'static str, fn(&mut Client, &mut Client));

const STARTS: [Start; 4] = [
    ("granted at once", |holder, _| {
        let reply = holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION");
        assert!(reply.int() > 0);
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

fn the_next_waiter_is_granted_the_lock_within_5_ms_of_a_disconnect(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut took = Vec::new();
    for (how_acquired, acquire) in STARTS {
        for (way, end) in WAYS {
            took.push(median(&format!("{how_acquired}, {way}"), WITHIN, || {
                client.line("GPULOCK.RESETSTATS");
                client.line("GPULOCK.LOG RESET");
                let mut subscriber = subscriber(&server, "gpu_lock:*");
                let mut holder = server.client();
                let id = holder.id();
                acquire(&mut holder, &mut client);
                assert_eq!(inspect(&mut client, "session"), id, "{how_acquired}, {way}");
                let token = inspect(&mut client, "token").int();
                let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
                wait_queue(&mut client, "k", &["next"]);
                // The release of the first holder, if there was one.
                if how_acquired == "granted after a wait" {
                    assert_eq!(next_event(&mut subscriber)["owner"], "first");
                }

                let start = Instant::now();
                end(holder, &mut client, id);
                let granted = next.read().int();
                let took = start.elapsed();

                assert!(granted > token, "{how_acquired}, {way}");
                assert_eq!(inspect(&mut client, "owner"), "next");
                let stats = stats(&mut client);
                assert_eq!(stats["session_releases"], 1, "{how_acquired}, {way}");
                for other in ["expired", "removed", "undelivered", "emergency_releases"] {
                    assert_eq!(stats[other], 0, "{other}: {how_acquired}, {way}");
                }
                let log = client.line("GPULOCK.LOG");
                let entry = &log.list()[0];
                assert_eq!(entry.field("kind"), "disconnected", "{how_acquired}, {way}");
                assert_eq!(entry.field("key"), "k");
                assert_eq!(entry.field("holder"), "me");
                assert_eq!(entry.field("token"), token);
                assert_eq!(entry.field("reason"), "disconnect");
                assert_eq!(entry.field("client"), Value::Null);
                if how_acquired != "adopted and renewed" {
                    let event = next_event(&mut subscriber);
                    assert_eq!(
                        event["release_reason"], "disconnect",
                        "{how_acquired}, {way}"
                    );
                    assert_eq!(event["owner"], "me");
                    assert_eq!(event["token"], token);
                }
                assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
                took
            }));
        }
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!("{flavour}: median {median:?}, worst {worst:?}");
}

fn the_end_of_an_adopted_locks_session_is_published(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let mut subscriber = subscriber(&server, "gpu_lock:*");
    assert_eq!(client.line("SET k me PX 100000"), "OK");
    let token = holder.line("GPULOCK.ACQUIRE k me UNIQUE SESSION").int();
    close(holder, &mut client);
    // The module ended it, so it publishes the end.
    let event = next_event(&mut subscriber);
    assert_eq!(event["release_reason"], "disconnect");
    assert_eq!(event["token"], token);
}

fn the_lock_is_handed_off_at_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // The next command in the same iteration of the event loop finds the lock handed off.
    for (queue, owner) in [(&["next"][..], "next"), (&[], "newcomer")] {
        let mut holder = server.client();
        let kill = format!("CLIENT KILL ID {}", holder.id());
        assert!(holder.line("GPULOCK.ACQUIRE k me SESSION").int() > 0);
        let mut next = server.client();
        if !queue.is_empty() {
            next.send_lines(&["GPULOCK.ACQUIRE k next BLOCK 0"]);
        }
        wait_queue(&mut client, "k", queue);
        client.send_lines(&[&kill, "GPULOCK.ACQUIRE k newcomer", "GET k"]);
        assert_eq!(client.read(), 1);
        let reply = client.read();
        assert_eq!(client.read(), owner);
        assert_eq!(reply.is_null(), owner == "next", "{reply:?}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", owner), 1);
    }
}

fn without_waiters_the_locks_of_a_session_are_free(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (way, end) in WAYS {
        let mut holder = server.client();
        let id = holder.id();
        // All its locks end, in all databases.
        for n in 0..50 {
            let lock = format!("gpu:{n}");
            holder.line(&format!("SELECT {}", n % 3));
            let token = call!(holder, "GPULOCK.ACQUIRE", lock, "me", "SESSION");
            assert!(token.int() > 0);
        }
        // A lock without SESSION does not.
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

fn a_grace_period_shortens_the_lease_and_then_hands_the_lock_off(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (way, end) in WAYS {
        client.line("GPULOCK.RESETSTATS");
        client.line("GPULOCK.LOG RESET");
        let mut subscriber = subscriber(&server, "gpu_lock:*");
        let mut holder = server.client();
        let id = holder.id();
        let request = "GPULOCK.ACQUIRE k me PX 100000 SESSION GRACE 2000";
        let token = holder.line(request).int();
        assert_eq!(inspect(&mut client, "grace_ms"), Value::Null);
        let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["next"]);
        let start = Instant::now();
        end(holder, &mut client, id);
        wait_until(DEADLINE, format!("the grace period: {way}"), || {
            !inspect(&mut client, "grace_ms").is_null()
        });
        let seen = client.line("GPULOCK.INSPECT k");
        assert!((1..=2000).contains(&seen.field("grace_ms").int()), "{seen:?}");
        assert!((1..=2000).contains(&seen.field("lease_ms").int()), "{seen:?}");
        assert_eq!(seen.field("session"), Value::Null);
        assert_eq!(seen.field("owner"), "me");
        assert_eq!(seen.field("token"), token);
        // The key has that lease, too.
        assert!((1..=2000).contains(&client.line("PTTL k").int()));
        assert_eq!(stats(&mut client)["session_releases"], 0);

        assert!(next.read().int() > token);
        let took = start.elapsed();
        // Times are truncated to whole milliseconds.
        let (early, late) = (Duration::from_millis(1_999), Duration::from_secs(6));
        assert!((early..late).contains(&took), "{took:?}");
        let stats = stats(&mut client);
        assert_eq!((stats["session_releases"], stats["expired"]), (1, 0), "{way}");
        assert_eq!(next_event(&mut subscriber)["release_reason"], "disconnect");
        let log = client.line("GPULOCK.LOG");
        assert_eq!(log.list()[0].field("kind"), "disconnected");
        assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
    }
}

fn a_grace_period_ends_without_a_command(flavour: &Flavour) {
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    let mut round = 0;
    // The server itself checks once a second.
    median("the end of a grace", Duration::from_millis(500), || {
        round += 1;
        let mut holder = server.client();
        holder.line("GPULOCK.ACQUIRE k me SESSION GRACE 50");
        close(holder, &mut client);
        // No command names the key: the module itself notices the end.
        let start = Instant::now();
        wait_until(DEADLINE, "the end of the grace", || {
            stats(&mut client)["session_releases"] == round
        });
        let took = start.elapsed();
        assert_eq!(client.line("EXISTS k"), 0);
        took
    });
}

fn a_grace_period_does_not_extend_the_lease(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    holder.line("GPULOCK.ACQUIRE k me PX 2000 SESSION GRACE 100000");
    let expiry = client.line("PEXPIRETIME k");
    close(holder, &mut client);
    assert_eq!(client.line("PEXPIRETIME k"), expiry);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    assert!(next.read().int() > 0);
    assert_eq!(stats(&mut client)["locks_held"], 1);
}

fn an_owner_that_reconnects_in_the_grace_period_has_a_new_session(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let request = "GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION GRACE 60000";
    let token = holder.line(request).int();
    let _next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    for _ in 0..3 {
        close_with_grace(holder, &mut client);
        assert!(inspect(&mut client, "grace_ms").int() <= 60_000);
        assert!(client.line("PTTL k").int() <= 60_000);
        // No other owner is granted the lock.
        assert_eq!(client.line("GPULOCK.ACQUIRE k other UNIQUE"), Value::Null);
        holder = server.client();
        assert_eq!(holder.line(request), token);
        assert!(client.line("PTTL k").int() > 90_000);
        assert_eq!(inspect(&mut client, "grace_ms"), Value::Null);
        assert_eq!(inspect(&mut client, "session"), holder.id());
    }
    let stats = stats(&mut client);
    assert_eq!((stats["session_releases"], stats["renewed"]), (0, 3));
    // This time without a grace period.
    let last = "GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION";
    assert_eq!(holder.line(last), token);
    drop(holder);
    wait_until(DEADLINE, "the hand-off", || inspect(&mut client, "owner") == "next");
}

fn extend_in_the_grace_period_ends_the_session(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let request = "GPULOCK.ACQUIRE k me PX 100000 SESSION GRACE 60000";
    let token = holder.line(request).int();
    close_with_grace(holder, &mut client);
    let mut back = server.client();
    // Another owner cannot extend the lock.
    assert_eq!(back.line("GPULOCK.EXTEND k other PX 90000"), Value::Null);
    assert!(!inspect(&mut client, "grace_ms").is_null());
    assert_eq!(back.line("GPULOCK.EXTEND k me PX 90000"), token);
    for closed in [false, true] {
        let seen = client.line("GPULOCK.INSPECT k");
        assert_eq!(seen.field("token"), token, "gone: {closed}");
        assert_eq!(seen.field("session"), Value::Null);
        assert_eq!(seen.field("grace_ms"), Value::Null);
        assert!(seen.field("lease_ms").int() > 80_000);
        if !closed {
            close(std::mem::replace(&mut back, server.client()), &mut client);
        }
    }
    // The hold ends with its lease.
    assert_eq!(client.line("GPULOCK.EXTEND k me PX 1"), token);
    wait_until(DEADLINE, "the end of the lease", || stats(&mut client)["expired"] == 1);
    assert_eq!(stats(&mut client)["session_releases"], 0);
}

fn an_owner_that_reconnects_at_once_keeps_the_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (back, session) in
        [("ACQUIRE k me PX 90000 UNIQUE SESSION", true), ("EXTEND k me PX 90000", false)]
    {
        let mut holder = server.client();
        let kill = format!("CLIENT KILL ID {}", holder.id());
        let request = "GPULOCK.ACQUIRE k me PX 100000 SESSION GRACE 60000";
        let token = holder.line(request).int();
        client.send_lines(&[&kill, &format!("GPULOCK.{back}")]);
        assert_eq!((client.read(), client.read()), (Value::Int(1), Value::Int(token)));
        // A timeout shows that the server's clock has ticked: deferred work has run.
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

fn the_session_belongs_to_the_last_connection_that_requested_it(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut first) = (server.client(), server.client());
    let request = "GPULOCK.ACQUIRE k me PX 100000 UNIQUE SESSION";
    let token = first.line(request).int();
    let mut second = server.client();
    assert_eq!(second.line(request), token);
    assert_eq!(inspect(&mut client, "session"), second.id());
    close(first, &mut client);
    assert_eq!(inspect(&mut client, "token"), token);
    assert_eq!(inspect(&mut client, "session"), second.id());
    close(second, &mut client);
    wait_until(DEADLINE, "the lock to be free", || {
        client.line("GPULOCK.INSPECT k").is_null()
    });
}

fn nothing_else_changes_the_session(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut holder = server.client();
    let token = holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION").int();
    let id = holder.id();
    // Renewals by other connections, and their ends.
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

fn a_lock_acquired_again_without_session_outlives_the_connection(flavour: &Flavour) {
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
        // The same owner acquires it again, over the same connection, without SESSION.
        let token = holder.line("GPULOCK.ACQUIRE k me").int();
        assert_eq!(inspect(&mut client, "session"), Value::Null, "{how}");
        close(holder, &mut client);
        assert_eq!(inspect(&mut client, "token"), token, "{how}");
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    }
    // Another command overwrites it when the connection closes.
    let mut holder = server.client();
    assert!(holder.line("GPULOCK.ACQUIRE k me SESSION").int() > 0);
    let id = holder.id();
    let kill = format!("CLIENT KILL ID {id}");
    for step in ["SET k xx KEEPTTL", "SET k xx PX 90000"] {
        client.send_lines(&[step, &kill]);
        assert_eq!(client.read(), "OK");
        client.read();
        wait_disconnected(&mut client, id);
        assert_eq!(client.line("GET k"), "xx");
        assert_eq!(client.line("GPULOCK.ACQUIRE k me"), Value::Null);
    }
    assert_eq!(stats(&mut client)["session_releases"], 0);
}

fn a_wait_that_ends_without_a_grant_creates_no_session(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut late) = (server.client(), server.client());
    let token = client.line("GPULOCK.ACQUIRE k me PX 100000").int();
    let reply = late.line("GPULOCK.ACQUIRE k late BLOCK 1 SESSION");
    assert_eq!(reply, Value::Null);
    assert_eq!(late.line("GPULOCK.ACQUIRE k late SESSION GRACE 5"), Value::Null);
    close(late, &mut client);
    let closed = waiter(&server, "GPULOCK.ACQUIRE k gone BLOCK 0 SESSION");
    wait_queue(&mut client, "k", &["gone"]);
    drop(closed);
    wait_queue(&mut client, "k", &[]);
    assert_eq!(inspect(&mut client, "token"), token);
    assert_eq!(stats(&mut client)["session_releases"], 0);
}

fn session_is_refused_in_scripts_and_with_invalid_options(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for invalid in ["GRACE 5", "UNIQUE GRACE 5 PX 10", "BLOCK 0 GRACE 0"] {
        let reply = client.line(&format!("GPULOCK.ACQUIRE k me {invalid}"));
        assert_eq!(reply.err(), "ERR syntax error", "{invalid}");
    }
    for invalid in ["SESSION SESSION", "SESSION GRACE", "SESSION GRACE 1 GRACE 1"] {
        let reply = client.line(&format!("GPULOCK.ACQUIRE k me {invalid}"));
        assert_eq!(reply.err(), "ERR syntax error", "{invalid}");
    }
    for invalid in ["-1", "x", "9007199254740992", "1.5"] {
        let reply =
            call!(client, "GPULOCK.ACQUIRE", "k", "me", "SESSION", "GRACE", invalid);
        assert!(reply.err().starts_with("ERR "), "{invalid}");
    }
    let script = "return redis.call('GPULOCK.ACQUIRE',KEYS[1],'me','SESSION')";
    let function = "#!lua name=locks\n\
            redis.register_function('take', function(keys) \
            return redis.call('GPULOCK.ACQUIRE',keys[1],'me','SESSION') end)";
    assert_eq!(call!(client, "FUNCTION", "LOAD", function), "locks");
    for reply in
        [call!(client, "EVAL", script, 1, "k"), call!(client, "FCALL", "take", 1, "k")]
    {
        assert!(reply.err().contains("SESSION"), "{reply:?}");
    }
    assert!(client.line("GPULOCK.INSPECT k").is_null());
    // A script cannot renew a lock into a session either.
    let token = client.line("GPULOCK.ACQUIRE k me PX 100000 UNIQUE").int();
    let script = script.replace("'SESSION'", "'UNIQUE','SESSION'");
    assert!(call!(client, "EVAL", &script, 1, "k").is_err());
    let seen = client.line("GPULOCK.INSPECT k");
    assert_eq!(seen.field("token"), token);
    assert_eq!(seen.field("session"), Value::Null);
}

fn a_session_can_start_in_a_transaction(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    for queue in ["MULTI", "GPULOCK.ACQUIRE k me PX 100000 SESSION"] {
        holder.line(queue);
    }
    let token = holder.line("EXEC").list()[0].int();
    assert_eq!(inspect(&mut client, "token"), token);
    assert_eq!(inspect(&mut client, "session"), holder.id());
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    drop(holder);
    assert!(next.read().int() > token);
}

/// The number of warnings about the server's `timeout`.
fn warnings(client: &mut Client) -> usize {
    let log = client.line("GPULOCK.LOG");
    let is_warning = |entry: &&Value| {
        let reason = || entry.field("reason").text();
        entry.field("kind") == "warning" && reason().contains("timeout")
    };
    log.list().iter().filter(is_warning).count()
}

fn a_server_that_closes_idle_connections_is_warned_about(flavour: &Flavour) {
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
    // No warning without a timeout, and a new one for the next.
    client.line("GPULOCK.LOG RESET");
    assert_eq!(client.line("CONFIG SET timeout 0"), "OK");
    assert_eq!(warnings(&mut client), 0);
    assert_eq!(client.line("CONFIG SET timeout 50"), "OK");
    assert_eq!(warnings(&mut client), 1);
}

fn a_holder_that_is_closed_as_idle_loses_its_lock(flavour: &Flavour) {
    let server = flavour.server().arg("timeout", 1).arg("hz", 100).start();
    let (mut client, mut holder) = (server.client(), server.client());
    assert!(holder.line("GPULOCK.ACQUIRE k me PX 100000 SESSION").int() > 0);
    // A waiting client is not idle.
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    assert!(next.read().int() > 0);
    holder.wait_closed();
    assert_eq!(stats(&mut server.client())["session_releases"], 1);
}

fn a_killed_process_releases_its_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut killed = 0;
    let took = median("a killed process", Duration::from_millis(10), || {
        killed += 1;
        // Only another process holds the connection open.
        let address = (Ipv4Addr::LOCALHOST, server.port());
        let mut socket = TcpStream::connect(address).expect("connecting");
        socket.write_all(b"GPULOCK.ACQUIRE k me PX 100000 SESSION\r\n").expect("sending");
        let mut reply = [0; 64];
        let length = socket.read(&mut reply).expect("a reply");
        assert!(reply[..length].starts_with(b":"), "{reply:?}");
        let mut process = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .spawn()
            .expect("starting sleep");
        let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["next"]);
        let start = Instant::now();
        process.kill().expect("killing the process");
        assert!(next.read().int() > 0);
        let took = start.elapsed();
        process.wait().expect("the end of the process");
        assert_eq!(next.line("GPULOCK.RELEASE k next"), 1);
        took
    });
    assert_eq!(stats(&mut client)["session_releases"], killed);
    eprintln!("{flavour}: killed, median {took:?}");
}

fn a_key_set_by_the_same_owner_after_the_lease_has_no_session(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let id = holder.id();
    let old = holder.line("GPULOCK.ACQUIRE k me PX 20 SESSION UNIQUE").int();
    // In one iteration of the event loop, so that no background check runs in between.
    client.send_lines(&[
        "DEBUG SLEEP 0.05",
        "SET k me NX PX 60000",
        &format!("GPULOCK.EXTEND k me PX 60000 TOKEN {old}"),
    ]);
    assert_eq!(client.read(), "OK");
    assert_eq!(client.read(), "OK", "the lease has ended");
    let token = client.read().int();
    assert!(token > old, "a new hold has a new token");
    let stats = stats(&mut client);
    assert_eq!((stats["expired"], stats["adopted"]), (1, 1));
    drop(holder);
    wait_disconnected(&mut client, id);
    assert_eq!(client.line("GET k"), "me");
    assert_eq!(inspect(&mut client, "session"), Value::Null);
}
