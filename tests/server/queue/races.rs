//! Waiters that leave in the same iteration of the event loop in which they are granted the lock:
//! the lock never has two owners, and is always handed off.
//!
//! Each race runs `GPULOCK_RACES` times (default: 100).

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;
use crate::support::locks::acquire;
use crate::support::locks::in_one_write;
use crate::support::queue::{
    NO_TIMEOUT, assert_no_waiters, join_queue_with_id, queue_of,
};
use crate::support::queue::{assert_no_reply, join_queue};
use crate::support::rng::{Pick, seeded_rng};

tests! {
    a_waiter_killed_when_it_is_granted_the_lock_hands_it_off,
    many_waiters_killed_at_a_release_hand_the_lock_to_the_last,
    a_waiter_that_disconnects_when_it_is_granted_the_lock_hands_it_off,
    a_simultaneous_grant_and_timeout_give_one_reply,
    a_simultaneous_grant_and_client_unblock_give_one_reply,
    a_simultaneous_unblock_and_kill_free_the_position_once,
}

/// The number of times that each race runs.
fn races() -> usize {
    let given = std::env::var("GPULOCK_RACES").ok();
    given.map_or(100, |races| races.parse().expect("GPULOCK_RACES: a number"))
}

/// Two waiters for a held lock; the first is about to leave.
struct Pair {
    first: Client,
    first_id: i64,
    second: Client,
}

#[track_caller]
fn pair(server: &Server, actor: &mut Client) -> Pair {
    acquire(actor, "k", "holder");
    let (first, first_id) = join_queue_with_id(server, actor, "first");
    let second = join_queue(server, actor, "k", "second", NO_TIMEOUT);
    Pair { first, first_id, second }
}

/// Checks that the second waiter is granted the lock, and releases it.
#[track_caller]
fn assert_handed_to_second(actor: &mut Client, second: &mut Client, what: &str) {
    assert!(second.read().int() > 0, "{what}");
    assert_eq!(actor.line("GET k"), "second", "{what}");
    assert_eq!(queue_of(actor, "k"), [""; 0], "{what}");
    assert_eq!(actor.line("GPULOCK.RELEASE k second"), 1, "{what}");
    assert!(actor.line("GPULOCK.INSPECT k").is_null(), "{what}");
}

fn a_waiter_killed_when_it_is_granted_the_lock_hands_it_off(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for steps in [
        &["GPULOCK.RELEASE k holder", "KILL"][..],
        &["KILL", "GPULOCK.RELEASE k holder"],
        &["GPULOCK.FORCERELEASE k", "KILL"],
        &["DEL k", "KILL"],
        &["KILL", "DEL k"],
        // The newcomer finds the lock free, and the first waiter is still in the queue.
        &["DEL k", "GPULOCK.ACQUIRE k newcomer", "KILL"],
    ] {
        for transaction in [false, true] {
            let what = format!("{steps:?}, transaction: {transaction}");
            actor.line("GPULOCK.RESETSTATS");
            for _ in 0..races() {
                let mut pair = pair(&server, &mut actor);
                let kill = format!("CLIENT KILL ID {}", pair.first_id);
                let steps: Vec<_> = steps
                    .iter()
                    .map(|step| if *step == "KILL" { &*kill } else { *step })
                    .collect();
                for reply in in_one_write(&mut actor, &steps, transaction) {
                    assert!(!reply.is_err(), "{what}: {reply:?}");
                }
                // It receives no token.
                pair.first.wait_closed();
                assert_handed_to_second(&mut actor, &mut pair.second, &what);
            }
            let stats = stats(&mut actor);
            let gone = (stats["undelivered"], stats["waits_abandoned"]);
            let granted_first = steps[0].starts_with("GPULOCK") || steps.len() == 3;
            let races = races() as i64;
            let expected = if granted_first { (races, 0) } else { (0, races) };
            assert_eq!(gone, expected, "{what}");
            assert_eq!(stats["locks_held"], 0, "{what}");
        }
    }
    assert_no_waiters(&mut actor);
}

fn many_waiters_killed_at_a_release_hand_the_lock_to_the_last(flavour: &Flavour) {
    const WAITERS: usize = 8;
    let server = flavour.start();
    let mut actor = server.client();
    let mut rng = seeded_rng();
    for _ in 0..races() / 4 {
        acquire(&mut actor, "k", "holder");
        let mut waiters: Vec<_> = (0..WAITERS)
            .map(|n| join_queue_with_id(&server, &mut actor, &format!("w{n}")))
            .collect();
        // All but the last are killed, in random order, with the release among them.
        let mut steps = vec!["GPULOCK.RELEASE k holder".to_owned()];
        for (_, id) in &waiters[..WAITERS - 1] {
            let at = rng.usize(..steps.len() + 1);
            steps.insert(at, format!("CLIENT KILL ID {id}"));
        }
        let steps: Vec<_> = steps.iter().map(String::as_str).collect();
        for reply in in_one_write(&mut actor, &steps, rng.pick(&[false, true])) {
            assert_eq!(reply, 1);
        }
        assert!(waiters[WAITERS - 1].0.read().int() > 0);
        let last = format!("w{}", WAITERS - 1);
        assert_eq!(actor.line("GET k"), &*last);
        assert_eq!(call!(actor, "GPULOCK.RELEASE", "k", last), 1);
    }
    // With the last one killed, too, the lock is free.
    for steps in [["RELEASE", "KILL"], ["KILL", "RELEASE"]] {
        acquire(&mut actor, "k", "holder");
        let (_waiter, id) = join_queue_with_id(&server, &mut actor, "w");
        let kill = format!("CLIENT KILL ID {id}");
        let steps = steps
            .map(|step| if step == "KILL" { &*kill } else { "GPULOCK.RELEASE k holder" });
        in_one_write(&mut actor, &steps, false);
        wait_until(DEADLINE, "the lock to be free", || actor.line("EXISTS k") == 0);
        acquire(&mut actor, "k", "next");
        assert_eq!(actor.line("GPULOCK.RELEASE k next"), 1);
    }
    assert_no_waiters(&mut actor);
}

/// The server sleeps in one iteration of its event loop, so it reads what two clients send in
/// the meantime in the next iteration.
fn a_waiter_that_disconnects_when_it_is_granted_the_lock_hands_it_off(flavour: &Flavour) {
    let server = flavour.start();
    let (mut actor, mut sleeper) = (server.client(), server.client());
    let mut undelivered = 0;
    // With SESSION the lock is released even if the reply was already written; without it the
    // lease ends soon.
    for options in ["PX 100000 SESSION", "PX 40"] {
        for reset in [false, true] {
            for release_first in [true, false] {
                let what = format!("{options}, {reset}, {release_first}");
                actor.line("GPULOCK.RESETSTATS");
                for _ in 0..races() {
                    acquire(&mut actor, "k", "holder");
                    let options = format!("{options} BLOCK 0");
                    let first = join_queue(&server, &mut actor, "k", "first", &options);
                    let mut second =
                        join_queue(&server, &mut actor, "k", "second", NO_TIMEOUT);
                    send!(sleeper, "DEBUG", "SLEEP", 0.002);
                    if release_first {
                        send!(actor, "GPULOCK.RELEASE", "k", "holder");
                    }
                    if reset {
                        first.reset()
                    } else {
                        drop(first)
                    }
                    if !release_first {
                        send!(actor, "GPULOCK.RELEASE", "k", "holder");
                    }
                    assert_eq!(actor.read(), 1, "{what}");
                    assert_eq!(sleeper.read(), "OK");
                    assert_handed_to_second(&mut actor, &mut second, &what);
                }
                let stats = stats(&mut actor);
                let ended =
                    ["undelivered", "waits_abandoned", "session_releases", "expired"];
                let ended = ended.map(|name| stats[name]);
                assert_eq!(ended.iter().sum::<i64>(), races() as i64, "{what}");
                undelivered += stats["undelivered"];
                assert_eq!(stats["locks_held"], 0, "{what}");
            }
        }
    }
    eprintln!("{flavour}: {undelivered} grants never arrived");
    assert!(undelivered > 0, "no grant was undelivered");
    assert_no_waiters(&mut actor);
}

/// The one reply of a waiter.
#[derive(Debug, PartialEq)]
enum Reply {
    Token,
    Null,
    Unblocked,
}

#[track_caller]
fn single_reply(actor: &mut Client, waiter: &mut Client, what: &str) -> Reply {
    let reply = match waiter.read() {
        Value::Int(token) if token > 0 => Reply::Token,
        Value::Null => Reply::Null,
        Value::Error(text) if text.starts_with("UNBLOCKED ") => Reply::Unblocked,
        other => panic!("{what}: {other:?}"),
    };
    assert_eq!(waiter.line("PING"), "PONG", "{what}");
    assert_no_reply(actor, waiter);
    reply
}

/// After the race, either waiter has been granted the lock; then the second one is.
#[track_caller]
fn assert_one_granted(actor: &mut Client, pair: &mut Pair, what: &str) -> Reply {
    let reply = single_reply(actor, &mut pair.first, what);
    if reply == Reply::Token {
        assert_eq!(actor.line("GET k"), "first", "{what}");
        assert_no_reply(actor, &mut pair.second);
        assert_eq!(actor.line("GPULOCK.RELEASE k first"), 1, "{what}");
    }
    assert_handed_to_second(actor, &mut pair.second, what);
    reply
}

fn a_simultaneous_grant_and_timeout_give_one_reply(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    // What the server reads in one iteration, and the expected reply if no iteration was late.
    // The sleep is longer than the wait.
    for (steps, expected) in [
        (&["DEBUG SLEEP 0.008", "GPULOCK.RELEASE k holder"][..], Reply::Null),
        (&["GPULOCK.RELEASE k holder", "DEBUG SLEEP 0.008"], Reply::Token),
        (&["DEBUG SLEEP 0.008", "DEL k"], Reply::Null),
        (&["DEL k", "DEBUG SLEEP 0.008"], Reply::Null),
        (&["DEL k", "GPULOCK.ACQUIRE k newcomer", "DEBUG SLEEP 0.008"], Reply::Token),
        (&["GPULOCK.EXTEND k holder PX 5", "DEBUG SLEEP 0.008"], Reply::Null),
        (&["PEXPIRE k 5", "DEBUG SLEEP 0.008"], Reply::Null),
    ] {
        let mut as_expected = 0;
        for _ in 0..races() {
            let what = format!("{steps:?}");
            acquire(&mut actor, "k", "holder");
            let mut first = server.client();
            first.line("PING");
            let second = server.client();
            let mut pair = Pair { first, first_id: 0, second };
            // The request of the second waiter follows that of the first.
            let requests = stats(&mut actor)["acquire_requests"];
            let join_as_one_of_many = |client: &mut Client, owner: &str, ms: i64| {
                send!(client, "GPULOCK.ACQUIRE", "k", owner, "PX", 100_000, "BLOCK", ms);
            };
            join_as_one_of_many(&mut pair.first, "first", 5);
            wait_until(DEADLINE, "the first request", || {
                stats(&mut actor)["acquire_requests"] > requests
            });
            join_as_one_of_many(&mut pair.second, "second", 0);
            wait_until(DEADLINE, "the second request", || {
                stats(&mut actor)["acquire_requests"] > requests + 1
            });
            for reply in in_one_write(&mut actor, steps, false) {
                assert!(!reply.is_err(), "{what}: {reply:?}");
            }
            let reply = assert_one_granted(&mut actor, &mut pair, &what);
            as_expected += usize::from(reply == expected);
        }
        assert!(as_expected > 0, "{steps:?} never had the expected reply");
    }
    let stats = stats(&mut actor);
    assert_eq!((stats["locks_held"], stats["waits_abandoned"]), (0, 0));
    assert_no_waiters(&mut actor);
}

fn a_simultaneous_grant_and_client_unblock_give_one_reply(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    let release = "GPULOCK.RELEASE k holder";
    for steps in [
        &[release, "UNBLOCK"][..],
        &["UNBLOCK", release],
        &[release, "UNBLOCK ERROR"],
        &["UNBLOCK ERROR", release],
        &["DEL k", "UNBLOCK"],
        &["DEL k", "UNBLOCK ERROR"],
        &["UNBLOCK", "UNBLOCK", release],
        &["UNBLOCK ERROR", "UNBLOCK", release],
        &["UNBLOCK", "UNBLOCK ERROR", release],
        &[release, "UNBLOCK", "UNBLOCK ERROR"],
        &[release, "UNBLOCK ERROR", "UNBLOCK ERROR"],
        &["DEL k", "GPULOCK.ACQUIRE k newcomer", "UNBLOCK", "UNBLOCK ERROR"],
    ] {
        for transaction in [false, true] {
            let what = format!("{steps:?}, transaction: {transaction}");
            for _ in 0..races() / 4 {
                let mut pair = pair(&server, &mut actor);
                let id = pair.first_id.to_string();
                let steps: Vec<_> = steps
                    .iter()
                    .map(|step| match step.strip_prefix("UNBLOCK") {
                        Some(how) => format!("CLIENT UNBLOCK {id}{how}"),
                        None => (*step).to_owned(),
                    })
                    .collect();
                let steps: Vec<_> = steps.iter().map(String::as_str).collect();
                for reply in in_one_write(&mut actor, &steps, transaction) {
                    assert!(!reply.is_err(), "{what}: {reply:?}");
                }
                let reply = assert_one_granted(&mut actor, &mut pair, &what);
                if !flavour.can_unblock() {
                    assert_eq!(reply, Reply::Token, "{what}");
                } else if steps[0].contains("UNBLOCK") {
                    assert_ne!(reply, Reply::Token, "{what}");
                }
            }
        }
    }
    assert_eq!(stats(&mut actor)["locks_held"], 0);
    assert_no_waiters(&mut actor);
}

fn a_simultaneous_unblock_and_kill_free_the_position_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut actor = server.client();
    for steps in [["UNBLOCK", "KILL"], ["UNBLOCK ERROR", "KILL"]] {
        for transaction in [false, true] {
            for _ in 0..races() / 4 {
                let mut pair = pair(&server, &mut actor);
                let steps = steps.map(|step| match step.strip_prefix("UNBLOCK") {
                    Some(how) => format!("CLIENT UNBLOCK {}{how}", pair.first_id),
                    None => format!("CLIENT KILL ID {}", pair.first_id),
                });
                let steps: Vec<_> = steps.iter().map(String::as_str).collect();
                in_one_write(&mut actor, &steps, transaction);
                assert_eq!(queue_of(&mut actor, "k"), ["second"]);
                assert_eq!(actor.line("GPULOCK.RELEASE k holder"), 1);
                assert_handed_to_second(&mut actor, &mut pair.second, &steps.join(", "));
            }
        }
    }
    assert_no_waiters(&mut actor);
}
