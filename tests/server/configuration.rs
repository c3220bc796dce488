//! Every setting on every way in which it can be given: redis.conf, words behind the
//! module's path, CONFIG SET; what is wrong is refused with a message that says what is
//! wrong; and each setting does what the contract says.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;

use gpulock_testkit::{
    Builder, Client, Flavour, Server, Value, call, module, send, wait_until, workspace,
};

use crate::support::clock::DEADLINE;

tests! {
    there_are_these_settings_with_these_defaults,
    config_set_takes_every_value_in_range_and_config_get_tells_it,
    config_set_refuses_wrong_values_and_changes_nothing,
    redis_conf_and_the_words_behind_the_path_set_every_setting,
    redis_conf_wins_over_the_words_behind_the_path,
    config_rewrite_keeps_every_setting_over_a_restart,
    config_rewrite_escapes_the_channel_prefix_as_it_does_other_texts,
    a_server_with_a_wrong_setting_does_not_start_and_says_which,
    module_load_with_wrong_words_fails_and_leaves_nothing_behind,
    module_loadex_takes_both_kinds_and_config_wins,
    the_shipped_redis_conf_is_accepted_and_says_the_defaults,
    leases_keep_to_default_and_max_lease,
    no_lease_reaches_beyond_max_hold,
    a_long_hold_is_logged_once,
    the_log_is_no_longer_than_log_len,
    counters_are_kept_for_so_many_locks_as_tracked_keys_says,
    events_are_published_as_events_and_channel_prefix_say,
}

/// A setting: its default, other values that it takes, and values that it does not.
struct Setting {
    name: &'static str,
    default: &'static str,
    good: &'static [&'static str],
    wrong: &'static [&'static str],
}

const fn setting(
    name: &'static str,
    default: &'static str,
    good: &'static [&'static str],
    wrong: &'static [&'static str],
) -> Setting {
    Setting { name, default, good, wrong }
}

#[rustfmt::skip]
const SETTINGS: [Setting; 10] = [
    setting("gpulock.default-lease", "600000",    &["1", "315360000000"], &["0", "-1", "315360000001", "x", "1.5", "+5", "05"]),
    setting("gpulock.max-lease",     "86400000",  &["1", "315360000000"], &["0", "-1", "315360000001", "x", "1e3"]),
    setting("gpulock.max-hold",      "0",         &["1", "315360000000"], &["-1", "315360000001", "x"]),
    setting("gpulock.warn-hold",     "0",         &["1", "315360000000"], &["-1", "315360000001", "x"]),
    setting("gpulock.max-waiters",   "10000",     &["0", "1000000"],      &["-1", "1000001", "x"]),
    setting("gpulock.place-keep",    "10000",     &["0", "3600000"],      &["-1", "3600001", "x"]),
    setting("gpulock.events",        "release",   &["off", "all"],        &["none", "1", "releases"]),
    setting("gpulock.channel-prefix","gpu_lock:", &["", "a", LONGEST],    &[TOO_LONG]),
    setting("gpulock.tracked-keys",  "1024",      &["0", "100000"],       &["-1", "100001", "x"]),
    setting("gpulock.log-len",       "128",       &["0", "100000"],       &["-1", "100001", "x"]),
];

const TOO_LONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0";

/// 256 bytes.
const LONGEST: &str = TOO_LONG.split_at(256).0;

/// All settings as CONFIG GET tells them.
fn settings(client: &mut Client) -> BTreeMap<String, String> {
    let all = client.line("CONFIG GET gpulock.*").map();
    all.into_iter().map(|(name, value)| (name, value.text())).collect()
}

fn defaults() -> BTreeMap<String, String> {
    SETTINGS.iter().map(|s| (s.name.to_owned(), s.default.to_owned())).collect()
}

/// The defaults with the first or the last good value of each setting in their places.
fn other_values(pick: fn(&[&'static str]) -> &'static str) -> BTreeMap<String, String> {
    SETTINGS.iter().map(|s| (s.name.to_owned(), pick(s.good).to_owned())).collect()
}

fn first(values: &[&'static str]) -> &'static str {
    values[0]
}

fn last(values: &[&'static str]) -> &'static str {
    values[values.len() - 1]
}

fn flat(values: &BTreeMap<String, String>) -> Vec<&str> {
    values.iter().flat_map(|(name, value)| [&**name, &**value]).collect()
}

fn there_are_these_settings_with_these_defaults(flavour: &Flavour) {
    let server = flavour.start();
    assert_eq!(settings(&mut server.client()), defaults());
}

fn config_set_takes_every_value_in_range_and_config_get_tells_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for setting in &SETTINGS {
        for value in setting.good.iter().chain([&setting.default]) {
            let name = setting.name;
            assert_eq!(call!(client, "CONFIG", "SET", name, value), "OK", "{name}");
            assert_eq!(settings(&mut client)[name], *value, "{name}");
        }
    }
    assert_eq!(settings(&mut client), defaults());
    // Names and the words of an enumeration in any case.
    assert_eq!(client.line("config set GPULOCK.Max-Lease 5 gpulock.events ALL"), "OK");
    let now = settings(&mut client);
    assert_eq!((&*now["gpulock.max-lease"], &*now["gpulock.events"]), ("5", "all"));
}

fn config_set_refuses_wrong_values_and_changes_nothing(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for setting in &SETTINGS {
        for value in setting.wrong {
            let name = setting.name;
            let answer = call!(client, "CONFIG", "SET", name, value);
            let why = answer.err();
            assert!(why.contains(name) && why.len() > name.len() + 60, "{why}");
            // Together with a right one: all or nothing.
            let both =
                call!(client, "CONFIG", "SET", "gpulock.max-waiters", "7", name, value);
            assert!(both.is_err(), "{name} {value:?}: {both:?}");
            assert_eq!(settings(&mut client), defaults(), "{name} {value:?}");
        }
    }
    assert!(client.line("CONFIG SET gpulock.nothing 1").is_err());
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
}

fn redis_conf_and_the_words_behind_the_path_set_every_setting(flavour: &Flavour) {
    for pick in [first, last] {
        let values = other_values(pick);
        let mut builder = flavour.server();
        for (name, value) in &values {
            builder = builder.arg(name, quoted(value));
        }
        let server = builder.start();
        assert_eq!(settings(&mut server.client()), values, "redis.conf");

        let server = flavour.server().module_args(&flat(&values)).start();
        assert_eq!(settings(&mut server.client()), values, "behind the path");
        // What is given there is also what counts.
        let lease = values["gpulock.max-lease"].parse::<i64>().unwrap();
        let mut client = server.client();
        client.line("GPULOCK.ACQUIRE k me");
        assert!(client.line("PTTL k").int() <= lease);
    }
}

fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}

fn redis_conf_wins_over_the_words_behind_the_path(flavour: &Flavour) {
    let in_conf = other_values(first);
    let behind_path = other_values(last);
    let mut builder = flavour.server().module_args(&flat(&behind_path));
    for (name, value) in &in_conf {
        builder = builder.arg(name, quoted(value));
    }
    let server = builder.start();
    assert_eq!(settings(&mut server.client()), in_conf);
    // One by one, too; also when it is the default that redis.conf says.
    let server = flavour
        .server()
        .module_args(&["gpulock.max-lease", "5000", "gpulock.log-len", "7"])
        .arg("gpulock.max-lease", "86400000")
        .start();
    let now = settings(&mut server.client());
    assert_eq!(now["gpulock.max-lease"], "86400000");
    assert_eq!(now["gpulock.log-len"], "7");
}

fn config_rewrite_keeps_every_setting_over_a_restart(flavour: &Flavour) {
    for pick in [first, last] {
        let mut server = flavour
            .server()
            .module_args(&["gpulock.max-lease", "5000", "gpulock.events", "off"])
            .arg("gpulock.log-len", "7")
            .start();
        let mut client = server.client();
        let values = other_values(pick);
        let words = [&["CONFIG", "SET"], &*flat(&values)].concat();
        assert_eq!(client.cmd(&words), "OK");
        assert_eq!(client.line("CONFIG REWRITE"), "OK");
        server.restart();
        assert_eq!(settings(&mut server.client()), values);

        // Back to the defaults, which are others than those behind the path.
        let defaults = defaults();
        let words = [&["CONFIG", "SET"], &*flat(&defaults)].concat();
        assert_eq!(server.client().cmd(&words), "OK");
        assert_eq!(server.client().line("CONFIG REWRITE"), "OK");
        server.restart();
        assert_eq!(settings(&mut server.client()), defaults);
    }
}

fn config_rewrite_escapes_the_channel_prefix_as_it_does_other_texts(flavour: &Flavour) {
    let mut server = flavour.start();
    let prefix = b"a b\"c\\d'\r\n\x01\xff";
    let set =
        call!(server.client(), "CONFIG", "SET", PREFIX, prefix, "masterauth", prefix);
    assert_eq!(set, "OK");
    assert_eq!(server.client().line("CONFIG REWRITE"), "OK");
    let conf = fs::read_to_string(server.dir().join("server.conf")).unwrap();
    let written = |names: &[&str]| {
        let mut lines = conf.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(name, _)| names.contains(name)).map(|(_, value)| value.to_owned())
    };
    let native = written(&["masterauth", "primaryauth"]);
    assert_eq!(written(&[PREFIX]), native);
    // Valkey 8.1 does not escape, and then cannot read its own file.
    if native.is_some_and(|value| value.contains("\\\"")) {
        server.restart();
        let now = server.client().line("CONFIG GET gpulock.channel-prefix");
        assert_eq!(now.field(PREFIX).bytes(), prefix);
    } else {
        assert_eq!((flavour.is_valkey(), flavour.version().1), (true, 1));
    }
}

const PREFIX: &str = "gpulock.channel-prefix";

/// Why a server that is told so did not start: all it said.
#[track_caller]
fn refusal(what: &dyn Debug, server: Builder) -> String {
    match server.try_start() {
        Err(why) => why,
        Ok(server) => panic!("{} started with {what:?}", server.name()),
    }
}

fn a_server_with_a_wrong_setting_does_not_start_and_says_which(flavour: &Flavour) {
    for setting in &SETTINGS {
        for value in setting.wrong {
            let name = setting.name;
            let why = refusal(&(name, value), flavour.server().arg(name, quoted(value)));
            assert!(why.contains(name), "{name} {value}: {why}");
            let why = refusal(
                &(name, value, "behind the path"),
                flavour.server().module_args(&[name, value]),
            );
            let line = why.lines().find(|line| line.contains("<gpulock>"));
            let line = line.unwrap_or_else(|| panic!("{name} {value}: {why}"));
            assert!(line.contains(name.trim_start_matches("gpulock.")), "{line}");
            assert!(line.contains("must be"), "{line}");
        }
    }
    let why = refusal(&"gpulock.nothing", flavour.server().arg("gpulock.nothing", "1"));
    // Not every server says which.
    let unnamed = "Module Configuration detected without loadmodule directive";
    assert!(why.contains("gpulock.nothing") || why.contains(unnamed), "{why}");
    for words in [&["gpulock.nothing", "1"][..], &["nothing", "1"], &["gpulock.events"]] {
        let why = refusal(&words, flavour.server().module_args(words));
        assert!(why.contains("<gpulock> not loaded: "), "{words:?}: {why}");
    }
}

fn module_load_with_wrong_words_fails_and_leaves_nothing_behind(flavour: &Flavour) {
    let server = flavour.server().without_module().start();
    let mut client = server.client();
    // Some servers bring modules of their own.
    let modules = client.line("MODULE LIST");
    let path = module().display().to_string();
    for words in [
        &["gpulock.max-lease", "0"][..],
        &["gpulock.events", "sometimes"],
        &["gpulock.channel-prefix", TOO_LONG],
        &["gpulock.nothing", "1"],
        &["gpulock.max-lease"],
        &["gpulock.max-lease", "5", "gpulock.log-len"],
    ] {
        let load = [&["MODULE", "LOAD", &path], words].concat();
        let answer = client.cmd(&load);
        assert!(answer.err().starts_with("ERR Error loading the extension"));
        assert_eq!(client.line("MODULE LIST"), modules, "{words:?}");
        assert!(client.line("GPULOCK.LIST").err().starts_with("ERR unknown command"));
        assert_eq!(client.line("CONFIG GET gpulock.*"), Value::Array(vec![]));
    }
    server.wait_log("<gpulock> not loaded: ");
    let log = server.log();
    let said: Vec<_> =
        log.lines().filter(|line| line.contains("<gpulock> not loaded: ")).collect();
    assert_eq!(said.len(), 6, "{said:?}");
    let right = call!(client, "MODULE", "LOAD", &path, "gpulock.max-lease", 5000);
    assert_eq!(right, "OK");
    assert_eq!(settings(&mut client)["gpulock.max-lease"], "5000");
    assert!(client.line("GPULOCK.ACQUIRE k me PX 5000").int() > 0);
}

fn module_loadex_takes_both_kinds_and_config_wins(flavour: &Flavour) {
    let server = flavour.server().without_module().start();
    let mut client = server.client();
    // Some servers bring modules of their own.
    let modules = client.line("MODULE LIST");
    let path = module().display().to_string();
    let load = |client: &mut Client, rest: &str| {
        let words = ["MODULE", "LOADEX", &path].into_iter().chain(rest.split(' '));
        client.cmd(&words.collect::<Vec<_>>())
    };
    for wrong in [
        "CONFIG gpulock.max-lease 0",
        "CONFIG gpulock.events sometimes",
        "CONFIG gpulock.nothing 1",
        "ARGS gpulock.max-lease 0",
        "CONFIG gpulock.log-len 5 ARGS gpulock.max-lease",
    ] {
        assert!(load(&mut client, wrong).is_err(), "{wrong}");
        assert_eq!(client.line("MODULE LIST"), modules, "{wrong}");
    }
    let right = "CONFIG gpulock.max-lease 5000 CONFIG gpulock.events all \
            ARGS gpulock.max-lease 6000 gpulock.log-len 7";
    assert_eq!(load(&mut client, right), "OK");
    let now = settings(&mut client);
    let shown = ["max-lease", "events", "log-len", "max-waiters"]
        .map(|name| &*now[&format!("gpulock.{name}")]);
    assert_eq!(shown, ["5000", "all", "7", "10000"]);
}

fn the_shipped_redis_conf_is_accepted_and_says_the_defaults(flavour: &Flavour) {
    let conf = fs::read_to_string(workspace().join("redis.conf")).unwrap();
    let said: BTreeMap<_, _> = conf
        .lines()
        .filter(|line| line.starts_with("gpulock."))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    assert_eq!(said, defaults());
    let server = flavour.server().conf("redis.conf").start();
    assert_eq!(settings(&mut server.client()), defaults());
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
    // What the module warns of is set right there.
    assert_eq!(client.line("GPULOCK.LOG"), Value::Array(vec![]));
    let said = client.line("CONFIG GET appendonly");
    assert_eq!(said.field("appendonly"), "yes");
}

#[track_caller]
fn config(client: &mut Client, name: &str, value: impl ToString) {
    let set =
        call!(client, "CONFIG", "SET", format!("gpulock.{name}"), value.to_string());
    assert_eq!(set, "OK", "{name}");
}

/// That the key's lease is about so long: it was set at most ten seconds ago.
#[track_caller]
fn assert_lease(client: &mut Client, key: &str, ms: i64) {
    let left = call!(client, "PTTL", key).int();
    assert!(left <= ms && left > ms - 10_000, "{left} ms left of {ms}");
}

fn leases_keep_to_default_and_max_lease(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE k me UNIQUE");
    assert_lease(&mut client, "k", 600_000);
    config(&mut client, "default-lease", 50_000);
    for line in ["GPULOCK.EXTEND k me", "GPULOCK.ACQUIRE k me UNIQUE"] {
        client.line("PEXPIRE k 900000");
        client.line(line);
        assert_lease(&mut client, "k", 50_000);
    }
    config(&mut client, "max-lease", 20_000);
    for line in ["GPULOCK.EXTEND k me", "GPULOCK.ACQUIRE k me UNIQUE"] {
        client.line("PEXPIRE k 900000");
        client.line(line);
        assert_lease(&mut client, "k", 20_000);
    }
    client.line("GPULOCK.ACQUIRE new me");
    assert_lease(&mut client, "new", 20_000);
    for line in [
        "GPULOCK.ACQUIRE other me PX 20001",
        "GPULOCK.ACQUIRE other me EX 21",
        "GPULOCK.ACQUIRE k me PX 20001 UNIQUE",
        "GPULOCK.EXTEND k me PX 20001",
        "GPULOCK.EXTEND k me EX 9007199254740",
    ] {
        let refused = client.line(line);
        let expected = "ERR the lease must be at most 20000 ms (gpulock.max-lease)";
        assert_eq!(refused.err(), expected, "{line}");
    }
    assert_eq!(client.line("EXISTS other"), 0);
    assert_lease(&mut client, "k", 20_000);
    assert!(client.line("GPULOCK.ACQUIRE other me PX 20000").int() > 0);
    assert!(client.line("GPULOCK.EXTEND other me EX 20").int() > 0);
    assert_lease(&mut client, "other", 20_000);
}

fn no_lease_reaches_beyond_max_hold(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    config(&mut client, "max-hold", 60_000);
    client.line("GPULOCK.ACQUIRE k me UNIQUE");
    let limit = client.line("PEXPIRETIME k").int();
    assert_lease(&mut client, "k", 60_000);
    for line in [
        "GPULOCK.EXTEND k me PX 80000",
        "GPULOCK.EXTEND k me",
        "GPULOCK.ACQUIRE k me UNIQUE EX 80",
        "GPULOCK.ACQUIRE k me UNIQUE",
    ] {
        assert_eq!(client.line("PEXPIREAT k 9000000000000"), 1);
        assert!(client.line(line).int() > 0);
        assert_eq!(client.line("PEXPIRETIME k"), limit, "{line}");
    }
    assert!(client.line("GPULOCK.EXTEND k me PX 100").int() > 0);
    assert!(client.line("PTTL k").int() <= 100, "shorter ones are as asked");
    client.line("GPULOCK.RELEASE k me");

    // It applies to the next lease of a lock that is held, and 0 lifts it.
    config(&mut client, "max-hold", 0);
    client.line("GPULOCK.ACQUIRE k me PX 900000");
    config(&mut client, "max-hold", 60_000);
    assert_lease(&mut client, "k", 900_000);
    client.line("GPULOCK.EXTEND k me PX 900000");
    assert_lease(&mut client, "k", 60_000);
    config(&mut client, "max-hold", 0);
    client.line("GPULOCK.EXTEND k me PX 900000");
    assert_lease(&mut client, "k", 900_000);

    // One that has been held for longer ends with its next lease.
    let held = client.line("GPULOCK.INSPECT k").field("held_ms").int();
    wait_until(DEADLINE, "the lock to be held for longer", || {
        client.line("GPULOCK.INSPECT k").field("held_ms").int() > held + 1
    });
    config(&mut client, "max-hold", 1);
    assert!(client.line("GPULOCK.EXTEND k me").int() > 0);
    wait_until(DEADLINE, "the end of the hold", || {
        client.line("GPULOCK.INSPECT k").is_null()
    });
}

fn a_long_hold_is_logged_once(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let entries = |client: &mut Client| {
        let log = client.line("GPULOCK.LOG");
        log.list()
            .iter()
            .filter(|entry| entry.field("kind") == "long_hold")
            .cloned()
            .collect::<Vec<_>>()
    };
    let token = client.line("GPULOCK.ACQUIRE long me").int();
    config(&mut client, "warn-hold", 20);
    wait_until(DEADLINE, "the entry", || !entries(&mut client).is_empty());
    let entry = entries(&mut client)[0].clone();
    assert_eq!(entry.field("key"), "long");
    assert_eq!(entry.field("holder"), "me");
    assert_eq!(entry.field("token"), token);
    assert!(entry.field("held_ms").int() >= 20);
    // A second lock gets its own entry; by then the first was passed by again.
    client.line("GPULOCK.EXTEND long me");
    client.line("GPULOCK.ACQUIRE second me");
    wait_until(DEADLINE, "the second entry", || entries(&mut client).len() > 1);
    let all = entries(&mut client);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().all(|entry| entry.field("count") == 1), "{all:?}");
    // The next hold of the same lock counts anew.
    client.line("GPULOCK.RELEASE long me");
    client.line("GPULOCK.ACQUIRE long you");
    wait_until(DEADLINE, "the third entry", || entries(&mut client).len() > 2);
    config(&mut client, "warn-hold", 0);
    client.line("GPULOCK.LOG RESET");
    client.line("GPULOCK.ACQUIRE third me");
    // When the end of this one was found, the other was looked at as well.
    client.line("GPULOCK.ACQUIRE fourth me PX 50");
    wait_until(DEADLINE, "a lease to end", || {
        client.line("GPULOCK.STATS").field("expired") == 1
    });
    assert!(entries(&mut client).is_empty());
}

fn the_log_is_no_longer_than_log_len(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    config(&mut client, "log-len", 3);
    let keys = |client: &mut Client| {
        let log = client.line("GPULOCK.LOG");
        log.list().iter().map(|entry| entry.field("key").text()).collect::<Vec<_>>()
    };
    for i in 0..5 {
        assert_eq!(call!(client, "GPULOCK.RELEASE", format!("k{i}"), "me"), 0);
    }
    assert_eq!(keys(&mut client), ["k4", "k3", "k2"]);
    config(&mut client, "log-len", 1);
    assert_eq!(keys(&mut client), ["k4"]);
    config(&mut client, "log-len", 2);
    assert_eq!(keys(&mut client), ["k4"]);
    config(&mut client, "log-len", 0);
    assert_eq!(client.line("GPULOCK.RELEASE k9 me"), 0);
    assert!(keys(&mut client).is_empty());
    config(&mut client, "log-len", 2);
    assert!(keys(&mut client).is_empty());
    client.line("GPULOCK.RELEASE k10 me");
    assert_eq!(keys(&mut client), ["k10"]);
}

fn counters_are_kept_for_so_many_locks_as_tracked_keys_says(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.tracked-keys", "2"]).start();
    let mut client = server.client();
    for key in ["a", "b", "c"] {
        call!(client, "GPULOCK.ACQUIRE", key, "me");
        call!(client, "GPULOCK.RELEASE", key, "me");
    }
    let tracked = |client: &mut Client| {
        let known = |key: &&str| !call!(client, "GPULOCK.STATS", "KEY", key).is_null();
        ["a", "b", "c", "d"].into_iter().filter(known).collect::<Vec<_>>()
    };
    let untracked = |client: &mut Client| {
        let text = client.line("GPULOCK.METRICS").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("gpulock_untracked_acquired_total "));
        line.expect("the sum of the untracked").parse::<i64>().unwrap()
    };
    assert_eq!(tracked(&mut client), ["b", "c"]);
    assert_eq!(untracked(&mut client), 1);
    config(&mut client, "tracked-keys", 3);
    client.line("GPULOCK.ACQUIRE d me");
    assert_eq!(tracked(&mut client), ["b", "c", "d"]);
    assert_eq!(untracked(&mut client), 1);
    config(&mut client, "tracked-keys", 0);
    assert!(tracked(&mut client).is_empty());
    assert_eq!(untracked(&mut client), 4);
    assert_eq!(client.line("GPULOCK.STATS").field("acquired"), 4);
    assert!(!client.line("GPULOCK.METRICS").text().contains("gpulock_lock_"));
    assert_eq!(client.line("GPULOCK.RELEASE d me"), 1);
}

/// Channel and kind of what is published while one lock is taken and given back.
fn published(server: &Server) -> Vec<(String, String)> {
    let mut subscriber = server.client();
    send!(subscriber, "PSUBSCRIBE", "*");
    subscriber.read();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
    assert_eq!(client.line("GPULOCK.RELEASE k me"), 1);
    call!(client, "PUBLISH", "the end", "");
    let mut events = vec![];
    loop {
        let message = subscriber.read();
        let [_, _, channel, text] = message.list() else { panic!("{message:?}") };
        if *channel == "the end" {
            return events;
        }
        let body: serde_json::Value = serde_json::from_slice(text.bytes()).unwrap();
        let kind = body["event_type"].as_str().unwrap().to_owned();
        events.push((channel.text(), kind));
    }
}

fn events_are_published_as_events_and_channel_prefix_say(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let event = |channel: &str, kind: &str| (channel.to_owned(), kind.to_owned());
    assert_eq!(published(&server), [event("gpu_lock:k", "lock_released")]);
    config(&mut client, "events", "all");
    let both =
        |channel| [event(channel, "lock_acquired"), event(channel, "lock_released")];
    assert_eq!(published(&server), both("gpu_lock:k"));
    config(&mut client, "channel-prefix", "");
    assert_eq!(published(&server), both("k"));
    config(&mut client, "channel-prefix", LONGEST);
    assert_eq!(published(&server), both(&format!("{LONGEST}k")));
    config(&mut client, "events", "off");
    assert_eq!(published(&server), []);
    config(&mut client, "events", "release");
    assert_eq!(published(&server).len(), 1);
}
