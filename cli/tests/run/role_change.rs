//! The server becomes a replica for a moment, and keeps its connections: the command goes on
//! under the same lock, which the server has adopted.

use std::time::Duration;

use gpulock_testkit::{
    Client, Server, Value, call, on_every_server, servers, wait_until,
};
use nix::sys::signal::Signal;

use crate::runner::{Runner, TIMEOUT, gpulock_run_at, send, state};

/// A command that ends with status 5 on SIGUSR1.
const SCRIPT: &str = "trap 'exit 5' USR1; echo $GPULOCK_TOKENS >token; echo $$ >pid; \
                      while :; do sleep 0.05; done";

fn run(server: &Server, args: &[&str]) -> Runner {
    let args = [args, &["--", "sh", "-c", SCRIPT]].concat();
    let run = gpulock_run_at(server.port(), &args).start();
    run.line("pid");
    run
}

fn lock(client: &mut Client, key: &str, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", key).field(field)
}

/// Makes the server a replica of nothing, and waits until it reports so.
fn demote(client: &mut Client) {
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", 1), "OK");
    wait_until(TIMEOUT, "the server to be a replica", || {
        client.info("replication")["role"] == "slave"
    });
}

fn promote(client: &mut Client) {
    assert_eq!(call!(client, "REPLICAOF", "NO", "ONE"), "OK");
}

/// Waits until the adopted lock is tied to a connection again.
#[track_caller]
fn wait_tied(client: &mut Client, key: &str, before: &str) {
    wait_until(TIMEOUT, format!("{key} to be tied to a connection again"), || {
        let lock = call!(client, "GPULOCK.INSPECT", key);
        assert!(!lock.is_null(), "{key} is free");
        let token = lock.field("token");
        !lock.field("session").is_null() && token.int() > before.parse().expect("a token")
    });
    assert_eq!(lock(client, key, "adopted").int(), 1);
}

/// Ends the command, and checks that it and its locks ended normally.
#[track_caller]
fn end_normally(mut run: Runner, server: &Server) {
    send(run.number("pid"), Signal::SIGUSR1);
    assert_eq!(run.status(), 5, "{}", run.err());
    assert_eq!(run.err(), "");
    assert!(call!(server.client(), "GPULOCK.LIST").list().is_empty());
    assert_eq!(server.info_int("gpulock", "gpulock_ownership_violations"), 0);
}

#[test]
fn a_role_change_that_keeps_the_connections_does_not_lose_the_lock() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let mut client = server.client();
        let run = run(&server, &["--key", "k", "--lease", "6s"]);
        let mut token = run.line("token");
        for _ in 0..2 {
            demote(&mut client);
            promote(&mut client);
            wait_tied(&mut client, "k", &token);
            token = lock(&mut client, "k", "token").int().to_string();
        }
        // At least one more renewal, which returns the new token as well.
        let mut last = i64::MAX;
        wait_until(TIMEOUT, "a renewal", || {
            let left = lock(&mut client, "k", "lease_ms").int();
            left > std::mem::replace(&mut last, left)
        });
        end_normally(run, &server);
    });
}

#[test]
fn all_locks_of_a_run_survive_a_role_change() {
    let server = servers()[0].server().start();
    let mut client = server.client();
    let run = run(&server, &["--keys", "a,b,c", "-n", "3"]);
    let tokens = run.line("token");
    demote(&mut client);
    promote(&mut client);
    for (key, token) in ["a", "b", "c"].iter().zip(tokens.split(',')) {
        wait_tied(&mut client, key, token);
    }
    end_normally(run, &server);
}

/// The lock must not stay held for the whole lease.
#[test]
fn a_crash_after_a_role_change_frees_the_lock_after_the_grace_period() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let mut client = server.client();
        let args = ["--key", "k", "--lease", "1h", "--grace", "2s"];
        let mut run = run(&server, &args);
        let token = run.line("token");
        demote(&mut client);
        promote(&mut client);
        wait_tied(&mut client, "k", &token);
        run.signal(Signal::SIGKILL);
        run.ended();
        let next = ["GPULOCK.ACQUIRE", "k", "next", "BLOCK", "60000"];
        assert!(server.client().cmd(&next).int() > 0);
        assert_eq!(state(run.number("pid")), None);
    });
}

/// The role changes while the server tries to hand over to a replica that does not respond.
#[test]
fn an_aborted_failover_does_not_lose_the_lock() {
    on_every_server(|flavour| {
        let server = flavour.server().start();
        let mut replica = flavour.server().replica_of(&server).start();
        let mut client = server.client();
        let run = run(&server, &["--key", "k", "--lease", "20s"]);
        let token = run.line("token");
        replica.wait_caught_up_with(&server);
        replica.freeze();
        let port = replica.port().to_string();
        let failover = ["FAILOVER", "TO", "127.0.0.1", &port, "FORCE", "TIMEOUT", "500"];
        assert_eq!(client.cmd(&failover), "OK");
        wait_until(TIMEOUT, "the server to be a replica", || {
            client.info("replication")["role"] == "slave"
        });
        assert_eq!(call!(client, "FAILOVER", "ABORT"), "OK");
        wait_tied(&mut client, "k", &token);
        replica.thaw();
        end_normally(run, &server);
    });
}

/// Without INSPECT, a renewal reveals that the lock was adopted.
#[test]
fn a_role_change_is_noticed_without_permission_for_inspect() {
    let server = servers()[0].server().start();
    let mut client = server.client();
    let line = "ACL SETUSER worker reset on >secret ~* -@all +@connection +gpulock.acquireany \
                +gpulock.release +gpulock.extend";
    assert_eq!(client.line(line), "OK");
    let url = format!("redis://worker:secret@127.0.0.1:{}", server.port());
    let args = ["--url", &url, "--key", "k", "--lease", "6s"];
    let run = run(&server, &args);
    let token = run.line("token");
    demote(&mut client);
    promote(&mut client);
    wait_tied(&mut client, "k", &token);
    end_normally(run, &server);
}

#[test]
fn a_server_that_stays_a_replica_ends_the_command_before_its_lease() {
    let server = servers()[0].server().start();
    let mut client = server.client();
    let mut run = run(&server, &["--key", "k", "--lease", "4s"]);
    demote(&mut client);
    assert_eq!(run.status(), 76);
    assert!(run.err().contains("READONLY"), "{}", run.err());
    promote(&mut client);
}

/// The lock of a run that ends while the server is a replica is released afterwards.
#[test]
fn a_lock_is_released_after_the_role_change() {
    let server = servers()[0].server().start();
    let mut client = server.client();
    let args = ["--key", "k", "--lease", "1h", "--grace", "1m"];
    let mut run = run(&server, &args);
    demote(&mut client);
    send(run.number("pid"), Signal::SIGUSR1);
    wait_until(TIMEOUT, "the command to end", || state(run.number("pid")).is_none());
    wait_refused_release(&mut client);
    promote(&mut client);
    assert_eq!(run.status(), 5);
    assert_eq!(run.err(), "");
    assert!(call!(client, "GPULOCK.INSPECT", "k").is_null());
}

/// Waits until the server has refused to release the lock.
fn wait_refused_release(client: &mut Client) {
    wait_until(TIMEOUT, "RELEASE to be refused", || {
        let stats = client.info("commandstats");
        let release = stats
            .iter()
            .find(|(name, _)| name.to_lowercase().ends_with("gpulock.release"));
        release.is_some_and(|(_, stats)| !stats.contains("rejected_calls=0"))
    });
}

/// As if another primary had granted the lock to another owner in the meantime.
#[test]
fn a_lock_that_another_owner_got_meanwhile_is_lost() {
    let server = servers()[0].server().start();
    let mut client = server.client();
    let args = ["--key", "k", "--lease", "1h", "--grace", "20s"];
    let mut run = run(&server, &args);
    demote(&mut client);
    assert_eq!(call!(client, "CONFIG", "SET", "replica-read-only", "no"), "OK");
    assert_eq!(call!(client, "SET", "k", "other", "PX", 3_600_000), "OK");
    assert_eq!(call!(client, "CONFIG", "SET", "replica-read-only", "yes"), "OK");
    promote(&mut client);
    assert_eq!(run.status(), 76);
    assert!(run.err().contains("no longer held"), "{}", run.err());
    assert_eq!(call!(client, "GET", "k"), "other");
}

/// As long as the server is a replica, its reply is not the last word.
#[test]
fn a_replica_without_the_key_does_not_end_the_command() {
    let server = servers()[0].server().start();
    let other = servers()[0].server().start();
    let mut client = server.client();
    let run = run(&server, &["--key", "k", "--lease", "60s", "--grace", "20s"]);
    let ttl = lock(&mut client, "k", "lease_ms").int();
    let owner = call!(client, "GET", "k").text();
    call!(client, "REPLICAOF", "127.0.0.1", other.port());
    server.wait_link_up();
    assert!(call!(client, "GET", "k").is_null());
    std::thread::sleep(Duration::from_secs(3));
    assert!(state(run.number("pid")).is_some(), "{}", run.err());
    // As if the right data came back with the next synchronization.
    call!(other.client(), "SET", "k", &owner, "PX", ttl);
    server.wait_caught_up_with(&other);
    promote(&mut client);
    wait_until(TIMEOUT, "the lock to be tied to a connection again", || {
        !lock(&mut client, "k", "session").is_null()
    });
    end_normally(run, &server);
}
