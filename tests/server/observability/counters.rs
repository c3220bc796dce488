//! The counters are correct: after every step of a long random walk they match the keys, obey
//! the counter law, and are the same in all replies; and in a fixed session each counter has
//! the exact value.

use std::collections::BTreeMap;

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counter_law;
use crate::support::counters::{Counters, flatten, stats};
use crate::support::rng::{Pick, seeded_rng};

tests! {
    after_each_step_of_a_random_walk_the_counters_match_the_keys,
    in_a_fixed_session_each_counter_is_exact,
    holds_are_counted_in_the_documented_buckets,
    resetstats_zeroes_all_counters_except_held_locks,
    the_most_recently_used_locks_have_counters,
    the_least_recently_used_idle_lock_loses_its_counters,
    the_untracked_counters_never_decrease,
}

const BOUNDS: [i64; 21] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000,
    100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
];

#[track_caller]
fn assert_consistent(counters: &Counters, what: &str) {
    assert_counter_law(counters);
    let started = counters["acquired"] + counters["adopted"];
    let ended = started - counters["locks_held"];
    assert_eq!(
        counters["hold_ms.count"], ended,
        "{what}: each ended hold is in the histogram"
    );
    assert_eq!(
        counters["normal_release_failures"],
        counters["ownership_violations"] + counters["release_script_errors"],
        "{what}"
    );
    for histogram in ["hold_ms", "wait_ms"] {
        let mut last = 0;
        for bound in BOUNDS {
            let count = counters[&format!("{histogram}.{bound}")];
            assert!(count >= last, "{what}: {histogram} is not cumulative");
            last = count;
        }
        let all = counters[&format!("{histogram}.count")];
        assert!(all >= last && counters[&format!("{histogram}.+Inf")] == all, "{what}");
    }
}

/// `INFO gpulock` as counters of STATS.
#[track_caller]
fn from_info(info: &str) -> Counters {
    let mut counters = Counters::new();
    let number = |text: &str| text.parse::<i64>().expect("a number");
    for line in info.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("a field");
        let name = name.strip_prefix("gpulock_").expect("a field of ours");
        if !value.contains('=') {
            counters.insert(name.to_owned(), number(value));
            continue;
        }
        for part in value.split(',') {
            let (part, value) = part.split_once('=').expect("a part");
            counters.insert(format!("{name}.{part}"), number(value));
        }
    }
    counters
}

/// The integer samples of METRICS, by name and labels as written.
fn samples(metrics: &str) -> BTreeMap<&str, i64> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series, value.parse().ok()?)))
        .collect()
}

/// The name of a counter of STATS in METRICS.
fn as_metric(prefix: &str, name: &str) -> String {
    match name {
        "locks_held" | "clients_waiting" => format!("{prefix}{name}"),
        _ => format!("{prefix}{name}_total"),
    }
}

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const DATABASES: usize = 2;

/// A random step: a command with arguments.
fn step(rng: &mut Rng) -> Vec<String> {
    let key = rng.pick(&KEYS);
    let key2 = rng.pick(&KEYS);
    let owner = rng.pick(&["x", "y", "zz", "locked_by_w"]);
    let lease = rng.pick(&["1", "3", "50", "100000"]);
    let word = match rng.usize(..100) {
        0..=19 => format!("GPULOCK.ACQUIRE {key} {owner} PX {lease}"),
        20..=29 => format!("GPULOCK.ACQUIRE {key} {owner} UNIQUE PX {lease}"),
        30..=39 => format!("GPULOCK.RELEASE {key} {owner}"),
        40..=41 => format!("GPULOCK.RELEASE {key} {owner} TOKEN 5"),
        42 => format!("GPULOCK.RELEASE {key} {owner} TOKEN 0"),
        43 => format!("GPULOCK.ACQUIRE {key} {owner} PX 0"),
        44..=49 => format!("GPULOCK.EXTEND {key} {owner} PX {lease}"),
        50..=53 => format!("GPULOCK.FORCERELEASE {key}"),
        54 => format!("GPULOCK.FORCERELEASE {key} OWNER {owner}"),
        55..=56 => format!("GPULOCK.INSPECT {key}"),
        57..=60 => format!("SET {key} {owner} PX {lease}"),
        61..=63 => format!("SET {key} {owner} NX PX {lease}"),
        64..=65 => format!("SET {key} {owner} KEEPTTL"),
        66..=69 => format!("DEL {key}"),
        70..=72 => format!("RENAME {key} {key2}"),
        73..=75 => format!("COPY {key} {key2} REPLACE"),
        76..=77 => format!("MOVE {key} {}", rng.usize(..DATABASES)),
        78 => format!("RPUSH {key} {owner}"),
        79 => format!("SETRANGE {key} 2000 x"),
        80 => format!("PERSIST {key}"),
        81..=82 => format!("PEXPIRE {key} {lease}"),
        83 => format!("PEXPIRE {key} -1"),
        84 => "FLUSHDB".to_owned(),
        85 => "FLUSHALL ASYNC".to_owned(),
        86..=87 => "SWAPDB 0 1".to_owned(),
        88 => "GPULOCK.RESETSTATS".to_owned(),
        89 => format!("CONFIG SET gpulock.tracked-keys {}", rng.pick(&[0, 2, 5, 1000])),
        90 => format!("CONFIG SET gpulock.max-hold {}", rng.pick(&[0, 20])),
        91 => format!("GPULOCK.STATS KEY {key}"),
        92 => format!(
            "EVAL return{{redis.call('GPULOCK.ACQUIRE',KEYS[1],'s'),redis.call('DEL',KEYS[1]),redis.call('GPULOCK.ACQUIRE',KEYS[1],'t')}} 1 {key}"
        ),
        93..=94 => format!("GPULOCK.LIST MATCH {key}"),
        95 => "DEBUG RELOAD".to_owned(),
        // Leases can end in this time.
        _ => "DEBUG SLEEP 0.002".to_owned(),
    };
    word.split_whitespace().map(str::to_owned).collect()
}

/// Reads everything in one transaction, so that no lease can end in between.
fn read_everything(client: &mut Client) -> Vec<Value> {
    let mut lines = vec!["MULTI".to_owned()];
    for db in 0..DATABASES {
        lines.push(format!("SELECT {db}"));
        lines.push("GPULOCK.LIST".to_owned());
        lines.extend(KEYS.iter().map(|key| format!("GET {key}")));
    }
    lines.push("GPULOCK.STATS".to_owned());
    lines.push("INFO gpulock".to_owned());
    lines.push("GPULOCK.METRICS".to_owned());
    for db in 0..DATABASES {
        lines.push(format!("SELECT {db}"));
        lines.extend(KEYS.iter().map(|key| format!("GPULOCK.STATS KEY {key}")));
    }
    lines.push("EXEC".to_owned());
    client.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    for _ in &lines[1..] {
        client.read();
    }
    client.read().list().to_vec()
}

#[track_caller]
fn check(replies: &[Value], what: &str) {
    let mut replies = replies.iter();
    let mut next = || replies.next().expect("a reply to each command");
    let mut listed = 0;
    for db in 0..DATABASES {
        next();
        let list = next();
        let owners: BTreeMap<&str, &Value> = KEYS.iter().map(|k| (*k, next())).collect();
        for row in list.list() {
            let key = row.field("key").text();
            let shown = owners[key.as_str()];
            assert_eq!(&row.field("owner"), shown, "owner of {key} in {db}: {what}");
            listed += 1;
        }
    }
    let server = flatten(next());
    assert_eq!(server["locks_held"], listed, "locks_held differs from LIST: {what}");
    assert_consistent(&server, what);
    assert_eq!(server["internal_errors"], 0, "{what}");
    let info = next();
    assert_eq!(from_info(&info.text()), server, "INFO differs from STATS: {what}");
    let metrics = next().text();
    let samples = samples(&metrics);
    let plain: Vec<&String> = server.keys().filter(|name| !name.contains('.')).collect();
    for name in &plain {
        let metric = as_metric("gpulock_", name);
        assert_eq!(samples[metric.as_str()], server[*name], "{metric}: {what}");
    }
    let mut tracked = Counters::new();
    for db in 0..DATABASES {
        next();
        for key in KEYS {
            let reply = next();
            if reply.is_null() {
                continue;
            }
            let counters_of = flatten(reply);
            assert_consistent(&counters_of, &format!("{key} in {db}: {what}"));
            for (name, value) in &counters_of {
                *tracked.entry(name.clone()).or_default() += value;
            }
            for name in counters_of.keys().filter(|name| !name.contains('.')) {
                let labels = format!("{{db=\"{db}\",key=\"{key}\"}}");
                let metric = as_metric("gpulock_lock_", name) + &labels;
                assert_eq!(
                    samples[metric.as_str()],
                    counters_of[name],
                    "{metric}: {what}"
                );
            }
        }
    }
    for name in plain.into_iter().filter(|name| *name != "internal_errors") {
        let metric = as_metric("gpulock_untracked_", name);
        let sum =
            tracked.get(name).copied().unwrap_or_default() + samples[metric.as_str()];
        assert_eq!(sum, server[name], "{name}, tracked and untracked: {what}");
    }
}

fn after_each_step_of_a_random_walk_the_counters_match_the_keys(flavour: &Flavour) {
    let mut rng = seeded_rng();
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let mut client = server.client();
    let mut steps: Vec<String> = Vec::new();
    for _ in 0..600 {
        let db = rng.usize(..DATABASES);
        assert_eq!(call!(client, "SELECT", db), "OK");
        let step = step(&mut rng);
        // Many steps are refused, and must change nothing.
        let reply = client.cmd(&step);
        steps.push(format!("{db}: {} -> {reply:?}", step.join(" ")));
        let from = steps.len().saturating_sub(12);
        check(&read_everything(&mut client), &format!("{:#?}", &steps[from..]));
    }
}

fn in_a_fixed_session_each_counter_is_exact(flavour: &Flavour) {
    // A step, and the changes of the counters.
    #[rustfmt::skip]
    let session: &[(&str, &[(&str, i64)])] = &[
        ("GPULOCK.ACQUIRE a me",             &[("acquire_requests", 1), ("acquired", 1), ("locks_held", 1)]),
        ("GPULOCK.ACQUIRE a me",             &[("acquire_requests", 1), ("refused", 1)]),
        ("GPULOCK.ACQUIRE a you UNIQUE",     &[("acquire_requests", 1), ("refused", 1)]),
        ("GPULOCK.ACQUIRE a me UNIQUE",      &[("acquire_requests", 1), ("renewed", 1)]),
        ("GPULOCK.ACQUIRE a me PX 0",        &[("acquire_requests", 1)]),
        ("GPULOCK.ACQUIRE a me what",        &[("acquire_requests", 1)]),
        ("GPULOCK.ACQUIRE a me EX 999999",   &[("acquire_requests", 1)]),
        ("GPULOCK.EXTEND a me",              &[("extends", 1)]),
        ("GPULOCK.EXTEND a you",             &[("extend_failures", 1)]),
        ("GPULOCK.EXTEND a me TOKEN 1",      &[("extend_failures", 1)]),
        ("GPULOCK.EXTEND free me",           &[("extend_failures", 1)]),
        ("GPULOCK.EXTEND a me what",         &[]),
        ("GPULOCK.RELEASE a you",            &[("ownership_violations", 1), ("normal_release_failures", 1)]),
        ("GPULOCK.RELEASE a me TOKEN 1",     &[("ownership_violations", 1), ("normal_release_failures", 1)]),
        ("GPULOCK.RELEASE free me",          &[("ownership_violations", 1), ("normal_release_failures", 1), ("stale_releases", 1)]),
        ("GPULOCK.RELEASE a me what",        &[("release_script_errors", 1), ("normal_release_failures", 1)]),
        ("GPULOCK.RELEASE a me TOKEN 0",     &[("release_script_errors", 1), ("normal_release_failures", 1)]),
        ("GPULOCK.RELEASE a me",             &[("releases", 1), ("locks_held", -1), ("hold_ms.count", 1), ("hold_ms.+Inf", 1)]),
        ("GPULOCK.RELEASE a me",             &[("ownership_violations", 1), ("normal_release_failures", 1), ("stale_releases", 1)]),
        ("RPUSH list x",                     &[]),
        ("GPULOCK.ACQUIRE list me",          &[("acquire_requests", 1)]),
        ("GPULOCK.RELEASE list me",          &[("release_script_errors", 1), ("normal_release_failures", 1)]),
        ("GPULOCK.EXTEND list me",           &[]),
        ("GPULOCK.FORCERELEASE list",        &[]),
        ("GPULOCK.FORCERELEASE free",        &[]),
        ("SET b outsider",                   &[]),
        ("GPULOCK.INSPECT b",                &[]),
        ("GPULOCK.RELEASE b me",             &[("ownership_violations", 1), ("normal_release_failures", 1)]),
        ("GPULOCK.ACQUIRE b me",             &[("acquire_requests", 1), ("refused", 1), ("adopted", 1), ("locks_held", 1)]),
        ("GPULOCK.ACQUIRE b me",             &[("acquire_requests", 1), ("refused", 1)]),
        ("GPULOCK.EXTEND b outsider",        &[("extends", 1)]),
        ("GPULOCK.FORCERELEASE b OWNER me",  &[]),
        ("GPULOCK.FORCERELEASE b OWNER me AFTER 9000", &[]),
        ("GPULOCK.FORCERELEASE b AFTER 9000000", &[("revocations", 1)]),
        ("GPULOCK.FORCERELEASE b AFTER 9900000", &[]),
        ("GPULOCK.FORCERELEASE b",           &[("emergency_releases", 1), ("locks_held", -1), ("hold_ms.count", 1), ("hold_ms.+Inf", 1)]),
        ("SET c outsider",                   &[]),
        ("GPULOCK.RELEASE c outsider",       &[("adopted", 1), ("releases", 1), ("hold_ms.count", 1), ("hold_ms.+Inf", 1)]),
        ("GPULOCK.ACQUIRE d me",             &[("acquire_requests", 1), ("acquired", 1), ("locks_held", 1)]),
        ("SET d other",                      &[]),
        ("GPULOCK.INSPECT d",                &[("removed", 1), ("adopted", 1), ("hold_ms.count", 1), ("hold_ms.+Inf", 1)]),
        ("DEL d",                            &[]),
        ("GPULOCK.ACQUIRE d me",             &[("removed", 1), ("locks_held", 0), ("acquire_requests", 1), ("acquired", 1), ("hold_ms.count", 1), ("hold_ms.+Inf", 1)]),
        ("GPULOCK.STATS KEY d",              &[]),
        ("GPULOCK.LIST",                     &[]),
        ("GPULOCK.LOG",                      &[]),
    ];
    // With hz 1, the server does not check keys in the background in between.
    let server = flavour.server().arg("hz", 1).start();
    let mut client = server.client();
    let mut expected = stats(&mut client);
    assert!(expected.values().all(|count| *count == 0), "{expected:?}");
    for (step, changes) in session {
        client.line(step);
        let actual = stats(&mut client);
        for (name, by) in *changes {
            *expected.get_mut(*name).expect("a counter") += by;
        }
        // Another test checks the durations.
        let times = |name: &&String| {
            name.starts_with("hold_ms.")
                && !name.ends_with("+Inf")
                && !name.ends_with("count")
        };
        let without_durations = |counters: &Counters| {
            let kept = counters.iter().filter(|(name, _)| !times(name));
            kept.map(|(name, n)| (name.clone(), *n)).collect::<Counters>()
        };
        assert_eq!(without_durations(&actual), without_durations(&expected), "{step}");
        expected = actual;
    }
}

fn holds_are_counted_in_the_documented_buckets(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.log-len", "1000"]).start();
    let mut client = server.client();
    for n in 0..60 {
        call!(client, "GPULOCK.ACQUIRE", format!("gpu:{n}"), "me");
    }
    for n in 0..60 {
        let key = format!("gpu:{n}");
        wait_until(DEADLINE, "time to pass", || {
            call!(client, "GPULOCK.INSPECT", &key).field("held_ms").int() >= n * 2
        });
        assert_eq!(call!(client, "GPULOCK.FORCERELEASE", &key), "me");
    }
    // The log has the duration of each hold.
    let log = call!(client, "GPULOCK.LOG");
    let held: Vec<i64> =
        log.list().iter().map(|entry| entry.field("held_ms").int()).collect();
    assert_eq!(held.len(), 60);
    assert!(held.iter().any(|ms| *ms > 100));
    let stats = stats(&mut client);
    assert_eq!(stats["hold_ms.count"], 60);
    assert_eq!(stats["hold_ms.sum"], held.iter().sum::<i64>());
    for bound in BOUNDS {
        let below = held.iter().filter(|ms| **ms <= bound).count();
        let below = i64::try_from(below).expect("a small number");
        assert_eq!(stats[&format!("hold_ms.{bound}")], below, "{bound} of {held:?}");
    }
    assert_eq!(stats["hold_ms.+Inf"], 60);
    let buckets = call!(client, "GPULOCK.STATS").field("hold_ms").field("buckets");
    assert_eq!(buckets.map().len(), BOUNDS.len() + 1);
    assert_eq!(stats["wait_ms.count"], 0);
}

fn resetstats_zeroes_all_counters_except_held_locks(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for line in [
        "GPULOCK.ACQUIRE a me",
        "GPULOCK.ACQUIRE b me",
        "GPULOCK.ACQUIRE b you",
        "GPULOCK.RELEASE b you",
        "GPULOCK.RELEASE b me",
        "GPULOCK.RELEASE b me",
        "GPULOCK.EXTEND a me",
        "GPULOCK.RELEASE a me what",
    ] {
        client.line(line);
    }
    assert_eq!(client.line("GPULOCK.RESETSTATS"), "OK");
    for counters in [stats(&mut client), flatten(&client.line("GPULOCK.STATS KEY a"))] {
        for (name, count) in &counters {
            let kept = ["adopted", "locks_held"].contains(&name.as_str());
            assert_eq!(*count, i64::from(kept), "{name}");
        }
    }
    // Held locks are unchanged.
    assert!(client.line("GPULOCK.INSPECT a").field("token").int() > 0);
    assert_eq!(client.line("GPULOCK.INSPECT a").field("adopted"), 0);
    assert_eq!(client.line("GPULOCK.RELEASE a me"), 1);
    assert_consistent(&stats(&mut client), "after the reset");
}

fn the_most_recently_used_locks_have_counters(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.tracked-keys", "3"]).start();
    let mut client = server.client();
    let counters_of = |client: &mut Client, key: &str| {
        let reply = call!(client, "GPULOCK.STATS", "KEY", key);
        (!reply.is_null()).then(|| flatten(&reply))
    };
    // The same key in another database is another lock.
    for (db, key) in [(0, "a"), (1, "a"), (0, "b"), (0, "c"), (1, "b")] {
        assert_eq!(call!(client, "SELECT", db), "OK");
        for _ in 0..3 {
            assert!(call!(client, "GPULOCK.ACQUIRE", key, "me").int() > 0);
            assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
        }
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 0);
    }
    for (db, key, tracked) in
        [(0, "a", false), (1, "a", false), (0, "b", true), (0, "c", true), (1, "b", true)]
    {
        assert_eq!(call!(client, "SELECT", db), "OK");
        let counters_of = counters_of(&mut client, key);
        assert_eq!(counters_of.is_some(), tracked, "{key} in {db}");
        if let Some(counters_of) = counters_of {
            assert_eq!((counters_of["acquired"], counters_of["releases"]), (3, 3));
            assert_eq!(counters_of["stale_releases"], 1);
        }
    }
    assert_eq!(counters_of(&mut client, "never"), None);
    let metrics = client.line("GPULOCK.METRICS").text();
    let samples = samples(&metrics);
    assert_eq!(samples["gpulock_untracked_acquired_total"], 6);
    assert_eq!(samples["gpulock_acquired_total"], 15);
    // A smaller limit drops the counters of the locks used least recently, and a larger one
    // does not restore them.
    assert_eq!(client.line("CONFIG SET gpulock.tracked-keys 1"), "OK");
    assert_eq!(counters_of(&mut client, "b").expect("the last one used")["acquired"], 3);
    client.line("SELECT 0");
    assert_eq!(counters_of(&mut client, "b"), None);
    assert_eq!(counters_of(&mut client, "c"), None);
    let metrics = client.line("GPULOCK.METRICS").text();
    assert!(metrics.contains("gpulock_untracked_acquired_total 12\n"), "{metrics}");
    assert_eq!(client.line("CONFIG SET gpulock.tracked-keys 0"), "OK");
    client.line("SELECT 1");
    assert_eq!(counters_of(&mut client, "b"), None);
}

fn the_least_recently_used_idle_lock_loses_its_counters(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.tracked-keys", "3"]).start();
    let mut client = server.client();
    let mut waiter = server.client();
    let tracked = |client: &mut Client| -> String {
        let is_tracked = |key: &char| {
            !call!(client, "GPULOCK.STATS", "KEY", key.to_string()).is_null()
        };
        ('a'..='h').filter(is_tracked).collect()
    };
    let use_once = |client: &mut Client, key: &str| {
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "me").int() > 0);
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
    };
    // One lock is held, one is only waited for, and one is idle.
    assert!(client.line("GPULOCK.ACQUIRE a me").int() > 0);
    call!(client, "SET", "b", vec![b'x'; 2000]);
    send!(waiter, "GPULOCK.ACQUIRE", "b", "you", "BLOCK", 0);
    server.wait_blocked(1);
    use_once(&mut client, "c");
    assert_eq!(tracked(&mut client), "abc");
    // Only the idle lock loses its counters, however long ago the others were used.
    for (key, expected) in [("d", "abd"), ("e", "abe")] {
        use_once(&mut client, key);
        assert_eq!(tracked(&mut client), expected);
    }
    client.line("DEL b");
    assert!(waiter.read().int() > 0);
    call!(waiter, "GPULOCK.RELEASE", "b", "you");
    client.line("GPULOCK.RELEASE a me");
    // e was used least recently; a failed RELEASE is a use as well.
    use_once(&mut client, "f");
    assert_eq!(tracked(&mut client), "abf");
    client.line("GPULOCK.RELEASE b stranger");
    use_once(&mut client, "g");
    assert_eq!(tracked(&mut client), "bfg");
}

fn the_untracked_counters_never_decrease(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.tracked-keys", "4"]).start();
    let mut client = server.client();
    let mut rng = seeded_rng();
    let mut before = Counters::new();
    for n in 0..300 {
        let key = rng.usize(..12).to_string();
        match rng.usize(..4) {
            0 | 1 => call!(client, "GPULOCK.ACQUIRE", &key, "me"),
            2 => call!(client, "GPULOCK.RELEASE", &key, "me"),
            _ => call!(client, "DEL", &key),
        };
        if n % 3 != 0 {
            continue;
        }
        let metrics = client.line("GPULOCK.METRICS").text();
        let counters = samples(&metrics);
        let after: Counters = counters
            .into_iter()
            .filter(|(name, _)| {
                name.starts_with("gpulock_untracked_") && name.ends_with("_total")
            })
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        for (name, value) in &before {
            assert!(after[name] >= *value, "{name} fell from {value} to {}", after[name]);
        }
        before = after;
    }
    assert!(before["gpulock_untracked_acquired_total"] > 0);
}
