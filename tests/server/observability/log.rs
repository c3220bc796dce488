//! GPULOCK.LOG: each kind of entry with its fields, the newest first, repetitions counted,
//! limited in length and in the length of names.

use std::time::Instant;

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::{DEADLINE, unix_ms};

tests! {
    each_kind_of_entry_has_its_fields,
    a_long_hold_is_logged_once,
    entries_are_newest_first_and_limited_by_the_count,
    one_call_looks_at_500_entries_from_the_offset_on,
    a_deleted_log_is_empty_at_once_and_frees_its_memory,
    a_repetition_is_counted_in_one_entry,
    the_client_is_shown_as_in_client_list_and_is_null_for_scripts,
    names_are_truncated_and_the_log_has_at_most_log_len_entries,
    an_eviction_policy_that_can_evict_locks_is_warned_about,
    reading_the_newest_entry_takes_the_same_time_in_a_long_log,
}

const FIELDS: [&str; 11] = [
    "kind", "db", "key", "holder", "token", "caller", "client", "held_ms", "reason",
    "unix_ms", "count",
];

#[track_caller]
fn log(client: &mut Client) -> Vec<Value> {
    call!(client, "GPULOCK.LOG").list().to_vec()
}

/// A field of all entries.
#[track_caller]
fn all(client: &mut Client, field: &str) -> Vec<String> {
    let shown = |value: Value| match value {
        Value::Int(number) => number.to_string(),
        Value::Null => "null".to_owned(),
        text => text.text(),
    };
    log(client).iter().map(|entry| shown(entry.field(field))).collect()
}

/// Waits until the newest entry is of a kind, and returns it.
#[track_caller]
fn newest(client: &mut Client, kind: &str) -> Value {
    wait_until(DEADLINE, format!("{kind} in the log"), || {
        log(client).first().is_some_and(|entry| entry.field("kind") == kind)
    });
    log(client).remove(0)
}

/// Checks fields of an entry; `null` is null.
#[track_caller]
fn assert_fields(entry: &Value, expected: &[(&str, &str)]) {
    for (field, value) in expected {
        let found = entry.field(field);
        match *value {
            "null" => assert_eq!(found, Value::Null, "{field} of {entry:?}"),
            text => match found {
                Value::Int(number) => {
                    assert_eq!(number.to_string(), text, "{field} of {entry:?}");
                }
                found => assert_eq!(found, text, "{field} of {entry:?}"),
            },
        }
    }
}

/// The client id in an entry.
#[track_caller]
fn client_id(entry: &Value) -> i64 {
    let line = entry.field("client").text();
    let id = line.split(' ').find_map(|part| part.strip_prefix("id=")?.parse().ok());
    id.unwrap_or_else(|| panic!("no id in {line:?}"))
}

fn each_kind_of_entry_has_its_fields(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let start = unix_ms();
    client.line("SELECT 3");
    let token = client.line("GPULOCK.ACQUIRE k me PX 100000").int().to_string();
    let id = client.id();

    client.line("GPULOCK.RELEASE k you REASON why");
    let entry = newest(&mut client, "ownership_violation");
    assert_fields(
        &entry,
        &[("db", "3"), ("key", "k"), ("holder", "me"), ("token", &token)],
    );
    assert_fields(&entry, &[("caller", "you"), ("reason", "why"), ("count", "1")]);
    assert_eq!(client_id(&entry), id);
    assert!((0..100_000).contains(&entry.field("held_ms").int()));

    client.line("GPULOCK.RELEASE free you");
    let entry = newest(&mut client, "stale_release");
    assert_fields(&entry, &[("db", "3"), ("key", "free"), ("holder", "null")]);
    assert_fields(&entry, &[("token", "null"), ("held_ms", "null"), ("caller", "you")]);
    assert_fields(&entry, &[("reason", "normal")]);
    assert_eq!(client_id(&entry), id);

    client.line("GPULOCK.FORCERELEASE k OWNER me");
    let entry = newest(&mut client, "forced");
    assert_fields(&entry, &[("key", "k"), ("holder", "me"), ("token", &token)]);
    assert_fields(&entry, &[("caller", "me"), ("reason", "forced")]);
    assert_eq!(client_id(&entry), id);
    assert!((0..100_000).contains(&entry.field("held_ms").int()));

    client.line("GPULOCK.ACQUIRE k me PX 100000");
    client.line("GPULOCK.FORCERELEASE k REASON hung");
    assert_fields(&log(&mut client)[0], &[("caller", "null"), ("reason", "hung")]);

    let token = client.line("GPULOCK.ACQUIRE k me PX 1").int().to_string();
    let entry = newest(&mut client, "expired");
    assert_fields(&entry, &[("key", "k"), ("holder", "me"), ("token", &token)]);
    assert_fields(
        &entry,
        &[("caller", "null"), ("client", "null"), ("reason", "timeout")],
    );
    assert!((1..10_000).contains(&entry.field("held_ms").int()));

    let token = client.line("GPULOCK.ACQUIRE k me").int().to_string();
    client.line("DEL k");
    let entry = newest(&mut client, "removed");
    assert_fields(
        &entry,
        &[("db", "3"), ("key", "k"), ("holder", "me"), ("token", &token)],
    );
    assert_fields(
        &entry,
        &[("caller", "null"), ("client", "null"), ("reason", "removed")],
    );

    assert_eq!(client.line("CONFIG SET gpulock.warn-hold 5"), "OK");
    let token = client.line("GPULOCK.ACQUIRE k me").int().to_string();
    let entry = newest(&mut client, "long_hold");
    assert_fields(
        &entry,
        &[("db", "3"), ("key", "k"), ("holder", "me"), ("token", &token)],
    );
    assert_fields(&entry, &[("caller", "null"), ("client", "null")]);
    assert!(entry.field("held_ms").int() >= 5);

    for mut client in [server.client(), server.client3()] {
        for entry in log(&mut client) {
            let names: Vec<String> = match &entry {
                Value::Map(pairs) => pairs.iter().map(|(name, _)| name.text()).collect(),
                flat => flat.list().iter().step_by(2).map(Value::text).collect(),
            };
            assert_eq!(names, FIELDS);
            let at = entry.field("unix_ms").int();
            assert!((start..=unix_ms()).contains(&at), "{at} is not the current time");
        }
    }
    // Successful calls are not logged.
    client.line("GPULOCK.LOG RESET");
    for line in ["GPULOCK.EXTEND k me", "GPULOCK.ACQUIRE k you", "GPULOCK.RELEASE k me"] {
        client.line(line);
    }
    assert!(log(&mut client).is_empty());
}

fn a_long_hold_is_logged_once(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.warn-hold", "5"]).start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE a me");
    newest(&mut client, "long_hold");
    // By the time the second hold is logged, the first was checked again.
    client.line("GPULOCK.ACQUIRE b me");
    wait_until(DEADLINE, "the second long hold", || log(&mut client).len() > 1);
    assert_eq!(all(&mut client, "key"), ["b", "a"]);
    assert_eq!(all(&mut client, "count"), ["1", "1"]);
}

fn entries_are_newest_first_and_limited_by_the_count(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for key in ["a", "b", "c"] {
        call!(client, "GPULOCK.RELEASE", key, "me");
    }
    assert_eq!(all(&mut client, "key"), ["c", "b", "a"]);
    for (count, shown) in [(0, 0), (1, 1), (2, 2), (3, 3), (1_000, 3)] {
        assert_eq!(call!(client, "GPULOCK.LOG", count).list().len(), shown);
    }
    assert_eq!(client.line("GPULOCK.LOG 1").list()[0].field("key"), "c");
    assert!(client.line("GPULOCK.LOG -1").is_err());
    assert!(client.line("GPULOCK.LOG all").is_err());
    assert_eq!(client.line("GPULOCK.LOG reset"), "OK");
    assert!(log(&mut client).is_empty());
}

fn a_repetition_is_counted_in_one_entry(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut another = server.client();
    let first = unix_ms();
    for _ in 0..5 {
        client.line("GPULOCK.RELEASE k me");
    }
    assert_eq!(all(&mut client, "count"), ["5"]);
    assert_eq!(client_id(&log(&mut client)[0]), client.id());
    // Another client does the same: the entry shows the most recent client.
    wait_until(DEADLINE, "the next millisecond", || unix_ms() > first + 1);
    let last = unix_ms();
    another.line("GPULOCK.RELEASE k me");
    assert_eq!(all(&mut client, "count"), ["6"]);
    assert_eq!(client_id(&log(&mut client)[0]), another.id());
    assert!(log(&mut client)[0].field("unix_ms").int() >= last);
    // Any difference makes a new entry, even if there is an older equal one.
    for line in [
        "GPULOCK.RELEASE k you",
        "GPULOCK.RELEASE k you REASON other",
        "GPULOCK.RELEASE j you REASON other",
        "GPULOCK.RELEASE k me",
        "GPULOCK.ACQUIRE k holder",
        "GPULOCK.RELEASE k me",
    ] {
        client.line(line);
    }
    client.line("SELECT 1");
    client.line("GPULOCK.RELEASE k me");
    assert_eq!(all(&mut client, "count"), ["1", "1", "1", "1", "1", "1", "6"]);
}

fn the_client_is_shown_as_in_client_list_and_is_null_for_scripts(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("CLIENT SETNAME worker-7");
    client.line("SELECT 2");
    client.line("GPULOCK.RELEASE k me");
    let logged = log(&mut client)[0].field("client").text();
    let id = client.id();
    let listed = call!(server.client(), "CLIENT", "LIST", "ID", id).text();
    let parts = |line: &str| -> Vec<(String, String)> {
        let parts = line.trim_end().split(' ').filter_map(|part| part.split_once('='));
        parts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (logged, listed) = (parts(&logged), parts(&listed));
    let names = |parts: &[(String, String)]| -> Vec<String> {
        parts.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&logged), names(&listed));
    for name in ["id", "addr", "laddr", "fd", "name", "db", "user", "resp"] {
        let find = |parts: &[(String, String)]| {
            parts.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
        };
        assert_eq!(find(&logged), find(&listed), "{name}");
    }
    assert!(logged.contains(&("cmd".into(), "GPULOCK.RELEASE".into())), "{logged:?}");

    call!(client, "EVAL", "return redis.call('GPULOCK.RELEASE', KEYS[1], 'x')", 1, "k");
    let entry = newest(&mut client, "stale_release");
    assert_fields(&entry, &[("caller", "x"), ("client", "null")]);
    // In a transaction, the client is known.
    client.line("MULTI");
    client.line("GPULOCK.RELEASE k y");
    client.line("EXEC");
    assert_eq!(client_id(&log(&mut client)[0]), id);
}

fn names_are_truncated_and_the_log_has_at_most_log_len_entries(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.log-len", "3"]).start();
    let mut client = server.client();
    let long = |byte: u8, len: usize| vec![byte; len];
    call!(client, "GPULOCK.ACQUIRE", long(b'k', 500), long(b'h', 1_000));
    call!(client, "GPULOCK.RELEASE", long(b'k', 500), long(b'\xff', 129));
    let entry = &log(&mut client)[0];
    assert_eq!(entry.field("key").bytes(), long(b'k', 128));
    assert_eq!(entry.field("holder").bytes(), long(b'h', 128));
    assert_eq!(entry.field("caller").bytes(), long(b'\xff', 128));
    for key in ["a", "b", "c", "d"] {
        call!(client, "GPULOCK.RELEASE", key, "me");
    }
    assert_eq!(all(&mut client, "key"), ["d", "c", "b"]);
    assert_eq!(client.line("CONFIG SET gpulock.log-len 1"), "OK");
    assert_eq!(all(&mut client, "key"), ["d"]);
    assert_eq!(client.line("CONFIG SET gpulock.log-len 0"), "OK");
    client.line("GPULOCK.RELEASE e me");
    assert!(log(&mut client).is_empty());
}

fn an_eviction_policy_that_can_evict_locks_is_warned_about(flavour: &Flavour) {
    let assert_warned = |server: &Server| {
        let mut client = server.client();
        let entry = newest(&mut client, "warning");
        assert_fields(&entry, &[("db", "null"), ("key", "null"), ("holder", "null")]);
        assert_fields(
            &entry,
            &[("token", "null"), ("caller", "null"), ("held_ms", "null")],
        );
        assert!(entry.field("reason").text().contains("maxmemory-policy"), "{entry:?}");
        server.wait_log("maxmemory-policy");
        client.line("GPULOCK.LOG RESET");
    };
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = flavour.server().arg("maxmemory-policy", policy).start();
        assert_warned(&server);
    }
    let server = flavour.start();
    let mut client = server.client();
    assert!(log(&mut client).is_empty());
    for policy in ["volatile-lru", "allkeys-random", "noeviction"] {
        let set = call!(client, "CONFIG", "SET", "maxmemory-policy", policy);
        assert_eq!(set, "OK");
        if policy == "noeviction" {
            assert!(log(&mut client).is_empty());
        } else {
            assert_warned(&server);
        }
    }
}

fn reading_the_newest_entry_takes_the_same_time_in_a_long_log(flavour: &Flavour) {
    let limit = ["gpulock.log-len", "50000"];
    let server = flavour.server().module_args(&limit).start();
    let mut client = server.client();
    let fastest = |client: &mut Client| {
        let times = (0..20).map(|_| {
            let start = Instant::now();
            assert_eq!(client.line("GPULOCK.LOG 1").list().len(), 1);
            start.elapsed()
        });
        times.min().expect("several times")
    };
    client.line("GPULOCK.RELEASE k me");
    let short = fastest(&mut client);
    for _ in 0..100 {
        for n in 0..500 {
            send!(client, "GPULOCK.RELEASE", format!("k{n}"), "me");
        }
        for _ in 0..500 {
            assert_eq!(client.read(), 0);
        }
    }
    let long = fastest(&mut client);
    assert!(long < short * 20, "{short:?} with one entry, {long:?} with 50,000");
}

/// Makes `count` different entries. The last one names the highest number.
fn fill(client: &mut Client, count: usize) {
    for first in (0..count).step_by(1_000) {
        let last = count.min(first + 1_000);
        let lines: Vec<String> =
            (first..last).map(|n| format!("GPULOCK.RELEASE k owner{n}")).collect();
        client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in first..last {
            assert_eq!(client.read(), 0);
        }
    }
}

fn one_call_looks_at_500_entries_from_the_offset_on(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.log-len", "2000"]).start();
    let mut client = server.client();
    fill(&mut client, 1_100);
    let callers = |client: &mut Client, line: &str| -> Vec<String> {
        let entries = client.line(line);
        entries.list().iter().map(|entry| entry.field("caller").text()).collect()
    };
    let expected = |newer: usize, count: usize| -> Vec<String> {
        (0..1_100).rev().skip(newer).take(count).map(|n| format!("owner{n}")).collect()
    };
    for (line, newer, count) in [
        ("GPULOCK.LOG", 0, 500),
        ("GPULOCK.LOG 2000", 0, 500),
        ("GPULOCK.LOG 3 OFFSET 0", 0, 3),
        ("GPULOCK.LOG 2000 OFFSET 500", 500, 500),
        ("GPULOCK.LOG 2000 OFFSET 1000", 1_000, 100),
        ("GPULOCK.LOG 2000 offset 1100", 1_100, 0),
        ("GPULOCK.LOG 2000 OFFSET 9007199254740991", 1_100, 0),
    ] {
        assert_eq!(callers(&mut client, line), expected(newer, count), "{line}");
    }
    for (line, error) in [
        ("GPULOCK.LOG RESET 1", "ERR syntax error"),
        ("GPULOCK.LOG 1 OFFSET", "ERR syntax error"),
        ("GPULOCK.LOG 1 OFFSET 1 2", "ERR syntax error"),
        ("GPULOCK.LOG 1 SKIP 1", "ERR syntax error"),
        (
            "GPULOCK.LOG 1 OFFSET x",
            "ERR OFFSET must be an integer from 0 to 9007199254740991",
        ),
    ] {
        assert_eq!(client.line(line).err(), error, "{line}");
    }
    // Entries about locks that the user may not read count as looked at.
    client.line("GPULOCK.RELEASE other me");
    client.line("ACL SETUSER reader on >x +@all ~other");
    let mut reader = server.client();
    reader.line("AUTH reader x");
    assert_eq!(callers(&mut reader, "GPULOCK.LOG"), ["me"]);
    assert!(callers(&mut reader, "GPULOCK.LOG 9 OFFSET 1").is_empty());
}

fn a_deleted_log_is_empty_at_once_and_frees_its_memory(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.log-len", "50000"]).start();
    let mut client = server.client();
    for delete in ["GPULOCK.LOG RESET", "CONFIG SET gpulock.log-len 0"] {
        client.line("CONFIG SET gpulock.log-len 50000");
        let before = server.used_memory();
        fill(&mut client, 20_000);
        let filled = server.used_memory();
        assert!(filled > before + 20_000 * 100, "{filled} bytes after {before}");
        assert_eq!(client.line(delete), "OK");
        client.line("CONFIG SET gpulock.log-len 50000");
        assert!(log(&mut client).is_empty());
        wait_until(DEADLINE, "the memory to be freed", || {
            client.line("GPULOCK.STATS");
            server.used_memory() < before + (filled - before) / 4
        });
    }
}
