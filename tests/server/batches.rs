//! The module does work that a client can make arbitrarily large in batches, and completes all
//! of it. The longest PING of another client in the meantime is printed, not checked:
//! `cargo test --test server batches:: -- --nocapture`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::counters::stats;

tests! {
    a_session_with_many_locks_ends_completely,
    many_waiters_of_many_keys_can_leave_at_once,
    a_deadlock_search_among_many_kept_positions_ends,
}

const TIMEOUT: Duration = Duration::from_secs(60);

/// The number of keys in a call, and of calls.
const KEYS: usize = 1_000;
const CALLS: usize = 30;

fn keys(of: &str) -> Vec<String> {
    (0..KEYS).map(|n| format!("{of}:{n}")).collect()
}

/// Sends a request for all of the keys.
fn request(client: &mut Client, keys: &[String], owner: &str, how: &str) {
    let (len, keys) = (keys.len(), keys.join(" "));
    let line = format!("GPULOCK.ACQUIREANY {len} {keys} {owner} COUNT {len} {how}");
    client.send_lines(&[&line]);
}

#[track_caller]
fn acquire_all(client: &mut Client, keys: &[String], owner: &str, how: &str) {
    request(client, keys, owner, how);
    assert_eq!(client.read().list().len(), keys.len());
}

/// Runs `work`, and prints the longest PING of another client in the meantime.
fn with_pings(server: &Server, what: &str, work: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let mut other = server.client();
    let longest = thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let start = Instant::now();
                call!(other, "PING");
                longest = longest.max(start.elapsed());
                thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        work();
        is_over.store(true, Ordering::Relaxed);
        pings.join().expect("the server replies")
    });
    println!("{what}: the longest PING took {longest:?}");
}

fn a_session_with_many_locks_ends_completely(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    for n in 0..CALLS {
        acquire_all(&mut holder, &keys(&n.to_string()), "me", "EX 600 SESSION");
    }
    let mut waiter = server.client();
    waiter.send(&["GPULOCK.ACQUIRE", "29:999", "next", "BLOCK", "0"]);
    wait_until(TIMEOUT, "the waiter to wait", || {
        stats(&mut client)["clients_waiting"] == 1
    });
    with_pings(&server, "a session of 30,000 locks ends", || {
        drop(holder);
        assert!(matches!(waiter.read(), Value::Int(_)));
        wait_until(TIMEOUT, "the session to end", || {
            stats(&mut client)["locks_held"] == 1
        });
    });
    let ended = i64::try_from(KEYS * CALLS).expect("a small number");
    assert_eq!(stats(&mut client)["session_releases"], ended);
    assert_eq!(call!(client, "DBSIZE"), 1);
}

fn many_waiters_of_many_keys_can_leave_at_once(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    acquire_all(&mut holder, &keys("k"), "me", "EX 600");
    for (what, block) in [("close their connections", 0), ("time out", 1_000)] {
        let mut waiters: Vec<Client> = (0..CALLS).map(|_| server.client()).collect();
        for (n, waiter) in waiters.iter_mut().enumerate() {
            request(waiter, &keys("k"), &format!("w{n}"), &format!("BLOCK {block}"));
        }
        let all = i64::try_from(CALLS).expect("a small number");
        wait_until(TIMEOUT, "all clients to wait", || {
            stats(&mut client)["clients_waiting"] == all
        });
        with_pings(&server, &format!("30 waiters of 1,000 keys {what}"), || {
            match block {
                0 => drop(waiters),
                _ => {
                    waiters.iter_mut().for_each(|waiter| assert!(waiter.read().is_null()))
                }
            }
            wait_until(TIMEOUT, "all waiters to leave", || {
                stats(&mut client)["clients_waiting"] == 0
            });
        });
    }
    for key in keys("k") {
        assert_eq!(call!(holder, "GPULOCK.RELEASE", &key, "me"), 1);
        assert!(matches!(call!(client, "GPULOCK.ACQUIRE", &key, "new"), Value::Int(_)));
    }
}

fn a_deadlock_search_among_many_kept_positions_ends(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire_all(&mut client, &keys("held"), "x", "UNIQUE EX 600");
    for n in 0..CALLS {
        let lock_set = keys(&format!("w{n}"));
        acquire_all(&mut client, &lock_set, "y", "EX 600");
        request(&mut client, &lock_set, "x", "UNIQUE BLOCK 1");
        assert!(client.read().is_null());
    }
    with_pings(&server, "a search among 30,000 kept positions", || {
        request(&mut client, &keys("held"), "z", "UNIQUE BLOCK 1");
        assert!(client.read().is_null());
    });
    // One call of x gives up all of these positions.
    let one_of_each: Vec<String> = (0..CALLS).map(|n| format!("w{n}:0")).collect();
    with_pings(&server, "30 kept positions of 1,000 keys are taken over", || {
        request(&mut client, &one_of_each, "x", "UNIQUE BLOCK 1");
        assert!(client.read().is_null());
    });
}
