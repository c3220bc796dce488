//! The module spares the server the plain commands that nobody would get
//! (src/server/passing_on.rs). So whoever begins to listen, at any moment and under load,
//! must have all: a replica that comes or comes back, one that is promoted, an append-only
//! file. The replicas have no module: anything but plain commands would be an error there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::rng::{Pick, seeded_rng};

tests! {
    a_replica_that_comes_under_load_lacks_nothing,
    a_replica_that_comes_while_the_server_saves_lacks_nothing,
    a_replica_that_was_away_comes_back_by_the_backlog_and_lacks_nothing,
    a_replica_that_is_promoted_passes_on_at_once,
    an_append_only_file_that_begins_under_load_lacks_nothing,
    changes_count_for_saving_though_nobody_listens,
}

const KEYS: usize = 200;

/// A server that soon forgets a replica that left, and looks around often.
fn alone(flavour: &Flavour) -> Server {
    flavour.server().arg("repl-backlog-ttl", 1).arg("hz", 100).start()
}

/// Waits until the module must have found out that nobody listens: it asks once a second.
fn wait_unheard(server: &Server) {
    let of = |section: &str, field: &str| server.info_int(section, field);
    wait_until(DEADLINE, "the backlog to go", || {
        of("replication", "repl_backlog_active") == 0
    });
    let since = of("server", "uptime_in_seconds");
    wait_until(DEADLINE, "two seconds more", || {
        of("server", "uptime_in_seconds") > since + 2
    });
}

/// Takes, renews and gives back at random while `work` goes on, in pipelines, transactions,
/// scripts and hand-offs. The locks outlive the test.
fn under_load(server: &Server, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for owner in ["one", "two"] {
            let (mut client, mut rng, done) = (server.client(), seeded_rng(), &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let lines: Vec<String> =
                        (0..20).map(|_| a_command(&mut rng, owner)).collect();
                    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                    client.send_lines(&lines);
                    for line in lines {
                        let answer = client.read();
                        assert!(!answer.is_err(), "{line}: {answer:?}");
                    }
                }
            });
        }
        // Also when the work fails, or the threads would go on for ever.
        let _ended = Raised(&done);
        work();
    });
}

/// Raises the flag when it is dropped.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn a_command(rng: &mut Rng, owner: &str) -> String {
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

/// Every lock with its owner and the end of its lease.
fn contents(server: &Server) -> Vec<(Value, Value)> {
    let mut client = server.client();
    let of = |client: &mut Client, key: usize| {
        (call!(client, "GET", key), call!(client, "PEXPIRETIME", key))
    };
    (0..KEYS).map(|key| of(&mut client, key)).collect()
}

#[track_caller]
fn assert_follows(replica: &Server, primary: &Server) {
    replica.wait_caught_up_with(primary);
    let (has, should) = (contents(replica), contents(primary));
    assert_eq!(has, should, "{} lacks something of {}", replica.name(), primary.name());
}

fn follow(replica: &Server, primary: &Server) {
    let port = primary.port();
    assert_eq!(call!(replica.client(), "REPLICAOF", "127.0.0.1", port), "OK");
    replica.wait_link_up();
}

fn a_replica_that_comes_under_load_lacks_nothing(flavour: &Flavour) {
    let primary = alone(flavour);
    let replica = flavour.server().named("replica").without_module().start();
    for diskless in ["yes", "no"] {
        let setting = ["CONFIG", "SET", "repl-diskless-sync", diskless];
        assert_eq!(primary.client().cmd(&setting), "OK");
        wait_unheard(&primary);
        under_load(&primary, || follow(&replica, &primary));
        assert_follows(&replica, &primary);
        assert_eq!(replica.client().line("REPLICAOF NO ONE"), "OK");
    }
}

fn a_replica_that_comes_while_the_server_saves_lacks_nothing(flavour: &Flavour) {
    let primary = alone(flavour);
    let replica = flavour.server().named("replica").without_module().start();
    wait_unheard(&primary);
    under_load(&primary, || {
        assert!(!primary.client().line("BGSAVE").is_err());
        follow(&replica, &primary);
    });
    assert_follows(&replica, &primary);
}

fn a_replica_that_was_away_comes_back_by_the_backlog_and_lacks_nothing(
    flavour: &Flavour,
) {
    // However long the way back takes.
    let primary = flavour.server().arg("hz", 100).arg("repl-backlog-size", "100mb");
    let primary = primary.start();
    let replica =
        flavour.server().named("replica").without_module().replica_of(&primary).start();
    under_load(&primary, || {
        let closed = primary.client().line("CLIENT KILL TYPE replica");
        assert!(closed.int() > 0, "{closed:?}");
        let came_back = || primary.info_int("stats", "sync_partial_ok") > 0;
        wait_until(DEADLINE, "the replica to come back", came_back);
        replica.wait_link_up();
    });
    assert_follows(&replica, &primary);
}

fn a_replica_that_is_promoted_passes_on_at_once(flavour: &Flavour) {
    let primary = flavour.start();
    let heir = flavour.server().named("heir").replica_of(&primary).start();
    let below =
        flavour.server().named("below").without_module().replica_of(&heir).start();
    assert_eq!(heir.client().line("REPLICAOF NO ONE"), "OK");
    assert!(heir.client().line("GPULOCK.ACQUIRE 7 me EX 80000").int() > 0);
    assert_follows(&below, &heir);
    under_load(&heir, || follow(&primary, &heir));
    assert_follows(&below, &heir);
    assert_follows(&primary, &heir);
}

fn an_append_only_file_that_begins_under_load_lacks_nothing(flavour: &Flavour) {
    let server = alone(flavour);
    wait_unheard(&server);
    under_load(&server, || {
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

fn changes_count_for_saving_though_nobody_listens(flavour: &Flavour) {
    let server = alone(flavour);
    wait_unheard(&server);
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
        let answer = client.line(line);
        assert!(!answer.is_err(), "{line}: {answer:?}");
        assert_eq!(changes() - before, expected, "{flavour}: {line}");
    }
}
