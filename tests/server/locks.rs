//! Acquire, renew, release and forced release: the reply of each command and its effect on
//! the key. Every step is checked with GET and PEXPIRETIME, because the key is the source of
//! truth.

use gpulock_testkit::{Client, Flavour, Server, Value, call};

use crate::support::clock::unix_ms;
use crate::support::counters::stats;

tests! {
    a_held_lock_contains_its_owner_and_refuses_others,
    keys_and_owners_can_be_any_bytes,
    tokens_rise_across_keys_databases_flushes_and_restarts,
    the_lease_is_the_requested_or_the_default_one,
    no_lease_exceeds_the_maximum_hold,
    a_unique_owner_renews_its_lease_and_keeps_its_token,
    without_unique_the_same_owner_is_refused,
    release_and_extend_with_a_token_affect_only_that_hold,
    extend_replaces_the_lease,
    forcerelease_releases_any_hold_and_returns_its_owner,
    forcerelease_with_a_token_never_releases_a_later_hold,
    a_value_that_is_not_a_valid_owner_is_held_but_not_adopted,
    a_plain_set_is_adopted_by_the_first_command_that_names_it,
    an_adopted_lock_gets_a_token_at_its_first_renewal,
    for_an_adopted_lock_without_a_token_only_the_owner_is_compared,
    locks_from_before_a_restart_are_adopted,
    a_key_of_another_type_is_an_error_and_stays_unchanged,
    an_integer_value_is_a_valid_owner,
    commands_work_in_transactions_and_scripts,
}

/// A long lease in ms.
const LONG: i64 = 100_000;

/// Runs `step` and checks that it set the lease of `key` to `ms`.
#[track_caller]
fn assert_lease(client: &mut Client, key: &str, ms: i64, step: impl FnOnce(&mut Client)) {
    let before = unix_ms();
    step(client);
    let after = unix_ms();
    let end = call!(client, "PEXPIRETIME", key).int();
    assert!(
        (before + ms..=after + ms).contains(&end),
        "the lease ends at {end}, not {ms} ms after {before} to {after}"
    );
}

/// A field of the reply of INSPECT.
#[track_caller]
fn inspected(client: &mut Client, key: &str, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", key).field(field)
}

#[track_caller]
fn token(reply: &Value) -> i64 {
    let token = reply.int();
    assert!((1..1 << 53).contains(&token), "{token} is not a token");
    token
}

fn a_held_lock_contains_its_owner_and_refuses_others(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let first = token(&call!(client, "GPULOCK.ACQUIRE", "gpu:0", "a", "PX", LONG));
    assert_eq!(call!(client, "GET", "gpu:0"), "a");
    assert_eq!(call!(client, "TYPE", "gpu:0"), "string");
    assert_eq!(call!(client, "GPULOCK.ACQUIRE", "gpu:0", "b", "PX", LONG), Value::Null);
    assert_eq!(call!(client, "GET", "gpu:0"), "a");
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:0", "b"), 0);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:0", "a"), 1);
    assert_eq!(call!(client, "DBSIZE"), 0);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:0", "a"), 0);
    let second = token(&call!(client, "GPULOCK.ACQUIRE", "gpu:0", "b", "PX", LONG));
    assert!(second > first);
}

fn keys_and_owners_can_be_any_bytes(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let all: Vec<u8> = (0..=255).collect();
    let longest = vec![b'o'; 1024];
    for (key, owner) in [
        (&all[..], &all[..]),
        (b"", b"\0"),
        (b"\r\n", b"$-1\r\n"),
        (b"k", &longest),
        (b"number", b"12"),
    ] {
        token(&call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", LONG));
        assert_eq!(call!(client, "GET", key).bytes(), owner);
        let inspected = call!(client, "GPULOCK.INSPECT", key);
        assert_eq!(inspected.field("owner").bytes(), owner);
        token(&call!(client, "GPULOCK.EXTEND", key, owner, "PX", LONG));
        let forced = call!(client, "GPULOCK.FORCERELEASE", key, "OWNER", owner);
        assert_eq!(forced.bytes(), owner);
        token(&call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", LONG));
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "other"), 0);
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, owner), 1);
    }
    assert_eq!(call!(client, "DBSIZE"), 0);
}

fn tokens_rise_across_keys_databases_flushes_and_restarts(flavour: &Flavour) {
    let mut server = flavour.start();
    let mut last = unix_ms() * 1000;
    let assert_rising = |server: &Server, last: &mut i64| {
        let mut client = server.client();
        for step in 0..50 {
            assert_eq!(call!(client, "SELECT", step % 3), "OK");
            let key = format!("gpu:{}", step % 5);
            let owner = format!("owner-{step}");
            call!(client, "GPULOCK.FORCERELEASE", &key);
            let next = token(&call!(client, "GPULOCK.ACQUIRE", &key, owner));
            assert!(next > *last, "{next} after {last}");
            *last = next;
            if step % 20 == 19 {
                assert_eq!(call!(client, "FLUSHALL"), "OK");
            }
        }
    };
    assert_rising(&server, &mut last);
    server.restart();
    assert_rising(&server, &mut last);
}

fn the_lease_is_the_requested_or_the_default_one(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (key, options, ms) in [
        ("default", &[][..], 600_000),
        ("px", &["PX", "1234567"], 1_234_567),
        ("ex", &["ex", "77"], 77_000),
        ("longest", &["PX", "86400000"], 86_400_000),
    ] {
        let with = |command, owner| [&[command, key, owner][..], options].concat();
        assert_lease(&mut client, key, ms, |client| {
            token(&client.cmd(&with("GPULOCK.ACQUIRE", "me")));
        });
        // Start from a different lease.
        assert_eq!(call!(client, "PEXPIRE", key, 5_000), 1);
        assert_lease(&mut client, key, ms, |client| {
            token(&client.cmd(&with("GPULOCK.EXTEND", "me")));
        });
    }
    let set = |client: &mut Client, name: &str, ms: i64| {
        assert_eq!(call!(client, "CONFIG", "SET", name, ms), "OK");
    };
    set(&mut client, "gpulock.default-lease", 9_000);
    assert_lease(&mut client, "nine", 9_000, |client| {
        token(&call!(client, "GPULOCK.ACQUIRE", "nine", "me"));
    });
    set(&mut client, "gpulock.max-lease", 4_000);
    assert_lease(&mut client, "four", 4_000, |client| {
        token(&call!(client, "GPULOCK.ACQUIRE", "four", "me"));
    });
    // A requested lease that is too long is refused, not shortened.
    for command in ["GPULOCK.ACQUIRE", "GPULOCK.EXTEND"] {
        let before = call!(client, "PEXPIRETIME", "four");
        let reply = call!(client, command, "four", "me", "PX", 4_001);
        assert!(reply.err().starts_with("ERR "), "{reply:?}");
        assert_eq!(call!(client, "PEXPIRETIME", "four"), before);
    }
}

fn no_lease_exceeds_the_maximum_hold(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-hold", "60000"]).start();
    let mut client = server.client();
    assert_lease(&mut client, "k", 60_000, |client| {
        token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "UNIQUE", "PX", LONG));
    });
    let end = call!(client, "PEXPIRETIME", "k").int();
    token(&call!(client, "GPULOCK.EXTEND", "k", "me", "PX", 5_000));
    assert!(call!(client, "PEXPIRETIME", "k").int() < end);
    // The limit counts from the grant, not from a renewal.
    for renewal in ["GPULOCK.ACQUIRE k me UNIQUE PX 70000", "GPULOCK.EXTEND k me EX 70"] {
        token(&client.line(renewal));
        assert_eq!(call!(client, "PEXPIRETIME", "k"), end, "{renewal}");
    }
}

fn a_unique_owner_renews_its_lease_and_keeps_its_token(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // Only the call that renews needs UNIQUE.
    for acquire in ["GPULOCK.ACQUIRE k me PX 5000 UNIQUE", "GPULOCK.ACQUIRE k me PX 5000"]
    {
        let first = token(&client.line(acquire));
        assert_lease(&mut client, "k", LONG, |client| {
            let again = call!(client, "GPULOCK.ACQUIRE", "k", "me", "UNIQUE", "PX", LONG);
            assert_eq!(again, first, "after {acquire}");
        });
        assert_eq!(client.line("GPULOCK.ACQUIRE k you UNIQUE"), Value::Null);
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", first), 1);
    }
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["renewed"], stats["refused"]), (2, 2, 2));
}

fn without_unique_the_same_owner_is_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // Also a lock that was acquired with UNIQUE.
    for acquire in
        ["GPULOCK.ACQUIRE a me PX 50000", "GPULOCK.ACQUIRE b me PX 50000 UNIQUE"]
    {
        token(&client.line(acquire));
        let key = acquire.split(' ').nth(1).expect("a key");
        let end = call!(client, "PEXPIRETIME", key);
        assert_eq!(call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", LONG), Value::Null);
        assert_eq!(call!(client, "PEXPIRETIME", key), end);
    }
}

fn release_and_extend_with_a_token_affect_only_that_hold(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let old = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", LONG));
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", old), 1);
    let new = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", LONG));
    let end = call!(client, "PEXPIRETIME", "k");
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", old), 0);
    assert_eq!(
        call!(client, "GPULOCK.EXTEND", "k", "me", "TOKEN", old, "PX", 1_000),
        Value::Null
    );
    assert_eq!(
        call!(client, "GPULOCK.EXTEND", "k", "you", "TOKEN", new, "PX", 1_000),
        Value::Null
    );
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "you", "TOKEN", new), 0);
    assert_eq!(call!(client, "PEXPIRETIME", "k"), end);
    assert_lease(&mut client, "k", 9_000, |client| {
        let extended =
            call!(client, "GPULOCK.EXTEND", "k", "me", "PX", 9_000, "TOKEN", new);
        assert_eq!(extended, new);
    });
    let released =
        call!(client, "GPULOCK.RELEASE", "k", "me", "REASON", "done", "TOKEN", new);
    assert_eq!(released, 1);
}

fn extend_replaces_the_lease(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let first = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", LONG));
    for ms in [200_000, 200_000, 3_000, 50_000] {
        assert_lease(&mut client, "k", ms, |client| {
            assert_eq!(call!(client, "GPULOCK.EXTEND", "k", "me", "PX", ms), first);
        });
    }
    // Only the holder can renew a lock.
    assert_eq!(call!(client, "GPULOCK.EXTEND", "k", "you"), Value::Null);
    assert_eq!(call!(client, "GPULOCK.EXTEND", "free", "me"), Value::Null);
    assert_eq!(call!(client, "EXISTS", "free"), 0);
}

fn forcerelease_releases_any_hold_and_returns_its_owner(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k"), Value::Null);
    token(&call!(client, "GPULOCK.ACQUIRE", "k", "me"));
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k"), "me");
    assert_eq!(call!(client, "EXISTS", "k"), 0);
    assert_eq!(call!(client, "SET", "k", "outsider", "PX", LONG), "OK");
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k", "REASON", "x"), "outsider");
    assert_eq!(call!(client, "EXISTS", "k"), 0);
}

fn forcerelease_with_a_token_never_releases_a_later_hold(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let seen = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", LONG));
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me"), 1);
    // The lock is free.
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k", "OWNER", "me"), Value::Null);
    // The next holder may have the same name.
    let current = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", LONG));
    let force = |client: &mut Client, condition: &[&str]| {
        client.cmd(&[&["GPULOCK.FORCERELEASE", "k"], condition].concat())
    };
    let (seen, current) = (seen.to_string(), current.to_string());
    for condition in [
        &["TOKEN", &seen[..]][..],
        &["OWNER", "me", "TOKEN", &seen],
        &["OWNER", "you", "TOKEN", &current],
        &["OWNER", "you"],
    ] {
        assert_eq!(force(&mut client, condition), Value::Null, "{condition:?}");
        assert_eq!(call!(client, "GET", "k"), "me", "{condition:?}");
    }
    assert_eq!(force(&mut client, &["TOKEN", &current]), "me");
    let third = call!(client, "GPULOCK.ACQUIRE", "k", "me").int().to_string();
    assert_eq!(force(&mut client, &["TOKEN", &third, "OWNER", "me"]), "me");
    token(&call!(client, "GPULOCK.ACQUIRE", "k", "me"));
    assert_eq!(force(&mut client, &["OWNER", "me"]), "me");
    // A token does not match an adopted lock without one.
    assert_eq!(call!(client, "SET", "k", "me", "PX", LONG), "OK");
    assert_eq!(force(&mut client, &["TOKEN", &current]), Value::Null);
    assert_eq!(call!(client, "GET", "k"), "me");
}

fn a_value_that_is_not_a_valid_owner_is_held_but_not_adopted(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for value in [vec![], vec![b'x'; 1025], vec![b'x'; 100_000]] {
        assert_eq!(call!(client, "SET", "k", value, "PX", LONG), "OK");
        let end = call!(client, "PEXPIRETIME", "k");
        let inspected = call!(client, "GPULOCK.INSPECT", "k");
        assert_eq!(inspected.field("owner"), Value::Null);
        assert_eq!(inspected.field("token"), Value::Null);
        assert!((1..=LONG).contains(&inspected.field("lease_ms").int()));
        assert_eq!(call!(client, "GPULOCK.ACQUIRE", "k", "me"), Value::Null);
        assert_eq!(call!(client, "GPULOCK.ACQUIRE", "k", "me", "UNIQUE"), Value::Null);
        assert_eq!(call!(client, "GPULOCK.EXTEND", "k", "me"), Value::Null);
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me"), 0);
        let forced = call!(client, "GPULOCK.FORCERELEASE", "k", "OWNER", "me");
        assert_eq!(forced, Value::Null);
        assert_eq!(call!(client, "GET", "k").bytes(), value);
        assert_eq!(call!(client, "PEXPIRETIME", "k"), end);
        assert!(call!(client, "GPULOCK.LIST").list().is_empty());
    }
    let stats = stats(&mut client);
    assert_eq!((stats["adopted"], stats["locks_held"]), (0, 0));
    // The holder cannot be named: a violation, but not a stale release.
    assert_eq!((stats["ownership_violations"], stats["stale_releases"]), (3, 0));
}

fn a_plain_set_is_adopted_by_the_first_command_that_names_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut adopted = 0;
    for (step, adopts) in [
        ("GPULOCK.INSPECT k", 0),
        ("GPULOCK.RELEASE k other", 0),
        ("GPULOCK.EXTEND k other", 0),
        ("GPULOCK.ACQUIRE k other", 1),
        ("GPULOCK.ACQUIRE k outsider", 1),
        ("GPULOCK.ACQUIRE k outsider UNIQUE", 1),
        ("GPULOCK.EXTEND k outsider", 1),
        ("GPULOCK.RELEASE k outsider", 1),
        ("GPULOCK.FORCERELEASE k", 1),
    ] {
        client.line("SET k outsider NX PX 100000");
        let reply = client.line(step);
        assert!(!reply.is_err(), "{step}: {reply:?}");
        adopted += adopts;
        let stats = stats(&mut client);
        assert_eq!(stats["adopted"], adopted, "{step}");
        let held = call!(client, "EXISTS", "k").int();
        assert_eq!(stats["locks_held"], held * adopts, "{step}");
        client.line("GPULOCK.FORCERELEASE k");
        adopted += i64::from(adopts == 0);
    }
}

fn an_adopted_lock_gets_a_token_at_its_first_renewal(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for renewal in
        ["GPULOCK.EXTEND k me PX 70000", "GPULOCK.ACQUIRE k me UNIQUE PX 70000"]
    {
        assert_eq!(client.line("SET k me NX PX 100000"), "OK");
        assert_eq!(client.line("GPULOCK.ACQUIRE k other"), Value::Null);
        assert_eq!(inspected(&mut client, "k", "token"), Value::Null);
        assert_eq!(inspected(&mut client, "k", "adopted"), 1);
        let mut first = 0;
        assert_lease(&mut client, "k", 70_000, |client| {
            first = token(&client.line(renewal))
        });
        assert_eq!(inspected(&mut client, "k", "token"), first);
        assert_eq!(inspected(&mut client, "k", "adopted"), 1, "{renewal}");
        assert_eq!(client.line(renewal), first);
        // From now on the token is compared, too.
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", first + 1), 0);
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", first), 1);
    }
}

fn for_an_adopted_lock_without_a_token_only_the_owner_is_compared(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (step, expected) in [
        ("GPULOCK.RELEASE k other TOKEN 5", Value::Int(0)),
        ("GPULOCK.FORCERELEASE k OWNER other TOKEN 5", Value::Null),
        ("GPULOCK.EXTEND k other TOKEN 5", Value::Null),
        ("GPULOCK.RELEASE k me TOKEN 5", Value::Int(1)),
        ("GPULOCK.FORCERELEASE k OWNER me TOKEN 5", Value::Bulk(b"me".to_vec())),
    ] {
        // Both for a lock that was adopted before and for an unknown one.
        for adopted in [false, true] {
            client.line("SET k me PX 100000");
            if adopted {
                assert_eq!(client.line("GPULOCK.ACQUIRE k other"), Value::Null);
            }
            assert_eq!(client.line(step), expected, "{step}, met before: {adopted}");
            client.line("DEL k");
        }
    }
    client.line("SET k me PX 100000");
    token(&client.line("GPULOCK.EXTEND k me TOKEN 5"));
}

fn locks_from_before_a_restart_are_adopted(flavour: &Flavour) {
    let mut server = flavour.server().arg("appendonly", "yes").start();
    let mut client = server.client();
    let mut old = [0; 3];
    for (n, old) in old.iter_mut().enumerate() {
        let key = format!("gpu:{n}");
        *old = token(&call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", LONG));
    }
    let ends = client.line("PEXPIRETIME gpu:0");
    server.restart();
    let mut client = server.client();
    assert_eq!(client.line("PEXPIRETIME gpu:0"), ends);
    // The module does not scan the keys when it loads.
    assert_eq!(stats(&mut client)["locks_held"], 0);
    assert_eq!(client.line("GPULOCK.ACQUIRE gpu:0 other"), Value::Null);
    assert_eq!(inspected(&mut client, "gpu:0", "adopted"), 1);
    let renewed = token(&client.line("GPULOCK.ACQUIRE gpu:0 me UNIQUE"));
    let extended = token(&client.line("GPULOCK.EXTEND gpu:1 me"));
    assert!(renewed > old[2] && extended > renewed);
    // The token from before the restart is unknown: only the owner is compared.
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:2", "me", "TOKEN", old[2]), 1);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:1", "me", "TOKEN", old[1]), 0);
}

fn a_key_of_another_type_is_an_error_and_stays_unchanged(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for create in
        ["RPUSH k me", "HSET k me 1", "SADD k me", "ZADD k 1 me", "XADD k * a b"]
    {
        client.line(create);
        let before = call!(client, "DUMP", "k");
        for step in [
            "GPULOCK.ACQUIRE k me",
            "GPULOCK.ACQUIRE k me UNIQUE",
            "GPULOCK.RELEASE k me",
            "GPULOCK.EXTEND k me",
            "GPULOCK.FORCERELEASE k",
            "GPULOCK.INSPECT k",
        ] {
            let reply = client.line(step);
            assert!(reply.err().starts_with("WRONGTYPE "), "{step}: {reply:?}");
        }
        assert_eq!(call!(client, "DUMP", "k"), before);
        assert_eq!(call!(client, "PTTL", "k"), -1);
        client.line("DEL k");
    }
    assert_eq!(stats(&mut client)["locks_held"], 0);
}

fn an_integer_value_is_a_valid_owner(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // The server stores it as an integer, not as text.
    assert_eq!(client.line("INCRBY k 41"), 41);
    assert_eq!(client.line("INCR k"), 42);
    assert_eq!(inspected(&mut client, "k", "owner"), "42");
    assert_eq!(inspected(&mut client, "k", "lease_ms"), -1);
    assert_eq!(client.line("GPULOCK.ACQUIRE k other"), Value::Null);
    assert_eq!(client.line("GPULOCK.RELEASE k 41"), 0);
    assert_eq!(client.line("GPULOCK.RELEASE k 42"), 1);
    assert_eq!(client.line("EXISTS k"), 0);
}

fn commands_work_in_transactions_and_scripts(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(client.line("MULTI"), "OK");
    for step in [
        "GPULOCK.ACQUIRE k me",
        "GPULOCK.ACQUIRE k you",
        "DEL k",
        "GPULOCK.ACQUIRE k you",
        "GPULOCK.RELEASE k me",
        "GPULOCK.RELEASE k you",
    ] {
        assert_eq!(client.line(step), "QUEUED");
    }
    let replies = client.line("EXEC");
    let replies = replies.list();
    let tokens = (token(&replies[0]), token(&replies[3]));
    assert!(tokens.0 < tokens.1);
    assert_eq!(replies[1], Value::Null);
    assert_eq!(replies[4..], [Value::Int(0), Value::Int(1)]);
    let script = "local t = redis.call('GPULOCK.ACQUIRE', KEYS[1], 'me') \
            local e = redis.call('GPULOCK.EXTEND', KEYS[1], 'me', 'TOKEN', t) \
            return {t == e, redis.call('GET', KEYS[1]), \
                redis.call('GPULOCK.RELEASE', KEYS[1], 'you'), \
                redis.call('GPULOCK.RELEASE', KEYS[1], 'me')}";
    let reply = call!(client, "EVAL", script, 1, "k");
    let reply = reply.list();
    assert_eq!((&reply[0], &reply[1]), (&Value::Int(1), &Value::Bulk(b"me".to_vec())));
    assert_eq!(reply[2..], [Value::Int(0), Value::Int(1)]);
}
