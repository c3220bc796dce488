//! A thousand waiters, of which many time out, disconnect and are killed.

use std::time::{Duration, Instant};

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::locks::in_one_write;
use crate::support::queue::assert_no_waiters;
use crate::support::queue::queue_length;
use crate::support::rng::seeded_rng;

tests! {
    of_a_thousand_waiters_all_that_stay_are_granted_in_order,
}

/// How one of a thousand waiters ends its wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Waits,
    TimesOut,
    Fin,
    Rst,
    Kill,
    Unblock,
    UnblockError,
    /// It was granted the lock before it could leave.
    Served,
}

struct Waiter {
    fate: Fate,
    id: i64,
    /// None when its connection is closed.
    client: Option<Client>,
    has_left: bool,
}

fn of_a_thousand_waiters_all_that_stay_are_granted_in_order(flavour: &Flavour) {
    const WAITERS: usize = 1_000;
    const ROUNDS: i64 = 3;
    /// The memory that the server keeps for the clients: 170 bytes each.
    const SLACK: i64 = 512 << 10;
    let mut rng = seeded_rng();
    let server = flavour.start();
    let mut client = server.client();
    let mut used = || client.info("memory")["used_memory"].parse().expect("bytes");
    let before: i64 = used();
    for _ in 0..ROUNDS {
        run_thousand(&server, flavour, &mut rng, WAITERS);
    }
    // The server allocates two clients of 17 KB for each blocking call, and frees fifty of
    // them every tenth of a second.
    let what = format!("the memory to be freed, {before} bytes in use before");
    wait_until(DEADLINE, what, || used() - before < SLACK);
}

fn run_thousand(server: &Server, flavour: &Flavour, rng: &mut Rng, count: usize) {
    let mut actor = server.client();
    acquire(&mut actor, "k", "holder");
    let requests = stats(&mut actor)["acquire_requests"];
    let mut queue: Vec<_> = (0..count)
        .map(|n| join_as_one_of_many(server, &mut actor, flavour, rng, n, requests))
        .collect();
    let of_fate = |queue: &[Waiter], fates: &[Fate]| -> Vec<usize> {
        (0..count).filter(|n| fates.contains(&queue[*n].fate)).collect()
    };
    let survivors = of_fate(&queue, &[Fate::Waits]);
    let leaving = [Fate::Fin, Fate::Rst, Fate::Kill, Fate::Unblock, Fate::UnblockError];
    let mut leavers = of_fate(&queue, &leaving);
    let mut served = vec![];
    let mut holder = "holder".to_owned();
    loop {
        // In one write, some waiters leave, and the holder releases the lock.
        let mut steps = vec![format!("GPULOCK.RELEASE k {holder}")];
        for _ in 0..rng.usize(..3).min(leavers.len()) {
            let n = leavers.swap_remove(rng.usize(..leavers.len()));
            if let Some(step) = leave(&mut queue[n]) {
                steps.insert(rng.usize(..steps.len() + 1), step);
            }
        }
        let lines: Vec<_> = steps.iter().map(String::as_str).collect();
        for (line, reply) in lines.iter().zip(in_one_write(&mut actor, &lines, false)) {
            // A waiter that is to leave may have been granted the lock before.
            let is_fine = reply == 1 || line.starts_with("CLIENT") && reply == 0;
            let is_gone = reply.is_err() && line.starts_with("CLIENT KILL");
            assert!(is_fine || is_gone, "{line}: {reply:?}");
        }
        let Some(next) = next_holder(&mut actor, &mut queue) else { break };
        assert!(served.last().is_none_or(|last| *last < next), "{next} after {served:?}");
        served.push(next);
        leavers.retain(|leaver| *leaver != next);
        holder = format!("w{next}");
    }
    served.retain(|n| survivors.contains(n));
    assert_eq!(served, survivors);
    // A waiter that was not granted the lock got one reply that says so.
    for waiter in queue.iter_mut().filter(|waiter| waiter.client.is_some()) {
        let client = waiter.client.as_mut().expect("an open connection");
        match waiter.fate {
            Fate::Served | Fate::Kill => {}
            _ => {
                let reply = client.read();
                let unblocked = waiter.fate == Fate::UnblockError;
                assert!(
                    reply.is_null() || unblocked && reply.err().starts_with("UNBLOCKED "),
                    "{:?}: {reply:?}",
                    waiter.fate
                );
            }
        }
    }
    assert_eq!(queue_length(&mut actor, "k"), 0);
    assert_no_waiters(&mut actor);
    assert_eq!(stats(&mut actor)["locks_held"], 0);
}

/// A new waiter joins the queue; `requests` were sent before all of them.
fn join_as_one_of_many(
    server: &Server,
    actor: &mut Client,
    flavour: &Flavour,
    rng: &mut Rng,
    n: usize,
    requests: i64,
) -> Waiter {
    let unblocks = if flavour.can_unblock() { 100 } else { 92 };
    let fate = match rng.usize(..unblocks) {
        0..=59 => Fate::Waits,
        60..=69 => Fate::TimesOut,
        70..=77 => Fate::Fin,
        78..=84 => Fate::Rst,
        85..=91 => Fate::Kill,
        92..=95 => Fate::Unblock,
        _ => Fate::UnblockError,
    };
    let mut client = server.client();
    let id = client.id();
    let block = if fate == Fate::TimesOut { 1 + rng.usize(..1_000) } else { 0 };
    // With SESSION, a grant ends when the waiter has already disconnected.
    let owner = format!("w{n}");
    send!(
        client,
        "GPULOCK.ACQUIRE",
        "k",
        owner,
        "BLOCK",
        block,
        "PX",
        100_000,
        "SESSION"
    );
    wait_until(DEADLINE, "the next request", || {
        stats(actor)["acquire_requests"] == requests + n as i64 + 1
    });
    Waiter { fate, id, client: Some(client), has_left: false }
}

/// Makes a waiter leave, or returns the command that does.
fn leave(waiter: &mut Waiter) -> Option<String> {
    waiter.has_left = true;
    let id = waiter.id;
    match waiter.fate {
        Fate::Fin => waiter.client = None,
        Fate::Rst => {
            if let Some(client) = waiter.client.take() {
                client.reset();
            }
        }
        Fate::Kill => return Some(format!("CLIENT KILL ID {id}")),
        Fate::Unblock => return Some(format!("CLIENT UNBLOCK {id}")),
        Fate::UnblockError => return Some(format!("CLIENT UNBLOCK {id} ERROR")),
        Fate::Waits | Fate::TimesOut | Fate::Served => {}
    }
    None
}

/// The next waiter that was granted the lock; none when the queue is empty. A lock granted to a
/// closed connection is handed off by the module.
fn next_holder(actor: &mut Client, queue: &mut [Waiter]) -> Option<usize> {
    let start = Instant::now();
    loop {
        assert!(
            start.elapsed() < DEADLINE,
            "the queue makes no progress: {:?}",
            actor.line("GET k")
        );
        let owner = match actor.line("GET k") {
            Value::Null if queue_length(actor, "k") == 0 => return None,
            Value::Null => continue,
            owner => owner.text(),
        };
        let n: usize =
            owner.strip_prefix('w').expect("a waiter").parse().expect("a number");
        let waiter = &mut queue[n];
        let is_gone =
            waiter.has_left && matches!(waiter.fate, Fate::Fin | Fate::Rst | Fate::Kill);
        let Some(client) = waiter.client.as_mut().filter(|_| !is_gone) else { continue };
        if let Some(reply) = client.read_within(Duration::from_millis(100)) {
            assert!(reply.int() > 0, "{owner}, {:?}: {reply:?}", waiter.fate);
            waiter.fate = Fate::Served;
            return Some(n);
        }
    }
}
