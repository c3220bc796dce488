//! What locks cost in memory while they are held, and that nothing is left of them when
//! they were given back.

use std::time::Duration;

use gpulock_testkit::{Client, Server, Value, call, on_every_server, wait_until};

#[path = "support/dice.rs"]
mod dice;
use dice::Dice;

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

#[test]
fn two_hundred_thousand_locks_taken_and_given_back_leave_nothing_behind() {
    const LOCKS: usize = 200_000;
    const SLACK: i64 = 2 << 20;
    on_every_server(|flavour| {
        let mut dice = Dice::new();
        let server = flavour.server().module_args(&["gpulock.tracked-keys", "0"]).start();
        let mut round = || {
            let owners = ["me", "locked_by_asr", "3f0c8a52-6c1e-4c0e-9d53-0f5d2f4b7c11"];
            let lines: Vec<String> = (0..LOCKS)
                .flat_map(|_| {
                    let key = format!("{:x}", dice.below(usize::MAX));
                    let owner = dice.pick(&owners);
                    [
                        format!("GPULOCK.ACQUIRE {key} {owner}"),
                        format!("GPULOCK.RELEASE {key} {owner}"),
                    ]
                })
                .collect();
            // Half of them held at once, half given back on the spot.
            let (held, at_once) = lines.split_at(LOCKS);
            let taken: Vec<String> = held.iter().step_by(2).cloned().collect();
            let given: Vec<String> = held.iter().skip(1).step_by(2).cloned().collect();
            for lines in [&taken[..], &given, at_once] {
                pipeline(&server, lines, |answer| assert!(answer.int() > 0));
            }
            let held = call!(server.client(), "GPULOCK.STATS").field("locks_held");
            assert_eq!(held, 0);
            settled_memory(&server)
        };
        let before = round();
        let after = round();
        assert!(after - before < SLACK, "{before} bytes in use became {after}");
        assert_eq!(call!(server.client(), "DBSIZE"), 0);
    });
}

#[test]
fn a_held_lock_costs_at_most_three_hundred_bytes_above_its_key() {
    const LOCKS: usize = 100_000;
    on_every_server(|flavour| {
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
    });
}
