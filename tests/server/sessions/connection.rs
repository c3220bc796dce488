//! The connection to which a session belongs, and locks without a session.

use gpulock_testkit::{Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::queue::{wait_queue, waiter};
use crate::support::sessions::{close, inspect, wait_disconnected};

tests! {
    the_session_belongs_to_the_last_connection_that_requested_it,
    nothing_else_changes_the_session,
    a_lock_acquired_again_without_session_outlives_the_connection,
    a_wait_that_ends_without_a_grant_creates_no_session,
    session_is_refused_in_scripts_and_with_invalid_options,
    a_session_can_start_in_a_transaction,
    a_key_set_by_the_same_owner_after_the_lease_has_no_session,
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
