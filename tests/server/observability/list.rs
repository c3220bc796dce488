//! LIST and INSPECT: their fields, order and patterns. They change nothing.

use std::time::{Duration, Instant};

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::locks::acquire;
use crate::support::queue::{NO_TIMEOUT, join_queue};
use crate::support::rng::{Pick, seeded_rng};

tests! {
    locks_are_sorted_by_hold_time_with_adopted_ones_last,
    each_row_has_the_documented_fields,
    the_default_limit_is_1000,
    list_returns_locks_of_the_selected_database,
    patterns_match_like_those_of_keys,
    patterns_of_any_bytes_match_like_those_of_keys,
    a_pattern_can_have_1024_bytes,
    no_pattern_blocks_the_server,
    a_cursor_lists_all_locks_in_portions,
    a_list_that_takes_too_long_is_refused_and_a_cursor_completes_it,
    inspect_looks_up_the_reserved_locks_of_a_limited_number_of_calls,
    inspect_returns_everything_known_about_a_lock,
    an_overwritten_lock_is_listed_with_its_new_owner,
    inspect_and_list_change_nothing,
    a_lock_whose_end_list_notices_is_listed_once,
    a_portion_lists_the_queue_of_a_lock_whose_end_it_notices,
}

/// The error of a LIST that has used up its work.
const TOO_LONG: &str = "ERR LIST would take too long: use CURSOR to list the locks in portions, a \
    simpler MATCH pattern, or a lower LIMIT";

/// The keys in the reply of LIST.
#[track_caller]
fn keys(client: &mut Client, line: &str) -> Vec<String> {
    client.line(line).list().iter().map(|row| row.field("key").text()).collect()
}

/// The names of a map's fields, in order.
fn names(map: &Value) -> Vec<String> {
    match map {
        Value::Map(pairs) => pairs.iter().map(|(name, _)| name.text()).collect(),
        flat => flat.list().iter().step_by(2).map(Value::text).collect(),
    }
}

fn locks_are_sorted_by_hold_time_with_adopted_ones_last(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for line in [
        "SET adopted outsider PX 100000",
        "GPULOCK.ACQUIRE adopted me",
        "GPULOCK.ACQUIRE b me",
        "GPULOCK.ACQUIRE given-back me",
        "GPULOCK.ACQUIRE a me",
        "SET second outsider PX 100000",
        "GPULOCK.ACQUIRE second me",
        "GPULOCK.ACQUIRE c me",
        "GPULOCK.RELEASE given-back me",
        // A renewal changes neither the start of a hold nor an adopted lock.
        "GPULOCK.EXTEND b me",
        "GPULOCK.ACQUIRE a me UNIQUE",
        "GPULOCK.EXTEND second outsider",
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

fn each_row_has_the_documented_fields(flavour: &Flavour) {
    const FIELDS: [&str; 7] =
        ["key", "owner", "token", "lease_ms", "held_ms", "waiting", "revoked_ms"];
    let server = flavour.start();
    let mut plain = server.client();
    let token = plain.line("GPULOCK.ACQUIRE k me PX 50000").int();
    plain.line("SET old outsider");
    plain.line("GPULOCK.ACQUIRE old me");
    for mut client in [server.client(), server.client3()] {
        let rows = client.line("GPULOCK.LIST");
        let [granted, adopted] = rows.list() else { panic!("{rows:?}") };
        for row in [granted, adopted] {
            assert_eq!(names(row), FIELDS);
            assert_eq!(row.field("revoked_ms"), Value::Null);
        }
        assert_eq!(granted.field("key"), "k");
        assert_eq!(granted.field("owner"), "me");
        assert_eq!(granted.field("token"), token);
        assert!((1..=50_000).contains(&granted.field("lease_ms").int()));
        assert!((0..=50_000).contains(&granted.field("held_ms").int()));
        assert_eq!(granted.field("waiting"), 0);
        assert_eq!(adopted.field("owner"), "outsider");
        assert_eq!(adopted.field("token"), Value::Null);
        assert_eq!(adopted.field("lease_ms"), -1);
        assert_eq!(adopted.field("held_ms"), Value::Null);
    }
    let rows = server.client3().line("GPULOCK.LIST");
    assert!(matches!(rows.list()[0], Value::Map(_)), "RESP3 has maps");
}

fn the_default_limit_is_1000(flavour: &Flavour) {
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
    // LIMIT counts only matching locks.
    assert_eq!(keys(&mut client, "GPULOCK.LIST MATCH *:1199 LIMIT 1"), ["gpu:1199"]);
}

fn list_returns_locks_of_the_selected_database(flavour: &Flavour) {
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

/// Compares MATCH with KEYS for random keys and patterns of the bytes in `alphabet`.
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
        let mut native: Vec<Vec<u8>> = call!(client, "KEYS", &pattern)
            .list()
            .iter()
            .map(|key| key.bytes().to_vec())
            .collect();
        let mut module: Vec<Vec<u8>> = call!(client, "GPULOCK.LIST", "MATCH", &pattern)
            .list()
            .iter()
            .map(|row| row.field("key").bytes().to_vec())
            .collect();
        native.sort();
        module.sort();
        assert_eq!(module, native, "pattern {}", pattern.escape_ascii());
        matched += usize::from(!native.is_empty());
    }
    assert!(matched > 100, "too few patterns matched a key");
}

fn patterns_match_like_those_of_keys(flavour: &Flavour) {
    let server = flavour.start();
    compare_patterns(&mut server.client(), b"aabc-]^[*?\\", 1);
}

fn patterns_of_any_bytes_match_like_those_of_keys(flavour: &Flavour) {
    let server = flavour.start();
    // Keys can be empty.
    compare_patterns(&mut server.client(), b"a\x01\x7f\x80\xff\xc3\xa4-]^[[*?\\", 0);
}

fn a_pattern_can_have_1024_bytes(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let key = vec![b'k'; 1024];
    call!(client, "GPULOCK.ACQUIRE", &key, "me").int();
    let listed = call!(client, "GPULOCK.LIST", "MATCH", &key);
    assert_eq!(listed.list()[0].field("key").bytes(), key);
    for long in [1025, 150_000] {
        let reply = call!(client, "GPULOCK.LIST", "MATCH", vec![b'*'; long]);
        assert_eq!(reply.err(), "ERR MATCH must be at most 1024 bytes long");
    }
}

fn no_pattern_blocks_the_server(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    call!(client, "GPULOCK.ACQUIRE", "gpu:1", "me").int();
    for n in 0..20 {
        let key = [n.to_string().into_bytes(), vec![b'a'; 300_000]].concat();
        call!(client, "GPULOCK.ACQUIRE", key, "me").int();
    }
    call!(client, "GPULOCK.ACQUIRE", "gpu:2", "me").int();
    let pattern_of_1024 = |repeated: &[u8]| {
        let body = repeated.repeat(1022 / repeated.len());
        [b"*", &body[..], b"b"].concat()
    };
    let start = Instant::now();
    for pattern in [
        pattern_of_1024(b"a"),
        pattern_of_1024(b"a*"),
        pattern_of_1024(b"?"),
        pattern_of_1024(b"[a-b]"),
    ] {
        let reply = call!(client, "GPULOCK.LIST", "MATCH", &pattern);
        let text = String::from_utf8_lossy(&pattern[..8]).into_owned();
        // Either the pattern fails early, or the call gives up. It discards the rows found so
        // far, because other locks might have matched.
        let gives_up = reply.is_err();
        assert_eq!(gives_up, !text.starts_with("*a*"), "{text}: {reply:?}");
        if gives_up {
            assert_eq!(reply.err(), TOO_LONG, "{text}");
        }
    }
    // Without the limit each pattern would take a second.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for (pattern, expected) in [
        ("gpu:*", &["gpu:1", "gpu:2"][..]),
        ("*:2", &["gpu:2"]),
        ("*b*", &[]),
        ("*u:[12]", &["gpu:1", "gpu:2"]),
    ] {
        assert_eq!(keys(&mut client, &format!("GPULOCK.LIST MATCH {pattern}")), expected);
    }
    // The rows that are found before the limit of work are returned.
    let line = format!("GPULOCK.LIST LIMIT 1 MATCH {}1", "?".repeat(4));
    assert_eq!(keys(&mut client, &line), ["gpu:1"]);
    // Long names count as well.
    assert_eq!(client.line("GPULOCK.LIST").err(), TOO_LONG);
    assert_eq!(list_in_portions(&mut client, "").len(), 22);
}

/// The keys that LIST returns with a cursor, over all portions.
fn list_in_portions(client: &mut Client, options: &str) -> Vec<Vec<u8>> {
    let (mut keys, mut cursor) = (Vec::new(), 0);
    loop {
        let reply = client.line(&format!("GPULOCK.LIST CURSOR {cursor}{options}"));
        let [next, rows] = reply.list() else { panic!("{reply:?}") };
        keys.extend(rows.list().iter().map(|row| row.field("key").bytes().to_vec()));
        cursor = next.int();
        if cursor == 0 {
            return keys;
        }
    }
}

fn acquire_many(client: &mut Client, count: usize) {
    let lines: Vec<String> =
        (0..count).map(|n| format!("GPULOCK.ACQUIRE gpu:{n} me")).collect();
    for lines in lines.chunks(1_000) {
        client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in lines {
            client.read().int();
        }
    }
}

fn a_cursor_lists_all_locks_in_portions(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert_eq!(list_in_portions(&mut client, "").len(), 0);
    acquire_many(&mut client, 600);
    client.line("SET overwritten other");
    client.line("GPULOCK.ACQUIRE overwritten me");
    client.line("GPULOCK.ACQUIRE gpu:600 me");
    client.line("SET gpu:600 successor");
    client.line("SELECT 1");
    client.line("GPULOCK.ACQUIRE elsewhere me");
    client.line("SELECT 0");
    let mut expected: Vec<Vec<u8>> =
        (0..=600).map(|n| format!("gpu:{n}").into_bytes()).collect();
    expected.push(b"overwritten".to_vec());
    expected.sort();
    for options in ["", " LIMIT 1", " LIMIT 7", " LIMIT 1000000", " MATCH *"] {
        let mut keys = list_in_portions(&mut client, options);
        keys.sort();
        assert_eq!(keys, expected, "{options}");
    }
    let mut matching = list_in_portions(&mut client, " MATCH gpu:59[7-9] LIMIT 1");
    matching.sort();
    assert_eq!(matching, [b"gpu:597", b"gpu:598", b"gpu:599"]);
    // A lock that is listed shows what its key shows.
    let row = client.line("GPULOCK.LIST CURSOR 0 MATCH gpu:600");
    assert_eq!(row.list()[1].list()[0].field("owner"), "successor");
    let past = client.line("GPULOCK.LIST CURSOR 123456789");
    assert_eq!((past.list()[0].int(), past.list()[1].list().len()), (0, 0));
    for (line, error) in [
        ("CURSOR", "ERR syntax error"),
        ("CURSOR 0 CURSOR 0", "ERR syntax error"),
        ("CURSOR x", "ERR CURSOR must be an integer from 0 to 9007199254740991"),
        ("CURSOR 0 LIMIT 0", "ERR LIMIT must be an integer from 1 to 9007199254740991"),
    ] {
        assert_eq!(client.line(&format!("GPULOCK.LIST {line}")).err(), error, "{line}");
    }
}

fn a_list_that_takes_too_long_is_refused_and_a_cursor_completes_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire_many(&mut client, 60_000);
    for (line, expected) in [
        ("GPULOCK.LIST", Some(1_000)),
        ("GPULOCK.LIST LIMIT 1000000", None),
        ("GPULOCK.LIST MATCH no*", None),
        ("GPULOCK.LIST MATCH gpu:10 LIMIT 1", Some(1)),
        ("GPULOCK.LIST MATCH gpu:10", None),
    ] {
        let reply = client.line(line);
        match expected {
            Some(count) => assert_eq!(reply.list().len(), count, "{line}"),
            None => assert_eq!(reply.err(), TOO_LONG, "{line}"),
        }
    }
    let portion = client.line("GPULOCK.LIST CURSOR 0 LIMIT 1000000");
    let rows = portion.list()[1].list().len();
    assert!((500..2_000).contains(&rows), "{rows} rows in a portion");
    assert_eq!(list_in_portions(&mut client, " MATCH no*").len(), 0);
    assert_eq!(list_in_portions(&mut client, " MATCH gpu:1???? LIMIT 99").len(), 10_000);
}

fn inspect_looks_up_the_reserved_locks_of_a_limited_number_of_calls(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE common me").int();
    let waiters: Vec<Client> = (0..6)
        .map(|call| {
            let mut waiter = server.client();
            let mut words: Vec<String> = vec!["GPULOCK.ACQUIREANY".into(), "1024".into()];
            words.push("common".into());
            words.extend((1..1_024).map(|key| format!("{call}:{key}")));
            words.extend([
                format!("owner{call}"),
                "COUNT".into(),
                "1024".into(),
                "BLOCK".into(),
                "0".into(),
            ]);
            waiter.send(&words.iter().map(String::as_str).collect::<Vec<_>>());
            server.wait_blocked(call + 1);
            waiter
        })
        .collect();
    let inspected = client.line("GPULOCK.INSPECT common");
    let positions = inspected.field("waiters");
    let reserved: Vec<Option<usize>> = positions
        .list()
        .iter()
        .map(|position| {
            let reserved = position.field("reserved");
            (!reserved.is_null()).then(|| reserved.list().len())
        })
        .collect();
    let known = Some(1_023);
    assert_eq!(reserved, [known, known, known, known, None, None]);
    drop(waiters);
}

fn inspect_returns_everything_known_about_a_lock(flavour: &Flavour) {
    const FIELDS: [&str; 13] = [
        "owner",
        "token",
        "lease_ms",
        "held_ms",
        "session",
        "grace_ms",
        "adopted",
        "reserved_for",
        "revoked_ms",
        "revoked_reason",
        "share",
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
    for unknown in
        ["session", "grace_ms", "reserved_for", "revoked_ms", "revoked_reason", "share"]
    {
        assert_eq!(inspected.field(unknown), Value::Null, "{unknown}");
    }
    wait_until(DEADLINE, "time to pass", || {
        client.line("GPULOCK.INSPECT k").field("held_ms").int() > 5
    });
    let inspected = server.client3().line("GPULOCK.INSPECT k");
    assert!(matches!(inspected, Value::Map(_)), "RESP3 has maps");
    assert_eq!(names(&inspected), FIELDS);

    client.line("SET old outsider");
    let inspected = client.line("GPULOCK.INSPECT old");
    assert_eq!(names(&inspected), FIELDS);
    assert_eq!(inspected.field("owner"), "outsider");
    assert_eq!(inspected.field("lease_ms"), -1);
    assert_eq!(inspected.field("adopted"), 1);
    assert_eq!(inspected.field("token"), Value::Null);
    assert_eq!(inspected.field("held_ms"), Value::Null);
    // INSPECT does not adopt a lock.
    assert_eq!(keys(&mut client, "GPULOCK.LIST"), ["k"]);
    client.line("GPULOCK.RELEASE k me");
    assert_eq!(client.line("GPULOCK.INSPECT k"), Value::Null);
}

fn an_overwritten_lock_is_listed_with_its_new_owner(flavour: &Flavour) {
    // With hz 1, no background check runs in between.
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    for other_command in ["", "GPULOCK.ACQUIRE other me", "SET other x"] {
        client.line("FLUSHALL");
        client.line("GPULOCK.ACQUIRE k me");
        if !other_command.is_empty() {
            client.line(other_command);
            client.line("GPULOCK.ACQUIRE other you");
        }
        client.line("SET k successor");
        let rows = client.line("GPULOCK.LIST MATCH k");
        let [row] = rows.list() else { panic!("{other_command:?}: {rows:?}") };
        assert_eq!(row.field("owner"), "successor", "{other_command:?}");
        assert_eq!(row.field("held_ms"), Value::Null);
    }
}

fn inspect_and_list_change_nothing(flavour: &Flavour) {
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
    let dirty_after = server.info_int("persistence", "rdb_changes_since_last_save");
    assert_eq!(dirty_after, dirty);
    assert_eq!(server.info_int("stats", "keyspace_misses"), misses);
}

/// LIST itself notices the end of the hold, and the lock is then only waited for.
fn a_lock_whose_end_list_notices_is_listed_once(flavour: &Flavour) {
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

fn a_portion_lists_the_queue_of_a_lock_whose_end_it_notices(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    acquire(&mut client, "k", "holder");
    let _waiter = join_queue(&server, &mut client, "k", "waiter", NO_TIMEOUT);
    client.send_lines(&["MULTI", "DEL k", "GPULOCK.LIST CURSOR 0", "EXEC"]);
    let done = (0..4).map(|_| client.read()).last().expect("the reply of EXEC");
    let portion = &done.list()[1];
    let rows = portion.list()[1].list();
    assert_eq!(rows.len(), 1, "{portion:?}");
    assert_eq!(rows[0].field("key"), "k");
    assert_eq!(rows[0].field("waiting"), 1);
}
