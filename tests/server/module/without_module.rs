//! The key is the source of truth: a server without the module can load, replicate and persist
//! what a server with the module writes. After a restart or a failover owners keep their locks,
//! and tokens rise.

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    an_rdb_loads_in_a_server_without_the_module,
    an_append_only_file_loads_in_a_server_without_the_module,
    a_replica_without_the_module_replicates_locks,
    locks_survive_a_restart_and_tokens_keep_rising,
    locks_survive_a_failover_and_tokens_keep_rising,
    a_demoted_primary_holds_nothing_and_replicates,
    debug_reload_keeps_holds_and_tokens,
}

/// Acquires locks of several databases and kinds, and releases some.
fn use_locks(client: &mut Client) {
    for line in [
        "GPULOCK.ACQUIRE gpu:0 me PX 60000",
        "GPULOCK.ACQUIRE gpu:1 me EX 600 UNIQUE",
        "GPULOCK.ACQUIRE gpu:1 me EX 700 UNIQUE",
        "GPULOCK.ACQUIRE gpu:2 me",
        "GPULOCK.EXTEND gpu:2 me PX 80000",
        "GPULOCK.ACQUIRE gpu:3 me",
        "GPULOCK.RELEASE gpu:3 me",
        "GPULOCK.ACQUIRE gpu:4 me",
        "GPULOCK.FORCERELEASE gpu:4",
        "SET gpu:5 outsider PX 60000",
        "GPULOCK.ACQUIRE gpu:5 me",
        "GPULOCK.EXTEND gpu:5 outsider PX 90000",
        "SELECT 3",
        "GPULOCK.ACQUIRE gpu:0 you PX 90000",
    ] {
        let reply = client.line(line);
        assert!(!reply.is_err(), "{line}: {reply:?}");
    }
    let owner = [&(0..=255).collect::<Vec<u8>>()[..], b"\r\n%s%n"].concat();
    assert!(call!(client, "GPULOCK.ACQUIRE", [0xff, 0, b'\r', b'\n'], owner).int() > 0);
    assert_eq!(client.line("SELECT 0"), "OK");
}

/// Each key with its value and expiry time, by database.
fn contents(server: &Server) -> Vec<(i64, Value, Value, Value)> {
    let mut client = server.client();
    let mut found = vec![];
    for db in [0, 3] {
        assert_eq!(call!(client, "SELECT", db), "OK");
        let mut keys = client.line("KEYS *").list().to_vec();
        keys.sort_by_key(|key| key.bytes().to_vec());
        for key in keys {
            let value = call!(client, "GET", key.bytes());
            let expiry = call!(client, "PEXPIRETIME", key.bytes());
            found.push((db, key, value, expiry));
        }
    }
    found
}

fn an_rdb_loads_in_a_server_without_the_module(flavour: &Flavour) {
    let mut server = flavour.start();
    use_locks(&mut server.client());
    let written = contents(&server);
    assert_eq!(written.len(), 6, "{written:?}");
    assert_eq!(server.client().line("SAVE"), "OK");
    server.stop();
    let plain =
        flavour.server().without_module().arg("dir", server.dir().display()).start();
    assert_eq!(contents(&plain), written);
}

fn an_append_only_file_loads_in_a_server_without_the_module(flavour: &Flavour) {
    for rewritten in [false, true] {
        let mut server = flavour.server().arg("appendonly", "yes").start();
        use_locks(&mut server.client());
        let written = contents(&server);
        if rewritten {
            assert!(!server.client().line("BGREWRITEAOF").is_err());
            wait_until(DEADLINE, "the end of the rewrite", || {
                let info = server.info("persistence");
                info["aof_rewrite_in_progress"] == "0"
                    && info["aof_rewrite_scheduled"] == "0"
            });
        }
        server.stop();
        let plain = flavour
            .server()
            .without_module()
            .arg("appendonly", "yes")
            .arg("dir", server.dir().display())
            .start();
        assert_eq!(contents(&plain), written, "rewritten: {rewritten}");
    }
}

fn a_replica_without_the_module_replicates_locks(flavour: &Flavour) {
    let primary = flavour.start();
    let mut client = primary.client();
    // Some locks before the full synchronization, some after it.
    assert!(client.line("GPULOCK.ACQUIRE early me").int() > 0);
    assert!(client.line("GPULOCK.ACQUIRE gone me").int() > 0);
    let replica =
        flavour.server().named("replica").without_module().replica_of(&primary).start();
    use_locks(&mut client);
    assert_eq!(client.line("GPULOCK.RELEASE gone me"), 1);
    client.line("MULTI");
    client.line("GPULOCK.ACQUIRE in:multi me");
    client.line("GPULOCK.EXTEND in:multi me PX 99000");
    client.line("EXEC");
    let script = "return redis.call('GPULOCK.ACQUIRE', KEYS[1], 'me')";
    assert!(call!(client, "EVAL", script, 1, "in:script").int() > 0);
    replica.wait_caught_up_with(&primary);
    assert_eq!(contents(&replica), contents(&primary));
    let digest = |server: &Server| server.client().line("DEBUG DIGEST");
    assert_eq!(digest(&replica), digest(&primary));
    assert!(replica.client().line("GPULOCK.LIST").is_err(), "it has the module");
}

/// Checks that the lock is adopted with its owner, which then gets a new token.
#[track_caller]
fn assert_adopted(client: &mut Client, key: &str, owner: &str, before: i64) -> i64 {
    let seen = call!(client, "GPULOCK.INSPECT", key);
    assert_eq!(seen.field("owner"), owner);
    assert_eq!(seen.field("adopted"), 1);
    assert!(seen.field("token").is_null(), "{seen:?}");
    assert!(seen.field("held_ms").is_null(), "{seen:?}");
    assert!(call!(client, "GPULOCK.ACQUIRE", key, "a stranger").is_null());
    assert_eq!(call!(client, "GPULOCK.RELEASE", key, "a stranger"), 0);
    let token = call!(client, "GPULOCK.EXTEND", key, owner).int();
    assert!(token > before, "{token} after {before}");
    assert_eq!(call!(client, "GPULOCK.EXTEND", key, owner), token);
    let seen = call!(client, "GPULOCK.INSPECT", key);
    assert_eq!((seen.field("adopted").int(), seen.field("token").int()), (1, token));
    token
}

fn locks_survive_a_restart_and_tokens_keep_rising(flavour: &Flavour) {
    for way in ["stop", "kill -9"] {
        let builder = flavour.server().arg("appendonly", "yes");
        // Without this, the last writes may not be in the file yet.
        let mut server = builder.arg("appendfsync", "always").start();
        let mut client = server.client();
        let first = client.line("GPULOCK.ACQUIRE gpu:0 me PX 600000").int();
        let mut last = client.line("GPULOCK.ACQUIRE gpu:1 you PX 600000").int();
        assert!(last > first);
        assert_eq!(client.line("GPULOCK.RELEASE gpu:1 you"), 1);
        // Twice, so that an adopted lock also survives a restart.
        for _ in 0..2 {
            let expiry = client.line("PEXPIRETIME gpu:0").int();
            if way == "kill -9" {
                server.kill9();
            }
            server.restart();
            client = server.client();
            assert_eq!(client.line("PEXPIRETIME gpu:0"), expiry, "{way}");
            assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]), "{way}");
            last = assert_adopted(&mut client, "gpu:0", "me", last);
            let next = client.line("GPULOCK.ACQUIRE gpu:1 you PX 600000").int();
            assert!(next > last, "{next} after {last}");
            last = next;
            assert_eq!(client.line("GPULOCK.RELEASE gpu:1 you"), 1);
        }
        assert_eq!(client.line("GPULOCK.RELEASE gpu:0 me"), 1);
        assert_eq!(client.line("GPULOCK.STATS").field("adopted"), 1, "{way}");
    }
}

fn locks_survive_a_failover_and_tokens_keep_rising(flavour: &Flavour) {
    let mut primary = flavour.start();
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    let mut client = primary.client();
    let mut last = client.line("GPULOCK.ACQUIRE gpu:0 me PX 600000").int();
    for _ in 0..1000 {
        last = client.line("GPULOCK.ACQUIRE gpu:1 you").int();
        assert_eq!(client.line("GPULOCK.RELEASE gpu:1 you"), 1);
    }
    replica.wait_caught_up_with(&primary);
    primary.kill9();
    let mut client = replica.client();
    assert!(client.line("GPULOCK.EXTEND gpu:0 me").err().starts_with("READONLY"));
    assert_eq!(client.line("REPLICAOF NO ONE"), "OK");
    last = assert_adopted(&mut client, "gpu:0", "me", last);
    assert!(client.line("GPULOCK.ACQUIRE gpu:1 you").int() > last);
}

fn a_demoted_primary_holds_nothing_and_replicates(flavour: &Flavour) {
    let one = flavour.server().named("one").start();
    let two = flavour.server().named("two").replica_of(&one).start();
    let mut client = one.client();
    let last = client.line("GPULOCK.ACQUIRE gpu:0 me PX 600000").int();
    two.wait_caught_up_with(&one);
    let mut other = two.client();
    assert_eq!(other.line("REPLICAOF NO ONE"), "OK");
    assert_eq!(call!(client, "REPLICAOF", "127.0.0.1", two.port()), "OK");
    one.wait_link_up();
    let stats = client.line("GPULOCK.STATS");
    assert_eq!((stats.field("locks_held").int(), stats.field("removed").int()), (0, 1));
    assert_adopted(&mut other, "gpu:0", "me", last);
    one.wait_caught_up_with(&two);
    assert_eq!(client.line("GET gpu:0"), "me");
    assert_eq!(other.line("GPULOCK.RELEASE gpu:0 me"), 1);
    one.wait_caught_up_with(&two);
    assert_eq!(client.line("EXISTS gpu:0"), 0);
}

fn debug_reload_keeps_holds_and_tokens(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    use_locks(&mut client);
    let holds = |client: &mut Client| {
        let rows = client.line("GPULOCK.LIST");
        let hold = |row: &Value| {
            ["key", "owner", "token"].map(|name| format!("{:?}", row.field(name)))
        };
        rows.list().iter().map(hold).collect::<Vec<_>>()
    };
    let before = holds(&mut client);
    assert_eq!(before.len(), 4, "{before:?}");
    assert_eq!(client.line("DEBUG RELOAD"), "OK");
    assert_eq!(holds(&mut client), before);
    let seen = client.line("GPULOCK.INSPECT gpu:0");
    assert_eq!(seen.field("adopted"), 0);
    let token = seen.field("token").int();
    assert_eq!(client.line("GPULOCK.EXTEND gpu:0 me"), token);
    assert_eq!(client.line("GPULOCK.STATS").field("removed"), 0);
    assert_eq!(client.line("GPULOCK.RELEASE gpu:0 me"), 1);
}
