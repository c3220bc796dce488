//! What locks cost in memory while they are held, and that nothing is left of them when
//! they were given back.

use std::time::Duration;

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::rng::{Pick, seeded_rng};

tests! {
    a_million_random_names_leave_memory_where_it_was,
    a_held_lock_costs_at_most_three_hundred_bytes_above_its_key,
}

/// How many commands are on their way at once.
const BATCH: usize = 1_000;

/// Carries out many lines in pipelines over a connection of its own, and hands each
/// answer to `look`.
fn pipeline(server: &Server, lines: &[String], look: impl Fn(&Value)) {
    let mut client = server.client();
    for batch in lines.chunks(BATCH) {
        client.send_lines(&batch.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in batch {
            look(&client.read());
        }
    }
}

fn field(client: &mut Client, section: &str, field: &str) -> i64 {
    client.info(section)[field].parse().expect("a number")
}

/// Bytes in use once the buffers of connections that are gone are given back.
fn settled_memory(server: &Server) -> i64 {
    let mut client = server.client();
    wait_until(Duration::from_secs(10), "the other clients to be gone", || {
        field(&mut client, "clients", "connected_clients") == 1
    });
    field(&mut client, "memory", "used_memory")
}

/// Carries out a command on each of many names over a connection of its own, and hears no
/// answer but that the last was carried out: two million calls word by word would take most
/// of the test's time.
fn unheard(server: &Server, command: &str, names: &[String]) {
    let mut client = server.client();
    client.send_lines(&["CLIENT REPLY OFF"]);
    for batch in names.chunks(BATCH) {
        let calls = batch.join(&format!("\r\n{command} "));
        client.send_raw(format!("{command} {calls}\r\n").as_bytes());
    }
    assert_eq!(client.line("CLIENT REPLY ON"), "OK");
}

fn a_million_random_names_leave_memory_where_it_was(flavour: &Flavour) {
    const LOCKS: usize = 1_000_000;
    /// So many are held at once.
    const HELD: usize = 250_000;
    /// Half a byte for each name: tables that shrink, but not to nothing.
    const SLACK: i64 = 512 << 10;
    let mut rng = seeded_rng();
    let server = flavour.server().module_args(&["gpulock.tracked-keys", "0"]).start();
    let before = settled_memory(&server);
    let owners = ["me", "locked_by_asr", "3f0c8a52-6c1e-4c0e-9d53-0f5d2f4b7c11"];
    for _ in 0..LOCKS / HELD {
        let names: Vec<String> = (0..HELD)
            .map(|_| format!("{:x} {}", rng.usize(..usize::MAX), rng.pick(&owners)))
            .collect();
        unheard(&server, "GPULOCK.ACQUIRE", &names);
        unheard(&server, "GPULOCK.RELEASE", &names);
    }
    let mut client = server.client();
    let stats = call!(client, "GPULOCK.STATS");
    for (name, expected) in [("acquired", LOCKS), ("releases", LOCKS), ("locks_held", 0)]
    {
        assert_eq!(stats.field(name), expected as i64, "{name}");
    }
    assert_eq!(call!(client, "DBSIZE"), 0);
    drop(client);
    // The server takes some seconds to make its own tables smaller.
    wait_until(Duration::from_secs(20), "memory to come back", || {
        settled_memory(&server) - before < SLACK
    });
}

fn a_held_lock_costs_at_most_three_hundred_bytes_above_its_key(flavour: &Flavour) {
    const LOCKS: usize = 100_000;
    let grown = |command: &str| {
        let server = flavour.start();
        let before = settled_memory(&server);
        let lines: Vec<String> = (0..LOCKS)
            .map(|n| format!("{command} gpu_lock:{n:07} {n:036} PX 80000000"))
            .collect();
        assert_eq!(format!("gpu_lock:{:07}", 1).len(), 16);
        pipeline(&server, &lines, |answer| assert!(!answer.is_err(), "{answer:?}"));
        let mut client = server.client();
        assert_eq!(call!(client, "DBSIZE").int(), LOCKS as i64);
        drop(client);
        settled_memory(&server) - before
    };
    let plain = grown("SET");
    let held = grown("GPULOCK.ACQUIRE");
    let each = (held - plain) / LOCKS as i64;
    eprintln!("{each} bytes a lock");
    assert!(each <= 300, "{each} bytes a lock above {} of the key", plain / 100_000);
}
