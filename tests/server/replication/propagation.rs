//! The module omits the plain commands while no replica or file receives them
//! (src/redis/replication_listeners.rs). A new receiver, at any time and under load, must miss
//! nothing: a new or reconnected replica, a promoted one, an append-only file. The replicas have no
//! module, so any command except plain ones would fail there.

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::background_load::with_background_load;
use crate::support::clock::DEADLINE;
use crate::support::rng::{Pick, seeded_rng};

tests! {
    a_new_replica_under_load_misses_nothing,
    a_new_replica_during_a_snapshot_misses_nothing,
    a_reconnected_replica_misses_nothing,
    a_promoted_replica_replicates_at_once,
    an_append_only_file_enabled_under_load_misses_nothing,
    changes_count_for_snapshots_without_a_receiver,
}

const KEYS: usize = 200;

/// A server that soon drops the backlog of a disconnected replica, and has frequent ticks.
fn server_without_replicas(flavour: &Flavour) -> Server {
    flavour.server().arg("repl-backlog-ttl", 1).arg("hz", 100).start()
}

/// Waits until the module knows that nothing receives its writes: it checks once a second.
fn wait_no_receiver(server: &Server) {
    let of = |section: &str, field: &str| server.info_int(section, field);
    wait_until(DEADLINE, "the backlog to be freed", || {
        of("replication", "repl_backlog_active") == 0
    });
    let since = of("server", "uptime_in_seconds");
    wait_until(DEADLINE, "two seconds more", || {
        of("server", "uptime_in_seconds") > since + 2
    });
}

/// While `work` runs, acquires, renews and releases at random, in pipelines, scripts and
/// hand-offs. The leases are longer than the test.
fn with_load(server: &Server, work: impl FnOnce()) {
    let workers = ["one", "two"].map(|owner| {
        let (mut client, mut rng) = (server.client(), seeded_rng());
        move || {
            let lines: Vec<String> =
                (0..20).map(|_| random_command(&mut rng, owner)).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            client.send_lines(&lines);
            for line in lines {
                let reply = client.read();
                assert!(!reply.is_err(), "{line}: {reply:?}");
            }
        }
    });
    with_background_load(workers.into(), work);
}

fn random_command(rng: &mut Rng, owner: &str) -> String {
    let key = rng.usize(..KEYS);
    let other = (key + 1 + rng.usize(..KEYS - 1)) % KEYS;
    let lease_s = rng.pick(&[80_000, 81_000]);
    match rng.usize(..6) {
        0 | 1 => format!("GPULOCK.ACQUIRE {key} {owner} EX {lease_s}"),
        2 => format!("GPULOCK.ACQUIREANY 2 {key} {other} {owner} EX {lease_s} COUNT 1"),
        3 => format!("GPULOCK.EXTEND {key} {owner} EX {lease_s}"),
        4 => format!(
            "EVAL return(redis.call('GPULOCK.RELEASE',KEYS[1],'{owner}')) 1 {key}"
        ),
        _ => format!("GPULOCK.RELEASE {key} {owner}"),
    }
}

/// The owner and the expiry time of each lock.
fn contents(server: &Server) -> Vec<(Value, Value)> {
    let mut client = server.client();
    let of = |client: &mut Client, key: usize| {
        (call!(client, "GET", key), call!(client, "PEXPIRETIME", key))
    };
    (0..KEYS).map(|key| of(&mut client, key)).collect()
}

#[track_caller]
fn assert_same_contents(replica: &Server, primary: &Server) {
    replica.wait_caught_up_with(primary);
    let (actual, expected) = (contents(replica), contents(primary));
    assert_eq!(actual, expected, "{} differs from {}", replica.name(), primary.name());
}

fn follow(replica: &Server, primary: &Server) {
    let port = primary.port();
    assert_eq!(call!(replica.client(), "REPLICAOF", "127.0.0.1", port), "OK");
    replica.wait_link_up();
}

fn a_new_replica_under_load_misses_nothing(flavour: &Flavour) {
    let primary = server_without_replicas(flavour);
    let replica = flavour.server().named("replica").without_module().start();
    for diskless in ["yes", "no"] {
        let setting = ["CONFIG", "SET", "repl-diskless-sync", diskless];
        assert_eq!(primary.client().cmd(&setting), "OK");
        wait_no_receiver(&primary);
        with_load(&primary, || follow(&replica, &primary));
        assert_same_contents(&replica, &primary);
        assert_eq!(replica.client().line("REPLICAOF NO ONE"), "OK");
    }
}

fn a_new_replica_during_a_snapshot_misses_nothing(flavour: &Flavour) {
    let primary = server_without_replicas(flavour);
    let replica = flavour.server().named("replica").without_module().start();
    wait_no_receiver(&primary);
    with_load(&primary, || {
        assert!(!primary.client().line("BGSAVE").is_err());
        follow(&replica, &primary);
    });
    assert_same_contents(&replica, &primary);
}

fn a_reconnected_replica_misses_nothing(flavour: &Flavour) {
    // The backlog is large enough for any delay.
    let primary = flavour.server().arg("hz", 100).arg("repl-backlog-size", "100mb");
    let primary = primary.start();
    let replica =
        flavour.server().named("replica").without_module().replica_of(&primary).start();
    with_load(&primary, || {
        let closed = primary.client().line("CLIENT KILL TYPE replica");
        assert!(closed.int() > 0, "{closed:?}");
        let reconnected = || primary.info_int("stats", "sync_partial_ok") > 0;
        wait_until(DEADLINE, "the replica to reconnect", reconnected);
        replica.wait_link_up();
    });
    assert_same_contents(&replica, &primary);
}

fn a_promoted_replica_replicates_at_once(flavour: &Flavour) {
    let primary = flavour.start();
    let promoted = flavour.server().named("promoted").replica_of(&primary).start();
    let other =
        flavour.server().named("other").without_module().replica_of(&promoted).start();
    assert_eq!(promoted.client().line("REPLICAOF NO ONE"), "OK");
    assert!(promoted.client().line("GPULOCK.ACQUIRE 7 me EX 80000").int() > 0);
    assert_same_contents(&other, &promoted);
    with_load(&promoted, || follow(&primary, &promoted));
    assert_same_contents(&other, &promoted);
    assert_same_contents(&primary, &promoted);
}

fn an_append_only_file_enabled_under_load_misses_nothing(flavour: &Flavour) {
    let server = server_without_replicas(flavour);
    wait_no_receiver(&server);
    with_load(&server, || {
        assert_eq!(server.client().line("CONFIG SET appendonly yes"), "OK");
        wait_until(DEADLINE, "the first file", || {
            server.info("persistence")["aof_rewrite_in_progress"] == "0"
                && server.info_int("persistence", "aof_base_size") > 0
        });
    });
    let written = contents(&server);
    assert!(!server.client().line("DEBUG LOADAOF").is_err());
    assert_eq!(contents(&server), written, "{flavour}");
    for words in server.aof() {
        assert!(!words[0].to_uppercase().starts_with("GPULOCK"), "{words:?}");
    }
}

fn changes_count_for_snapshots_without_a_receiver(flavour: &Flavour) {
    let server = server_without_replicas(flavour);
    wait_no_receiver(&server);
    let mut client = server.client();
    let changes = || server.info_int("persistence", "rdb_changes_since_last_save");
    for (line, expected) in [
        ("GPULOCK.ACQUIRE a me", 1),
        ("GPULOCK.ACQUIRE a other", 0),
        ("GPULOCK.EXTEND a me", 1),
        ("GPULOCK.RELEASE a other", 0),
        ("GPULOCK.RELEASE a me", 1),
        ("GPULOCK.ACQUIREANY 3 a b c me COUNT 2", 2),
        ("GPULOCK.FORCERELEASE a", 1),
    ] {
        let before = changes();
        let reply = client.line(line);
        assert!(!reply.is_err(), "{line}: {reply:?}");
        assert_eq!(changes() - before, expected, "{flavour}: {line}");
    }
}
