//! The module is replaced by another build while locks are held, either by a failover or in
//! place: owners keep their locks, and tokens rise. The other build is the one with debug
//! assertions. A server without the module can also take over: its locks are plain keys, which
//! clients without the module respect.

use std::path::Path;

use gpulock_testkit::{
    Client, Flavour, Server, Value, call, module, module_that_panics, wait_until,
};

use crate::support::clock::DEADLINE;
use crate::support::queue::{wait_queue, waiter};

tests! {
    a_failover_to_another_build_and_back_keeps_the_locks,
    another_build_loaded_in_place_keeps_the_locks,
    a_promoted_server_without_the_module_has_plain_keys,
}

/// The release script of clients without the module.
const COMPARE_AND_DELETE: &str = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0";

/// Checks that each token is larger than the ones before.
#[derive(Default)]
struct RisingTokens(i64);

impl RisingTokens {
    #[track_caller]
    fn check(&mut self, token: &Value) {
        let token = token.int();
        assert!(token > self.0, "{token} after {}", self.0);
        self.0 = token;
    }
}

/// Checks that the locks are adopted: their owners and leases are known, and nothing else.
#[track_caller]
fn assert_adopted(client: &mut Client, keys: &[&str], expiry: &Value) {
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    for key in keys {
        assert_eq!(call!(client, "PEXPIRETIME", key), *expiry, "{key}");
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "a stranger").is_null());
        let seen = call!(client, "GPULOCK.INSPECT", key);
        assert_eq!(
            (seen.field("owner").text(), seen.field("adopted").int()),
            ("me".into(), 1)
        );
        assert!(seen.field("token").is_null(), "{seen:?}");
    }
}

/// Acquires locks with the same expiry time, which is returned.
#[track_caller]
fn acquire_until(client: &mut Client, keys: &[&str], tokens: &mut RisingTokens) -> Value {
    for key in keys {
        tokens.check(&call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 600_000));
    }
    let expiry = call!(client, "PEXPIRETIME", keys[0]);
    for key in keys {
        assert_eq!(call!(client, "PEXPIREAT", key, expiry.int()), 1);
    }
    expiry
}

/// Makes a replica the primary without the loss of a write.
#[track_caller]
fn fail_over(from: &Server, to: &Server) {
    to.wait_caught_up_with(from);
    assert_eq!(from.client().line("FAILOVER"), "OK");
    wait_until(DEADLINE, format!("{} to be promoted", to.name()), || {
        to.info("replication")["role"] == "master"
    });
    from.wait_link_up();
}

fn a_failover_to_another_build_and_back_keeps_the_locks(flavour: &Flavour) {
    let one = flavour.server().named("one").start();
    let other = flavour.server().named("other build").module_path(module_that_panics());
    let two = other.replica_of(&one).start();
    let mut tokens = RisingTokens::default();
    let expiry = acquire_until(&mut one.client(), &["k", "kept"], &mut tokens);
    for (from, to) in [(&one, &two), (&two, &one)] {
        let request = "GPULOCK.ACQUIRE k you PX 600000 BLOCK 0 UNIQUE";
        let mut old = waiter(from, request);
        wait_queue(&mut from.client(), "k", &["you"]);
        fail_over(from, to);
        assert!(old.read().err().starts_with("UNBLOCKED "));
        let mut client = to.client();
        assert_adopted(&mut client, &["k", "kept"], &expiry);
        let mut waiter = waiter(to, request);
        wait_queue(&mut client, "k", &["you"]);
        tokens.check(&client.line("GPULOCK.ACQUIRE k me PX 600000 UNIQUE"));
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
        tokens.check(&waiter.read());
        assert_eq!(client.line("GPULOCK.RELEASE k you"), 1);
        tokens.check(&client.line("GPULOCK.ACQUIRE k me PX 600000"));
        assert_eq!(call!(client, "PEXPIREAT", "k", expiry.int()), 1);
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
    let mut tokens = RisingTokens::default();
    let expiry = acquire_until(&mut client, &["k", "kept"], &mut tokens);
    for build in [module_that_panics(), module()] {
        // Some servers close connections whose last command is one of the module's.
        let mut client = server.client();
        replace_module(&mut client, &build);
        assert_adopted(&mut client, &["k", "kept"], &expiry);
        tokens.check(&client.line("GPULOCK.EXTEND k me PX 600000"));
        assert_eq!(call!(client, "PEXPIREAT", "k", expiry.int()), 1);
        tokens.check(&client.line("GPULOCK.ACQUIRE free me"));
        assert_eq!(client.line("GPULOCK.RELEASE free me"), 1);
    }
}

fn a_promoted_server_without_the_module_has_plain_keys(flavour: &Flavour) {
    let mut primary = flavour.server().named("primary").start();
    let plain = flavour.server().named("plain").without_module();
    let plain = plain.replica_of(&primary).start();
    let mut tokens = RisingTokens::default();
    let expiry = acquire_until(&mut primary.client(), &["k", "kept"], &mut tokens);
    plain.wait_caught_up_with(&primary);
    primary.kill9();
    let mut client = plain.client();
    assert_eq!(client.line("REPLICAOF NO ONE"), "OK");
    // Clients without the module respect and release them.
    for key in ["k", "kept"] {
        assert_eq!(call!(client, "PEXPIRETIME", key), expiry);
        assert_eq!(call!(client, "SET", key, "you", "NX", "PX", 600_000), Value::Null);
    }
    let release = |client: &mut Client, owner: &str| {
        call!(client, "EVAL", COMPARE_AND_DELETE, 1, "k", owner)
    };
    assert_eq!(release(&mut client, "you"), 0);
    assert_eq!(release(&mut client, "me"), 1);
    assert_eq!(client.line("SET k me NX PX 600000"), "OK");
    assert_eq!(call!(client, "PEXPIREAT", "k", expiry.int()), 1);

    // A server with the module takes over again.
    let next = flavour.server().named("next").replica_of(&plain).start();
    fail_over(&plain, &next);
    let mut client = next.client();
    assert_adopted(&mut client, &["k", "kept"], &expiry);
    tokens.check(&client.line("GPULOCK.EXTEND k me PX 600000"));
    assert_eq!(client.line("GPULOCK.RELEASE kept me"), 1);
    plain.wait_caught_up_with(&next);
    assert_eq!(plain.client().line("KEYS *").list().len(), 1);
}
