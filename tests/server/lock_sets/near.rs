//! NEAR: a call prefers the free locks whose last hold had its tag.

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::queue::{wait_queue, waiter};

tests! {
    locks_with_the_tag_come_first_then_those_without_then_those_left_longest_ago,
    the_tag_of_a_hold_is_that_of_its_grant_or_of_a_renewal_that_names_one,
    a_waiting_call_gets_a_lock_by_turn_and_leaves_its_tag,
    the_newest_tags_are_remembered_outside_the_keyspace,
    keys_of_other_databases_and_of_any_length_have_their_own_tags,
}

/// The keys that a call gets, in the order of the reply.
#[track_caller]
fn got(client: &mut Client, line: &str) -> Vec<String> {
    match client.line(line) {
        Value::Null => Vec::new(),
        reply => reply.list().iter().map(|pair| pair.list()[0].text()).collect(),
    }
}

/// A hold of one lock with this tag, or without one, that ends.
#[track_caller]
fn used(client: &mut Client, key: &str, tag: &str) {
    let near = if tag.is_empty() { String::new() } else { format!("NEAR {tag}") };
    let line = format!("GPULOCK.ACQUIREANY 1 {key} earlier {near}");
    assert_eq!(got(client, &line), [key], "{line}");
    assert_eq!(call!(client, "GPULOCK.RELEASE", key, "earlier"), 1);
}

/// Which of the locks 0 to 4 calls get, one after the other, all of them free.
#[track_caller]
fn preferred(client: &mut Client, options: &str) -> String {
    let mut keys = String::new();
    for _ in 0..5 {
        let line = format!("GPULOCK.ACQUIREANY 5 0 1 2 3 4 me {options}");
        keys.push_str(&got(client, &line)[0]);
    }
    keys
}

fn locks_with_the_tag_come_first_then_those_without_then_those_left_longest_ago(
    flavour: &Flavour,
) {
    for (options, one_by_one, two, three) in [
        ("NEAR llama", "24130", &["2", "4"][..], &["1", "2", "4"][..]),
        ("NEAR clip", "31420", &["1", "3"], &["1", "3", "4"]),
        ("NEAR new", "13420", &["1", "3"], &["1", "3", "4"]),
        ("", "01234", &["0", "1"], &["0", "1", "2"]),
    ] {
        let server = flavour.start();
        let mut client = server.client();
        // Each call finds the same tags: what the one before it holds ends first.
        let prepare = |client: &mut Client| {
            for key in 0..5 {
                call!(client, "GPULOCK.FORCERELEASE", key);
            }
            for (key, tag) in [
                ("3", "clip"),
                ("4", "llama"),
                ("2", "llama"),
                ("0", "whisper"),
                ("1", ""),
            ] {
                used(client, key, tag);
            }
        };
        prepare(&mut client);
        assert_eq!(preferred(&mut client, options), one_by_one, "{options}");
        for (count, expected) in [(2, two), (3, three)] {
            for unique in ["", "UNIQUE"] {
                prepare(&mut client);
                let line = format!(
                    "GPULOCK.ACQUIREANY 5 0 1 2 3 4 me COUNT {count} {options} {unique}"
                );
                assert_eq!(got(&mut client, &line), expected, "{line}");
            }
        }
        // What a UNIQUE owner holds counts first.
        prepare(&mut client);
        assert!(client.line("GPULOCK.ACQUIRE 0 me UNIQUE").int() > 0);
        let line = format!("GPULOCK.ACQUIREANY 5 0 1 2 3 4 me UNIQUE {options}");
        assert_eq!(got(&mut client, &line), ["0"], "{line}");
    }
}

fn the_tag_of_a_hold_is_that_of_its_grant_or_of_a_renewal_that_names_one(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut client = server.client();
    for (calls, expected) in [
        (&["GPULOCK.ACQUIREANY 1 b me UNIQUE NEAR llama"][..], "b"),
        (
            &[
                "GPULOCK.ACQUIREANY 1 b me UNIQUE NEAR clip",
                "GPULOCK.ACQUIREANY 1 b me UNIQUE NEAR llama",
                "GPULOCK.ACQUIREANY 1 b me UNIQUE",
                "GPULOCK.ACQUIRE b me UNIQUE",
            ],
            "b",
        ),
        (
            &[
                "GPULOCK.ACQUIREANY 1 b me UNIQUE NEAR llama",
                "GPULOCK.ACQUIREANY 1 b me UNIQUE NEAR clip",
            ],
            "a",
        ),
        // The last hold had no tag.
        (&["GPULOCK.ACQUIRE b me"], "a"),
    ] {
        used(&mut client, "b", "llama");
        for call in calls {
            assert!(!client.line(call).is_null(), "{call}");
        }
        assert_eq!(client.line("GPULOCK.RELEASE b me"), 1);
        let next = got(&mut client, "GPULOCK.ACQUIREANY 2 a b next NEAR llama");
        assert_eq!(next, [expected], "{calls:?}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", expected, "next"), 1);
        used(&mut client, "a", "");
    }
}

fn a_waiting_call_gets_a_lock_by_turn_and_leaves_its_tag(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    used(&mut client, "b", "llama");
    for key in ["a", "b"] {
        client.line(&format!("GPULOCK.ACQUIRE {key} holder"));
    }
    let mut first = waiter(&server, "GPULOCK.ACQUIREANY 2 b a first BLOCK 0");
    wait_queue(&mut client, "a", &["first"]);
    let mut near = waiter(&server, "GPULOCK.ACQUIREANY 2 b a near BLOCK 0 NEAR llama");
    wait_queue(&mut client, "a", &["first", "near"]);
    assert_eq!(client.line("GPULOCK.RELEASE b holder"), 1);
    assert_eq!(first.read().list()[0].list()[0].text(), "b");
    assert_eq!(client.line("GPULOCK.RELEASE a holder"), 1);
    assert_eq!(near.read().list()[0].list()[0].text(), "a");
    assert_eq!(client.line("GPULOCK.RELEASE a near"), 1);
    assert_eq!(client.line("GPULOCK.RELEASE b first"), 1);
    assert_eq!(got(&mut client, "GPULOCK.ACQUIREANY 2 b a next NEAR llama"), ["a"]);
    assert_counters(&mut client, 1, 0);
}

fn the_newest_tags_are_remembered_outside_the_keyspace(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let is_near = |client: &mut Client, key: &str| {
        let line = format!("GPULOCK.ACQUIREANY 2 far {key} me NEAR llama");
        let keys = got(client, &line);
        call!(client, "GPULOCK.RELEASE", &keys[0], "me");
        let is_near = keys == [key];
        // Otherwise it leaves its tag at the other lock.
        if !is_near {
            used(client, "far", "");
        }
        is_near
    };
    for key in ["1", "2", "3"] {
        used(&mut client, key, "llama");
    }
    assert_eq!(client.line("DBSIZE"), 0);
    assert_eq!(client.line("FLUSHALL"), "OK");
    assert_eq!(client.line("GPULOCK.RESETSTATS"), "OK");
    assert!(is_near(&mut client, "1"), "it does not depend on keys and counters");
    // 2 was left longest ago.
    assert_eq!(client.line("CONFIG SET gpulock.remembered-tags 2"), "OK");
    assert!(is_near(&mut client, "3"));
    assert!(is_near(&mut client, "1"));
    assert!(!is_near(&mut client, "2"));
    used(&mut client, "1", "llama");
    assert_eq!(client.line("CONFIG SET gpulock.remembered-tags 0"), "OK");
    assert!(!is_near(&mut client, "1"));
    assert_eq!(client.line("CONFIG SET gpulock.remembered-tags 10000"), "OK");
    assert!(!is_near(&mut client, "1"), "what was forgotten does not come back");
}

fn keys_of_other_databases_and_of_any_length_have_their_own_tags(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let long = "k".repeat(100_000);
    for key in ["k", &long] {
        used(&mut client, key, "llama");
        let line = format!("GPULOCK.ACQUIREANY 2 far {key} me NEAR llama");
        assert_eq!(client.line("SELECT 1"), "OK");
        assert_eq!(got(&mut client, &line), ["far"]);
        assert_eq!(client.line("GPULOCK.RELEASE far me"), 1);
        used(&mut client, "far", "");
        assert_eq!(client.line("SELECT 0"), "OK");
        assert_eq!(got(&mut client, &line), [key]);
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
    }
    // A lease that ends leaves the tag as well.
    let line = "GPULOCK.ACQUIREANY 1 short me PX 1 NEAR clip";
    assert_eq!(got(&mut client, line), ["short"]);
    wait_until(DEADLINE, "the end of the lease", || {
        client.line("GPULOCK.INSPECT short").is_null()
    });
    let line = "GPULOCK.ACQUIREANY 3 far k short me NEAR clip";
    assert_eq!(got(&mut client, line), ["short"]);
}
