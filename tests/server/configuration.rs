//! Each setting in each place: redis.conf, the module's arguments, CONFIG SET. A wrong value
//! is refused with a message that names the error; and each setting has its documented
//! effect.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;

use gpulock_testkit::{
    Builder, Client, Flavour, Server, Value, call, module, send, wait_until, workspace,
};

use crate::support::clock::DEADLINE;

tests! {
    the_settings_have_their_documented_defaults,
    config_set_accepts_each_value_in_range_and_config_get_returns_it,
    config_set_refuses_invalid_values_and_changes_nothing,
    redis_conf_and_module_arguments_accept_each_setting,
    redis_conf_overrides_module_arguments,
    config_rewrite_keeps_each_setting_across_a_restart,
    config_rewrite_escapes_the_channel_prefix_like_native_settings,
    a_server_with_an_invalid_setting_does_not_start_and_names_it,
    module_load_with_invalid_arguments_fails_and_leaves_nothing,
    module_loadex_accepts_config_and_args_and_config_wins,
    the_shipped_redis_conf_sets_the_defaults,
    leases_obey_default_lease_and_max_lease,
    no_lease_exceeds_max_hold,
    a_long_hold_is_logged_once,
    the_log_has_at_most_log_len_entries,
    tracked_keys_limits_the_number_of_locks_with_counters,
    events_and_channel_prefix_select_what_is_published,
}

/// A setting: its default, other valid values, and invalid values.
struct Setting {
    name: &'static str,
    default: &'static str,
    valid: &'static [&'static str],
    invalid: &'static [&'static str],
}

const fn setting(
    name: &'static str,
    default: &'static str,
    valid: &'static [&'static str],
    invalid: &'static [&'static str],
) -> Setting {
    Setting { name, default, valid, invalid }
}

#[rustfmt::skip]
const SETTINGS: [Setting; 13] = [
    setting("gpulock.default-lease", "600000",    &["1", "315360000000"], &["0", "-1", "315360000001", "x", "1.5", "+5", "05"]),
    setting("gpulock.max-lease",     "86400000",  &["1", "315360000000"], &["0", "-1", "315360000001", "x", "1e3"]),
    setting("gpulock.max-hold",      "0",         &["1", "315360000000"], &["-1", "315360000001", "x"]),
    setting("gpulock.warn-hold",     "0",         &["1", "315360000000"], &["-1", "315360000001", "x"]),
    setting("gpulock.max-waiters",   "10000",     &["0", "1000000"],      &["-1", "1000001", "x"]),
    setting("gpulock.place-keep",    "10000",     &["0", "3600000"],      &["-1", "3600001", "x"]),
    setting("gpulock.round",         "16",        &["1", "1000000"],      &["0", "-1", "1000001", "x"]),
    setting("gpulock.max-priority",  "100",       &["-100", "0", "100"],  &["-101", "101", "x", "1.5"]),
    setting("gpulock.remembered-tags","10000",    &["0", "1000000"],      &["-1", "1000001", "x"]),
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

/// All settings, as CONFIG GET returns them.
fn settings(client: &mut Client) -> BTreeMap<String, String> {
    let all = client.line("CONFIG GET gpulock.*").map();
    all.into_iter().map(|(name, value)| (name, value.text())).collect()
}

fn defaults() -> BTreeMap<String, String> {
    SETTINGS.iter().map(|s| (s.name.to_owned(), s.default.to_owned())).collect()
}

/// The first or the last other valid value of each setting.
fn valid_values(pick: fn(&[&'static str]) -> &'static str) -> BTreeMap<String, String> {
    SETTINGS.iter().map(|s| (s.name.to_owned(), pick(s.valid).to_owned())).collect()
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

fn the_settings_have_their_documented_defaults(flavour: &Flavour) {
    let server = flavour.start();
    assert_eq!(settings(&mut server.client()), defaults());
}

fn config_set_accepts_each_value_in_range_and_config_get_returns_it(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for setting in &SETTINGS {
        for value in setting.valid.iter().chain([&setting.default]) {
            let name = setting.name;
            assert_eq!(call!(client, "CONFIG", "SET", name, value), "OK", "{name}");
            assert_eq!(settings(&mut client)[name], *value, "{name}");
        }
    }
    assert_eq!(settings(&mut client), defaults());
    // Names and enumeration values are case-insensitive.
    assert_eq!(client.line("config set GPULOCK.Max-Lease 5 gpulock.events ALL"), "OK");
    let current = settings(&mut client);
    assert_eq!(
        (&*current["gpulock.max-lease"], &*current["gpulock.events"]),
        ("5", "all")
    );
}

fn config_set_refuses_invalid_values_and_changes_nothing(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for setting in &SETTINGS {
        for value in setting.invalid {
            let name = setting.name;
            let reply = call!(client, "CONFIG", "SET", name, value);
            let error = reply.err();
            assert!(error.contains(name) && error.len() > name.len() + 60, "{error}");
            // Together with a valid value: all or nothing.
            let all =
                call!(client, "CONFIG", "SET", "gpulock.max-waiters", "7", name, value);
            assert!(all.is_err(), "{name} {value:?}: {all:?}");
            assert_eq!(settings(&mut client), defaults(), "{name} {value:?}");
        }
    }
    assert!(client.line("CONFIG SET gpulock.nothing 1").is_err());
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
}

fn redis_conf_and_module_arguments_accept_each_setting(flavour: &Flavour) {
    for pick in [first, last] {
        let values = valid_values(pick);
        let mut builder = flavour.server();
        for (name, value) in &values {
            builder = builder.arg(name, quoted(value));
        }
        let server = builder.start();
        assert_eq!(settings(&mut server.client()), values, "redis.conf");

        let server = flavour.server().module_args(&flat(&values)).start();
        assert_eq!(settings(&mut server.client()), values, "module arguments");
        // The setting also takes effect.
        let lease = values["gpulock.max-lease"].parse::<i64>().unwrap();
        let mut client = server.client();
        client.line("GPULOCK.ACQUIRE k me");
        assert!(client.line("PTTL k").int() <= lease);
    }
}

fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}

fn redis_conf_overrides_module_arguments(flavour: &Flavour) {
    let in_conf = valid_values(first);
    let in_arguments = valid_values(last);
    let mut builder = flavour.server().module_args(&flat(&in_arguments));
    for (name, value) in &in_conf {
        builder = builder.arg(name, quoted(value));
    }
    let server = builder.start();
    assert_eq!(settings(&mut server.client()), in_conf);
    // Also one by one, and also when redis.conf sets the default.
    let server = flavour
        .server()
        .module_args(&["gpulock.max-lease", "5000", "gpulock.log-len", "7"])
        .arg("gpulock.max-lease", "86400000")
        .start();
    let current = settings(&mut server.client());
    assert_eq!(current["gpulock.max-lease"], "86400000");
    assert_eq!(current["gpulock.log-len"], "7");
}

fn config_rewrite_keeps_each_setting_across_a_restart(flavour: &Flavour) {
    for pick in [first, last] {
        let mut server = flavour
            .server()
            .module_args(&["gpulock.max-lease", "5000", "gpulock.events", "off"])
            .arg("gpulock.log-len", "7")
            .start();
        let mut client = server.client();
        let values = valid_values(pick);
        let words = [&["CONFIG", "SET"], &*flat(&values)].concat();
        assert_eq!(client.cmd(&words), "OK");
        assert_eq!(client.line("CONFIG REWRITE"), "OK");
        server.restart();
        assert_eq!(settings(&mut server.client()), values);

        // Back to the defaults, which differ from the module's arguments.
        let defaults = defaults();
        let words = [&["CONFIG", "SET"], &*flat(&defaults)].concat();
        assert_eq!(server.client().cmd(&words), "OK");
        assert_eq!(server.client().line("CONFIG REWRITE"), "OK");
        server.restart();
        assert_eq!(settings(&mut server.client()), defaults);
    }
}

fn config_rewrite_escapes_the_channel_prefix_like_native_settings(flavour: &Flavour) {
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
    // Valkey 8.1 does not escape, and cannot read its own file then.
    if native.is_some_and(|value| value.contains("\\\"")) {
        server.restart();
        let current = server.client().line("CONFIG GET gpulock.channel-prefix");
        assert_eq!(current.field(PREFIX).bytes(), prefix);
    } else {
        assert_eq!((flavour.is_valkey(), flavour.version().1), (true, 1));
    }
}

const PREFIX: &str = "gpulock.channel-prefix";

/// The output of a server that must not start.
#[track_caller]
fn refusal(what: &dyn Debug, server: Builder) -> String {
    match server.try_start() {
        Err(error) => error,
        Ok(server) => panic!("{} started with {what:?}", server.name()),
    }
}

fn a_server_with_an_invalid_setting_does_not_start_and_names_it(flavour: &Flavour) {
    for setting in &SETTINGS {
        for value in setting.invalid {
            let name = setting.name;
            let error =
                refusal(&(name, value), flavour.server().arg(name, quoted(value)));
            assert!(error.contains(name), "{name} {value}: {error}");
            let error = refusal(
                &(name, value, "module arguments"),
                flavour.server().module_args(&[name, value]),
            );
            let line = error.lines().find(|line| line.contains("<gpulock>"));
            let line = line.unwrap_or_else(|| panic!("{name} {value}: {error}"));
            assert!(line.contains(name.trim_start_matches("gpulock.")), "{line}");
            assert!(line.contains("must be"), "{line}");
        }
    }
    let error = refusal(&"gpulock.nothing", flavour.server().arg("gpulock.nothing", "1"));
    // Not every server names the setting.
    let unnamed = "Module Configuration detected without loadmodule directive";
    assert!(error.contains("gpulock.nothing") || error.contains(unnamed), "{error}");
    for words in [&["gpulock.nothing", "1"][..], &["nothing", "1"], &["gpulock.events"]] {
        let error = refusal(&words, flavour.server().module_args(words));
        assert!(error.contains("<gpulock> failed to load: "), "{words:?}: {error}");
    }
}

fn module_load_with_invalid_arguments_fails_and_leaves_nothing(flavour: &Flavour) {
    let server = flavour.server().without_module().start();
    let mut client = server.client();
    // Some servers load other modules.
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
        let reply = client.cmd(&load);
        assert!(reply.err().starts_with("ERR Error loading the extension"));
        assert_eq!(client.line("MODULE LIST"), modules, "{words:?}");
        assert!(client.line("GPULOCK.LIST").err().starts_with("ERR unknown command"));
        assert_eq!(client.line("CONFIG GET gpulock.*"), Value::Array(vec![]));
    }
    server.wait_log("<gpulock> failed to load: ");
    let log = server.log();
    let found: Vec<_> =
        log.lines().filter(|line| line.contains("<gpulock> failed to load: ")).collect();
    assert_eq!(found.len(), 6, "{found:?}");
    let right = call!(client, "MODULE", "LOAD", &path, "gpulock.max-lease", 5000);
    assert_eq!(right, "OK");
    assert_eq!(settings(&mut client)["gpulock.max-lease"], "5000");
    assert!(client.line("GPULOCK.ACQUIRE k me PX 5000").int() > 0);
}

fn module_loadex_accepts_config_and_args_and_config_wins(flavour: &Flavour) {
    let server = flavour.server().without_module().start();
    let mut client = server.client();
    // Some servers load other modules.
    let modules = client.line("MODULE LIST");
    let path = module().display().to_string();
    let load = |client: &mut Client, rest: &str| {
        let words = ["MODULE", "LOADEX", &path].into_iter().chain(rest.split(' '));
        client.cmd(&words.collect::<Vec<_>>())
    };
    for invalid in [
        "CONFIG gpulock.max-lease 0",
        "CONFIG gpulock.events sometimes",
        "CONFIG gpulock.nothing 1",
        "ARGS gpulock.max-lease 0",
        "CONFIG gpulock.log-len 5 ARGS gpulock.max-lease",
    ] {
        assert!(load(&mut client, invalid).is_err(), "{invalid}");
        assert_eq!(client.line("MODULE LIST"), modules, "{invalid}");
    }
    let right = "CONFIG gpulock.max-lease 5000 CONFIG gpulock.events all \
            ARGS gpulock.max-lease 6000 gpulock.log-len 7";
    assert_eq!(load(&mut client, right), "OK");
    let current = settings(&mut client);
    let shown = ["max-lease", "events", "log-len", "max-waiters"]
        .map(|name| &*current[&format!("gpulock.{name}")]);
    assert_eq!(shown, ["5000", "all", "7", "10000"]);
}

fn the_shipped_redis_conf_sets_the_defaults(flavour: &Flavour) {
    let conf = fs::read_to_string(workspace().join("redis.conf")).unwrap();
    let found: BTreeMap<_, _> = conf
        .lines()
        .filter(|line| line.starts_with("gpulock."))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    assert_eq!(found, defaults());
    let server = flavour.server().conf("redis.conf").start();
    assert_eq!(settings(&mut server.client()), defaults());
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
    // The file sets everything that the module would warn about.
    assert_eq!(client.line("GPULOCK.LOG"), Value::Array(vec![]));
    let found = client.line("CONFIG GET appendonly");
    assert_eq!(found.field("appendonly"), "yes");
}

#[track_caller]
fn config(client: &mut Client, name: &str, value: impl ToString) {
    let set =
        call!(client, "CONFIG", "SET", format!("gpulock.{name}"), value.to_string());
    assert_eq!(set, "OK", "{name}");
}

/// Checks the lease of a key, which was set at most ten seconds ago.
#[track_caller]
fn assert_lease(client: &mut Client, key: &str, ms: i64) {
    let left = call!(client, "PTTL", key).int();
    assert!(left <= ms && left > ms - 10_000, "{left} ms left of {ms}");
}

fn leases_obey_default_lease_and_max_lease(flavour: &Flavour) {
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
        let expected = "ERR lease exceeds gpulock.max-lease (20000 ms)";
        assert_eq!(refused.err(), expected, "{line}");
    }
    assert_eq!(client.line("EXISTS other"), 0);
    assert_lease(&mut client, "k", 20_000);
    assert!(client.line("GPULOCK.ACQUIRE other me PX 20000").int() > 0);
    assert!(client.line("GPULOCK.EXTEND other me EX 20").int() > 0);
    assert_lease(&mut client, "other", 20_000);
}

fn no_lease_exceeds_max_hold(flavour: &Flavour) {
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
    assert!(client.line("PTTL k").int() <= 100, "a shorter lease is not changed");
    client.line("GPULOCK.RELEASE k me");

    // A change applies to the next lease of a held lock, and 0 removes the limit.
    config(&mut client, "max-hold", 0);
    client.line("GPULOCK.ACQUIRE k me PX 900000");
    config(&mut client, "max-hold", 60_000);
    assert_lease(&mut client, "k", 900_000);
    client.line("GPULOCK.EXTEND k me PX 900000");
    assert_lease(&mut client, "k", 60_000);
    config(&mut client, "max-hold", 0);
    client.line("GPULOCK.EXTEND k me PX 900000");
    assert_lease(&mut client, "k", 900_000);

    // A hold that is longer than the limit ends with its next lease.
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
    // Another lock gets its own entry; by then the first was checked again.
    client.line("GPULOCK.EXTEND long me");
    client.line("GPULOCK.ACQUIRE second me");
    wait_until(DEADLINE, "the second entry", || entries(&mut client).len() > 1);
    let all = entries(&mut client);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().all(|entry| entry.field("count") == 1), "{all:?}");
    // The next hold of the same lock has its own entry.
    client.line("GPULOCK.RELEASE long me");
    client.line("GPULOCK.ACQUIRE long you");
    wait_until(DEADLINE, "the third entry", || entries(&mut client).len() > 2);
    config(&mut client, "warn-hold", 0);
    client.line("GPULOCK.LOG RESET");
    client.line("GPULOCK.ACQUIRE third me");
    // The check that finds the end of this lease also checks the other lock.
    client.line("GPULOCK.ACQUIRE fourth me PX 50");
    wait_until(DEADLINE, "a lease to end", || {
        client.line("GPULOCK.STATS").field("expired") == 1
    });
    assert!(entries(&mut client).is_empty());
}

fn the_log_has_at_most_log_len_entries(flavour: &Flavour) {
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

fn tracked_keys_limits_the_number_of_locks_with_counters(flavour: &Flavour) {
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

/// The channels and kinds of the events of one grant and one release.
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

fn events_and_channel_prefix_select_what_is_published(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let event = |channel: &str, kind: &str| (channel.to_owned(), kind.to_owned());
    assert_eq!(published(&server), [event("gpu_lock:k", "lock_released")]);
    config(&mut client, "events", "all");
    let all =
        |channel| [event(channel, "lock_acquired"), event(channel, "lock_released")];
    assert_eq!(published(&server), all("gpu_lock:k"));
    config(&mut client, "channel-prefix", "");
    assert_eq!(published(&server), all("k"));
    config(&mut client, "channel-prefix", LONGEST);
    assert_eq!(published(&server), all(&format!("{LONGEST}k")));
    config(&mut client, "events", "off");
    assert_eq!(published(&server), []);
    config(&mut client, "events", "release");
    assert_eq!(published(&server).len(), 1);
}
