//! The connection breaks, or the server hangs for a moment or is restarted: the command goes on
//! under the same lock.

use std::time::Duration;

use gpulock_testkit::{
    Client, Server, Value, call, on_every_server, servers, wait_until,
};
use nix::sys::signal::Signal;

use crate::relay::Relay;
use crate::runner::{Runner, TIMEOUT, gpulock_run_at, send};

/// A command that ends with status 5 on SIGUSR1.
const SCRIPT: &str = "trap 'exit 5' USR1; echo $GPULOCK_TOKENS >token; echo $$ >pid; \
                      while :; do sleep 0.05; done";

fn run_at(port: u16, grace: &str) -> Runner {
    // Long enough that no renewal opens another connection during the test.
    let args = ["--key", "k", "--lease", "60s", "--grace", grace, "--"];
    let run = gpulock_run_at(port, &[&args[..], &["sh", "-c", SCRIPT]].concat()).start();
    run.line("pid");
    run
}

/// Ends the command, and checks that it and its lock ended normally.
#[track_caller]
fn end_normally(mut run: Runner, server: &Server) {
    send(run.number("pid"), Signal::SIGUSR1);
    assert_eq!(run.status(), 5);
    assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null());
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

fn lock(client: &mut Client, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", "k").field(field)
}

/// Waits until the lock is tied to another connection than this one.
#[track_caller]
fn wait_for_other_session(client: &mut Client, before: i64) {
    wait_until(TIMEOUT, "the lock to be tied to another connection", || {
        let session = lock(client, "session");
        !session.is_null() && session.int() != before
    });
}

#[test]
fn a_broken_connection_does_not_lose_the_lock() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let relay = Relay::to(server.port());
        let mut client = server.client();
        let run = run_at(relay.port(), "20s");
        let token = run.line("token");
        for _ in 0..3 {
            let session = lock(&mut client, "session").int();
            relay.cut();
            wait_for_other_session(&mut client, session);
            assert_eq!(lock(&mut client, "token").int().to_string(), token);
            assert!(lock(&mut client, "grace_ms").is_null());
        }
        end_normally(run, &server);
    });
}

#[test]
fn a_killed_client_does_not_lose_the_lock() {
    let server = servers()[0].server().start();
    let mut client = server.client();
    let run = run_at(server.port(), "20s");
    let session = lock(&mut client, "session").int();
    call!(client, "CLIENT", "KILL", "ID", session);
    wait_for_other_session(&mut client, session);
    assert_eq!(lock(&mut client, "token").int().to_string(), run.line("token"));
    end_normally(run, &server);
}

#[test]
fn a_restart_with_appendonly_does_not_lose_the_lock() {
    on_every_server(|flavour| {
        let mut server = flavour.server().arg("appendonly", "yes").start();
        let run = run_at(server.port(), "20s");
        server.restart();
        let mut client = server.client();
        wait_for_other_session(&mut client, 0);
        end_normally(run, &server);
    });
}

#[test]
fn a_restart_without_persistence_ends_the_command() {
    let mut server = servers()[0].server().start();
    let mut run = run_at(server.port(), "20s");
    server.restart();
    assert_eq!(run.status(), 76);
    assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null());
}

#[test]
fn a_short_hang_of_the_server_does_not_lose_the_lock() {
    let mut server = servers()[0].server().start();
    let run = run_at(server.port(), "1s");
    server.freeze();
    // Longer than the grace period, which begins only when the connection breaks.
    std::thread::sleep(Duration::from_secs(2));
    server.thaw();
    assert_eq!(lock(&mut server.client(), "token").int().to_string(), run.line("token"));
    end_normally(run, &server);
}

#[test]
fn a_silent_connection_is_replaced() {
    let server = servers()[0].server().start();
    let relay = Relay::to(server.port());
    let mut client = server.client();
    let run = run_at(relay.port(), "20s");
    let session = lock(&mut client, "session").int();
    silence_until_reconnect(&relay, &mut client);
    wait_for_other_session(&mut client, session);
    assert_eq!(lock(&mut client, "token").int().to_string(), run.line("token"));
    end_normally(run, &server);
}

/// The timeout does not depend on the number of locks.
#[test]
fn a_silent_connection_is_replaced_with_many_locks() {
    let server = servers()[0].server().start();
    let relay = Relay::to(server.port());
    let mut client = server.client();
    let keys: Vec<String> = (0..80).map(|index| format!("k{index}")).collect();
    let args = ["--keys", &keys.join(","), "-n", "80", "--", "sh", "-c", SCRIPT];
    let mut run = gpulock_run_at(relay.port(), &args).start();
    run.line("pid");
    let tied_to = |client: &mut Client, key: &String| {
        call!(client, "GPULOCK.INSPECT", key).field("session").int()
    };
    let session = tied_to(&mut client, &keys[79]);
    silence_until_reconnect(&relay, &mut client);
    wait_until(TIMEOUT, "all locks to be tied to another connection", || {
        keys.iter().all(|key| tied_to(&mut client, key) != session)
    });
    send(run.number("pid"), Signal::SIGUSR1);
    assert_eq!(run.status(), 5);
}

fn silence_until_reconnect(relay: &Relay, client: &mut Client) {
    let before = connection_count(client);
    relay.silence();
    wait_until(TIMEOUT, "another connection", || connection_count(client) > before);
    relay.pass();
}

fn connection_count(client: &mut Client) -> i64 {
    client.info("clients")["connected_clients"].parse().expect("a number")
}

/// The lock is released by force between EXTEND and ACQUIREANY, which would grant it again.
#[test]
fn a_reconnect_does_not_reacquire_a_lost_lock() {
    let server = servers()[0].server().start();
    let relay = Relay::to(server.port());
    let mut client = server.client();
    let mut run = run_at(relay.port(), "20s");
    relay.silence_before("ACQUIREANY");
    relay.cut();
    relay.wait_silent();
    call!(client, "GPULOCK.FORCERELEASE", "k");
    relay.pass();
    assert_eq!(run.status(), 76);
    wait_until(TIMEOUT, "the lock to be free", || {
        call!(client, "GPULOCK.INSPECT", "k").is_null()
    });
}

/// A call that timed out may still arrive, and grant the lock again.
#[test]
fn a_late_grant_does_not_restore_a_lost_lock() {
    let server = servers()[0].server().start();
    let relay = Relay::to(server.port());
    let mut client = server.client();
    let mut run = run_at(relay.port(), "20s");
    let owner = call!(client, "GET", "k").text();
    relay.silence_before("ACQUIREANY");
    relay.cut();
    relay.wait_silent();
    let before = connection_count(&mut client);
    wait_until(TIMEOUT, "the call to time out", || {
        connection_count(&mut client) > before
    });
    call!(client, "GPULOCK.FORCERELEASE", "k");
    assert!(call!(client, "GPULOCK.ACQUIRE", "k", owner, "EX", 600).int() > 0);
    relay.pass();
    assert_eq!(run.status(), 76);
}

#[test]
fn a_queue_position_survives_its_connection() {
    let server = servers()[0].server().start();
    let mut other = server.client();
    call!(other, "GPULOCK.ACQUIRE", "k", "other", "EX", 600);
    let relay = Relay::to(server.port());
    let script = "echo $$ >pid; exec sleep 600";
    let args = ["--key", "k", "--", "sh", "-c", script];
    let first = gpulock_run_at(relay.port(), &args).start();
    server.wait_blocked(1);
    let second = gpulock_run_at(server.port(), &args).start();
    server.wait_blocked(2);
    let client = |other: &mut Client| {
        let waiters = call!(other, "GPULOCK.INSPECT", "k").field("waiters");
        let client = waiters.list()[0].field("client");
        (!client.is_null()).then(|| client.int())
    };
    let before = client(&mut other).expect("a client");
    relay.cut();
    wait_until(TIMEOUT, "the first one to reconnect", || {
        client(&mut other).is_some_and(|client| client != before)
    });
    call!(other, "GPULOCK.RELEASE", "k", "other");
    assert!(first.number("pid") > 0);
    assert!(!second.path("pid").exists());
}
