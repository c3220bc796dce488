//! GPULOCK.LOG tells what went wrong: every kind with its fields, the newest first,
//! repetitions folded, bounded in length and in what it keeps of names.

use std::time::{Instant, UNIX_EPOCH};

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    every_kind_is_told_with_its_fields,
    a_long_hold_is_logged_once,
    the_newest_comes_first_and_a_count_shows_only_so_many,
    a_repetition_is_counted_and_not_told_again,
    the_clients_line_is_the_one_of_client_list_and_scripts_have_none,
    owners_and_keys_are_cut_and_the_log_has_its_length,
    an_eviction_policy_that_may_take_locks_is_warned_of,
    the_newest_entry_costs_the_same_in_a_long_log,
}

const FIELDS: [&str; 11] = [
    "kind", "db", "key", "holder", "token", "caller", "client", "held_ms", "reason",
    "unix_ms", "count",
];

fn unix_ms() -> i64 {
    let since = UNIX_EPOCH.elapsed().expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a date in this age")
}

#[track_caller]
fn log(client: &mut Client) -> Vec<Value> {
    call!(client, "GPULOCK.LOG").list().to_vec()
}

/// One field of every entry.
#[track_caller]
fn all(client: &mut Client, field: &str) -> Vec<String> {
    let shown = |value: Value| match value {
        Value::Int(number) => number.to_string(),
        Value::Null => "null".to_owned(),
        text => text.text(),
    };
    log(client).iter().map(|entry| shown(entry.field(field))).collect()
}

/// Waits for the newest entry to be of a kind, and returns it.
#[track_caller]
fn newest(client: &mut Client, kind: &str) -> Value {
    wait_until(DEADLINE, format!("{kind} in the log"), || {
        log(client).first().is_some_and(|entry| entry.field("kind") == kind)
    });
    log(client).remove(0)
}

/// Checks fields against what is written for them; `null` stands for null.
#[track_caller]
fn tells(entry: &Value, expected: &[(&str, &str)]) {
    for (field, wanted) in expected {
        let found = entry.field(field);
        match *wanted {
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

/// The id in an entry's client line.
#[track_caller]
fn client_id(entry: &Value) -> i64 {
    let line = entry.field("client").text();
    let id = line.split(' ').find_map(|part| part.strip_prefix("id=")?.parse().ok());
    id.unwrap_or_else(|| panic!("no id in {line:?}"))
}

fn every_kind_is_told_with_its_fields(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let began = unix_ms();
    client.line("SELECT 3");
    let token = client.line("GPULOCK.ACQUIRE k me PX 100000").int().to_string();
    let id = client.id();

    client.line("GPULOCK.RELEASE k you REASON why");
    let entry = newest(&mut client, "ownership_violation");
    tells(&entry, &[("db", "3"), ("key", "k"), ("holder", "me"), ("token", &token)]);
    tells(&entry, &[("caller", "you"), ("reason", "why"), ("count", "1")]);
    assert_eq!(client_id(&entry), id);
    assert!((0..100_000).contains(&entry.field("held_ms").int()));

    client.line("GPULOCK.RELEASE free you");
    let entry = newest(&mut client, "stale_release");
    tells(&entry, &[("db", "3"), ("key", "free"), ("holder", "null")]);
    tells(&entry, &[("token", "null"), ("held_ms", "null"), ("caller", "you")]);
    tells(&entry, &[("reason", "normal")]);
    assert_eq!(client_id(&entry), id);

    client.line("GPULOCK.FORCERELEASE k OWNER me");
    let entry = newest(&mut client, "forced");
    tells(&entry, &[("key", "k"), ("holder", "me"), ("token", &token)]);
    tells(&entry, &[("caller", "me"), ("reason", "forced")]);
    assert_eq!(client_id(&entry), id);
    assert!((0..100_000).contains(&entry.field("held_ms").int()));

    client.line("GPULOCK.ACQUIRE k me PX 100000");
    client.line("GPULOCK.FORCERELEASE k REASON hung");
    tells(&log(&mut client)[0], &[("caller", "null"), ("reason", "hung")]);

    let token = client.line("GPULOCK.ACQUIRE k me PX 1").int().to_string();
    let entry = newest(&mut client, "expired");
    tells(&entry, &[("key", "k"), ("holder", "me"), ("token", &token)]);
    tells(&entry, &[("caller", "null"), ("client", "null"), ("reason", "timeout")]);
    assert!((1..10_000).contains(&entry.field("held_ms").int()));

    let token = client.line("GPULOCK.ACQUIRE k me").int().to_string();
    client.line("DEL k");
    let entry = newest(&mut client, "removed");
    tells(&entry, &[("db", "3"), ("key", "k"), ("holder", "me"), ("token", &token)]);
    tells(&entry, &[("caller", "null"), ("client", "null"), ("reason", "removed")]);

    assert_eq!(client.line("CONFIG SET gpulock.warn-hold 5"), "OK");
    let token = client.line("GPULOCK.ACQUIRE k me").int().to_string();
    let entry = newest(&mut client, "long_hold");
    tells(&entry, &[("db", "3"), ("key", "k"), ("holder", "me"), ("token", &token)]);
    tells(&entry, &[("caller", "null"), ("client", "null")]);
    assert!(entry.field("held_ms").int() >= 5);

    for mut client in [server.client(), server.client3()] {
        for entry in log(&mut client) {
            let names: Vec<String> = match &entry {
                Value::Map(pairs) => pairs.iter().map(|(name, _)| name.text()).collect(),
                flat => flat.list().iter().step_by(2).map(Value::text).collect(),
            };
            assert_eq!(names, FIELDS);
            let at = entry.field("unix_ms").int();
            assert!((began..=unix_ms()).contains(&at), "{at} is not now");
        }
    }
    // What went well is not told.
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
    // When the next one's turn has come, so has the first one's again.
    client.line("GPULOCK.ACQUIRE b me");
    wait_until(DEADLINE, "the second long hold", || log(&mut client).len() > 1);
    assert_eq!(all(&mut client, "key"), ["b", "a"]);
    assert_eq!(all(&mut client, "count"), ["1", "1"]);
}

fn the_newest_comes_first_and_a_count_shows_only_so_many(flavour: &Flavour) {
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

fn a_repetition_is_counted_and_not_told_again(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let mut another = server.client();
    let first = unix_ms();
    for _ in 0..5 {
        client.line("GPULOCK.RELEASE k me");
    }
    assert_eq!(all(&mut client, "count"), ["5"]);
    assert_eq!(client_id(&log(&mut client)[0]), client.id());
    // Somebody else does the same: told of the last who did.
    wait_until(DEADLINE, "the next millisecond", || unix_ms() > first + 1);
    let last = unix_ms();
    another.line("GPULOCK.RELEASE k me");
    assert_eq!(all(&mut client, "count"), ["6"]);
    assert_eq!(client_id(&log(&mut client)[0]), another.id());
    assert!(log(&mut client)[0].field("unix_ms").int() >= last);
    // Anything that differs is told by itself, also when it was told before.
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

fn the_clients_line_is_the_one_of_client_list_and_scripts_have_none(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("CLIENT SETNAME worker-7");
    client.line("SELECT 2");
    client.line("GPULOCK.RELEASE k me");
    let told = log(&mut client)[0].field("client").text();
    let id = client.id();
    let own = call!(server.client(), "CLIENT", "LIST", "ID", id).text();
    let parts = |line: &str| -> Vec<(String, String)> {
        let parts = line.trim_end().split(' ').filter_map(|part| part.split_once('='));
        parts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (told, own) = (parts(&told), parts(&own));
    let names = |parts: &[(String, String)]| -> Vec<String> {
        parts.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&told), names(&own));
    for name in ["id", "addr", "laddr", "fd", "name", "db", "user", "resp"] {
        let find = |parts: &[(String, String)]| {
            parts.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
        };
        assert_eq!(find(&told), find(&own), "{name}");
    }
    assert!(told.contains(&("cmd".into(), "GPULOCK.RELEASE".into())), "{told:?}");

    call!(client, "EVAL", "return redis.call('GPULOCK.RELEASE', KEYS[1], 'x')", 1, "k");
    let entry = newest(&mut client, "stale_release");
    tells(&entry, &[("caller", "x"), ("client", "null")]);
    // A transaction is the client's own doing.
    client.line("MULTI");
    client.line("GPULOCK.RELEASE k y");
    client.line("EXEC");
    assert_eq!(client_id(&log(&mut client)[0]), id);
}

fn owners_and_keys_are_cut_and_the_log_has_its_length(flavour: &Flavour) {
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

fn an_eviction_policy_that_may_take_locks_is_warned_of(flavour: &Flavour) {
    let warned = |server: &Server| {
        let mut client = server.client();
        let entry = newest(&mut client, "warning");
        tells(&entry, &[("db", "null"), ("key", "null"), ("holder", "null")]);
        tells(&entry, &[("token", "null"), ("caller", "null"), ("held_ms", "null")]);
        assert!(entry.field("reason").text().contains("maxmemory-policy"), "{entry:?}");
        server.wait_log("maxmemory-policy");
        client.line("GPULOCK.LOG RESET");
    };
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = flavour.server().arg("maxmemory-policy", policy).start();
        warned(&server);
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
            warned(&server);
        }
    }
}

fn the_newest_entry_costs_the_same_in_a_long_log(flavour: &Flavour) {
    let limit = ["gpulock.log-len", "50000"];
    let server = flavour.server().module_args(&limit).start();
    let mut client = server.client();
    let fastest = |client: &mut Client| {
        let times = (0..20).map(|_| {
            let began = Instant::now();
            assert_eq!(client.line("GPULOCK.LOG 1").list().len(), 1);
            began.elapsed()
        });
        times.min().expect("twenty of them")
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
