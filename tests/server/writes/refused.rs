//! While the server refuses the writes of clients, the module hands no lock over either: what
//! it wrote then would be in no file, and after a crash the lock would have two owners. When
//! writes are accepted again, everything follows. `min-replicas-to-write` has a file of its
//! own: cut_off_primary.rs.

use std::fs;
use std::process::Command;
use std::time::Duration;

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::queue::{wait_queue, waiter};

tests! {
    nothing_is_handed_over_while_the_append_only_file_cannot_grow,
    nothing_is_handed_over_while_snapshots_fail,
    a_crash_while_writes_are_refused_leaves_no_second_owner,
    a_void_item_does_not_open_the_way_for_the_next_one,
}

/// The lease that ends while writes are refused, in ms, and how long a client waits whose null
/// says that it is over.
const LEASE_MS: u64 = 4_000;
const DEADLINE_MS: u64 = 5_000;

/// How a server comes to refuse all writes, and how it accepts them again.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// The append-only file cannot grow.
    Aof,
    /// The last snapshot failed (`stop-writes-on-bgsave-error`).
    Snapshot,
}

/// The size in bytes at which the append-only file cannot grow any more.
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
                // A folder stands where the snapshot should go.
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
                assert!(lifted.expect("prlimit is there").success());
            }
            Self::Snapshot => {
                assert_eq!(call!(client, "CONFIG", "SET", "save", ""), "OK");
            }
        }
    }
}

fn is_refused(answer: &Value) -> bool {
    answer.is_err() && answer.err().starts_with("MISCONF ")
}

#[track_caller]
fn nothing_is_handed_over_while(flavour: &Flavour, refusal: Refusal) {
    let server = refusal.server(flavour);
    let mut client = server.client();
    let take = |key: &str, options: &str| {
        let mut holder = server.client();
        let ask = format!("GPULOCK.ACQUIRE {key} holder PX 600000 {options}");
        assert!(holder.line(&ask).int() > 0);
        holder
    };
    let holders = [
        take("session", "SESSION"),
        take("grace", "SESSION GRACE 100"),
        take("reserving", "SESSION"),
    ];
    let _holder = take("lease", "");
    // A set has collected `free`; when it leaves, `free` is the next waiter's.
    let ask = "GPULOCK.ACQUIREANY 2 free reserving set COUNT 2 BLOCK 0";
    let set = waiter(&server, ask);
    let mut waiting = Vec::new();
    for key in ["session", "grace", "lease", "free"] {
        let next = waiter(&server, &format!("GPULOCK.ACQUIRE {key} next BLOCK 0"));
        let line: &[&str] = if key == "free" { &["set", "next"] } else { &["next"] };
        wait_queue(&mut client, key, line);
        waiting.push((key, next));
    }
    let renewed = call!(client, "GPULOCK.EXTEND", "lease", "holder", "PX", LEASE_MS);
    assert!(renewed.int() > 0);
    let ask = format!("GPULOCK.ACQUIRE lease late BLOCK {DEADLINE_MS}");
    let mut late = waiter(&server, &ask);

    refusal.begin(&server, &mut client);
    drop((holders, set));
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
    let ends = ["session_releases", "expired", "internal_errors"].map(|it| stats[it]);
    assert_eq!(ends, [3, 1, 0], "{refusal:?}");
}

fn nothing_is_handed_over_while_the_append_only_file_cannot_grow(flavour: &Flavour) {
    nothing_is_handed_over_while(flavour, Refusal::Aof);
}

fn nothing_is_handed_over_while_snapshots_fail(flavour: &Flavour) {
    nothing_is_handed_over_while(flavour, Refusal::Snapshot);
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
    // The file has the first owner, so the next one must not have been told of a grant.
    assert_eq!(server.client().line("GET k"), "holder");
    next.wait_closed();
}

/// What is deferred may become void before its turn comes. The work behind it is not done
/// unasked.
fn a_void_item_does_not_open_the_way_for_the_next_one(flavour: &Flavour) {
    let server = Refusal::Snapshot.server(flavour);
    let mut client = server.client();
    let (mut first, mut second) = (server.client(), server.client());
    assert!(first.line("GPULOCK.ACQUIRE void holder PX 3000 SESSION").int() > 0);
    assert!(second.line("GPULOCK.ACQUIRE k holder PX 600000 SESSION").int() > 0);
    let mut next = waiter(&server, "GPULOCK.ACQUIRE k next BLOCK 0");
    wait_queue(&mut client, "k", &["next"]);
    let mut late = waiter(&server, "GPULOCK.ACQUIRE k late BLOCK 6000");
    Refusal::Snapshot.begin(&server, &mut client);
    let gone = first.id();
    drop(first);
    wait_until(DEADLINE, "the first connection to be closed", || {
        !client.line("CLIENT LIST").text().contains(&format!("id={gone} "))
    });
    drop(second);
    // The lease of `void` ends meanwhile, and with it what its session is owed.
    assert_eq!(late.read(), Value::Null);
    assert_eq!(next.read_within(Duration::ZERO), None);
    assert_eq!(client.line("GET k"), "holder");
    Refusal::Snapshot.end(&server, &mut client);
    assert!(next.read().int() > 0);
}
