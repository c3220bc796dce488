//! With `GRACE`, the owner can reconnect before its session ends.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Value, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::events::{next_event, subscriber};
use crate::support::median::median;
use crate::support::queue::{wait_queue, waiter};
use crate::support::sessions::{WAYS, close, close_with_grace, inspect};

tests! {
    a_grace_period_shortens_the_lease_and_then_hands_the_lock_off,
    a_grace_period_ends_without_a_command,
    a_grace_period_does_not_extend_the_lease,
    an_owner_that_reconnects_in_the_grace_period_has_a_new_session,
    extend_in_the_grace_period_ends_the_session,
    an_owner_that_reconnects_at_once_keeps_the_lock,
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
