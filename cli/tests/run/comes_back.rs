//! A connection that breaks, a server that hangs for a moment or is started again: the
//! command goes on under the same lock.

use std::time::Duration;

use gpulock_testkit::{
    Client, Server, Value, call, on_every_server, servers, wait_until,
};
use rustix::process::Signal;

use crate::relay::Relay;
use crate::runner::{PATIENCE, Runner, gpulock_run_at, send};

/// A command that goes on until it is told to end, and then ends well.
const SCRIPT: &str = "trap 'exit 5' USR1; echo $GPULOCK_TOKENS >token; echo $$ >pid; \
                      while :; do sleep 0.05; done";

fn run_at(port: u16, grace: &str) -> Runner {
    // So long that no renewal opens another connection meanwhile.
    let args = ["--key", "k", "--lease", "60s", "--grace", grace, "--"];
    let run = gpulock_run_at(port, &[&args[..], &["sh", "-c", SCRIPT]].concat()).start();
    run.line("pid");
    run
}

/// Ends the command and expects that all went well.
#[track_caller]
fn ends_well(mut run: Runner, server: &Server) {
    send(run.number("pid"), Signal::USR1);
    assert_eq!(run.status(), 5);
    assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null());
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

fn lock(client: &mut Client, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", "k").field(field)
}

/// Waits until the lock is tied to another connection than this one.
#[track_caller]
fn wait_tied_anew(client: &mut Client, before: i64) {
    wait_until(PATIENCE, "the lock to be tied anew", || {
        let session = lock(client, "session");
        !session.is_null() && session.int() != before
    });
}

#[test]
fn a_connection_that_is_cut_costs_nothing() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let relay = Relay::to(server.port());
        let mut client = server.client();
        let run = run_at(relay.port(), "20s");
        let token = run.line("token");
        for _ in 0..3 {
            let session = lock(&mut client, "session").int();
            relay.cut();
            wait_tied_anew(&mut client, session);
            assert_eq!(lock(&mut client, "token").int().to_string(), token);
            assert!(lock(&mut client, "grace_ms").is_null());
        }
        ends_well(run, &server);
    });
}

#[test]
fn a_session_that_the_server_kills_costs_nothing() {
    let server = servers()[0].server().start();
    let mut client = server.client();
    let run = run_at(server.port(), "20s");
    let session = lock(&mut client, "session").int();
    call!(client, "CLIENT", "KILL", "ID", session);
    wait_tied_anew(&mut client, session);
    assert_eq!(lock(&mut client, "token").int().to_string(), run.line("token"));
    ends_well(run, &server);
}

#[test]
fn a_server_that_is_started_again_finds_the_command_at_work() {
    on_every_server(|flavour| {
        let mut server = flavour.server().arg("appendonly", "yes").start();
        let run = run_at(server.port(), "20s");
        server.restart();
        let mut client = server.client();
        wait_tied_anew(&mut client, 0);
        ends_well(run, &server);
    });
}

#[test]
fn a_server_that_forgot_the_lock_ends_the_command() {
    let mut server = servers()[0].server().start();
    let mut run = run_at(server.port(), "20s");
    server.restart();
    assert_eq!(run.status(), 76);
    assert!(call!(server.client(), "GPULOCK.INSPECT", "k").is_null());
}

#[test]
fn a_server_that_hangs_for_a_moment_costs_nothing() {
    let mut server = servers()[0].server().start();
    let run = run_at(server.port(), "1s");
    server.freeze();
    // Longer than the grace: it is no matter of this as long as the connection stands.
    std::thread::sleep(Duration::from_secs(2));
    server.thaw();
    assert_eq!(lock(&mut server.client(), "token").int().to_string(), run.line("token"));
    ends_well(run, &server);
}

#[test]
fn a_way_that_is_silent_for_long_is_replaced() {
    let server = servers()[0].server().start();
    let relay = Relay::to(server.port());
    let mut client = server.client();
    let run = run_at(relay.port(), "20s");
    let session = lock(&mut client, "session").int();
    silent_until_another_is_tried(&relay, &mut client);
    wait_tied_anew(&mut client, session);
    assert_eq!(lock(&mut client, "token").int().to_string(), run.line("token"));
    ends_well(run, &server);
}

/// What is waited for does not grow with the locks.
#[test]
fn a_way_that_is_silent_for_long_is_replaced_for_many_locks() {
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
    silent_until_another_is_tried(&relay, &mut client);
    wait_until(PATIENCE, "all to be tied anew", || {
        keys.iter().all(|key| tied_to(&mut client, key) != session)
    });
    send(run.number("pid"), Signal::USR1);
    assert_eq!(run.status(), 5);
}

fn silent_until_another_is_tried(relay: &Relay, client: &mut Client) {
    let before = connected(client);
    relay.silence();
    wait_until(PATIENCE, "another connection to be tried", || connected(client) > before);
    relay.pass();
}

fn connected(client: &mut Client) -> i64 {
    client.info("clients")["connected_clients"].parse().expect("a number")
}

/// The lock is taken away between the two calls by which it is tied anew, the second of which
/// would grant it.
#[test]
fn coming_back_is_no_new_grant() {
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
    wait_until(PATIENCE, "the lock to be free", || {
        call!(client, "GPULOCK.INSPECT", "k").is_null()
    });
}

/// A call that was given up may arrive all the same, and grant the lock anew.
#[test]
fn a_grant_that_comes_late_is_no_way_back() {
    let server = servers()[0].server().start();
    let relay = Relay::to(server.port());
    let mut client = server.client();
    let mut run = run_at(relay.port(), "20s");
    let owner = call!(client, "GET", "k").text();
    relay.silence_before("ACQUIREANY");
    relay.cut();
    relay.wait_silent();
    let before = connected(&mut client);
    wait_until(PATIENCE, "the call to be given up", || connected(&mut client) > before);
    call!(client, "GPULOCK.FORCERELEASE", "k");
    assert!(call!(client, "GPULOCK.ACQUIRE", "k", owner, "EX", 600).int() > 0);
    relay.pass();
    assert_eq!(run.status(), 76);
}

#[test]
fn a_place_in_line_outlives_its_connection() {
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
        let line = call!(other, "GPULOCK.INSPECT", "k").field("waiters");
        let client = line.list()[0].field("client");
        (!client.is_null()).then(|| client.int())
    };
    let before = client(&mut other).expect("a client");
    relay.cut();
    wait_until(PATIENCE, "the first one to be back", || {
        client(&mut other).is_some_and(|client| client != before)
    });
    call!(other, "GPULOCK.RELEASE", "k", "other");
    assert!(first.number("pid") > 0);
    assert!(!second.path("pid").exists());
}
