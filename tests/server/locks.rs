//! Taking, renewing, giving back and taking away: what each command answers, and what it
//! leaves under the key. The key is the only truth, so every step is checked against GET
//! and PEXPIRETIME.

use std::time::UNIX_EPOCH;

use gpulock_testkit::{Client, Flavour, Server, Value, call};

use crate::support::counters::stats;

tests! {
    the_key_holds_the_owner_and_a_second_owner_is_refused_until_it_is_given_back,
    keys_and_owners_may_be_any_bytes,
    tokens_rise_over_keys_databases_flushes_and_restarts,
    the_lease_is_the_one_given_else_the_default_cut_to_the_longest,
    no_lease_reaches_beyond_the_longest_hold,
    a_unique_owner_is_answered_the_same_token_and_its_lease_is_renewed,
    without_unique_the_same_owner_is_refused_and_its_lease_left_alone,
    release_and_extend_with_a_token_touch_that_very_hold_only,
    extend_sets_the_lease_and_does_not_add_to_it,
    force_release_takes_from_anyone_and_says_from_whom,
    a_watchdog_that_looked_a_moment_ago_never_takes_a_successors_lock,
    a_value_that_can_be_no_owner_is_held_by_nobody_known_and_never_adopted,
    a_plain_set_is_a_holder_that_the_first_command_to_meet_it_adopts,
    an_adopted_lock_gets_its_token_when_its_owner_first_renews_it,
    of_an_adopted_lock_without_a_token_only_the_owner_is_compared,
    locks_from_before_a_restart_are_held_and_met_again_as_adopted,
    a_key_of_another_type_is_no_lock_and_is_left_as_it_was,
    a_counter_kept_as_a_number_by_the_server_is_an_owner_too,
    it_works_the_same_in_transactions_and_scripts,
}

const FAR: i64 = 100_000;

fn unix_ms() -> i64 {
    let since = UNIX_EPOCH.elapsed().expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a date in this age")
}

/// Carries out `step` and checks that the lease of `key` is then `ms`, counted from the
/// step itself.
#[track_caller]
fn leased(client: &mut Client, key: &str, ms: i64, step: impl FnOnce(&mut Client)) {
    let before = unix_ms();
    step(client);
    let after = unix_ms();
    let end = call!(client, "PEXPIRETIME", key).int();
    assert!(
        (before + ms..=after + ms).contains(&end),
        "the lease ends at {end}, not {ms} ms after {before} to {after}"
    );
}

/// What INSPECT says of a lock.
#[track_caller]
fn inspected(client: &mut Client, key: &str, field: &str) -> Value {
    call!(client, "GPULOCK.INSPECT", key).field(field)
}

#[track_caller]
fn token(answer: &Value) -> i64 {
    let token = answer.int();
    assert!((1..1 << 53).contains(&token), "{token} is no fencing token");
    token
}

fn the_key_holds_the_owner_and_a_second_owner_is_refused_until_it_is_given_back(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut client = server.client();
    let first = token(&call!(client, "GPULOCK.ACQUIRE", "gpu:0", "a", "PX", FAR));
    assert_eq!(call!(client, "GET", "gpu:0"), "a");
    assert_eq!(call!(client, "TYPE", "gpu:0"), "string");
    assert_eq!(call!(client, "GPULOCK.ACQUIRE", "gpu:0", "b", "PX", FAR), Value::Null);
    assert_eq!(call!(client, "GET", "gpu:0"), "a");
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:0", "b"), 0);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:0", "a"), 1);
    assert_eq!(call!(client, "DBSIZE"), 0);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:0", "a"), 0);
    let second = token(&call!(client, "GPULOCK.ACQUIRE", "gpu:0", "b", "PX", FAR));
    assert!(second > first);
}

fn keys_and_owners_may_be_any_bytes(flavour: &Flavour) {
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
        token(&call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", FAR));
        assert_eq!(call!(client, "GET", key).bytes(), owner);
        let inspected = call!(client, "GPULOCK.INSPECT", key);
        assert_eq!(inspected.field("owner").bytes(), owner);
        token(&call!(client, "GPULOCK.EXTEND", key, owner, "PX", FAR));
        let forced = call!(client, "GPULOCK.FORCERELEASE", key, "OWNER", owner);
        assert_eq!(forced.bytes(), owner);
        token(&call!(client, "GPULOCK.ACQUIRE", key, owner, "PX", FAR));
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "other"), 0);
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, owner), 1);
    }
    assert_eq!(call!(client, "DBSIZE"), 0);
}

fn tokens_rise_over_keys_databases_flushes_and_restarts(flavour: &Flavour) {
    let mut server = flavour.start();
    let mut last = unix_ms() * 1000;
    let rises = |server: &Server, last: &mut i64| {
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
    rises(&server, &mut last);
    server.restart();
    rises(&server, &mut last);
}

fn the_lease_is_the_one_given_else_the_default_cut_to_the_longest(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (key, options, ms) in [
        ("default", &[][..], 600_000),
        ("px", &["PX", "1234567"], 1_234_567),
        ("ex", &["ex", "77"], 77_000),
        ("longest", &["PX", "86400000"], 86_400_000),
    ] {
        let with = |command, owner| [&[command, key, owner][..], options].concat();
        leased(&mut client, key, ms, |client| {
            token(&client.cmd(&with("GPULOCK.ACQUIRE", "me")));
        });
        // From a lease that is known to differ.
        assert_eq!(call!(client, "PEXPIRE", key, 5_000), 1);
        leased(&mut client, key, ms, |client| {
            token(&client.cmd(&with("GPULOCK.EXTEND", "me")));
        });
    }
    let set = |client: &mut Client, name: &str, ms: i64| {
        assert_eq!(call!(client, "CONFIG", "SET", name, ms), "OK");
    };
    set(&mut client, "gpulock.default-lease", 9_000);
    leased(&mut client, "nine", 9_000, |client| {
        token(&call!(client, "GPULOCK.ACQUIRE", "nine", "me"));
    });
    set(&mut client, "gpulock.max-lease", 4_000);
    leased(&mut client, "four", 4_000, |client| {
        token(&call!(client, "GPULOCK.ACQUIRE", "four", "me"));
    });
    // What was asked for is refused, not cut in silence.
    for command in ["GPULOCK.ACQUIRE", "GPULOCK.EXTEND"] {
        let before = call!(client, "PEXPIRETIME", "four");
        let answer = call!(client, command, "four", "me", "PX", 4_001);
        assert!(answer.err().starts_with("ERR "), "{answer:?}");
        assert_eq!(call!(client, "PEXPIRETIME", "four"), before);
    }
}

fn no_lease_reaches_beyond_the_longest_hold(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.max-hold", "60000"]).start();
    let mut client = server.client();
    leased(&mut client, "k", 60_000, |client| {
        token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "UNIQUE", "PX", FAR));
    });
    let end = call!(client, "PEXPIRETIME", "k").int();
    token(&call!(client, "GPULOCK.EXTEND", "k", "me", "PX", 5_000));
    assert!(call!(client, "PEXPIRETIME", "k").int() < end);
    // The hold began with the grant, whatever the renewals.
    for renewal in ["GPULOCK.ACQUIRE k me UNIQUE PX 70000", "GPULOCK.EXTEND k me EX 70"] {
        token(&client.line(renewal));
        assert_eq!(call!(client, "PEXPIRETIME", "k"), end, "{renewal}");
    }
}

fn a_unique_owner_is_answered_the_same_token_and_its_lease_is_renewed(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // How it was taken does not matter, only how it asks now.
    for taken in ["GPULOCK.ACQUIRE k me PX 5000 UNIQUE", "GPULOCK.ACQUIRE k me PX 5000"] {
        let first = token(&client.line(taken));
        leased(&mut client, "k", FAR, |client| {
            let again = call!(client, "GPULOCK.ACQUIRE", "k", "me", "UNIQUE", "PX", FAR);
            assert_eq!(again, first, "after {taken}");
        });
        assert_eq!(client.line("GPULOCK.ACQUIRE k you UNIQUE"), Value::Null);
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", first), 1);
    }
    let stats = stats(&mut client);
    assert_eq!((stats["acquired"], stats["renewed"], stats["refused"]), (2, 2, 2));
}

fn without_unique_the_same_owner_is_refused_and_its_lease_left_alone(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // Also one that took it as UNIQUE.
    for taken in ["GPULOCK.ACQUIRE a me PX 50000", "GPULOCK.ACQUIRE b me PX 50000 UNIQUE"]
    {
        token(&client.line(taken));
        let key = taken.split(' ').nth(1).expect("a key");
        let end = call!(client, "PEXPIRETIME", key);
        assert_eq!(call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", FAR), Value::Null);
        assert_eq!(call!(client, "PEXPIRETIME", key), end);
    }
}

fn release_and_extend_with_a_token_touch_that_very_hold_only(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let old = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", FAR));
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", old), 1);
    let new = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", FAR));
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
    leased(&mut client, "k", 9_000, |client| {
        let extended =
            call!(client, "GPULOCK.EXTEND", "k", "me", "PX", 9_000, "TOKEN", new);
        assert_eq!(extended, new);
    });
    let released =
        call!(client, "GPULOCK.RELEASE", "k", "me", "REASON", "done", "TOKEN", new);
    assert_eq!(released, 1);
}

fn extend_sets_the_lease_and_does_not_add_to_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let first = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", FAR));
    for ms in [200_000, 200_000, 3_000, 50_000] {
        leased(&mut client, "k", ms, |client| {
            assert_eq!(call!(client, "GPULOCK.EXTEND", "k", "me", "PX", ms), first);
        });
    }
    // Nobody renews what he does not hold, least of all what is free.
    assert_eq!(call!(client, "GPULOCK.EXTEND", "k", "you"), Value::Null);
    assert_eq!(call!(client, "GPULOCK.EXTEND", "free", "me"), Value::Null);
    assert_eq!(call!(client, "EXISTS", "free"), 0);
}

fn force_release_takes_from_anyone_and_says_from_whom(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k"), Value::Null);
    token(&call!(client, "GPULOCK.ACQUIRE", "k", "me"));
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k"), "me");
    assert_eq!(call!(client, "EXISTS", "k"), 0);
    assert_eq!(call!(client, "SET", "k", "somebody", "PX", FAR), "OK");
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k", "REASON", "x"), "somebody");
    assert_eq!(call!(client, "EXISTS", "k"), 0);
}

fn a_watchdog_that_looked_a_moment_ago_never_takes_a_successors_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let seen = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", FAR));
    assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me"), 1);
    // Free: the guard names nobody.
    assert_eq!(call!(client, "GPULOCK.FORCERELEASE", "k", "OWNER", "me"), Value::Null);
    // The successor may even go by the same name.
    let now = token(&call!(client, "GPULOCK.ACQUIRE", "k", "me", "PX", FAR));
    let force = |client: &mut Client, guard: &[&str]| {
        client.cmd(&[&["GPULOCK.FORCERELEASE", "k"], guard].concat())
    };
    let (seen, now) = (seen.to_string(), now.to_string());
    for guard in [
        &["TOKEN", &seen[..]][..],
        &["OWNER", "me", "TOKEN", &seen],
        &["OWNER", "you", "TOKEN", &now],
        &["OWNER", "you"],
    ] {
        assert_eq!(force(&mut client, guard), Value::Null, "{guard:?}");
        assert_eq!(call!(client, "GET", "k"), "me", "{guard:?}");
    }
    assert_eq!(force(&mut client, &["TOKEN", &now]), "me");
    let third = call!(client, "GPULOCK.ACQUIRE", "k", "me").int().to_string();
    assert_eq!(force(&mut client, &["TOKEN", &third, "OWNER", "me"]), "me");
    token(&call!(client, "GPULOCK.ACQUIRE", "k", "me"));
    assert_eq!(force(&mut client, &["OWNER", "me"]), "me");
    // An adopted lock without a token is not the hold that a token names.
    assert_eq!(call!(client, "SET", "k", "me", "PX", FAR), "OK");
    assert_eq!(force(&mut client, &["TOKEN", &now]), Value::Null);
    assert_eq!(call!(client, "GET", "k"), "me");
}

fn a_value_that_can_be_no_owner_is_held_by_nobody_known_and_never_adopted(
    flavour: &Flavour,
) {
    let server = flavour.start();
    let mut client = server.client();
    for value in [vec![], vec![b'x'; 1025], vec![b'x'; 100_000]] {
        assert_eq!(call!(client, "SET", "k", value, "PX", FAR), "OK");
        let end = call!(client, "PEXPIRETIME", "k");
        let inspected = call!(client, "GPULOCK.INSPECT", "k");
        assert_eq!(inspected.field("owner"), Value::Null);
        assert_eq!(inspected.field("token"), Value::Null);
        assert!((1..=FAR).contains(&inspected.field("lease_ms").int()));
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
    // Held by somebody who cannot be named: a violation, but not a stale one.
    assert_eq!((stats["ownership_violations"], stats["stale_releases"]), (3, 0));
}

fn a_plain_set_is_a_holder_that_the_first_command_to_meet_it_adopts(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut adopted = 0;
    for (step, adopts) in [
        ("GPULOCK.INSPECT k", 0),
        ("GPULOCK.RELEASE k other", 0),
        ("GPULOCK.EXTEND k other", 0),
        ("GPULOCK.ACQUIRE k other", 1),
        ("GPULOCK.ACQUIRE k somebody", 1),
        ("GPULOCK.ACQUIRE k somebody UNIQUE", 1),
        ("GPULOCK.EXTEND k somebody", 1),
        ("GPULOCK.RELEASE k somebody", 1),
        ("GPULOCK.FORCERELEASE k", 1),
    ] {
        client.line("SET k somebody NX PX 100000");
        let answer = client.line(step);
        assert!(!answer.is_err(), "{step}: {answer:?}");
        adopted += adopts;
        let stats = stats(&mut client);
        assert_eq!(stats["adopted"], adopted, "{step}");
        let held = call!(client, "EXISTS", "k").int();
        assert_eq!(stats["locks_held"], held * adopts, "{step}");
        client.line("GPULOCK.FORCERELEASE k");
        adopted += i64::from(adopts == 0);
    }
}

fn an_adopted_lock_gets_its_token_when_its_owner_first_renews_it(flavour: &Flavour) {
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
        leased(&mut client, "k", 70_000, |client| first = token(&client.line(renewal)));
        assert_eq!(inspected(&mut client, "k", "token"), first);
        assert_eq!(inspected(&mut client, "k", "adopted"), 1, "{renewal}");
        assert_eq!(client.line(renewal), first);
        // From now on the token is compared as well.
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", first + 1), 0);
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", "me", "TOKEN", first), 1);
    }
}

fn of_an_adopted_lock_without_a_token_only_the_owner_is_compared(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for (step, expected) in [
        ("GPULOCK.RELEASE k other TOKEN 5", Value::Int(0)),
        ("GPULOCK.FORCERELEASE k OWNER other TOKEN 5", Value::Null),
        ("GPULOCK.EXTEND k other TOKEN 5", Value::Null),
        ("GPULOCK.RELEASE k me TOKEN 5", Value::Int(1)),
        ("GPULOCK.FORCERELEASE k OWNER me TOKEN 5", Value::Bulk(b"me".to_vec())),
    ] {
        // Both when it is known as adopted and when it was never met.
        for met in [false, true] {
            client.line("SET k me PX 100000");
            if met {
                assert_eq!(client.line("GPULOCK.ACQUIRE k other"), Value::Null);
            }
            assert_eq!(client.line(step), expected, "{step}, met before: {met}");
            client.line("DEL k");
        }
    }
    client.line("SET k me PX 100000");
    token(&client.line("GPULOCK.EXTEND k me TOKEN 5"));
}

fn locks_from_before_a_restart_are_held_and_met_again_as_adopted(flavour: &Flavour) {
    let mut server = flavour.server().arg("appendonly", "yes").start();
    let mut client = server.client();
    let mut old = [0; 3];
    for (n, old) in old.iter_mut().enumerate() {
        let key = format!("gpu:{n}");
        *old = token(&call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", FAR));
    }
    let ends = client.line("PEXPIRETIME gpu:0");
    server.restart();
    let mut client = server.client();
    assert_eq!(client.line("PEXPIRETIME gpu:0"), ends);
    // Nothing is scanned at load.
    assert_eq!(stats(&mut client)["locks_held"], 0);
    assert_eq!(client.line("GPULOCK.ACQUIRE gpu:0 other"), Value::Null);
    assert_eq!(inspected(&mut client, "gpu:0", "adopted"), 1);
    let renewed = token(&client.line("GPULOCK.ACQUIRE gpu:0 me UNIQUE"));
    let extended = token(&client.line("GPULOCK.EXTEND gpu:1 me"));
    assert!(renewed > old[2] && extended > renewed);
    // The token of the first life is not known any more: the owner decides.
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:2", "me", "TOKEN", old[2]), 1);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "gpu:1", "me", "TOKEN", old[1]), 0);
}

fn a_key_of_another_type_is_no_lock_and_is_left_as_it_was(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for make in ["RPUSH k me", "HSET k me 1", "SADD k me", "ZADD k 1 me", "XADD k * a b"]
    {
        client.line(make);
        let before = call!(client, "DUMP", "k");
        for step in [
            "GPULOCK.ACQUIRE k me",
            "GPULOCK.ACQUIRE k me UNIQUE",
            "GPULOCK.RELEASE k me",
            "GPULOCK.EXTEND k me",
            "GPULOCK.FORCERELEASE k",
            "GPULOCK.INSPECT k",
        ] {
            let answer = client.line(step);
            assert!(answer.err().starts_with("WRONGTYPE "), "{step}: {answer:?}");
        }
        assert_eq!(call!(client, "DUMP", "k"), before);
        assert_eq!(call!(client, "PTTL", "k"), -1);
        client.line("DEL k");
    }
    assert_eq!(stats(&mut client)["locks_held"], 0);
}

fn a_counter_kept_as_a_number_by_the_server_is_an_owner_too(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // Held as an integer, not as text, inside the server.
    assert_eq!(client.line("INCRBY k 41"), 41);
    assert_eq!(client.line("INCR k"), 42);
    assert_eq!(inspected(&mut client, "k", "owner"), "42");
    assert_eq!(inspected(&mut client, "k", "lease_ms"), -1);
    assert_eq!(client.line("GPULOCK.ACQUIRE k other"), Value::Null);
    assert_eq!(client.line("GPULOCK.RELEASE k 41"), 0);
    assert_eq!(client.line("GPULOCK.RELEASE k 42"), 1);
    assert_eq!(client.line("EXISTS k"), 0);
}

fn it_works_the_same_in_transactions_and_scripts(flavour: &Flavour) {
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
    let answers = client.line("EXEC");
    let answers = answers.list();
    let tokens = (token(&answers[0]), token(&answers[3]));
    assert!(tokens.0 < tokens.1);
    assert_eq!(answers[1], Value::Null);
    assert_eq!(answers[4..], [Value::Int(0), Value::Int(1)]);
    let script = "local t = redis.call('GPULOCK.ACQUIRE', KEYS[1], 'me') \
            local e = redis.call('GPULOCK.EXTEND', KEYS[1], 'me', 'TOKEN', t) \
            return {t == e, redis.call('GET', KEYS[1]), \
                redis.call('GPULOCK.RELEASE', KEYS[1], 'you'), \
                redis.call('GPULOCK.RELEASE', KEYS[1], 'me')}";
    let answer = call!(client, "EVAL", script, 1, "k");
    let answer = answer.list();
    assert_eq!((&answer[0], &answer[1]), (&Value::Int(1), &Value::Bulk(b"me".to_vec())));
    assert_eq!(answer[2..], [Value::Int(0), Value::Int(1)]);
}
