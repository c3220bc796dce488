//! GPULOCK.METRICS is Prometheus text (0.0.4) for any keys, with the values of STATS. The
//! parser here is strict: it rejects what the format leaves open.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use gpulock_testkit::{Client, Flavour, call, send, workspace};

use crate::harness::note_skipped;
use crate::support::counters::{Counters, flatten, stats};

tests! {
    metrics_have_the_values_of_stats,
    labels_of_hostile_keys_are_valid_and_unique,
    long_names_do_not_grow_the_text_or_displace_other_counters,
    the_most_recently_used_locks_have_series_and_the_sums_are_exact,
    metrics_without_any_lock_are_valid,
    portions_of_any_size_have_the_series_of_the_whole,
    a_lock_that_stays_is_in_one_portion_while_others_come_and_go,
    portions_of_long_labels_stay_short,
    a_walk_over_100_000_locks_shows_each_one_once,
    a_walk_shows_only_the_locks_that_the_user_may_read,
    a_cursor_that_was_not_returned_is_refused,
}

tests_without_server! { the_parser_rejects_invalid_text }

type Labels = BTreeMap<String, String>;

/// A family of series: its type, and its samples by name and labels.
#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    samples: BTreeMap<(String, Labels), f64>,
}

/// Removes a name from the start of `text`.
fn name<'a>(text: &mut &'a str, colons: bool) -> Result<&'a str, String> {
    let fits = |(place, c): (usize, char)| {
        let starts = c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
        !(starts || (place > 0 && c.is_ascii_digit()))
    };
    let end = text.char_indices().find(|at| fits(*at)).map_or(text.len(), |(at, _)| at);
    if end == 0 {
        return Err(format!("expected a name at {text:?}"));
    }
    let (name, rest) = text.split_at(end);
    *text = rest;
    Ok(name)
}

fn expect(text: &mut &str, token: &str) -> Result<(), String> {
    *text = text.strip_prefix(token).ok_or(format!("expected {token:?} at {text:?}"))?;
    Ok(())
}

/// Removes a quoted value from the start of `text`, and unescapes it.
fn quoted(text: &mut &str) -> Result<String, String> {
    expect(text, "\"")?;
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next() {
            Some('"') => break,
            Some('\\') => value.push(match characters.next() {
                Some('\\') => '\\',
                Some('"') => '"',
                Some('n') => '\n',
                other => return Err(format!("invalid escape: {other:?}")),
            }),
            Some(c) => value.push(c),
            None => return Err("an unterminated value".to_owned()),
        }
    }
    *text = characters.as_str();
    Ok(value)
}

fn labels(text: &mut &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    if !text.starts_with('{') {
        return Ok(labels);
    }
    expect(text, "{")?;
    loop {
        let label = name(text, false)?.to_owned();
        expect(text, "=")?;
        if labels.insert(label.clone(), quoted(text)?).is_some() {
            return Err(format!("duplicate label {label}"));
        }
        if !text.starts_with(',') {
            break;
        }
        expect(text, ",")?;
    }
    expect(text, "}")?;
    Ok(labels)
}

fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    // The family of the last HELP line: all its lines are consecutive.
    let mut current = String::new();
    let body = text.strip_suffix('\n').ok_or("the last line is not terminated")?;
    for mut line in body.split('\n') {
        if let Some(mut rest) = line.strip_prefix("# HELP ") {
            current = name(&mut rest, true)?.to_owned();
            expect(&mut rest, " ")?;
            if rest.is_empty() || families.contains_key(&current) {
                return Err(format!("HELP of {current} is empty or duplicate"));
            }
            families.insert(current.clone(), Family::default());
            continue;
        }
        if line.starts_with("# ") && !line.starts_with("# TYPE ") {
            continue;
        }
        let family =
            families.get_mut(&current).ok_or("expected HELP on the first line")?;
        if let Some(mut rest) = line.strip_prefix("# TYPE ") {
            let of = name(&mut rest, true)?;
            if of != current || !family.kind.is_empty() || !family.samples.is_empty() {
                return Err(format!("TYPE of {of} is out of place"));
            }
            expect(&mut rest, " ")?;
            rest.clone_into(&mut family.kind);
            continue;
        }
        let sample = name(&mut line, true)?.to_owned();
        let labels = labels(&mut line)?;
        expect(&mut line, " ")?;
        let value = line.parse::<f64>().map_err(|error| format!("{error}: {line:?}"))?;
        let part =
            sample.strip_prefix(current.as_str()).ok_or("a sample outside its family")?;
        let (fits, has_le) = match family.kind.as_str() {
            "counter" => (part.is_empty() && current.ends_with("_total"), false),
            "gauge" => (part.is_empty() && !current.ends_with("_total"), false),
            "histogram" => {
                (["_bucket", "_sum", "_count"].contains(&part), part == "_bucket")
            }
            other => return Err(format!("{current} is of type {other:?}")),
        };
        if !fits || labels.contains_key("le") != has_le || value < 0.0 {
            return Err(format!("{sample} {labels:?} {value} in {current}"));
        }
        if family.samples.insert((sample.clone(), labels.clone()), value).is_some() {
            return Err(format!("{sample} {labels:?} is duplicate"));
        }
    }
    Ok(families)
}

#[track_caller]
fn metrics(client: &mut Client) -> BTreeMap<String, Family> {
    let text = call!(client, "GPULOCK.METRICS").bytes().to_vec();
    check(text)
}

/// The families of a valid text.
#[track_caller]
fn check(text: Vec<u8>) -> BTreeMap<String, Family> {
    let text = String::from_utf8(text).expect("METRICS is UTF-8");
    check_with_promtool(&text);
    parse(&text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

/// The next portion of a walk: the cursor of the one after it, and the text.
#[track_caller]
fn portion(client: &mut Client, cursor: i64, count: usize) -> (i64, Vec<u8>) {
    let reply = call!(client, "GPULOCK.METRICS", "CURSOR", cursor, "COUNT", count);
    let [next, text] = reply.list() else { panic!("{reply:?}") };
    (next.int(), text.bytes().to_vec())
}

/// The texts of a whole walk. `between` is called before each portion but the first.
#[track_caller]
fn walk(client: &mut Client, count: usize, mut between: impl FnMut()) -> Vec<Vec<u8>> {
    let (mut next, text) = portion(client, 0, count);
    let mut texts = vec![text];
    while next != 0 {
        between();
        let (following, text) = portion(client, next, count);
        assert!(following < next, "{following} after {next}");
        next = following;
        texts.push(text);
    }
    texts
}

/// Merges the families of portions. No series is in two of them.
#[track_caller]
fn merge(texts: Vec<Vec<u8>>) -> BTreeMap<String, Family> {
    let mut merged: BTreeMap<String, Family> = BTreeMap::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        for (name, Family { kind, samples }) in check(text) {
            let family = merged.entry(name.clone()).or_default();
            family.kind = kind;
            for (sample, value) in samples {
                let twice = family.samples.insert(sample.clone(), value);
                assert_eq!(twice, None, "{sample:?} in {name}");
            }
        }
    }
    merged
}

/// The locks with their own series.
fn shown(families: &BTreeMap<String, Family>) -> BTreeSet<(String, String)> {
    let Some(family) = families.get("gpulock_lock_acquired_total") else {
        return BTreeSet::new();
    };
    let labels = family.samples.keys().map(|(_, labels)| labels);
    labels.map(|labels| (labels["db"].clone(), labels["key"].clone())).collect()
}

/// The promtool to use: on PATH, or where `tools/setup.sh cli` unpacks it.
fn promtool() -> Option<&'static Path> {
    static FOUND: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let unpacked = workspace().join("target/tools/prometheus/usr/bin/promtool");
        let runs = |program: &PathBuf| {
            let version = Command::new(program).arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        };
        let found = [PathBuf::from("promtool"), unpacked].into_iter().find(runs);
        if found.is_none() {
            note_skipped(
                "promtool check metrics: promtool is missing; tools/setup.sh cli installs it",
            );
        }
        found
    });
    FOUND.as_deref()
}

/// Checks the text with Prometheus' own tool.
fn check_with_promtool(text: &str) {
    let Some(promtool) = promtool() else { return };
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting promtool");
    let mut input = check.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("writing to promtool");
    drop(input);
    let output = check.wait_with_output().expect("promtool");
    // 1: a syntax error. 3: style warnings only.
    let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ne!(output.status.code(), Some(1), "{output_text}");
}

/// The samples of a lock, of the server or of untracked locks, named as in STATS.
fn as_stats(
    families: &BTreeMap<String, Family>,
    prefix: &str,
    of_labels: &Labels,
) -> Counters {
    let mut counters = Counters::new();
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers, far below 2^53")]
    let whole = |value: f64| value.round() as i64;
    for (family, Family { kind, samples }) in families {
        let Some(short) = family.strip_prefix(prefix) else { continue };
        if prefix == "gpulock_"
            && (short.starts_with("lock_") || short.starts_with("untracked_"))
        {
            continue;
        }
        for ((sample, labels), value) in samples {
            let mut rest = labels.clone();
            let le = rest.remove("le");
            if rest != *of_labels {
                continue;
            }
            let name = match (kind.as_str(), le) {
                ("histogram", le) => {
                    let short = short.strip_suffix("_seconds").expect("a unit");
                    let part = match (le.as_deref(), sample.rsplit('_').next()) {
                        (Some("+Inf"), _) => "+Inf".to_owned(),
                        (Some(le), _) => {
                            whole(le.parse::<f64>().expect("a bound") * 1000.0)
                                .to_string()
                        }
                        (None, part) => part.expect("_sum or _count").to_owned(),
                    };
                    format!("{short}_ms.{part}")
                }
                _ => short.trim_end_matches("_total").to_owned(),
            };
            let in_ms = name.ends_with(".sum");
            let value = whole(if in_ms { value * 1000.0 } else { *value });
            assert!(counters.insert(name.clone(), value).is_none(), "{name} twice");
        }
    }
    counters
}

fn metrics_have_the_values_of_stats(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.tracked-keys", "2"]).start();
    let mut client = server.client();
    for line in [
        "GPULOCK.ACQUIRE a me",
        "GPULOCK.ACQUIRE a me UNIQUE",
        "GPULOCK.ACQUIRE b me",
        "GPULOCK.ACQUIRE b you",
        "GPULOCK.RELEASE b you",
        "GPULOCK.RELEASE b what ever",
        "GPULOCK.RELEASE b me",
        "GPULOCK.RELEASE b me",
        "GPULOCK.ACQUIRE c me",
        "GPULOCK.EXTEND c me",
        "GPULOCK.EXTEND c you",
        "GPULOCK.FORCERELEASE c",
        "SET d x",
        "GPULOCK.ACQUIRE d me",
        "GPULOCK.RELEASE d x",
    ] {
        client.line(line);
    }
    let families = metrics(&mut client);
    let server = stats(&mut client);
    assert_eq!(as_stats(&families, "gpulock_", &Labels::new()), server);
    let mut rest = server;
    assert_eq!(rest.remove("internal_errors"), Some(0));
    // a is held; b and c lost their counters to d, which was used last.
    for key in ["a", "d"] {
        let labels =
            [("db", "0"), ("key", key)].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let of_lock = flatten(&call!(client, "GPULOCK.STATS", "KEY", key));
        let mut shown = of_lock.clone();
        // The histogram of a lock is shown only when it has values: a was not released yet.
        for histogram in ["wait_ms", "hold_ms"] {
            if of_lock[&format!("{histogram}.count")] == 0 {
                shown.retain(|name, _| !name.starts_with(histogram));
            }
        }
        assert_eq!(shown.contains_key("hold_ms.sum"), key == "d");
        assert_eq!(as_stats(&families, "gpulock_lock_", &labels.into()), shown, "{key}");
        for (name, value) in of_lock {
            *rest.get_mut(&name).expect("the server counts it too") -= value;
        }
    }
    assert_eq!(as_stats(&families, "gpulock_untracked_", &Labels::new()), rest);
    for histogram in ["gpulock_wait_seconds", "gpulock_hold_seconds"] {
        let samples = &families[histogram].samples;
        let last = (format!("{histogram}_bucket"), [("le".into(), "+Inf".into())].into());
        let count = (format!("{histogram}_count"), Labels::new());
        assert_eq!(samples[&last].to_bits(), samples[&count].to_bits());
    }
}

fn labels_of_hostile_keys_are_valid_and_unique(flavour: &Flavour) {
    let hostile: &[&[u8]] = &[
        b"",
        b"plain",
        b"\"",
        b"\\",
        b"\\\\",
        b"\\\"",
        b"\n",
        b"\\n",
        b"a\r\nb",
        b"\0",
        b"x\",key=\"y",
        b"} 1\ngpulock_acquired_total 999",
        b"\xff",
        b"\\xff",
        b"\\\\xff",
        b"\\x5cxff",
        b"\\x5cx5cxff",
        b"\\\xff",
        b"\xff\xfe",
        b"\xc3",
        b"\xc3\xa4",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98\x80",
        b"\\xFF",
        b"\\xf",
        b"# HELP x y",
        b"{}",
        b" ",
        b"\xe2\x80\xa8",
    ];
    let server = flavour.start();
    let mut client = server.client();
    for (times, key) in hostile.iter().enumerate() {
        for _ in 0..=times {
            call!(client, "GPULOCK.ACQUIRE", key, "me").int();
            call!(client, "GPULOCK.RELEASE", key, "me");
        }
    }
    call!(client, "SELECT", 1);
    call!(client, "GPULOCK.ACQUIRE", b"\xff", "me").int();
    let families = metrics(&mut client);
    let acquired = &families["gpulock_lock_acquired_total"].samples;
    // Each lock has its own series with the number of its grants.
    assert_eq!(acquired.len(), hostile.len() + 1);
    let mut keys = BTreeSet::new();
    let mut counts = Vec::new();
    for ((_, labels), value) in acquired {
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["db", "key"]);
        if labels["db"] == "0" {
            assert!(keys.insert(labels["key"].clone()), "{labels:?} twice");
            counts.push(value.round().to_string());
        }
    }
    counts.sort_by_key(|count| count.parse::<u64>().expect("a number"));
    let expected: Vec<String> = (1..=hostile.len()).map(|n| n.to_string()).collect();
    assert_eq!(counts, expected);
    // Text is unchanged; other bytes are \xHH.
    for key in ["", "plain", "\"", "\\", "\n", "\\n", "\0", "\u{e4}", "# HELP x y"] {
        assert!(keys.contains(key), "{key:?}");
    }
    for key in [r"\xff", r"\xff\xfe", r"\xc3"] {
        assert!(keys.contains(key), "{key:?}");
    }
}

/// Acquires and releases many locks in pipelines.
fn use_locks(client: &mut Client, keys: &[Vec<u8>]) {
    for keys in keys.chunks(500) {
        for key in keys {
            client.send(&[b"GPULOCK.ACQUIRE", key.as_slice(), b"me"]);
            client.send(&[b"GPULOCK.RELEASE", key.as_slice(), b"me"]);
        }
        for _ in keys {
            client.read().int();
            assert_eq!(client.read(), 1);
        }
    }
}

/// The number of locks with their own series. Checks that these and the untracked ones add up
/// to the counters of the server.
#[track_caller]
fn locks_shown(text: &str) -> usize {
    let families = parse(text).unwrap_or_else(|error| panic!("{error}"));
    for (family, Family { kind, samples }) in &families {
        let Some(name) = family.strip_prefix("gpulock_lock_") else { continue };
        if kind == "histogram" {
            continue;
        }
        let sum = |family: &str| -> f64 { families[family].samples.values().sum() };
        let of_locks: f64 = samples.values().sum();
        let total = of_locks + sum(&format!("gpulock_untracked_{name}"));
        assert_eq!(total.to_bits(), sum(&format!("gpulock_{name}")).to_bits(), "{name}");
    }
    families.get("gpulock_lock_acquired_total").map_or(0, |family| family.samples.len())
}

fn long_names_do_not_grow_the_text_or_displace_other_counters(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let ordinary: Vec<_> =
        (0..1024).map(|n| format!("gpu_lock:{n}").into_bytes()).collect();
    use_locks(&mut client, &ordinary);
    let usual = client.line("GPULOCK.METRICS").text().len();
    for len in [1024, 129, 128] {
        let name = |n| [format!("mine:{n:04}").as_bytes(), &[0xff; 1015]].concat();
        let names: Vec<_> = (0..1100).map(|n| name(n)[..len].to_vec()).collect();
        use_locks(&mut client, &names);
        let text = client.line("GPULOCK.METRICS").text();
        assert!(text.len() < usual * 2, "{} bytes for names of {len}", text.len());
        let has_counters = !call!(client, "GPULOCK.STATS", "KEY", &names[1099]).is_null();
        assert_eq!(has_counters, len <= 128, "names of {len} bytes");
        assert_eq!(text.contains("mine"), has_counters, "names of {len} bytes");
        // The lock of another user still gets counters and series.
        let other = format!("other:{len}");
        use_locks(&mut client, &[other.clone().into_bytes()]);
        assert_eq!(call!(client, "GPULOCK.STATS", "KEY", &other).field("acquired"), 1);
        let line = format!("gpulock_lock_acquired_total{{db=\"0\",key=\"{other}\"}} 1\n");
        assert!(client.line("GPULOCK.METRICS").text().contains(&line), "{line}");
    }
    let shown = locks_shown(&client.line("GPULOCK.METRICS").text());
    assert!((10..1024).contains(&shown), "{shown}");
}

/// The end of a text that does not show all locks.
const MORE: &str = "# Locks without room here count as untracked. \
                    GPULOCK.METRICS CURSOR 0 returns all locks in portions.\n";

fn the_most_recently_used_locks_have_series_and_the_sums_are_exact(flavour: &Flavour) {
    let limit = ["gpulock.tracked-keys", "3000"];
    let server = flavour.server().module_args(&limit).start();
    let mut client = server.client();
    let names: Vec<_> = (0..2500).map(|n| format!("gpu:{n}").into_bytes()).collect();
    use_locks(&mut client, &names[..100]);
    let text = client.line("GPULOCK.METRICS").text();
    assert_eq!((locks_shown(&text), text.contains(MORE)), (100, false));
    use_locks(&mut client, &names);
    // It is held, so it was used more recently than any idle lock.
    call!(client, "GPULOCK.ACQUIRE", "gpu:7", "me").int();
    use_locks(&mut client, &[b"gpu:0".to_vec()]);
    let text = client.line("GPULOCK.METRICS").text();
    assert!(text.ends_with(MORE));
    let shown = locks_shown(&text);
    assert!((150..400).contains(&shown), "{shown}");
    // gpu:0 and gpu:7, and the last ones of the others.
    let first = 2500 - (shown - 2);
    for (key, is_shown) in [
        (7, true),
        (0, true),
        (1, false),
        (first - 1, false),
        (first, true),
        (2499, true),
    ] {
        assert_eq!(text.contains(&format!("key=\"gpu:{key}\"")), is_shown, "gpu:{key}");
        // All of them have counters.
        let of_lock = call!(client, "GPULOCK.STATS", "KEY", format!("gpu:{key}"));
        let expected = if key < 100 { 2 } else { 1 };
        assert_eq!(of_lock.field("acquired"), expected + i64::from(key == 0 || key == 7));
    }
}

fn portions_of_any_size_have_the_series_of_the_whole(flavour: &Flavour) {
    let limit = ["gpulock.tracked-keys", "40"];
    let server = flavour.server().module_args(&limit).start();
    let mut client = server.client();
    for db in 0..2 {
        call!(client, "SELECT", db);
        let names: Vec<_> = (0..30).map(|n| vec![b'k', n, 0xff, b'\\']).collect();
        use_locks(&mut client, &names);
    }
    // Locks with and without counters of their own are held and waited for.
    call!(client, "GPULOCK.ACQUIRE", "held", "me").int();
    let long = "k".repeat(200);
    call!(client, "GPULOCK.ACQUIRE", &long, "me").int();
    let mut waiters = [server.client(), server.client()];
    for (waiter, key) in waiters.iter_mut().zip(["held", &long]) {
        call!(waiter, "SELECT", 1);
        send!(waiter, "GPULOCK.ACQUIRE", key, "you", "BLOCK", 0);
    }
    server.wait_blocked(2);
    assert_eq!(call!(client, "GPULOCK.RELEASE", "held", "me"), 1);
    waiters[0].read().int();

    let whole = metrics(&mut client);
    assert_eq!(shown(&whole).len(), 40);
    let untracked = &whole["gpulock_untracked_acquired_total"].samples;
    assert_eq!(untracked.values().sum::<f64>().round().to_string(), "22");
    for count in [1, 7, 39, 40, 41, 1024] {
        let texts = walk(&mut client, count, || ());
        assert_eq!(texts.len(), 40usize.div_ceil(count), "portions of {count}");
        assert_eq!(merge(texts), whole, "portions of {count}");
    }
}

fn a_lock_that_stays_is_in_one_portion_while_others_come_and_go(flavour: &Flavour) {
    let limit = ["gpulock.tracked-keys", "60"];
    let server = flavour.server().module_args(&limit).start();
    let (mut client, mut other) = (server.client(), server.client());
    let stay: Vec<String> = (0..20).map(|n| format!("stay:{n}")).collect();
    for key in &stay {
        call!(client, "GPULOCK.ACQUIRE", key, "me").int();
        use_locks(&mut client, &[format!("go:{key}").into_bytes()]);
    }
    let mut round = 0;
    let texts = walk(&mut client, 3, || {
        // Idle locks lose their counters to others and get them again, and locks that were shown
        // are used again.
        let come = (0..30).map(|n| format!("come:{}", (round * 7 + n) % 50).into_bytes());
        let go = (0..20).map(|n| format!("go:stay:{n}").into_bytes());
        use_locks(&mut other, &come.chain(go).collect::<Vec<_>>());
        for key in &stay {
            call!(other, "GPULOCK.EXTEND", key, "me").int();
        }
        round += 1;
    });
    assert!(texts.len() > 5, "{} portions", texts.len());
    // `merge` checks that no lock is in two portions.
    let shown = shown(&merge(texts));
    for key in stay {
        assert!(shown.contains(&("0".to_owned(), key.clone())), "{key}: {shown:?}");
    }
}

fn portions_of_long_labels_stay_short(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let name = |n: u32| [format!("{n:03}").as_bytes(), &[0xff; 125]].concat();
    let names: Vec<_> = (0..300).map(name).collect();
    use_locks(&mut client, &names);
    use_locks(&mut client, &[vec![b'k'; 1 << 20]]);
    let texts = walk(&mut client, 1024, || ());
    assert!(texts.len() > 1, "{} portions", texts.len());
    assert!(texts.iter().all(|text| text.len() < 1 << 20));
    assert_eq!(shown(&merge(texts)).len(), names.len());
}

fn a_walk_over_100_000_locks_shows_each_one_once(flavour: &Flavour) {
    const LOCKS: usize = 100_000;
    let limit = ["gpulock.tracked-keys", "100000"];
    let server = flavour.server().module_args(&limit).start();
    let mut client = server.client();
    let names: Vec<_> = (0..LOCKS).map(|n| format!("gpu:{n}").into_bytes()).collect();
    use_locks(&mut client, &names);
    let mut shown = vec![false; LOCKS];
    for text in walk(&mut client, 1024, || ()) {
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        let text = String::from_utf8(text).expect("METRICS is UTF-8");
        let of_lock = "gpulock_lock_acquired_total{db=\"0\",key=\"gpu:";
        for line in text.lines().filter_map(|line| line.strip_prefix(of_lock)) {
            let n = line.strip_suffix("\"} 1").expect("a lock was acquired once");
            let n: usize = n.parse().expect("a number");
            assert!(!std::mem::replace(&mut shown[n], true), "gpu:{n} twice");
        }
    }
    assert!(shown.iter().all(|shown| *shown));
    assert!(client.line("GPULOCK.METRICS").bytes().len() < 1 << 20);
}

fn a_walk_shows_only_the_locks_that_the_user_may_read(flavour: &Flavour) {
    let limit = ["gpulock.tracked-keys", "5000"];
    let server = flavour.server().module_args(&limit).start();
    let mut admin = server.client();
    let names = |prefix: &str, count: usize| -> Vec<Vec<u8>> {
        (0..count).map(|n| format!("{prefix}:{n}").into_bytes()).collect()
    };
    use_locks(&mut admin, &names("mine", 10));
    use_locks(&mut admin, &names("yours", 3000));
    use_locks(&mut admin, &names("mine", 20));
    assert_eq!(admin.line("ACL SETUSER alice on >x +@all ~mine:*"), "OK");
    let mut alice = server.client();
    assert_eq!(alice.line("AUTH alice x"), "OK");
    for count in [1, 7, 1024] {
        let texts = walk(&mut alice, count, || ());
        let families = merge(texts);
        let shown = shown(&families);
        assert_eq!(shown.len(), 20, "{shown:?}");
        assert!(shown.iter().all(|(_, key)| key.starts_with("mine:")), "{shown:?}");
        // The locks that she may not read count for the server only.
        let sum = |family: &str| families[family].samples.values().sum::<f64>().round();
        let acquired = ["gpulock_acquired_total", "gpulock_untracked_acquired_total"];
        assert_eq!(acquired.map(|family| sum(family).to_string()), ["3030", "0"]);
    }
    // A reply for the whole has them as untracked.
    let whole = metrics(&mut alice);
    let untracked = &whole["gpulock_untracked_acquired_total"].samples;
    let untracked = untracked.values().sum::<f64>().round();
    assert!(untracked >= 3000.0, "{untracked}");
}

fn a_cursor_that_was_not_returned_is_refused(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let unknown = "ERR unknown CURSOR: start again with CURSOR 0";
    let before = stats(&mut client);
    assert_eq!(client.line("GPULOCK.METRICS CURSOR 1").err(), unknown);
    use_locks(&mut client, &[b"a".to_vec(), b"b".to_vec()]);
    assert_eq!(client.line("GPULOCK.METRICS CURSOR 3").err(), unknown);
    let (next, _) = portion(&mut client, 0, 1);
    let (last, text) = portion(&mut client, next, 1);
    assert_eq!((last, shown(&check(text)).len()), (0, 1));
    assert_eq!(before["acquired"] + 2, stats(&mut client)["acquired"]);
}

fn metrics_without_any_lock_are_valid(flavour: &Flavour) {
    let server = flavour.start();
    let families = metrics(&mut server.client());
    assert_eq!(families["gpulock_locks_held"].kind, "gauge");
    assert!(!families.contains_key("gpulock_lock_acquired_total"));
    let counters = as_stats(&families, "gpulock_", &Labels::new());
    assert!(counters.values().all(|count| *count == 0));
}

fn the_parser_rejects_invalid_text() {
    let head = "# HELP a_total x\n# TYPE a_total counter\n";
    assert!(parse(&format!("{head}a_total{{k=\"\\\\ \\\" \\n\"}} 1\n")).is_ok());
    for invalid in [
        "a_total 1",
        "a_total 1\na_total 1\n",
        "b_total 1\n",
        "a_total{k=\"\\x\"} 1\n",
        "a_total{k=\"\n\"} 1\n",
        "a_total{k=\"\"\"} 1\n",
        "a_total{k=\"\",k=\"\"} 1\n",
        "a_total one\n",
        "# TYPE a_total counter\n",
        "# HELP a_total x\n",
        "\n",
    ] {
        assert!(parse(&format!("{head}{invalid}")).is_err(), "{invalid:?}");
    }
}
