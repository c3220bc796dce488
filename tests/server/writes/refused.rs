//! While the server refuses writes of clients, the module hands no lock off: its write would be
//! in no file, and after a crash the lock would have two owners. When the server accepts writes
//! again, all deferred work runs. `failover::isolated_primary` tests `min-replicas-to-write`.

use std::fs;
use std::process::Command;
use std::time::Duration;

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::queue::{wait_queue, waiter};

tests! {
    no_lock_is_handed_off_while_the_append_only_file_cannot_grow,
    no_lock_is_handed_off_while_snapshots_fail,
    a_crash_while_writes_are_refused_leaves_no_second_owner,
    a_void_deferred_item_does_not_let_the_next_one_run,
}

/// The lease that ends while writes are refused, and the longer wait timeout of a client whose
/// null shows that it has ended, in ms.
const LEASE_MS: u64 = 4_000;
const DEADLINE_MS: u64 = 5_000;

/// Why a server refuses writes.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// The append-only file cannot grow.
    Aof,
    /// The last snapshot failed (`stop-writes-on-bgsave-error`).
    Snapshot,
}

/// The maximum size of the append-only file in bytes.
const FILE_LIMIT: &str = "--fsize=200000:unlimited";

impl Refusal {
    #[track_caller]
    fn server(self, flavour: &Flavour) -> Server {
        match self {
            Self::Aof => flavour
                .server()
                .under(&["env", "--ignore-signal=XFSZ", "prlimit", FILE_LIMIT])
                .arg("appendonly", "yes")
                .arg("auto-aof-rewrite-percentage", 0)
                .start(),
            Self::Snapshot => flavour.start(),
        }
    }

    #[track_caller]
    fn begin(self, server: &Server, client: &mut Client) {
        match self {
            Self::Aof => {
                let value = "v".repeat(1_000);
                wait_until(DEADLINE, "writes to be refused", || {
                    is_refused(&call!(client, "SET", "filler", value))
                });
            }
            Self::Snapshot => {
                // A folder has the name of the snapshot.
                fs::create_dir(server.dir().join("dump.rdb")).expect("a folder");
                assert_eq!(call!(client, "CONFIG", "SET", "save", "3600 1"), "OK");
                wait_until(DEADLINE, "writes to be refused", || {
                    client.line("BGSAVE");
                    is_refused(&client.line("SET filler 1"))
                });
            }
        }
    }

    #[track_caller]
    fn end(self, server: &Server, client: &mut Client) {
        match self {
            Self::Aof => {
                let lifted = Command::new("prlimit")
                    .args([
                        "--pid",
                        &server.pid().to_string(),
                        "--fsize=unlimited:unlimited",
                    ])
                    .status();
                assert!(lifted.expect("prlimit is installed").success());
            }
            Self::Snapshot => {
                assert_eq!(call!(client, "CONFIG", "SET", "save", ""), "OK");
            }
        }
    }
}

fn is_refused(reply: &Value) -> bool {
    reply.is_err() && reply.err().starts_with("MISCONF ")
}

#[track_caller]
fn assert_no_hand_off_while(flavour: &Flavour, refusal: Refusal) {
    let server = refusal.server(flavour);
    let mut client = server.client();
    let acquire = |key: &str, options: &str| {
        let mut holder = server.client();
        let request = format!("GPULOCK.ACQUIRE {key} holder PX 600000 {options}");
        assert!(holder.line(&request).int() > 0);
        holder
    };
    let holders = [
        acquire("session", "SESSION"),
        acquire("grace", "SESSION GRACE 100"),
        acquire("reserving", "SESSION"),
    ];
    let _holder = acquire("lease", "");
    // `free` is reserved for a lock set; when its waiter leaves, the next waiter gets it.
    let request = "GPULOCK.ACQUIREANY 2 free reserving set COUNT 2 BLOCK 0";
    let lock_set = waiter(&server, request);
    let mut waiting = Vec::new();
    for key in ["session", "grace", "lease", "free"] {
        let next = waiter(&server, &format!("GPULOCK.ACQUIRE {key} next BLOCK 0"));
        let queue: &[&str] = if key == "free" { &["set", "next"] } else { &["next"] };
        wait_queue(&mut client, key, queue);
        waiting.push((key, next));
    }
    let renewed = call!(client, "GPULOCK.EXTEND", "lease", "holder", "PX", LEASE_MS);
    assert!(renewed.int() > 0);
    let request = format!("GPULOCK.ACQUIRE lease late BLOCK {DEADLINE_MS}");
    let mut late = waiter(&server, &request);

    refusal.begin(&server, &mut client);
    drop((holders, lock_set));
    assert_eq!(late.read(), Value::Null, "{refusal:?}");
    for (key, next) in &mut waiting {
        assert_eq!(next.read_within(Duration::ZERO), None, "{refusal:?}: {key}");
    }
    assert!(is_refused(&client.line("GPULOCK.ACQUIRE new me")), "{refusal:?}");
    for key in ["session", "grace", "reserving"] {
        assert_eq!(call!(client, "GET", key), "holder", "{refusal:?}: {key}");
    }
    assert_eq!(call!(client, "GET", "free"), Value::Null, "{refusal:?}");

    refusal.end(&server, &mut client);
    for (key, next) in &mut waiting {
        assert!(next.read().int() > 0, "{refusal:?}: {key}");
        assert_eq!(call!(client, "GET", *key), "next", "{refusal:?}: {key}");
    }
    let stats = stats(&mut client);
    let ends = ["session_releases", "expired", "internal_errors"].map(|name| stats[name]);
    assert_eq!(ends, [3, 1, 0], "{refusal:?}");
}

fn no_lock_is_handed_off_while_the_append_only_file_cannot_grow(flavour: &Flavour) {
    assert_no_hand_off_while(flavour, Refusal::Aof);
}

fn no_lock_is_handed_off_while_snapshots_fail(flavour: &Flavour) {
    assert_no_hand_off_while(flavour, Refusal::Snapshot);
}

fn a_crash_while_writes_are_refused_leaves_no_second_owner(flavour: &Flavour) {
    let mut server = Refusal::Aof.server(flavour);
    let (mut client, mut holder) = (server.client(), server.client());
    assert!(holder.line("GPULOCK.ACQUIRE k holder PX 600000 SESSION").int() > 0);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next PX 600000 BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    let mut late = waiter(&server, "GPULOCK.ACQUIRE k late PX 600000 BLOCK 2000");
    Refusal::Aof.begin(&server, &mut client);
    drop(holder);
    assert_eq!(late.read(), Value::Null);
    server.kill9();
    server.restart();
    // The file has the first owner, so the next waiter must not have been granted the lock.
    assert_eq!(server.client().line("GET k"), "holder");
    next.wait_closed();
}

/// A deferred item may become void before its turn. The check for refused writes still applies
/// to the next item.
fn a_void_deferred_item_does_not_let_the_next_one_run(flavour: &Flavour) {
    let server = Refusal::Snapshot.server(flavour);
    let mut client = server.client();
    let (mut first, mut second) = (server.client(), server.client());
    assert!(first.line("GPULOCK.ACQUIRE void holder PX 3000 SESSION").int() > 0);
    assert!(second.line("GPULOCK.ACQUIRE k holder PX 600000 SESSION").int() > 0);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    let mut late = waiter(&server, "GPULOCK.ACQUIRE k late BLOCK 6000");
    Refusal::Snapshot.begin(&server, &mut client);
    let id = first.id();
    drop(first);
    wait_until(DEADLINE, "the first connection to be closed", || {
        !client.line("CLIENT LIST").text().contains(&format!("id={id} "))
    });
    drop(second);
    // The lease of `void` ends in the meantime, and with it the deferred end of its session.
    assert_eq!(late.read(), Value::Null);
    assert_eq!(next.read_within(Duration::ZERO), None);
    assert_eq!(client.line("GET k"), "holder");
    Refusal::Snapshot.end(&server, &mut client);
    assert!(next.read().int() > 0);
}
