//! `GPULOCK.ACQUIREANY` without a wait: it grants the requested number of locks, in the order
//! of the keys, or none; and a refused call changes nothing.

use gpulock_testkit::{Client, Cluster, Flavour, Value, call, wait_until};

use crate::support::aof::commands_since;
use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::locks::{acquire_each, granted};

tests! {
    the_first_free_lock_is_preferred,
    count_locks_are_granted_in_the_order_of_the_keys,
    options_have_any_order_and_case,
    a_refused_call_grants_nothing_and_leaves_nothing,
    the_reply_is_an_array_of_pairs_in_both_protocols,
    keys_and_owners_can_be_any_bytes,
    tokens_rise_over_all_grants,
    a_lock_set_is_replicated_as_one_transaction,
    a_unique_owner_that_repeats_its_call_gets_the_same_reply,
    a_unique_owners_held_locks_count_first,
    a_plain_key_is_adopted_as_held,
    a_key_of_another_type_is_an_error_if_the_call_meets_it,
    a_key_behind_the_last_granted_one_is_not_adopted,
    a_lock_that_is_known_to_be_held_is_looked_at_last,
    a_unique_owners_lock_is_found_at_any_position,
    an_expired_lock_is_free,
    invalid_input_is_an_error_and_changes_nothing,
    a_call_can_name_1024_keys,
    the_only_free_lock_of_1024_is_found,
    command_getkeys_returns_the_keys,
    calls_in_transactions_and_scripts_do_not_wait,
    databases_have_separate_locks,
    in_a_cluster_the_keys_must_share_a_slot,
    in_a_cluster_other_nodes_redirect,
    without_memory_held_locks_are_renewed_but_none_is_granted,
}

/// The granted keys, in the order of the reply.
#[track_caller]
fn keys_of(reply: &Value) -> Vec<String> {
    granted(reply).into_iter().map(|(key, _)| key).collect()
}

/// The granted keys and tokens, sorted by key.
#[track_caller]
fn sorted(reply: &Value) -> Vec<(String, i64)> {
    let mut all = granted(reply);
    all.sort();
    all
}

/// Checks that a server has refused key, refused lock and refused waiter.
#[track_caller]
fn assert_empty(client: &mut Client, what: &str) {
    assert_eq!(client.line("DBSIZE"), 0, "{what}");
    assert_eq!(client.line("GPULOCK.LIST"), Value::Array(vec![]), "{what}");
    let stats = stats(client);
    assert_eq!((stats["locks_held"], stats["clients_waiting"]), (0, 0), "{what}");
}

fn the_first_free_lock_is_preferred(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // The order of the arguments, not that of the names.
    let any = "GPULOCK.ACQUIREANY 3 c a b";
    for (n, key) in ["c", "a", "b"].into_iter().enumerate() {
        let owner = format!("o{n}");
        let reply = client.line(&format!("{any} {owner} PX 50000"));
        assert_eq!(keys_of(&reply), [key]);
        assert_eq!(call!(client, "GET", key), &*owner);
        let left = call!(client, "PTTL", key).int();
        assert!((40_000..=50_000).contains(&left), "{left}");
        let seen = call!(client, "GPULOCK.INSPECT", key);
        assert_eq!(seen.field("token"), granted(&reply)[0].1);
        assert_eq!(seen.field("owner"), &*owner);
        assert_eq!(seen.field("adopted"), 0);
    }
    assert_eq!(client.line(&format!("{any} o3")), Value::Null);
    // A released lock can be granted again.
    assert_eq!(client.line("GPULOCK.RELEASE a o1"), 1);
    assert_eq!(keys_of(&client.line(&format!("{any} o3"))), ["a"]);
    let stats = stats(&mut client);
    assert_eq!((stats["acquire_requests"], stats["acquired"]), (5, 4));
    assert_eq!((stats["refused"], stats["acquired_after_wait"]), (1, 0));
    assert_counters(&mut client, 3, 0);
}

fn count_locks_are_granted_in_the_order_of_the_keys(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire_each(&mut client, &["k1"], "other");
    let reply = client.line("GPULOCK.ACQUIREANY 5 k4 k1 k0 k3 k2 me COUNT 3");
    assert_eq!(keys_of(&reply), ["k4", "k0", "k3"]);
    for (key, token) in granted(&reply) {
        assert_eq!(call!(client, "GET", key), "me");
        assert_eq!(call!(client, "GPULOCK.INSPECT", key).field("token"), token);
    }
    assert_eq!(client.line("EXISTS k2"), 0);
    assert_eq!(stats(&mut client)["acquired"], 4);
    // COUNT may be the number of keys.
    let reply = client.line("GPULOCK.ACQUIREANY 2 a b me COUNT 2");
    assert_eq!(keys_of(&reply), ["a", "b"]);
    assert_counters(&mut client, 6, 0);
    for key in ["k4", "k0", "k3", "a", "b"] {
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
    }
    assert_eq!(client.line("GPULOCK.RELEASE k1 other"), 1);
    assert_empty(&mut client, "after the releases");
    assert_counters(&mut client, 0, 0);
}

fn options_have_any_order_and_case(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let id = client.id();
    for options in [
        "COUNT 2 PX 5000 UNIQUE SESSION GRACE 7 BLOCK 5",
        "session block 5 count 2 unique px 5000 grace 7",
        "EX 5 COUNT 2 GRACE 7 SESSION",
    ] {
        let line = format!("GPULOCK.ACQUIREANY 2 a b me {options}");
        assert_eq!(keys_of(&client.line(&line)), ["a", "b"], "{options}");
        for key in ["a", "b"] {
            let seen = call!(client, "GPULOCK.INSPECT", key);
            assert_eq!(seen.field("session"), id, "{options}");
            assert!((1..=5_000).contains(&seen.field("lease_ms").int()), "{options}");
            assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
        }
    }
    // A key or an owner may look like an option or a number.
    let reply = client.line("GPULOCK.ACQUIREANY 2 COUNT 2 BLOCK COUNT 2");
    assert_eq!(keys_of(&reply), ["COUNT", "2"]);
    assert_eq!(client.line("GET COUNT"), "BLOCK");
}

fn a_refused_call_grants_nothing_and_leaves_nothing(flavour: &Flavour) {
    let server = flavour.start();
    for mut client in [server.client(), server.client3()] {
        acquire_each(&mut client, &["k2"], "other");
        let held = client.line("DBSIZE").int();
        let before = stats(&mut client);
        for line in [
            "GPULOCK.ACQUIREANY 1 k2 me",
            "GPULOCK.ACQUIREANY 3 k1 k2 k3 me COUNT 3",
            "GPULOCK.ACQUIREANY 3 k1 k2 k3 me COUNT 3 UNIQUE",
            "GPULOCK.ACQUIREANY 3 k1 k2 k3 me COUNT 3 SESSION",
            "GPULOCK.ACQUIREANY 2 k2 k1 me COUNT 2 BLOCK 1",
            "GPULOCK.ACQUIREANY 1 k2 me BLOCK 1",
        ] {
            // Null in both protocols.
            assert_eq!(client.line(line), Value::Null, "{line}");
            assert_eq!(client.line("DBSIZE"), held, "{line}");
            assert!(client.line("GPULOCK.INSPECT k1").is_null(), "{line}");
            assert!(client.line("GPULOCK.INSPECT k3").is_null(), "{line}");
            assert_eq!(client.line("GPULOCK.LIST").list().len(), 1, "{line}");
            assert_counters(&mut client, 1, 0);
        }
        let after = stats(&mut client);
        let more = |name: &str| after[name] - before[name];
        assert_eq!((more("refused"), more("wait_timeouts")), (4, 2));
        assert_eq!((more("acquire_requests"), more("acquired")), (6, 0));
        assert_eq!(client.line("GPULOCK.RELEASE k2 other"), 1);
        assert_empty(&mut client, "after the releases");
    }
}

/// Checks the types of the replies in both protocols.
fn the_reply_is_an_array_of_pairs_in_both_protocols(flavour: &Flavour) {
    let server = flavour.start();
    for mut client in [server.client(), server.client3()] {
        let reply = client.line("GPULOCK.ACQUIREANY 2 a b me COUNT 2");
        let Value::Array(pairs) = &reply else { panic!("{reply:?}") };
        for (pair, name) in pairs.iter().zip(["a", "b"]) {
            let Value::Array(pair) = pair else { panic!("{reply:?}") };
            let [Value::Bulk(key), Value::Int(_)] = &**pair else { panic!("{reply:?}") };
            assert_eq!(key, name.as_bytes());
        }
        assert_eq!(pairs.len(), 2);
        // One lock is an array with one pair.
        let reply = client.line("GPULOCK.ACQUIREANY 1 c me");
        assert_eq!(granted(&reply).len(), 1);
        let plain = client.line("GPULOCK.ACQUIRE a me");
        assert_eq!(client.line("GPULOCK.ACQUIREANY 1 a me"), plain);
        assert_eq!(plain, Value::Null);
        assert_eq!(client.line("FLUSHALL"), "OK");
    }
}

fn keys_and_owners_can_be_any_bytes(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let (one, two, owner) = (b"\0\xff\r\n", b"", [0xfe; 1024]);
    let reply = call!(client, "GPULOCK.ACQUIREANY", 2, one, two, owner, "COUNT", 2);
    let pairs = reply.list();
    assert_eq!(pairs[0].list()[0].bytes(), one);
    assert_eq!(pairs[1].list()[0].bytes(), two);
    assert_eq!(call!(client, "GET", two).bytes(), owner);
    assert_eq!(call!(client, "GPULOCK.RELEASE", one, owner), 1);
    assert_eq!(call!(client, "GPULOCK.RELEASE", two, owner), 1);
    assert_counters(&mut client, 0, 0);
}

fn tokens_rise_over_all_grants(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut last = 0;
    for round in 0..5 {
        let set = client.line("GPULOCK.ACQUIREANY 4 d c b a me COUNT 4");
        for (key, token) in granted(&set) {
            assert!(token > last, "{key} in round {round}: {token} after {last}");
            last = token;
            assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me", "TOKEN", token), 1);
        }
        let single = client.line("GPULOCK.ACQUIRE a me").int();
        assert!(single > last, "{single} after {last}");
        last = single;
        // A refused call does not lower the next token.
        assert!(client.line("GPULOCK.ACQUIREANY 2 a b me COUNT 2").is_null());
        assert_eq!(client.line("GPULOCK.RELEASE a me"), 1);
    }
    assert_counters(&mut client, 0, 0);
}

fn a_lock_set_is_replicated_as_one_transaction(flavour: &Flavour) {
    let server =
        flavour.server().arg("appendonly", "yes").arg("appendfsync", "always").start();
    let replica =
        flavour.server().without_module().named("replica").replica_of(&server).start();
    let (mut client, mut reader) = (server.client(), replica.client());
    acquire_each(&mut client, &["b"], "other");
    let before = server.aof().len();
    let reply = client.line("GPULOCK.ACQUIREANY 4 c b a d me COUNT 2 PX 70000");
    assert_eq!(keys_of(&reply), ["c", "a"]);
    let end = client.line("PEXPIRETIME c").int().to_string();
    assert_eq!(client.line("PEXPIRETIME a").int().to_string(), end);
    let mut written = commands_since(&server, before);
    assert_eq!(written.len(), 4, "{written:?}");
    assert_eq!((&*written[0][0], &*written[3][0]), ("MULTI", "EXEC"));
    written[1..3].sort();
    assert_eq!(written[1], ["SET", "a", "me", "PXAT", &end]);
    assert_eq!(written[2], ["SET", "c", "me", "PXAT", &end]);
    // A refused call writes nothing.
    let before = server.aof().len();
    assert!(client.line("GPULOCK.ACQUIREANY 3 a b d me COUNT 3").is_null());
    assert_eq!(commands_since(&server, before), Vec::<Vec<String>>::new());
    replica.wait_caught_up_with(&server);
    for (key, owner) in [("a", "me"), ("b", "other"), ("c", "me")] {
        assert_eq!(call!(reader, "GET", key), owner);
    }
    assert_eq!(reader.line("PEXPIRETIME a").int().to_string(), end);
    assert_eq!(reader.line("DBSIZE"), 3);
    let bad = reader.line("SET a x");
    assert!(bad.err().starts_with("READONLY "), "{bad:?}");
    assert_counters(&mut client, 3, 0);
}

fn a_unique_owner_that_repeats_its_call_gets_the_same_reply(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut other) = (server.client(), server.client());
    let any = "GPULOCK.ACQUIREANY 4 a b c d me COUNT 2 UNIQUE";
    let first = client.line(&format!("{any} PX 50000"));
    assert_eq!(keys_of(&first), ["a", "b"]);
    for again in ["PX 90000", "PX 90000 BLOCK 0"] {
        assert_eq!(other.line(&format!("{any} {again}")), first, "{again}");
        for key in ["a", "b"] {
            let left = call!(client, "PTTL", key).int();
            assert!((80_000..=90_000).contains(&left), "{again}: {left}");
        }
        assert_eq!(client.line("EXISTS c d"), 0, "{again}");
    }
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["renewed"]), (2, 4));
    // Another owner is granted the remaining two.
    let yours = client.line("GPULOCK.ACQUIREANY 4 a b c d you COUNT 2 UNIQUE");
    assert_eq!(keys_of(&yours), ["c", "d"]);
    // A held lock is preferred to a free one that comes first in the list.
    assert_eq!(client.line("GPULOCK.RELEASE a me"), 1);
    let kept = client.line("GPULOCK.ACQUIREANY 4 a b c d me UNIQUE");
    assert_eq!(granted(&kept), granted(&first)[1..]);
    assert_eq!(client.line("EXISTS a"), 0);
    assert_counters(&mut client, 3, 0);
}

fn a_unique_owners_held_locks_count_first(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let d = client.line("GPULOCK.ACQUIRE d me PX 50000 UNIQUE").int();
    let b = client.line("GPULOCK.ACQUIRE b me PX 50000 UNIQUE").int();
    let any = "GPULOCK.ACQUIREANY 4 a b c d me PX 90000 UNIQUE COUNT";
    // At most the requested number, in the order of the keys.
    let one = client.line(&format!("{any} 1"));
    assert_eq!(granted(&one), [("b".to_owned(), b)]);
    assert!(client.line("PTTL b").int() > 80_000);
    assert!(client.line("PTTL d").int() <= 50_000);
    let two = client.line(&format!("{any} 2"));
    assert_eq!(sorted(&two), [("b".to_owned(), b), ("d".to_owned(), d)]);
    let three = client.line(&format!("{any} 3"));
    let [a, rest @ ..] = &sorted(&three)[..] else { panic!("{three:?}") };
    assert_eq!(rest, sorted(&two));
    assert!(a.0 == "a" && a.1 > b, "{three:?}");
    assert_eq!(client.line("EXISTS c"), 0);
    // All or none of the rest: a refused call does not even change the leases.
    acquire_each(&mut client, &["c"], "other");
    for key in ["a", "b", "d"] {
        let shorter = call!(client, "GPULOCK.EXTEND", key, "me", "PX", 50_000);
        assert!(!shorter.is_null());
    }
    assert_eq!(client.line(&format!("{any} 4")), Value::Null);
    for (key, token) in sorted(&three) {
        let seen = call!(client, "GPULOCK.INSPECT", key);
        assert_eq!((seen.field("owner"), seen.field("token")), {
            (Value::Bulk(b"me".to_vec()), Value::Int(token))
        });
    }
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["refused"]), (4, 1));
    assert_counters(&mut client, 4, 0);
    // Without UNIQUE, the owner's own locks are held like any others.
    assert_eq!(client.line("GPULOCK.ACQUIREANY 3 a b d me"), Value::Null);
}

fn a_plain_key_is_adopted_as_held(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(client.line("SET a someone PX 100000"), "OK");
    let reply = client.line("GPULOCK.ACQUIREANY 2 a b me");
    assert_eq!(keys_of(&reply), ["b"]);
    assert_eq!(client.line("GET a"), "someone");
    assert_eq!(client.line("GPULOCK.ACQUIREANY 2 a b me COUNT 2"), Value::Null);
    assert_eq!(stats(&mut client)["adopted"], 1);
    assert_counters(&mut client, 2, 0);
}

fn a_key_of_another_type_is_an_error_if_the_call_meets_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("RPUSH list x");
    acquire_each(&mut client, &["held"], "me");
    let lease = client.line("PEXPIRETIME held");
    for line in [
        "list a b me",
        "list a b me BLOCK 0",
        "a list b me COUNT 2",
        "a b list me COUNT 3",
        "a b list me COUNT 3 BLOCK 0",
        "held b list me COUNT 2",
        "held b list me COUNT 3 BLOCK 0",
        // Any key may show the UNIQUE owner.
        "a b list me UNIQUE",
        "held b list me COUNT 2 UNIQUE",
    ] {
        let line = format!("GPULOCK.ACQUIREANY 3 {line}");
        let reply = client.line(&line);
        assert!(reply.err().starts_with("WRONGTYPE "), "{line}: {reply:?}");
        assert_eq!(client.line("DBSIZE"), 2, "{line}");
        assert_eq!(client.line("PEXPIRETIME held"), lease, "{line}");
        assert!(client.line("GPULOCK.INSPECT a").is_null(), "{line}");
        assert_counters(&mut client, 1, 0);
    }
    assert_eq!(stats(&mut client)["acquired"], 1);
    for (line, keys) in [
        ("a list b you", &["a"][..]),
        ("a b list you COUNT 2", &["a", "b"]),
        ("held b list you BLOCK 0", &["b"]),
        ("held list b me UNIQUE", &["held"]),
    ] {
        let reply = client.line(&format!("GPULOCK.ACQUIREANY 3 {line}"));
        assert_eq!(keys_of(&reply), keys, "{line}");
        for key in keys.iter().filter(|key| **key != "held") {
            assert_eq!(call!(client, "GPULOCK.RELEASE", key, "you"), 1);
        }
    }
    assert_eq!(client.line("LRANGE list 0 -1").list(), [Value::Bulk(b"x".to_vec())]);
}

fn a_key_behind_the_last_granted_one_is_not_adopted(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(client.line("SET c someone PX 100000"), "OK");
    let reply = client.line("GPULOCK.ACQUIREANY 3 a b c me COUNT 2");
    assert_eq!(keys_of(&reply), ["a", "b"]);
    assert_eq!(stats(&mut client)["adopted"], 0);
    assert_counters(&mut client, 2, 0);
    assert_eq!(client.line("GPULOCK.ACQUIREANY 3 a b c you"), Value::Null);
    assert_eq!(stats(&mut client)["adopted"], 1);
    assert_counters(&mut client, 3, 0);
}

fn a_lock_that_is_known_to_be_held_is_looked_at_last(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire_each(&mut client, &["a", "c"], "other");
    // In one go, so that the module has no time to notice the deletions by itself.
    client.send_lines(&[
        "DEL a",
        "GPULOCK.ACQUIREANY 3 a b c me",
        "DEL c",
        "GPULOCK.ACQUIREANY 3 b c a me COUNT 2 BLOCK 0",
        "GPULOCK.ACQUIREANY 3 a b c you",
    ]);
    assert_eq!(client.read(), 1);
    assert_eq!(keys_of(&client.read()), ["b"]);
    assert_eq!(client.read(), 1);
    // Too few others are free, so the deletions are noticed before the call waits.
    assert_eq!(keys_of(&client.read()), ["c", "a"]);
    assert_eq!(client.read(), Value::Null);
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["removed"]), (5, 2));
    assert_counters(&mut client, 3, 0);
}

fn a_unique_owners_lock_is_found_at_any_position(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire_each(&mut client, &["a"], "other");
    assert_eq!(client.line("SET d me PX 50000"), "OK");
    // The module has not met the key yet.
    assert_eq!(stats(&mut client)["adopted"], 0);
    let any = "GPULOCK.ACQUIREANY 5 a b c d e me PX 90000 UNIQUE";
    let first = client.line(any);
    assert_eq!(keys_of(&first), ["d"]);
    assert!(client.line("PTTL d").int() > 80_000);
    assert_eq!(client.line(any), first);
    let two = client.line(&format!("{any} COUNT 2"));
    assert_eq!(keys_of(&two), ["b", "d"]);
    assert_eq!(granted(&two)[1], granted(&first)[0]);
    // Also in place of a lock that the module knows as another owner's, if it is needed.
    client.send_lines(&["SET a me PX 50000", &format!("{any} COUNT 5")]);
    assert_eq!(client.read(), "OK");
    assert_eq!(keys_of(&client.read()), ["a", "b", "c", "d", "e"]);
    let stats = stats(&mut client);
    assert_eq!((stats["adopted"], stats["renewed"]), (2, 6));
    assert_counters(&mut client, 5, 0);
}

fn an_expired_lock_is_free(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.send_lines(&[
        "GPULOCK.ACQUIRE a other PX 1",
        "SET b other PX 1",
        "SET clock x PX 2",
    ]);
    assert!(client.read().int() > 0);
    assert_eq!((client.read().text(), client.read().text()), {
        ("OK".to_owned(), "OK".to_owned())
    });
    wait_until(DEADLINE, "the time to pass", || client.line("EXISTS clock") == 0);
    let reply = client.line("GPULOCK.ACQUIREANY 3 a b c me COUNT 2");
    assert_eq!(keys_of(&reply), ["a", "b"]);
    assert_counters(&mut client, 2, 0);
}

/// Invalid calls, which change nothing on an empty server.
fn invalid_calls() -> Vec<String> {
    let keys = |count: usize| {
        let keys: Vec<_> = (0..count).map(|n| format!("k{n}")).collect();
        keys.join(" ")
    };
    let mut calls = vec![
        format!("GPULOCK.ACQUIREANY 1025 {} me", keys(1025)),
        format!("GPULOCK.ACQUIREANY 1025 {} me COUNT 2", keys(1025)),
        format!("GPULOCK.ACQUIREANY 2 a b {}", "o".repeat(1025)),
    ];
    let numbers = ["0", "-1", "1025", "99999999999999999999", "x", "1.0", "+1", "01"];
    for number in numbers.into_iter().chain(["-9223372036854775808", "2147483648"]) {
        calls.push(format!("GPULOCK.ACQUIREANY {number} a b me"));
        calls.push(format!("GPULOCK.ACQUIREANY {number} a b me BLOCK 0"));
        calls.push(format!("GPULOCK.ACQUIREANY 2 a b me COUNT {number}"));
    }
    let tails = [
        "",
        "1",
        "1 a",
        "2 a b",
        "3 a b me",
        "4 a b me",
        "2 a a me",
        "3 a b a me",
        "3 a b a me COUNT 2 BLOCK 0",
        "2 a b me COUNT",
        "2 a b me COUNT 3",
        "1 a me COUNT 2",
        "2 a b me COUNT 1 COUNT 1",
        "2 a b me COUNT 1 COUNT 2",
        "2 a b me extra",
        "2 a b me NX",
        "2 a b me TOKEN 5",
        "2 a b me REASON x",
        "2 a b me PX",
        "2 a b me PX 0",
        "2 a b me PX 5 EX 5",
        "2 a b me UNIQUE UNIQUE",
        "2 a b me BLOCK",
        "2 a b me BLOCK -1",
        "2 a b me BLOCK 1 BLOCK 1",
        "2 a b me GRACE 5",
        "2 a b me SESSION GRACE",
        "2 a b me PX 86400001",
        "1 a b me",
    ];
    calls.extend(tails.map(|tail| format!("GPULOCK.ACQUIREANY {tail}")));
    calls
}

fn invalid_input_is_an_error_and_changes_nothing(flavour: &Flavour) {
    let server = flavour.start();
    for line in invalid_calls() {
        let mut client = server.client();
        let reply = client.line(&line);
        assert!(reply.is_err(), "{line:.80}: {reply:?}");
        assert!(reply.err().starts_with("ERR "), "{line:.80}: {reply:?}");
        // The connection still works, and receives nothing else.
        assert_eq!(client.line("PING"), "PONG", "{line:.80}");
        assert_empty(&mut client, &line);
    }
    let mut client = server.client();
    let reply = call!(client, "GPULOCK.ACQUIREANY", 2, "a", "b", "");
    assert!(reply.err().starts_with("ERR "), "{reply:?}");
    assert_empty(&mut client, "no owner");
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["internal_errors"]), (0, 0));
}

fn a_call_can_name_1024_keys(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let keys: Vec<_> = (0..1024).map(|n| format!("k{n}")).collect();
    let any = format!("GPULOCK.ACQUIREANY 1024 {} me", keys.join(" "));
    assert_eq!(keys_of(&client.line(&any)), ["k0"]);
    assert_eq!(client.line(&format!("{any} COUNT 1024")), Value::Null);
    let rest = client.line(&format!("{any} COUNT 1023"));
    assert_eq!(keys_of(&rest), keys[1..]);
    assert_eq!(client.line("DBSIZE"), 1024);
    assert_counters(&mut client, 1024, 0);
    let all = client.line(&format!("{any} COUNT 1023 UNIQUE"));
    assert_eq!(granted(&all).len(), 1023);
    assert_counters(&mut client, 1024, 0);
}

fn the_only_free_lock_of_1024_is_found(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let keys: Vec<_> = (0..1024).map(|n| format!("k{n}")).collect();
    let any = format!("GPULOCK.ACQUIREANY 1024 {}", keys.join(" "));
    let others = client.line(&format!("{any} other COUNT 1024"));
    assert_eq!(granted(&others).len(), 1024);
    for (command, key) in [("GPULOCK.RELEASE", "k1023"), ("GPULOCK.RELEASE", "k512")] {
        assert_eq!(call!(client, command, key, "other"), 1);
        assert_eq!(keys_of(&client.line(&format!("{any} me"))), [key]);
        assert_eq!(client.line(&format!("{any} me")), Value::Null);
        let mine = client.line(&format!("{any} me UNIQUE BLOCK 0"));
        assert_eq!(keys_of(&mine), [key]);
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
        assert!(!call!(client, "GPULOCK.ACQUIRE", key, "other").is_null());
    }
    client.send_lines(&["DEL k700", &format!("{any} me BLOCK 0")]);
    assert_eq!(client.read(), 1);
    assert_eq!(keys_of(&client.read()), ["k700"]);
    assert_counters(&mut client, 1024, 0);
    // The first key again in place of the last one.
    let twice = any.replace(" k1023", " k0");
    assert_eq!(client.line(&format!("{twice} me")).err(), "ERR duplicate key");
}

fn command_getkeys_returns_the_keys(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (tail, keys) in [
        ("1 a me", &["a"][..]),
        ("2 a b me", &["a", "b"]),
        ("3 a b c me COUNT 2 BLOCK 0 UNIQUE", &["a", "b", "c"]),
    ] {
        let line = format!("COMMAND GETKEYS GPULOCK.ACQUIREANY {tail}");
        let reply = client.line(&line);
        let found: Vec<_> = reply.list().iter().map(Value::text).collect();
        assert_eq!(found, keys, "{tail}");
    }
    // A user needs write permission for all keys.
    client.line("ACL SETUSER u on nopass +@all ~mine:*");
    let mut user = server.client();
    assert_eq!(user.line("AUTH u x"), "OK");
    let reply = user.line("GPULOCK.ACQUIREANY 2 mine:1 theirs me");
    assert!(reply.err().starts_with("NOPERM "), "{reply:?}");
    assert_empty(&mut client, "NOPERM");
    let reply = user.line("GPULOCK.ACQUIREANY 2 mine:1 mine:2 theirs");
    assert_eq!(keys_of(&reply), ["mine:1"]);
}

fn calls_in_transactions_and_scripts_do_not_wait(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire_each(&mut client, &["a"], "other");
    let in_transaction = |client: &mut Client, line: &str| {
        client.send_lines(&["MULTI", line, "EXEC"]);
        assert_eq!((client.read().text(), client.read().text()), {
            ("OK".to_owned(), "QUEUED".to_owned())
        });
        client.read().list()[0].clone()
    };
    let refused =
        in_transaction(&mut client, "GPULOCK.ACQUIREANY 2 a b me COUNT 2 BLOCK 0");
    assert_eq!(refused, Value::Null);
    let granted_reply =
        in_transaction(&mut client, "GPULOCK.ACQUIREANY 2 a b me COUNT 1 BLOCK 0");
    assert_eq!(keys_of(&granted_reply), ["b"]);
    assert_eq!(client.line("GPULOCK.RELEASE b me"), 1);

    let script = |count: u8, more: &str| {
        format!(
            "return redis.call('GPULOCK.ACQUIREANY',2,KEYS[1],KEYS[2],'me','COUNT',\
                 {count},'BLOCK',0{more})"
        )
    };
    let refused = call!(client, "EVAL", script(2, ""), 2, "a", "b");
    assert_eq!(refused, Value::Null);
    let granted_reply = call!(client, "EVAL", script(1, ""), 2, "a", "b");
    assert_eq!(keys_of(&granted_reply), ["b"]);
    assert_eq!(client.line("GPULOCK.RELEASE b me"), 1);
    // A script has refused session.
    let bad = call!(client, "EVAL", script(1, ",'SESSION'"), 2, "a", "b");
    assert!(bad.is_err(), "{bad:?}");
    assert_eq!(client.line("EXISTS b"), 0);
    assert_eq!(stats(&mut client)["refused"], 2);
    assert_counters(&mut client, 1, 0);
}

fn databases_have_separate_locks(flavour: &Flavour) {
    let server = flavour.start();
    let (mut zero, mut three) = (server.client(), server.client());
    assert_eq!(three.line("SELECT 3"), "OK");
    acquire_each(&mut zero, &["a"], "other");
    let reply = three.line("GPULOCK.ACQUIREANY 3 a b c me COUNT 2 UNIQUE");
    assert_eq!(keys_of(&reply), ["a", "b"]);
    assert_eq!((three.line("DBSIZE"), zero.line("DBSIZE")), {
        (Value::Int(2), Value::Int(1))
    });
    assert_eq!(zero.line("GPULOCK.ACQUIREANY 2 a b me COUNT 2"), Value::Null);
    assert_eq!(zero.line("GPULOCK.LIST").list().len(), 1);
    assert_eq!(three.line("GPULOCK.LIST").list().len(), 2);
    assert_eq!(three.line("GPULOCK.RELEASE a me"), 1);
    assert_eq!(zero.line("GET a"), "other");
    assert_counters(&mut zero, 2, 0);
}

fn in_a_cluster_the_keys_must_share_a_slot(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 1);
    let mut client = cluster.nodes()[0].client();
    for options in ["", "COUNT 2", "COUNT 2 BLOCK 0"] {
        let line = format!("GPULOCK.ACQUIREANY 2 one two me {options}");
        let reply = client.line(&line);
        assert!(reply.is_err(), "{line}: {reply:?}");
        assert!(reply.err().starts_with("CROSSSLOT "), "{line}: {reply:?}");
        assert_empty(&mut client, &line);
    }
    let keys = "{node7}:gpu:0 {node7}:gpu:1 {node7}";
    let reply = client.line(&format!("GPULOCK.ACQUIREANY 3 {keys} me COUNT 2"));
    assert_eq!(keys_of(&reply), ["{node7}:gpu:0", "{node7}:gpu:1"]);
    assert_counters(&mut client, 2, 0);
    // Also when the server must find the keys first.
    for number in ["0", "-1", "4", "1025", "99999999999999999999", "x"] {
        let line = format!("GPULOCK.ACQUIREANY {number} a b me");
        let reply = client.line(&line);
        assert!(reply.is_err(), "{line}: {reply:?}");
        assert_eq!(client.line("DBSIZE"), 2, "{line}");
    }
}

fn in_a_cluster_other_nodes_redirect(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 2);
    let owner = cluster.primary_index("{node7}");
    let mut here = cluster.nodes()[1 - owner].client();
    let mut there = cluster.nodes()[owner].client();
    let moved = format!("MOVED {} ", cluster.slot("{node7}"));
    for options in ["", "COUNT 2", "COUNT 2 BLOCK 0"] {
        let line = format!("GPULOCK.ACQUIREANY 2 {{node7}}:0 {{node7}}:1 me {options}");
        let reply = here.line(&line);
        assert!(reply.is_err(), "{line}: {reply:?}");
        assert!(reply.err().starts_with(&moved), "{line}: {reply:?}");
        assert_empty(&mut here, &line);
    }
    let reply = there.line("GPULOCK.ACQUIREANY 2 {node7}:0 {node7}:1 me COUNT 2");
    assert_eq!(granted(&reply).len(), 2);
    assert_counters(&mut there, 2, 0);
}

fn without_memory_held_locks_are_renewed_but_none_is_granted(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let any = "GPULOCK.ACQUIREANY 3 a b c me UNIQUE PX 90000 COUNT";
    let held = client.line(&format!("{any} 2"));
    acquire_each(&mut client, &["busy"], "other");
    for key in ["a", "b"] {
        call!(client, "GPULOCK.EXTEND", key, "me", "PX", 50_000);
    }
    assert_eq!(client.line("CONFIG SET maxmemory 1"), "OK");
    for line in [
        &format!("{any} 3"),
        "GPULOCK.ACQUIREANY 2 c d you",
        "GPULOCK.ACQUIREANY 2 c d you COUNT 2",
        "GPULOCK.ACQUIREANY 2 busy c you COUNT 2 BLOCK 0",
        "GPULOCK.ACQUIREANY 1 busy you BLOCK 0",
    ] {
        let reply = client.line(line);
        assert!(reply.err().starts_with("OOM "), "{line}: {reply:?}");
        assert_eq!(client.line("DBSIZE"), 3, "{line}");
        assert_eq!(stats(&mut client)["clients_waiting"], 0, "{line}");
    }
    assert_eq!(client.line(&format!("{any} 2")), held);
    for key in ["a", "b"] {
        assert!(call!(client, "PTTL", key).int() > 80_000);
    }
    assert_eq!(client.line("CONFIG SET maxmemory 0"), "OK");
    let reply = client.line("GPULOCK.ACQUIREANY 2 c d you COUNT 2");
    assert_eq!(keys_of(&reply), ["c", "d"]);
    assert_counters(&mut client, 5, 0);
}
