//! Work that a client can make as large as it likes is cut into portions, and all of it is done in
//! the end. How long another client waits for a PING meanwhile is printed, not judged:
//! `cargo test -p gpulock --test work_comes_in_portions -- --nocapture`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::counters::stats;

tests! {
    a_session_of_many_locks_ends_wholly,
    waiters_of_many_keys_that_leave_at_once_are_all_gone_at_once,
    a_search_for_a_circle_among_many_kept_places_ends,
}

const LATER: Duration = Duration::from_secs(60);

/// Keys of one call, and how many calls.
const KEYS: usize = 1_000;
const CALLS: usize = 30;

fn keys(of: &str) -> Vec<String> {
    (0..KEYS).map(|n| format!("{of}:{n}")).collect()
}

/// A call for all of some keys.
fn ask(client: &mut Client, keys: &[String], owner: &str, how: &str) {
    let (len, keys) = (keys.len(), keys.join(" "));
    let line = format!("GPULOCK.ACQUIREANY {len} {keys} {owner} COUNT {len} {how}");
    client.send_lines(&[&line]);
}

#[track_caller]
fn take(client: &mut Client, keys: &[String], owner: &str, how: &str) {
    ask(client, keys, owner, how);
    assert_eq!(client.read().list().len(), keys.len());
}

/// Prints the longest PING of another client while something is done.
fn watched(server: &Server, what: &str, work: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let mut other = server.client();
    let longest = thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                call!(other, "PING");
                longest = longest.max(began.elapsed());
                thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        work();
        is_over.store(true, Ordering::Relaxed);
        pings.join().expect("the server answers")
    });
    println!("{what}: the longest PING took {longest:?}");
}

fn a_session_of_many_locks_ends_wholly(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    for n in 0..CALLS {
        take(&mut holder, &keys(&n.to_string()), "me", "EX 600 SESSION");
    }
    let mut waiter = server.client();
    waiter.send(&["GPULOCK.ACQUIRE", "29:999", "next", "BLOCK", "0"]);
    wait_until(LATER, "the waiter to wait", || {
        stats(&mut client)["clients_waiting"] == 1
    });
    watched(&server, "a session of 30,000 locks ends", || {
        drop(holder);
        assert!(matches!(waiter.read(), Value::Int(_)));
        wait_until(LATER, "the session to end", || stats(&mut client)["locks_held"] == 1);
    });
    let ended = i64::try_from(KEYS * CALLS).expect("a small number");
    assert_eq!(stats(&mut client)["session_releases"], ended);
    assert_eq!(call!(client, "DBSIZE"), 1);
}

fn waiters_of_many_keys_that_leave_at_once_are_all_gone_at_once(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut holder) = (server.client(), server.client());
    take(&mut holder, &keys("k"), "me", "EX 600");
    for (what, block) in [("close their connections", 0), ("time out", 1_000)] {
        let mut waiters: Vec<Client> = (0..CALLS).map(|_| server.client()).collect();
        for (n, waiter) in waiters.iter_mut().enumerate() {
            ask(waiter, &keys("k"), &format!("w{n}"), &format!("BLOCK {block}"));
        }
        let all = i64::try_from(CALLS).expect("a small number");
        wait_until(LATER, "all to wait", || stats(&mut client)["clients_waiting"] == all);
        watched(&server, &format!("30 waiters of 1,000 keys {what}"), || {
            match block {
                0 => drop(waiters),
                _ => waiters.iter_mut().for_each(|it| assert!(it.read().is_null())),
            }
            wait_until(LATER, "all to be gone", || {
                stats(&mut client)["clients_waiting"] == 0
            });
        });
    }
    for key in keys("k") {
        assert_eq!(call!(holder, "GPULOCK.RELEASE", &key, "me"), 1);
        assert!(matches!(call!(client, "GPULOCK.ACQUIRE", &key, "new"), Value::Int(_)));
    }
}

fn a_search_for_a_circle_among_many_kept_places_ends(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    take(&mut client, &keys("held"), "x", "UNIQUE EX 600");
    for n in 0..CALLS {
        let set = keys(&format!("w{n}"));
        take(&mut client, &set, "y", "EX 600");
        ask(&mut client, &set, "x", "UNIQUE BLOCK 1");
        assert!(client.read().is_null());
    }
    watched(&server, "a search among 30,000 kept places", || {
        ask(&mut client, &keys("held"), "z", "UNIQUE BLOCK 1");
        assert!(client.read().is_null());
    });
    // One call of x gives up all of these places.
    let one_of_each: Vec<String> = (0..CALLS).map(|n| format!("w{n}:0")).collect();
    watched(&server, "30 kept places of 1,000 keys are taken over", || {
        ask(&mut client, &one_of_each, "x", "UNIQUE BLOCK 1");
        assert!(client.read().is_null());
    });
}
