//! The module comes and goes under running clients and leaves no trace but the keys; and
//! a replica that has it keeps serving reads during a full copy (`swapdb` loading).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gpulock_testkit::{Client, Flavour, Server, Value, call, module, send, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    held_locks_outlive_an_unload_and_are_adopted,
    fifty_unloads_under_running_clients_lose_no_lock,
    an_unload_is_refused_while_somebody_waits_or_a_grace_runs_and_works_right_after,
    a_client_whose_last_command_was_the_modules_does_not_outlive_it,
    a_transaction_queued_before_an_unload_does_not_end_the_server,
    fifty_unloads_do_not_grow_the_memory_in_use,
    a_replica_serves_reads_while_it_loads_a_full_copy_beside_its_data,
    an_unload_within_a_transaction_is_refused,
    an_unload_is_refused_while_the_rules_of_a_user_name_a_command_of_the_module,
}

fn unload(client: &mut Client) {
    assert_eq!(client.line("MODULE UNLOAD gpulock"), "OK");
}

fn load(client: &mut Client) {
    let path = module().display().to_string();
    assert_eq!(call!(client, "MODULE", "LOAD", path), "OK");
}

fn held_locks_outlive_an_unload_and_are_adopted(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    let token = holder.line("GPULOCK.ACQUIRE k me PX 600000 UNIQUE").int();
    let until = client.line("PEXPIRETIME k");
    client.line("GPULOCK.RELEASE k you");
    // A client whose last command is one of ours would be closed.
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

/// Takes and gives back a lock until told to stop; the module may be away meanwhile.
/// Answers how often it had the lock.
fn work(server: &Server, name: &str, stop: &AtomicBool) -> u64 {
    let mut client = server.client();
    // None when the connection was closed: whether it was done is not known then.
    let mut ask = |words: &[&str]| {
        client.send(words);
        match client.try_read(DEADLINE) {
            Ok(answer) => Some(answer.expect("an answer or the end of the connection")),
            Err(_) => {
                client = server.client();
                None
            }
        }
    };
    let (mut had, mut last) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        // UNIQUE: a grant that it did not hear of is told again.
        match ask(&["GPULOCK.ACQUIRE", "contended", name, "PX", "600000", "UNIQUE"]) {
            Some(Value::Int(token)) => {
                assert!(token > last, "{token} after {last}");
                last = token;
                had += 1;
                let mut may_be_done = false;
                loop {
                    match ask(&["GPULOCK.RELEASE", "contended", name]) {
                        Some(Value::Int(1)) => break,
                        Some(Value::Int(_)) if may_be_done => break,
                        Some(Value::Int(_)) => panic!("{name} lost the lock"),
                        Some(error) => assert_away(&error),
                        None => may_be_done = true,
                    }
                }
            }
            Some(Value::Null) | None => {}
            Some(error) => assert_away(&error),
        }
    }
    // What it may hold without knowing.
    while ask(&["GPULOCK.RELEASE", "contended", name]).is_none() {}
    had
}

#[track_caller]
fn assert_away(answer: &Value) {
    assert!(answer.err().starts_with("ERR unknown command"), "{answer:?}");
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
            // Some of the work is done in each round.
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

/// A module that somebody waits for cannot go; as soon as nobody does, it can.
fn an_unload_is_refused_while_somebody_waits_or_a_grace_runs_and_works_right_after(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let (mut client, mut waiter) = (server.client(), server.client());
    let refused = |client: &mut Client| {
        let answer = client.line("MODULE UNLOAD gpulock");
        assert!(answer.is_err(), "{answer:?}");
    };
    let waits = |client: &mut Client, waiter: &mut Client, block: i64| {
        send!(waiter, "GPULOCK.ACQUIRE", "k", "you", "PX", 600_000, "BLOCK", block);
        wait_until(DEADLINE, "the waiter", || {
            client.line("GPULOCK.STATS").field("clients_waiting") == 1
        });
        refused(client);
    };
    // Granted, timed out, gone.
    assert!(client.line("GPULOCK.ACQUIRE k me PX 600000").int() > 0);
    waits(&mut client, &mut waiter, 0);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    assert!(waiter.read().int() > 0);
    unload(&mut client);
    load(&mut client);
    let mut waiter = server.client();
    waits(&mut client, &mut waiter, 1_000);
    assert_eq!(waiter.read(), Value::Null);
    unload(&mut client);
    load(&mut client);
    let mut waiter = server.client();
    let id = waiter.id();
    waits(&mut client, &mut waiter, 0);
    call!(client, "CLIENT", "KILL", "ID", id);
    waiter.wait_closed();
    unload(&mut client);
    load(&mut client);

    // A grace that runs out, and one within which the owner comes back.
    let grace = |client: &mut Client, key: &str, ms: i64| {
        let mut holder = server.client();
        let ask = ["PX", "600000", "UNIQUE", "SESSION", "GRACE", &ms.to_string()];
        assert!(
            holder.cmd(&[&["GPULOCK.ACQUIRE", key, "s"], &ask[..]].concat()).int() > 0
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

/// Every server keeps each client's last command, also when its module has gone: `CLIENT
/// LIST` would print what stands where its name was, and Redis 7.4 and later, which use the
/// command again when the same is sent next, would end.
fn a_client_whose_last_command_was_the_modules_does_not_outlive_it(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut other, mut admin) =
        (server.client(), server.client(), server.client());
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]));
    assert_eq!(other.line("GPULOCK.LIST"), Value::Array(vec![]));
    assert_eq!(other.line("PING"), "PONG");
    unload(&mut admin);
    client.wait_closed();
    assert_away(&other.line("GPULOCK.LIST"));
    let clients = admin.line("CLIENT LIST").text();
    assert!(!clients.contains("gpulock"), "{clients}");
    load(&mut admin);
    assert_eq!(server.client().line("GPULOCK.LIST"), Value::Array(vec![]));
}

/// Every server keeps pointers to the commands that a transaction has queued, and follows
/// them also when their module has gone.
fn a_transaction_queued_before_an_unload_does_not_end_the_server(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut admin) = (server.client(), server.client());
    assert_eq!(client.line("MULTI"), "OK");
    assert_eq!(client.line("GPULOCK.ACQUIRE k me"), "QUEUED");
    unload(&mut admin);
    // An error, or the connection closed: either will do.
    send!(client, "EXEC");
    if let Ok(answer) = client.try_read(DEADLINE) {
        assert!(answer.expect("an answer").is_err());
    }
    load(&mut admin);
    assert_eq!(admin.line("EXISTS k"), 0);
    assert!(server.client().line("GPULOCK.ACQUIRE k me").int() > 0);
}

fn fifty_unloads_do_not_grow_the_memory_in_use(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // All that the module may allocate: table, log, counters, settings, events.
    let use_it = |client: &mut Client| {
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
    let cycle = |client: &mut Client| {
        use_it(client);
        unload(client);
        let used = server.used_memory();
        load(client);
        used
    };
    // What the first rounds leave are the keys and the server's own buffers.
    for _ in 0..5 {
        cycle(&mut client);
    }
    let before = cycle(&mut client);
    let mut after = before;
    for _ in 0..50 {
        after = cycle(&mut client);
    }
    let growth = after - before;
    assert!(growth < 50 * 64, "{growth} bytes in 50 rounds on {flavour}");
}

fn a_replica_serves_reads_while_it_loads_a_full_copy_beside_its_data(flavour: &Flavour) {
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
        // So that clients are served between any two keys.
        .arg("loading-process-events-interval-bytes", "1024")
        .replica_of(&primary)
        .start();
    replica.wait_caught_up_with(&primary);
    let mut reader = replica.client();
    // Five milliseconds a key: ten seconds in all, should nobody end that.
    assert_eq!(reader.line("CONFIG SET key-load-delay 5000"), "OK");

    // It falls behind by more than the backlog, of the same history.
    replica.freeze();
    assert!(client.line("CLIENT KILL TYPE replica").int() >= 1);
    let filler = "x".repeat(1000);
    for i in 0..100 {
        assert_eq!(call!(client, "SET", format!("big:{i}"), filler), "OK");
    }
    assert_eq!(client.line("GPULOCK.RELEASE gpu:0 me"), 1);
    assert!(client.line("GPULOCK.ACQUIRE gpu:0 you PX 600000").int() > token);
    replica.thaw();
    wait_until(Duration::from_secs(30), "the load beside the old data", || {
        reader.info("persistence")["async_loading"] == "1"
    });
    // The old data are still there to be read, by the module's commands as well.
    assert_eq!(reader.line("GET gpu:0"), "me");
    assert_eq!(reader.line("GPULOCK.INSPECT gpu:0").field("owner"), "me");
    assert!(!reader.line("GPULOCK.STATS").is_err());
    assert!(reader.line("GPULOCK.ACQUIRE gpu:1 me").is_err());
    assert_eq!(reader.info("persistence")["async_loading"], "1", "too fast to be seen");
    assert_eq!(reader.line("CONFIG SET key-load-delay 0"), "OK");
    replica.wait_link_up();
    replica.wait_caught_up_with(&primary);
    assert_eq!(reader.line("GPULOCK.INSPECT gpu:0").field("owner"), "you");
    assert_eq!(reader.line("DEBUG DIGEST"), client.line("DEBUG DIGEST"));
    assert!(!replica.log().contains("Skipping diskless-load"), "{}", replica.log());
}

/// The transaction's own client cannot be closed, and may have queued more of our commands.
fn an_unload_within_a_transaction_is_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("MULTI");
    for line in ["MODULE UNLOAD gpulock", "GPULOCK.ACQUIRE k me"] {
        assert_eq!(client.line(line), "QUEUED");
    }
    let done = client.line("EXEC");
    assert!(done.list()[0].is_err(), "{done:?}");
    assert!(done.list()[1].int() > 0, "{done:?}");
    server.wait_log("not unloaded: a transaction is being executed");
    unload(&mut client);
}

/// Some servers abort when a command is gone that the rules of a user name.
fn an_unload_is_refused_while_the_rules_of_a_user_name_a_command_of_the_module(
    flavour: &Flavour,
) {
    for rules in ["+gpulock.acquire", "+@all -gpulock.force"] {
        let server = flavour.start();
        let mut client = server.client();
        let rules = rules.replace("force", "forcerelease");
        let set = format!("ACL SETUSER worker on >secret ~gpu:* {rules}");
        assert_eq!(client.line(&set), "OK");
        let refused = client.line("MODULE UNLOAD gpulock");
        // Valkey 9 refuses it by itself, and says why in its reply.
        if !refused.err().contains("ACL users reference commands") {
            server.wait_log("not unloaded: the rules of the ACL user \"worker\"");
        }
        assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
        assert_eq!(client.line("ACL DELUSER worker"), 1);
        assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
        unload(&mut client);
    }
}
