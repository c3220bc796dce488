//! The module is replaced by another build of it, by way of a replica or in place, while
//! locks are held: they stay their owners', tokens rise. The other build is the one with
//! debug assertions. And a server without the module may take over: its locks are plain
//! keys, which clients without the module respect.

use std::path::Path;

use gpulock_testkit::{
    Client, Flavour, Server, Value, call, module, module_that_panics, wait_until,
};

use crate::support::clock::DEADLINE;
use crate::support::queue::{wait_queue, waiter};

tests! {
    a_failover_to_another_build_and_back_keeps_the_locks,
    another_build_loaded_in_place_keeps_the_locks,
    a_server_without_the_module_that_takes_over_has_plain_keys,
}

/// What clients without the module release with.
const COMPARE_AND_DELETE: &str = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";

/// Tokens, each larger than the ones before.
#[derive(Default)]
struct Rising(i64);

impl Rising {
    #[track_caller]
    fn to(&mut self, token: &Value) {
        let token = token.int();
        assert!(token > self.0, "{token} after {}", self.0);
        self.0 = token;
    }
}

/// Checks that the locks came over as they were: nothing is known but owner and lease.
#[track_caller]
fn assert_came_over(client: &mut Client, keys: &[&str], until: &Value) {
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    for key in keys {
        assert_eq!(call!(client, "PEXPIRETIME", key), *until, "{key}");
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "a stranger").is_null());
        let seen = call!(client, "GPULOCK.INSPECT", key);
        assert_eq!(
            (seen.field("owner").text(), seen.field("adopted").int()),
            ("me".into(), 1)
        );
        assert!(seen.field("token").is_null(), "{seen:?}");
    }
}

/// Takes locks until one and the same moment.
#[track_caller]
fn take(client: &mut Client, keys: &[&str], rising: &mut Rising) -> Value {
    for key in keys {
        rising.to(&call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 600_000));
    }
    let until = call!(client, "PEXPIRETIME", keys[0]);
    for key in keys {
        assert_eq!(call!(client, "PEXPIREAT", key, until.int()), 1);
    }
    until
}

/// Hands the role of the primary over, without a write being lost.
#[track_caller]
fn fail_over(from: &Server, to: &Server) {
    to.wait_caught_up_with(from);
    assert_eq!(from.client().line("FAILOVER"), "OK");
    wait_until(DEADLINE, format!("{} to take over", to.name()), || {
        to.info("replication")["role"] == "master"
    });
    from.wait_link_up();
}

fn a_failover_to_another_build_and_back_keeps_the_locks(flavour: &Flavour) {
    let one = flavour.server().named("one").start();
    let other = flavour.server().named("other build").module_path(module_that_panics());
    let two = other.replica_of(&one).start();
    let mut rising = Rising::default();
    let until = take(&mut one.client(), &["k", "kept"], &mut rising);
    for (from, to) in [(&one, &two), (&two, &one)] {
        let ask = "GPULOCK.ACQUIRE k you PX 600000 BLOCK 0 UNIQUE";
        let mut old = waiter(from, ask);
        wait_queue(&mut from.client(), "k", &["you"]);
        fail_over(from, to);
        assert!(old.read().err().starts_with("UNBLOCKED "));
        let mut client = to.client();
        assert_came_over(&mut client, &["k", "kept"], &until);
        let mut waiter = waiter(to, ask);
        wait_queue(&mut client, "k", &["you"]);
        rising.to(&client.line("GPULOCK.ACQUIRE k me PX 600000 UNIQUE"));
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
        rising.to(&waiter.read());
        assert_eq!(client.line("GPULOCK.RELEASE k you"), 1);
        rising.to(&client.line("GPULOCK.ACQUIRE k me PX 600000"));
        assert_eq!(call!(client, "PEXPIREAT", "k", until.int()), 1);
    }
}

/// Replaces the module of a running server.
#[track_caller]
fn replace_module(client: &mut Client, by: &Path) {
    assert_eq!(client.line("MODULE UNLOAD gpulock"), "OK");
    assert_eq!(call!(client, "MODULE", "LOAD", by.display().to_string()), "OK");
}

fn another_build_loaded_in_place_keeps_the_locks(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut rising = Rising::default();
    let until = take(&mut client, &["k", "kept"], &mut rising);
    for build in [module_that_panics(), module()] {
        // Some servers close connections whose last command was one of the module's.
        let mut client = server.client();
        replace_module(&mut client, &build);
        assert_came_over(&mut client, &["k", "kept"], &until);
        rising.to(&client.line("GPULOCK.EXTEND k me PX 600000"));
        assert_eq!(call!(client, "PEXPIREAT", "k", until.int()), 1);
        rising.to(&client.line("GPULOCK.ACQUIRE free me"));
        assert_eq!(client.line("GPULOCK.RELEASE free me"), 1);
    }
}

fn a_server_without_the_module_that_takes_over_has_plain_keys(flavour: &Flavour) {
    let mut primary = flavour.server().named("primary").start();
    let plain = flavour.server().named("plain").without_module();
    let plain = plain.replica_of(&primary).start();
    let mut rising = Rising::default();
    let until = take(&mut primary.client(), &["k", "kept"], &mut rising);
    plain.wait_caught_up_with(&primary);
    primary.kill9();
    let mut client = plain.client();
    assert_eq!(client.line("REPLICAOF NO ONE"), "OK");
    // They are held for clients of the old kind, and released by them.
    for key in ["k", "kept"] {
        assert_eq!(call!(client, "PEXPIRETIME", key), until);
        assert_eq!(call!(client, "SET", key, "you", "NX", "PX", 600_000), Value::Null);
    }
    let release = |client: &mut Client, owner: &str| {
        call!(client, "EVAL", COMPARE_AND_DELETE, 1, "k", owner)
    };
    assert_eq!(release(&mut client, "you"), 0);
    assert_eq!(release(&mut client, "me"), 1);
    assert_eq!(client.line("SET k me NX PX 600000"), "OK");
    assert_eq!(call!(client, "PEXPIREAT", "k", until.int()), 1);

    // And the module takes over again.
    let next = flavour.server().named("next").replica_of(&plain).start();
    fail_over(&plain, &next);
    let mut client = next.client();
    assert_came_over(&mut client, &["k", "kept"], &until);
    rising.to(&client.line("GPULOCK.EXTEND k me PX 600000"));
    assert_eq!(client.line("GPULOCK.RELEASE kept me"), 1);
    plain.wait_caught_up_with(&next);
    assert_eq!(plain.client().line("KEYS *").list().len(), 1);
}
