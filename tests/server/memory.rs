//! The memory that a held lock costs, and that released locks leave no memory in use.

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::rng::{Pick, seeded_rng};

tests! {
    a_million_random_names_leave_no_memory_in_use,
    a_held_lock_costs_at_most_300_bytes_more_than_its_key,
}

/// The number of commands in one pipeline.
const BATCH: usize = 1_000;

/// Sends many commands in pipelines over a new connection, and passes each reply to `check`.
fn pipeline(server: &Server, lines: &[String], check: impl Fn(&Value)) {
    let mut client = server.client();
    for batch in lines.chunks(BATCH) {
        client.send_lines(&batch.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in batch {
            check(&client.read());
        }
    }
}

fn field(client: &mut Client, section: &str, field: &str) -> i64 {
    client.info(section)[field].parse().expect("a number")
}

/// The memory in use once the buffers of closed connections are freed.
fn settled_memory(server: &Server) -> i64 {
    let mut client = server.client();
    wait_until(DEADLINE, "the other clients to disconnect", || {
        field(&mut client, "clients", "connected_clients") == 1
    });
    field(&mut client, "memory", "used_memory")
}

/// Runs a command for each of many names over a new connection, without replies: two million
/// calls one by one would take most of the test's time.
fn run_without_replies(server: &Server, command: &str, names: &[String]) {
    let mut client = server.client();
    client.send_lines(&["CLIENT REPLY OFF"]);
    for batch in names.chunks(BATCH) {
        let calls = batch.join(&format!("\r\n{command} "));
        client.send_raw(format!("{command} {calls}\r\n").as_bytes());
    }
    assert_eq!(client.line("CLIENT REPLY ON"), "OK");
}

fn a_million_random_names_leave_no_memory_in_use(flavour: &Flavour) {
    const LOCKS: usize = 1_000_000;
    /// The number of locks held at the same time.
    const HELD: usize = 250_000;
    /// Half a byte for each name, because tables shrink but keep a minimum size.
    const SLACK: i64 = 512 << 10;
    let mut rng = seeded_rng();
    let server = flavour.server().module_args(&["gpulock.tracked-keys", "0"]).start();
    let before = settled_memory(&server);
    let owners = ["me", "locked_by_asr", "3f0c8a52-6c1e-4c0e-9d53-0f5d2f4b7c11"];
    for _ in 0..LOCKS / HELD {
        let names: Vec<String> = (0..HELD)
            .map(|_| format!("{:x} {}", rng.usize(..usize::MAX), rng.pick(&owners)))
            .collect();
        run_without_replies(&server, "GPULOCK.ACQUIRE", &names);
        run_without_replies(&server, "GPULOCK.RELEASE", &names);
    }
    let mut client = server.client();
    let stats = call!(client, "GPULOCK.STATS");
    for (name, expected) in [("acquired", LOCKS), ("releases", LOCKS), ("locks_held", 0)]
    {
        assert_eq!(stats.field(name), expected as i64, "{name}");
    }
    assert_eq!(call!(client, "DBSIZE"), 0);
    drop(client);
    // The server shrinks its own tables within some seconds.
    wait_until(DEADLINE, "the memory to be freed", || {
        settled_memory(&server) - before < SLACK
    });
}

fn a_held_lock_costs_at_most_300_bytes_more_than_its_key(flavour: &Flavour) {
    const LOCKS: usize = 100_000;
    let growth = |command: &str| {
        let server = flavour.start();
        let before = settled_memory(&server);
        let lines: Vec<String> = (0..LOCKS)
            .map(|n| format!("{command} gpu_lock:{n:07} {n:036} PX 80000000"))
            .collect();
        assert_eq!(format!("gpu_lock:{:07}", 1).len(), 16);
        pipeline(&server, &lines, |reply| assert!(!reply.is_err(), "{reply:?}"));
        let mut client = server.client();
        assert_eq!(call!(client, "DBSIZE").int(), LOCKS as i64);
        drop(client);
        settled_memory(&server) - before
    };
    let plain = growth("SET");
    let held = growth("GPULOCK.ACQUIRE");
    let each = (held - plain) / LOCKS as i64;
    eprintln!("{each} bytes a lock");
    assert!(each <= 300, "{each} bytes a lock above {} of the key", plain / 100_000);
}
