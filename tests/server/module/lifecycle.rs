//! Unloading and loading the module under running clients leaves nothing but the keys; and a
//! replica with the module serves reads during a full synchronization (`swapdb` loading).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gpulock_testkit::{Client, Flavour, Server, Value, call, module, send, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    held_locks_survive_an_unload_and_are_adopted,
    fifty_unloads_under_running_clients_lose_no_lock,
    an_unload_is_refused_during_a_wait_or_grace_period_and_works_afterwards,
    an_unload_closes_clients_whose_last_command_is_the_modules,
    a_transaction_queued_before_an_unload_does_not_crash_the_server,
    fifty_unloads_leak_no_memory,
    a_replica_serves_reads_during_a_full_synchronization,
    an_unload_in_a_transaction_is_refused,
    an_unload_is_refused_while_acl_rules_name_a_command_of_the_module,
}

fn unload(client: &mut Client) {
    assert_eq!(client.line("MODULE UNLOAD gpulock"), "OK");
}

fn load(client: &mut Client) {
    let path = module().display().to_string();
    assert_eq!(call!(client, "MODULE", "LOAD", path), "OK");
}

fn held_locks_survive_an_unload_and_are_adopted(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let token = holder.line("GPULOCK.ACQUIRE k me PX 600000 UNIQUE").int();
    let until = client.line("PEXPIRETIME k");
    client.line("GPULOCK.RELEASE k you");
    // The module closes a client whose last command is one of its own.
    holder.line("PING");
    unload(&mut client);
    assert_eq!(client.line("GET k"), "me");
    assert_eq!(client.line("PEXPIRETIME k"), until);
    assert!(holder.line("GPULOCK.RELEASE k me").err().starts_with("ERR unknown command"));
    assert_eq!(client.line("CONFIG GET gpulock.*"), Value::Array(vec![]));
    assert!(server.info("gpulock").is_empty());
    load(&mut client);
    assert_eq!(client.line("GPULOCK.STATS").field("ownership_violations"), 0);
    assert_eq!(client.line("GPULOCK.LOG"), Value::Array(vec![]));
    let seen = client.line("GPULOCK.INSPECT k");
    assert_eq!(
        (seen.field("owner").text(), seen.field("adopted").int()),
        ("me".into(), 1)
    );
    assert!(client.line("GPULOCK.ACQUIRE k you").is_null());
    let renewed = holder.line("GPULOCK.ACQUIRE k me UNIQUE").int();
    assert!(renewed > token, "{renewed} after {token}");
    assert_eq!(holder.line("GPULOCK.RELEASE k me"), 1);
    let stats = client.line("GPULOCK.STATS");
    assert_eq!((stats.field("adopted").int(), stats.field("releases").int()), (1, 1));
}

/// Acquires and releases a lock until `stop` is set, also while the module is unloaded, and
/// returns the number of grants.
fn work(server: &Server, name: &str, stop: &AtomicBool) -> u64 {
    let mut client = server.client();
    // None when the connection closed: then it is unknown whether the command was executed.
    let mut send = |words: &[&str]| {
        client.send(words);
        match client.try_read(DEADLINE) {
            Ok(reply) => Some(reply.expect("a reply, or the end of the connection")),
            Err(_) => {
                client = server.client();
                None
            }
        }
    };
    let (mut grants, mut last) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        // UNIQUE: the token of an undelivered grant is returned again.
        match send(&["GPULOCK.ACQUIRE", "contended", name, "PX", "600000", "UNIQUE"]) {
            Some(Value::Int(token)) => {
                assert!(token > last, "{token} after {last}");
                last = token;
                grants += 1;
                let mut may_be_released = false;
                loop {
                    match send(&["GPULOCK.RELEASE", "contended", name]) {
                        Some(Value::Int(1)) => break,
                        Some(Value::Int(_)) if may_be_released => break,
                        Some(Value::Int(_)) => panic!("{name} lost the lock"),
                        Some(error) => assert_unloaded(&error),
                        None => may_be_released = true,
                    }
                }
            }
            Some(Value::Null) | None => {}
            Some(error) => assert_unloaded(&error),
        }
    }
    // The last grant may be undelivered.
    while send(&["GPULOCK.RELEASE", "contended", name]).is_none() {}
    grants
}

#[track_caller]
fn assert_unloaded(reply: &Value) {
    assert!(reply.err().starts_with("ERR unknown command"), "{reply:?}");
}

fn fifty_unloads_under_running_clients_lose_no_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for i in 0..100 {
        call!(client, "GPULOCK.ACQUIRE", format!("held:{i}"), "me", "PX", 600_000);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|name| scope.spawn(|| work(&server, name, &stop)))
            .collect();
        for round in 0..50 {
            // Each round includes some work.
            wait_until(DEADLINE, "a grant", || {
                client.line("GPULOCK.STATS").field("acquired").int() > 0
            });
            for i in 0..10 {
                let key = format!("held:{i}");
                let owner = call!(client, "GPULOCK.INSPECT", key).field("owner");
                assert_eq!(owner, "me", "round {round}");
                assert!(call!(client, "GPULOCK.EXTEND", key, "me").int() > 0);
            }
            unload(&mut client);
            load(&mut client);
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().expect("a worker") > 0);
        }
    });
    assert!(client.line("GPULOCK.INSPECT contended").is_null());
    for i in 0..100 {
        assert_eq!(call!(client, "GPULOCK.RELEASE", format!("held:{i}"), "me"), 1);
    }
    assert_eq!(client.line("DBSIZE"), 0);
    assert_eq!(client.line("GPULOCK.STATS").field("locks_held"), 0);
}

/// The module cannot be unloaded while a client waits, but right after that.
fn an_unload_is_refused_during_a_wait_or_grace_period_and_works_afterwards(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let (mut client, mut waiter) = (server.client(), server.client());
    let refused = |client: &mut Client| {
        let reply = client.line("MODULE UNLOAD gpulock");
        assert!(reply.is_err(), "{reply:?}");
    };
    let start_wait = |client: &mut Client, waiter: &mut Client, block: i64| {
        send!(waiter, "GPULOCK.ACQUIRE", "k", "you", "PX", 600_000, "BLOCK", block);
        wait_until(DEADLINE, "the waiter", || {
            client.line("GPULOCK.STATS").field("clients_waiting") == 1
        });
        refused(client);
    };
    // The wait ends with a grant, a timeout and a closed connection.
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    start_wait(&mut client, &mut waiter, 0);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert!(waiter.read().int() > 0);
    unload(&mut client);
    load(&mut client);
    let mut waiter = server.client();
    start_wait(&mut client, &mut waiter, 1_000);
    assert_eq!(waiter.read(), Value::Null);
    unload(&mut client);
    load(&mut client);
    let mut waiter = server.client();
    let id = waiter.id();
    start_wait(&mut client, &mut waiter, 0);
    call!(client, "CLIENT", "KILL", "ID", id);
    waiter.wait_closed();
    unload(&mut client);
    load(&mut client);

    // A grace period that ends, and one in which the owner reconnects.
    let grace = |client: &mut Client, key: &str, ms: i64| {
        let mut holder = server.client();
        let options = ["PX", "600000", "UNIQUE", "SESSION", "GRACE", &ms.to_string()];
        assert!(
            holder.cmd(&[&["GPULOCK.ACQUIRE", key, "s"], &options[..]].concat()).int()
                > 0
        );
        drop(holder);
        wait_until(DEADLINE, "the grace", || {
            !call!(client, "GPULOCK.INSPECT", key).field("grace_ms").is_null()
        });
        refused(client);
    };
    grace(&mut client, "over", 1_500);
    wait_until(DEADLINE, "the end of the grace", || {
        client.line("GPULOCK.STATS").field("session_releases") == 1
    });
    unload(&mut client);
    load(&mut client);
    grace(&mut client, "resumed", 500_000);
    assert!(client.line("GPULOCK.EXTEND resumed s PX 600000").int() > 0);
    unload(&mut client);
    assert_eq!(client.line("GET resumed"), "s");
    assert_eq!(client.line("GET k"), "you");
    load(&mut client);
}

/// Servers keep each client's last command, even after its module is unloaded: `CLIENT LIST`
/// would print freed memory as its name, and Redis 7.4 and later, which reuse the command when
/// a client sends it again, would crash.
fn an_unload_closes_clients_whose_last_command_is_the_modules(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut other, mut admin) =
        (server.client(), server.client(), server.client());
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    assert_eq!(other.line("GPULOCK.LIST"), Value::Array(vec![]));
    assert_eq!(other.line("PING"), "PONG");
    unload(&mut admin);
    client.wait_closed();
    assert_unloaded(&other.line("GPULOCK.LIST"));
    let clients = admin.line("CLIENT LIST").text();
    assert!(!clients.contains("gpulock"), "{clients}");
    load(&mut admin);
    assert_eq!(server.client().line("GPULOCK.LIST"), Value::Array(vec![]));
}

/// Servers keep pointers to the queued commands of a transaction, even after their module is
/// unloaded.
fn a_transaction_queued_before_an_unload_does_not_crash_the_server(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut admin) = (server.client(), server.client());
    assert_eq!(client.line("MULTI"), "OK");
    assert_eq!(client.line("GPULOCK.ACQUIRE k me"), "QUEUED");
    unload(&mut admin);
    // Either an error or a closed connection.
    send!(client, "EXEC");
    if let Ok(reply) = client.try_read(DEADLINE) {
        assert!(reply.expect("a reply").is_err());
    }
    load(&mut admin);
    assert_eq!(admin.line("EXISTS k"), 0);
    assert!(server.client().line("GPULOCK.ACQUIRE k me").int() > 0);
}

fn fifty_unloads_leak_no_memory(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // Everything that the module may allocate: table, log, counters, settings, events.
    let use_everything = |client: &mut Client| {
        let set = "CONFIG SET gpulock.channel-prefix prefix: gpulock.events all";
        assert_eq!(client.line(set), "OK");
        for i in 0..50 {
            let key = format!("key:{i}");
            call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 600_000);
            call!(client, "GPULOCK.RELEASE", key, "you");
        }
        for line in ["LIST", "METRICS", "STATS", "LOG"] {
            assert!(!client.line(&format!("GPULOCK.{line}")).is_err());
        }
        client.line("CONFIG GET gpulock.*");
        client.line("INFO everything");
    };
    let use_and_reload = |client: &mut Client| {
        use_everything(client);
        unload(client);
        let used = server.used_memory();
        load(client);
        used
    };
    // The first rounds fill the server's own buffers.
    for _ in 0..5 {
        use_and_reload(&mut client);
    }
    let before = use_and_reload(&mut client);
    let mut after = before;
    for _ in 0..50 {
        after = use_and_reload(&mut client);
    }
    let growth = after - before;
    assert!(growth < 50 * 64, "{growth} bytes in 50 rounds on {flavour}");
}

fn a_replica_serves_reads_during_a_full_synchronization(flavour: &Flavour) {
    let primary = flavour
        .server()
        .arg("repl-diskless-sync", "yes")
        .arg("repl-backlog-size", "16kb")
        .start();
    let mut client = primary.client();
    for i in 0..2000 {
        client.send(&["SET", &format!("filler:{i}"), "x"]);
    }
    for _ in 0..2000 {
        assert_eq!(client.read(), "OK");
    }
    let token = client.line("GPULOCK.ACQUIRE gpu:0 me PX 600000").int();
    assert!(token > 0);
    let mut replica = flavour
        .server()
        .named("replica")
        .arg("repl-diskless-load", "swapdb")
        // The server processes events between any two keys.
        .arg("loading-process-events-interval-bytes", "1024")
        .replica_of(&primary)
        .start();
    replica.wait_caught_up_with(&primary);
    let mut reader = replica.client();
    // Five milliseconds a key: the load would take ten seconds.
    assert_eq!(reader.line("CONFIG SET key-load-delay 5000"), "OK");

    // The replica falls behind by more than the backlog, with the same history.
    replica.freeze();
    assert!(client.line("CLIENT KILL TYPE replica").int() >= 1);
    let filler = "x".repeat(1000);
    for i in 0..100 {
        assert_eq!(call!(client, "SET", format!("big:{i}"), filler), "OK");
    }
    assert_eq!(client.line("GPULOCK.RELEASE gpu:0 me"), 1);
    assert!(client.line("GPULOCK.ACQUIRE gpu:0 you PX 600000").int() > token);
    replica.thaw();
    wait_until(DEADLINE, "the load beside the old data", || {
        reader.info("persistence")["async_loading"] == "1"
    });
    // The old data can still be read, also with the module's commands.
    assert_eq!(reader.line("GET gpu:0"), "me");
    assert_eq!(reader.line("GPULOCK.INSPECT gpu:0").field("owner"), "me");
    assert!(!reader.line("GPULOCK.STATS").is_err());
    assert!(reader.line("GPULOCK.ACQUIRE gpu:1 me").is_err());
    assert_eq!(reader.info("persistence")["async_loading"], "1", "loading has ended");
    assert_eq!(reader.line("CONFIG SET key-load-delay 0"), "OK");
    replica.wait_link_up();
    replica.wait_caught_up_with(&primary);
    assert_eq!(reader.line("GPULOCK.INSPECT gpu:0").field("owner"), "you");
    assert_eq!(reader.line("DEBUG DIGEST"), client.line("DEBUG DIGEST"));
    assert!(!replica.log().contains("Skipping diskless-load"), "{}", replica.log());
}

/// The transaction's client cannot be closed, and may have queued other commands of the module.
fn an_unload_in_a_transaction_is_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("MULTI");
    for line in ["MODULE UNLOAD gpulock", "GPULOCK.ACQUIRE k me"] {
        assert_eq!(client.line(line), "QUEUED");
    }
    let done = client.line("EXEC");
    assert!(done.list()[0].is_err(), "{done:?}");
    assert!(done.list()[1].int() > 0, "{done:?}");
    server.wait_log("cannot unload: MODULE UNLOAD is not possible in a transaction");
    unload(&mut client);
}

/// Some servers abort when ACL rules name a command that does not exist.
fn an_unload_is_refused_while_acl_rules_name_a_command_of_the_module(flavour: &Flavour) {
    for rules in ["+gpulock.acquire", "+@all -gpulock.force"] {
        let server = flavour.start();
        let mut client = server.client();
        let rules = rules.replace("force", "forcerelease");
        let set = format!("ACL SETUSER worker on >secret ~gpu:* {rules}");
        assert_eq!(client.line(&set), "OK");
        let refused = client.line("MODULE UNLOAD gpulock");
        // Valkey 9 refuses it itself, with the reason in its reply.
        if !refused.err().contains("ACL users reference commands") {
            server.wait_log("cannot unload: the rules of the ACL user \"worker\"");
        }
        assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
        assert_eq!(client.line("ACL DELUSER worker"), 1);
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
        unload(&mut client);
    }
}
