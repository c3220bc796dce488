//! A script, a function, a transaction or another module's command never sees a lock change
//! between two of its own steps: when a connection closes in between, the module defers the
//! hand-off to the end of the command.

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};
use tempfile::TempDir;

use crate::support::c_library::build_c_library;
use crate::support::clock::DEADLINE;
use crate::support::queue::{wait_queue, waiter};

tests! {
    a_session_that_ends_during_a_script_is_handed_off_after_it,
    a_reserved_lock_whose_waiter_leaves_during_a_script_is_handed_off_after_it,
    a_connection_closed_by_a_transaction_changes_nothing_within_it,
    a_lock_set_completed_by_a_transaction_is_granted_after_it,
    a_session_that_ends_while_another_module_yields_is_handed_off_afterwards,
    a_session_that_ends_while_data_is_loaded_is_handed_off_afterwards,
}

/// The duration of a busy command: much longer than the server runs one undisturbed.
const BUSY_MS: u64 = 1_500;

/// A server that processes events soon after a script becomes busy.
fn server(flavour: &Flavour) -> Server {
    flavour.server().arg("busy-reply-threshold", 10).start()
}

/// A script that reads `KEYS[1]`, is busy, and reads it again. It writes first, because
/// `SCRIPT KILL` could end a script that has only read.
fn script() -> String {
    format!(
        "redis.call('SET', 'written', '1')
         local before = redis.call('GET', KEYS[1])
         local function now()
             local time = redis.call('TIME')
             return time[1] * 1000 + time[2] / 1000
         end
         local done = now() + {BUSY_MS}
         while now() < done do end
         return {{before, redis.call('GET', KEYS[1])}}"
    )
}

/// Sends a command that is busy and reads a key.
type Begin = fn(&mut Client, &str);

/// The ways to be busy.
const WAYS: [(&str, Begin); 2] = [
    ("script", |client, key| send!(client, "EVAL", script(), 1, key)),
    ("function", |client, key| {
        let body = script().replace("KEYS[1]", "keys[1]");
        let code = format!(
            "#!lua name=busy\nredis.register_function('twice', function(keys) {body} end)"
        );
        assert_eq!(call!(client, "FUNCTION", "LOAD", "REPLACE", code), "busy");
        send!(client, "FCALL", "twice", 1, key);
    }),
];

/// Waits until the server processes events in the middle of a command.
fn wait_busy(server: &Server) {
    let mut other = server.client();
    wait_until(DEADLINE, "a busy server", || {
        is_refused(&other.line("GET written"), "BUSY ")
    });
}

fn is_refused(reply: &Value, prefix: &str) -> bool {
    reply.is_err() && reply.err().starts_with(prefix)
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

fn a_session_that_ends_during_a_script_is_handed_off_after_it(flavour: &Flavour) {
    for (way, begin) in WAYS {
        let server = server(flavour);
        let (mut client, mut holder) = (server.client(), server.client());
        assert!(holder.line("GPULOCK.ACQUIRE k holder SESSION").int() > 0);
        let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
        wait_queue(&mut client, "k", &["next"]);
        begin(&mut client, "k");
        wait_busy(&server);
        drop(holder);
        let reads = client.read();
        assert_eq!(reads.list(), ["holder", "holder"], "{way}");
        assert!(next.read().int() > 0, "{way}");
        assert_eq!(client.line("GET k"), "next", "{way}");
    }
}

fn a_reserved_lock_whose_waiter_leaves_during_a_script_is_handed_off_after_it(
    flavour: &Flavour,
) {
    for (way, begin) in WAYS {
        let server = server(flavour);
        let mut client = server.client();
        assert!(client.line("GPULOCK.ACQUIRE b holder").int() > 0);
        let request = "GPULOCK.ACQUIREANY 2 a b both COUNT 2 BLOCK 0";
        let leaving = waiter(&server, request);
        wait_queue(&mut client, "a", &["both"]);
        let mut next = waiter(&server, "GPULOCK.ACQUIRE a next BLOCK 0");
        wait_queue(&mut client, "a", &["both", "next"]);
        begin(&mut client, "a");
        wait_busy(&server);
        drop(leaving);
        assert_eq!(client.read().list(), [Value::Null, Value::Null], "{way}");
        assert!(next.read().int() > 0, "{way}");
    }
}

fn a_connection_closed_by_a_transaction_changes_nothing_within_it(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let id = holder.id();
    assert!(holder.line("GPULOCK.ACQUIRE k holder SESSION").int() > 0);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    client.line("MULTI");
    let kill = format!("CLIENT KILL ID {id}");
    for line in ["GET k", &kill, "GET k"] {
        assert_eq!(client.line(line), "QUEUED");
    }
    let done = client.line("EXEC");
    assert_eq!(done.list(), [bulk("holder"), Value::Int(1), bulk("holder")]);
    assert!(next.read().int() > 0);
    assert_eq!(client.line("GET k"), "next");
}

fn a_lock_set_completed_by_a_transaction_is_granted_after_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE b holder").int() > 0);
    let mut both = waiter(&server, "GPULOCK.ACQUIREANY 2 a b both COUNT 2 BLOCK 0");
    wait_queue(&mut client, "a", &["both"]);
    client.line("MULTI");
    for line in ["GPULOCK.RELEASE b holder", "GET a", "GET b", "GPULOCK.ACQUIRE b me"] {
        assert_eq!(client.line(line), "QUEUED");
    }
    let done = client.line("EXEC");
    assert_eq!(done.list(), [Value::Int(1), Value::Null, Value::Null, Value::Null]);
    assert_eq!(both.read().list().len(), 2);
    assert_eq!(client.line("MGET a b").list(), ["both", "both"]);
}

fn a_session_that_ends_while_another_module_yields_is_handed_off_afterwards(
    flavour: &Flavour,
) {
    let folder = TempDir::with_prefix("gpulock-").expect("a folder");
    let module = build_c_library("other_module", folder.path());
    let builder = flavour.server().arg("loadmodule", module.display());
    let server = builder.arg("busy-reply-threshold", 10).start();
    let (mut client, mut holder) = (server.client(), server.client());
    assert!(holder.line("GPULOCK.ACQUIRE k holder SESSION").int() > 0);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    send!(client, "OTHER.READ", "k", BUSY_MS);
    wait_busy(&server);
    drop(holder);
    assert_eq!(client.read().list(), ["holder", "holder"]);
    assert!(next.read().int() > 0);
    assert_eq!(client.line("GET k"), "next");
}

fn a_session_that_ends_while_data_is_loaded_is_handed_off_afterwards(flavour: &Flavour) {
    // A key takes 2 ms to load, so loading takes seconds, and the server processes events in
    // the meantime.
    let builder = flavour.server().arg("key-load-delay", 2_000);
    let server = builder.arg("loading-process-events-interval-bytes", 1_024).start();
    let (mut client, mut holder) = (server.client(), server.client());
    for n in 0..1_000 {
        call!(client, "SET", format!("filler:{n}"), "x".repeat(50));
    }
    assert!(holder.line("GPULOCK.ACQUIRE k holder SESSION").int() > 0);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    client.send_lines(&["DEBUG RELOAD", "GET k"]);
    let mut other = server.client();
    wait_until(DEADLINE, "loading", || is_refused(&other.line("GET k"), "LOADING "));
    drop(holder);
    assert_eq!(client.read(), "OK");
    // In the same iteration of the event loop the key is still the loaded one, or handed off.
    let shown = client.read();
    assert!(shown == "holder" || shown == "next", "{shown:?}");
    assert!(next.read().int() > 0);
    assert_eq!(client.line("GET k"), "next");
}
