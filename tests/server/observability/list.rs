//! Looking at locks: what LIST shows, in which order and by which patterns, and what
//! INSPECT tells. Looking changes nothing.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::rng::{Pick, seeded_rng};

tests! {
    the_lock_held_longest_comes_first_and_the_adopted_last,
    each_lock_is_shown_with_the_fields_of_the_contract,
    a_thousand_are_shown_when_no_limit_is_given,
    each_database_lists_its_own,
    patterns_match_as_the_servers_own_do,
    patterns_of_any_bytes_match_as_the_servers_own_do,
    a_pattern_may_have_1024_bytes,
    no_pattern_keeps_the_server_whatever_the_names,
    inspect_tells_all_that_is_known_of_a_lock,
    a_lock_that_somebody_else_took_over_is_listed_with_its_new_holder,
    looking_changes_nothing_a_client_can_see,
    a_lock_whose_end_the_call_itself_finds_is_listed_once,
}

/// The keys of LIST in its order.
#[track_caller]
fn keys(client: &mut Client, line: &str) -> Vec<String> {
    client.line(line).list().iter().map(|row| row.field("key").text()).collect()
}

/// The names of a map's fields in the order sent.
fn names(map: &Value) -> Vec<String> {
    match map {
        Value::Map(pairs) => pairs.iter().map(|(name, _)| name.text()).collect(),
        flat => flat.list().iter().step_by(2).map(Value::text).collect(),
    }
}

fn the_lock_held_longest_comes_first_and_the_adopted_last(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for line in [
        "SET adopted somebody PX 100000",
        "GPULOCK.ACQUIRE adopted me",
        "GPULOCK.ACQUIRE b me",
        "GPULOCK.ACQUIRE given-back me",
        "GPULOCK.ACQUIRE a me",
        "SET second somebody PX 100000",
        "GPULOCK.ACQUIRE second me",
        "GPULOCK.ACQUIRE c me",
        "GPULOCK.RELEASE given-back me",
        // Renewals make no lock younger, and no adopted one known.
        "GPULOCK.EXTEND b me",
        "GPULOCK.ACQUIRE a me UNIQUE",
        "GPULOCK.EXTEND second somebody",
    ] {
        assert!(!client.line(line).is_err(), "{line}");
    }
    let expected = ["b", "a", "c", "adopted", "second"];
    assert_eq!(keys(&mut client, "GPULOCK.LIST"), expected);
    for limit in 0..=6 {
        let listed = keys(&mut client, &format!("GPULOCK.LIST LIMIT {limit}"));
        assert_eq!(listed, expected[..limit.min(5)]);
    }
    assert_eq!(keys(&mut client, "GPULOCK.LIST limit 2 match [bc]*"), ["b", "c"]);
    let rows = client.line("GPULOCK.LIST");
    let held: Vec<i64> =
        rows.list()[..3].iter().map(|row| row.field("held_ms").int()).collect();
    assert!(held.is_sorted_by(|longer, shorter| longer >= shorter), "{held:?}");
}

fn each_lock_is_shown_with_the_fields_of_the_contract(flavour: &Flavour) {
    let server = flavour.start();
    let mut plain = server.client();
    let token = plain.line("GPULOCK.ACQUIRE k me PX 50000").int();
    plain.line("SET old somebody");
    plain.line("GPULOCK.ACQUIRE old me");
    for mut client in [server.client(), server.client3()] {
        let rows = client.line("GPULOCK.LIST");
        let [granted, adopted] = rows.list() else { panic!("{rows:?}") };
        for row in [granted, adopted] {
            let expected = ["key", "owner", "token", "lease_ms", "held_ms", "waiting"];
            assert_eq!(names(row), expected);
        }
        assert_eq!(granted.field("key"), "k");
        assert_eq!(granted.field("owner"), "me");
        assert_eq!(granted.field("token"), token);
        assert!((1..=50_000).contains(&granted.field("lease_ms").int()));
        assert!((0..=50_000).contains(&granted.field("held_ms").int()));
        assert_eq!(granted.field("waiting"), 0);
        assert_eq!(adopted.field("owner"), "somebody");
        assert_eq!(adopted.field("token"), Value::Null);
        assert_eq!(adopted.field("lease_ms"), -1);
        assert_eq!(adopted.field("held_ms"), Value::Null);
    }
    let rows = server.client3().line("GPULOCK.LIST");
    assert!(matches!(rows.list()[0], Value::Map(_)), "RESP3 has maps");
}

fn a_thousand_are_shown_when_no_limit_is_given(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let lines: Vec<String> =
        (0..1_200).map(|n| format!("GPULOCK.ACQUIRE gpu:{n} me")).collect();
    client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    for _ in &lines {
        client.read().int();
    }
    let first = |n: usize| (0..n).map(|n| format!("gpu:{n}")).collect::<Vec<_>>();
    assert_eq!(keys(&mut client, "GPULOCK.LIST"), first(1_000));
    assert_eq!(keys(&mut client, "GPULOCK.LIST LIMIT 5000"), first(1_200));
    // Only what matches counts.
    assert_eq!(keys(&mut client, "GPULOCK.LIST MATCH *:1199 LIMIT 1"), ["gpu:1199"]);
}

fn each_database_lists_its_own(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE zero me");
    client.line("SELECT 5");
    client.line("GPULOCK.ACQUIRE five me");
    assert_eq!(keys(&mut client, "GPULOCK.LIST"), ["five"]);
    assert_eq!(client.line("GPULOCK.INSPECT zero"), Value::Null);
    client.line("SELECT 0");
    assert_eq!(keys(&mut client, "GPULOCK.LIST"), ["zero"]);
    client.line("SELECT 1");
    assert!(client.line("GPULOCK.LIST").list().is_empty());
}

/// Compares MATCH with KEYS for random keys and patterns out of `alphabet`.
#[track_caller]
fn compare_patterns(client: &mut Client, alphabet: &[u8], shortest: usize) {
    let mut rng = seeded_rng();
    let mut word = |least: usize, most: usize| -> Vec<u8> {
        let length = least + rng.usize(..most - least + 1);
        (0..length).map(|_| rng.pick(alphabet)).collect()
    };
    for _ in 0..120 {
        call!(client, "GPULOCK.ACQUIRE", word(shortest, 5), "me");
    }
    let mut matched = 0;
    for _ in 0..3_000 {
        let pattern = word(1, 8);
        let mut own: Vec<Vec<u8>> = call!(client, "KEYS", &pattern)
            .list()
            .iter()
            .map(|key| key.bytes().to_vec())
            .collect();
        let mut ours: Vec<Vec<u8>> = call!(client, "GPULOCK.LIST", "MATCH", &pattern)
            .list()
            .iter()
            .map(|row| row.field("key").bytes().to_vec())
            .collect();
        own.sort();
        ours.sort();
        assert_eq!(ours, own, "pattern {}", pattern.escape_ascii());
        matched += usize::from(!own.is_empty());
    }
    assert!(matched > 100, "patterns that match nothing compare nothing");
}

fn patterns_match_as_the_servers_own_do(flavour: &Flavour) {
    let server = flavour.start();
    compare_patterns(&mut server.client(), b"aabc-]^[*?\\", 1);
}

fn patterns_of_any_bytes_match_as_the_servers_own_do(flavour: &Flavour) {
    let server = flavour.start();
    // The keys may be empty, too.
    compare_patterns(&mut server.client(), b"a\x01\x7f\x80\xff\xc3\xa4-]^[[*?\\", 0);
}

fn a_pattern_may_have_1024_bytes(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let key = vec![b'k'; 1024];
    call!(client, "GPULOCK.ACQUIRE", &key, "me").int();
    let listed = call!(client, "GPULOCK.LIST", "MATCH", &key);
    assert_eq!(listed.list()[0].field("key").bytes(), key);
    for long in [1025, 150_000] {
        let answer = call!(client, "GPULOCK.LIST", "MATCH", vec![b'*'; long]);
        assert_eq!(answer.err(), "ERR MATCH must be at most 1024 bytes long");
    }
}

fn no_pattern_keeps_the_server_whatever_the_names(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    call!(client, "GPULOCK.ACQUIRE", "gpu:1", "me").int();
    for n in 0..20 {
        let key = [n.to_string().into_bytes(), vec![b'a'; 300_000]].concat();
        call!(client, "GPULOCK.ACQUIRE", key, "me").int();
    }
    call!(client, "GPULOCK.ACQUIRE", "gpu:2", "me").int();
    let of_1024 = |repeated: &[u8]| {
        let body = repeated.repeat(1022 / repeated.len());
        [b"*", &body[..], b"b"].concat()
    };
    let began = Instant::now();
    for pattern in [of_1024(b"a"), of_1024(b"a*"), of_1024(b"?"), of_1024(b"[a-b]")] {
        let answer = call!(client, "GPULOCK.LIST", "MATCH", &pattern);
        let text = String::from_utf8_lossy(&pattern[..8]).into_owned();
        // Either the pattern fails early, or the call gives up. What it found is not
        // shown, because more might have matched.
        let gave_up = answer.is_err();
        assert_eq!(gave_up, !text.starts_with("*a*"), "{text}: {answer:?}");
        if gave_up {
            let error = "ERR LIST has to look at too much: use a MATCH that fits fewer \
                             or is simpler, or a lower LIMIT";
            assert_eq!(answer.err(), error, "{text}");
        }
    }
    // A second each where nothing gives up.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for (pattern, expected) in [
        ("gpu:*", &["gpu:1", "gpu:2"][..]),
        ("*:2", &["gpu:2"]),
        ("*b*", &[]),
        ("*u:[12]", &["gpu:1", "gpu:2"]),
    ] {
        assert_eq!(keys(&mut client, &format!("GPULOCK.LIST MATCH {pattern}")), expected);
    }
    // What is found before the work is used up fills the reply.
    let line = format!("GPULOCK.LIST LIMIT 1 MATCH {}1", "?".repeat(4));
    assert_eq!(keys(&mut client, &line), ["gpu:1"]);
    assert_eq!(client.line("GPULOCK.LIST").list().len(), 22);
}

fn inspect_tells_all_that_is_known_of_a_lock(flavour: &Flavour) {
    const FIELDS: [&str; 10] = [
        "owner",
        "token",
        "lease_ms",
        "held_ms",
        "session",
        "grace_ms",
        "adopted",
        "reserved_for",
        "waiting",
        "waiters",
    ];
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(client.line("GPULOCK.INSPECT k"), Value::Null);
    let token = client.line("GPULOCK.ACQUIRE k me PX 50000").int();
    let inspected = client.line("GPULOCK.INSPECT k");
    assert_eq!(names(&inspected), FIELDS);
    assert_eq!(inspected.field("owner"), "me");
    assert_eq!(inspected.field("token"), token);
    assert!((1..=50_000).contains(&inspected.field("lease_ms").int()));
    assert_eq!(inspected.field("adopted"), 0);
    assert_eq!(inspected.field("waiting"), 0);
    assert!(inspected.field("waiters").list().is_empty());
    for unknown in ["session", "grace_ms", "reserved_for"] {
        assert_eq!(inspected.field(unknown), Value::Null, "{unknown}");
    }
    wait_until(Duration::from_secs(10), "the hold to grow older", || {
        client.line("GPULOCK.INSPECT k").field("held_ms").int() > 5
    });
    let inspected = server.client3().line("GPULOCK.INSPECT k");
    assert!(matches!(inspected, Value::Map(_)), "RESP3 has maps");
    assert_eq!(names(&inspected), FIELDS);

    client.line("SET old somebody");
    let inspected = client.line("GPULOCK.INSPECT old");
    assert_eq!(names(&inspected), FIELDS);
    assert_eq!(inspected.field("owner"), "somebody");
    assert_eq!(inspected.field("lease_ms"), -1);
    assert_eq!(inspected.field("adopted"), 1);
    assert_eq!(inspected.field("token"), Value::Null);
    assert_eq!(inspected.field("held_ms"), Value::Null);
    // To look is not to adopt.
    assert_eq!(keys(&mut client, "GPULOCK.LIST"), ["k"]);
    client.line("GPULOCK.RELEASE k me");
    assert_eq!(client.line("GPULOCK.INSPECT k"), Value::Null);
}

fn a_lock_that_somebody_else_took_over_is_listed_with_its_new_holder(flavour: &Flavour) {
    // So that nobody else looks in between.
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    for others in ["", "GPULOCK.ACQUIRE other me", "SET other x"] {
        client.line("FLUSHALL");
        client.line("GPULOCK.ACQUIRE k me");
        if !others.is_empty() {
            client.line(others);
            client.line("GPULOCK.ACQUIRE other you");
        }
        client.line("SET k successor");
        let rows = client.line("GPULOCK.LIST MATCH k");
        let [row] = rows.list() else { panic!("{others:?}: {rows:?}") };
        assert_eq!(row.field("owner"), "successor", "{others:?}");
        assert_eq!(row.field("held_ms"), Value::Null);
    }
}

fn looking_changes_nothing_a_client_can_see(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k me PX 50000");
    client.line("SET number 42");
    client.line("GPULOCK.ACQUIRE number me");
    let mut watcher = server.client();
    watcher.line("WATCH k number free");
    let dirty = server.info_int("persistence", "rdb_changes_since_last_save");
    let misses = server.info_int("stats", "keyspace_misses");
    for line in ["GPULOCK.INSPECT k", "GPULOCK.INSPECT free", "GPULOCK.LIST"] {
        client.line(line);
    }
    watcher.line("MULTI");
    assert_ne!(watcher.line("EXEC"), Value::NullArray, "WATCH saw a change");
    let now = server.info_int("persistence", "rdb_changes_since_last_save");
    assert_eq!(now, dirty);
    assert_eq!(server.info_int("stats", "keyspace_misses"), misses);
}

/// The call itself finds that the hold has ended: the lock is only waited for from then on.
fn a_lock_whose_end_the_call_itself_finds_is_listed_once(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut waiter) = (server.client(), server.client());
    assert!(client.line("GPULOCK.ACQUIRE k holder").int() > 0);
    assert!(waiter.line("GPULOCK.ACQUIRE k waiter UNIQUE BLOCK 1").is_null());
    client.send_lines(&["DEL k", "GPULOCK.LIST"]);
    assert_eq!(client.read(), 1);
    let list = client.read();
    let keys: Vec<String> =
        list.list().iter().map(|row| row.field("key").text()).collect();
    assert_eq!(keys, ["k"]);
}
