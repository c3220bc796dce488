//! Key permissions: a user can neither change a key that its ACL rules exclude, nor read
//! about it in any reply; and operators can deny the administrative commands.

use gpulock_testkit::{Client, Flavour, Server, Value, call};

use crate::harness::skip;
use crate::support::relay::{RELAY, load_relay};

tests! {
    commands_on_keys_without_permission_are_refused,
    a_read_only_key_can_be_inspected_but_not_acquired,
    replies_about_many_keys_omit_unreadable_keys,
    scripts_do_not_reveal_the_counters_of_an_unreadable_lock,
    each_call_checks_the_current_rules,
    all_users_see_log_entries_without_a_key,
    the_category_dangerous_contains_the_commands_for_operators,
    the_category_read_grants_the_read_commands,
    locks_in_databases_without_permission_are_omitted,
    a_user_that_loses_a_database_is_refused_in_it,
    log_counts_only_readable_entries,
}

const NAMES: [&str; 2] = ["mine:1", "yours:1"];

/// A server with a lock, a log entry and counters for each name, and with these rules for the
/// user `alice`.
fn with_alice(flavour: &Flavour, rules: &[&str]) -> Server {
    let server = flavour.start();
    let mut client = server.client();
    // The entries of the foreign key are the older ones.
    for key in NAMES.iter().rev() {
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "outsider").int() > 0);
        assert_eq!(call!(client, "GPULOCK.RELEASE", key, "a-stranger"), 0);
    }
    set_rules(&server, rules);
    server
}

fn set_rules(server: &Server, rules: &[&str]) {
    let words = ["ACL", "SETUSER", "alice", "reset", "on", "nopass"];
    let all: Vec<&str> = words.iter().chain(rules).copied().collect();
    assert_eq!(server.client().cmd(&all), "OK");
}

fn alice(server: &Server) -> Client {
    let mut client = server.client();
    assert_eq!(client.line("AUTH alice x"), "OK");
    client
}

/// Ways to send a command.
const WAYS: [&str; 6] = ["plainly", "in RESP3", "MULTI", "EVAL", "EVAL_RO", "FCALL"];

/// Sends a command in one of [`WAYS`].
fn send_in(client: &mut Client, way: &str, words: &[&str]) -> Value {
    match way {
        "plainly" => client.cmd(words),
        "in RESP3" => {
            client.hello3();
            let reply = client.cmd(words);
            call!(client, "HELLO", 2);
            reply
        }
        "MULTI" => {
            assert_eq!(client.line("MULTI"), "OK");
            assert_eq!(client.cmd(words), "QUEUED");
            client.line("EXEC").list()[0].clone()
        }
        "EVAL" | "EVAL_RO" => client.cmd(&[&[way, RELAY, "0"], words].concat()),
        _ => client.cmd(&[&["FCALL", "relay", "0"], words].concat()),
    }
}

/// Whether a reply contains the text anywhere.
fn contains(reply: &Value, text: &str) -> bool {
    match reply {
        Value::Bulk(bytes) | Value::Verbatim(bytes) => {
            String::from_utf8_lossy(bytes).contains(text)
        }
        Value::Simple(shown) | Value::Error(shown) => shown.contains(text),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.iter().any(|item| contains(item, text))
        }
        Value::Map(pairs) => {
            pairs.iter().any(|(key, value)| contains(key, text) || contains(value, text))
        }
        _ => false,
    }
}

fn commands_on_keys_without_permission_are_refused(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut client = alice(&server);
    for line in [
        "GPULOCK.ACQUIRE yours:1 me",
        "GPULOCK.ACQUIRE yours:2 me",
        "GPULOCK.RELEASE yours:1 outsider",
        "GPULOCK.EXTEND yours:1 outsider",
        "GPULOCK.FORCERELEASE yours:1",
        "GPULOCK.INSPECT yours:1",
        "GPULOCK.STATS KEY yours:1",
        "gpulock.stats key yours:1",
    ] {
        assert_eq!(client.line(line).err(), client.line("GET yours:1").err(), "{line}");
    }
    let mut admin = server.client();
    assert_eq!(admin.line("GET yours:1"), "outsider");
    assert_eq!(admin.line("EXISTS yours:2"), 0);
    for line in [
        "GPULOCK.ACQUIRE mine:2 me",
        "GPULOCK.EXTEND mine:2 me",
        "GPULOCK.INSPECT mine:2",
        "GPULOCK.STATS KEY mine:2",
        "GPULOCK.STATS",
        "GPULOCK.RELEASE mine:2 me",
        "GPULOCK.FORCERELEASE mine:1",
    ] {
        let reply = client.line(line);
        assert!(!reply.is_err() && !reply.is_null(), "{line}: {reply:?}");
    }
}

fn a_read_only_key_can_be_inspected_but_not_acquired(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "%R~mine:*"]);
    let mut client = alice(&server);
    for line in [
        "GPULOCK.ACQUIRE mine:2 me",
        "GPULOCK.RELEASE mine:1 outsider",
        "GPULOCK.EXTEND mine:1 outsider",
        "GPULOCK.FORCERELEASE mine:1",
    ] {
        assert!(client.line(line).err().starts_with("NOPERM"), "{line}");
    }
    assert_eq!(client.line("GPULOCK.INSPECT mine:1").field("owner"), "outsider");
    assert_eq!(client.line("GPULOCK.LIST").list().len(), 1);
    assert_eq!(client.line("GPULOCK.STATS KEY mine:1").field("acquired"), 1);
}

fn replies_about_many_keys_omit_unreadable_keys(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    load_relay(&server);
    let mut client = alice(&server);
    let mut admin = server.client();
    for way in WAYS {
        for words in [
            &["GPULOCK.LIST"][..],
            &["GPULOCK.LIST", "MATCH", "*"],
            &["GPULOCK.LIST", "LIMIT", "1"],
            &["GPULOCK.METRICS"],
            &["GPULOCK.LOG"],
            &["GPULOCK.LOG", "1"],
        ] {
            let reply = send_in(&mut client, way, words);
            assert!(contains(&reply, "mine:1"), "{words:?} {way}: {reply:?}");
            assert!(!contains(&reply, "yours"), "{words:?} {way}: {reply:?}");
            // The entries exist: the administrator sees them.
            if words.len() == 1 {
                let reply = send_in(&mut admin, way, words);
                assert!(contains(&reply, "yours:1"), "{words:?} {way}: {reply:?}");
            }
        }
        let reply = send_in(&mut client, way, &["GPULOCK.LIST", "MATCH", "yours:*"]);
        assert_eq!(reply, Value::Array(vec![]), "{way}");
    }
}

fn scripts_do_not_reveal_the_counters_of_an_unreadable_lock(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    load_relay(&server);
    let mut client = alice(&server);
    let mut admin = server.client();
    for way in ["EVAL", "EVAL_RO", "FCALL"] {
        let words = ["GPULOCK.STATS", "KEY", "yours:1"];
        let reply = send_in(&mut client, way, &words);
        assert!(reply.is_err() || reply.is_null(), "{way}: {reply:?}");
        assert!(!send_in(&mut admin, way, &words).is_null(), "{way}");
        let reply = send_in(&mut client, way, &["GPULOCK.STATS", "KEY", "mine:1"]);
        assert_eq!(reply.field("acquired"), 1, "{way}");
    }
    assert!(client.line("MULTI") == "OK");
    assert!(client.line("GPULOCK.STATS KEY yours:1").err().starts_with("NOPERM"));
    assert!(client.line("EXEC").is_err());
}

fn each_call_checks_the_current_rules(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut client = alice(&server);
    let mut visible = |rules: &[&str]| {
        set_rules(&server, rules);
        // A change of its own rules may close a user's connection.
        client = alice(&server);
        let rows = client.line("GPULOCK.LIST");
        let mut keys: Vec<_> =
            rows.list().iter().map(|row| row.field("key").text()).collect();
        keys.sort();
        let metrics = client.line("GPULOCK.METRICS").text();
        for name in NAMES {
            let shown = metrics.contains(&format!("key=\"{name}\""));
            assert_eq!(shown, keys.iter().any(|key| key == name), "{name}: {rules:?}");
        }
        keys
    };
    assert_eq!(visible(&["+@all", "~mine:*"]), ["mine:1"]);
    assert_eq!(visible(&["+@all", "~yours:*"]), ["yours:1"]);
    assert_eq!(visible(&["+@all", "allkeys"]), ["mine:1", "yours:1"]);
    assert_eq!(visible(&["+@all", "%R~*"]), ["mine:1", "yours:1"]);
    assert!(visible(&["+@all", "%W~*"]).is_empty());
    assert!(visible(&["+@all"]).is_empty());
    let selector = visible(&["+@all", "~mine:*", "(+@all ~yours:*)"]);
    assert_eq!(selector, ["mine:1", "yours:1"]);
}

fn all_users_see_log_entries_without_a_key(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut admin = server.client();
    assert_eq!(admin.line("CONFIG SET maxmemory-policy allkeys-lru"), "OK");
    let reply = alice(&server).line("GPULOCK.LOG");
    let kinds: Vec<_> =
        reply.list().iter().map(|entry| entry.field("kind").text()).collect();
    assert_eq!(kinds, ["warning", "ownership_violation"]);
}

fn the_category_dangerous_contains_the_commands_for_operators(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "-@dangerous", "~mine:*"]);
    let mut client = alice(&server);
    let info = server.client().line("COMMAND INFO GPULOCK.FORCERELEASE");
    let known = !info.list()[0].list()[6].list().is_empty();
    for line in ["GPULOCK.FORCERELEASE mine:1", "GPULOCK.RESETSTATS", "GPULOCK.LOG"] {
        let reply = client.line(line);
        if known {
            assert!(reply.err().starts_with("NOPERM"), "{line}: {reply:?}");
        } else {
            // Without categories of modules, the operator denies each command: see below.
            assert!(!reply.is_err(), "{line}: {reply:?}");
        }
    }
    for line in ["GPULOCK.LIST", "GPULOCK.STATS", "GPULOCK.METRICS"] {
        assert!(!client.line(line).is_err(), "{line}");
    }
    assert!(client.line("GPULOCK.ACQUIRE mine:2 me").int() > 0);
    set_rules(
        &server,
        &[
            "+@all",
            "-GPULOCK.FORCERELEASE",
            "-gpulock.resetstats",
            "-GPULOCK.LOG",
            "allkeys",
        ],
    );
    let mut client = alice(&server);
    for line in ["GPULOCK.FORCERELEASE mine:1", "GPULOCK.RESETSTATS", "GPULOCK.LOG"] {
        assert!(client.line(line).err().starts_with("NOPERM"), "{line}");
    }
    assert!(!client.line("GPULOCK.LIST").is_err());
}

fn the_category_read_grants_the_read_commands(flavour: &Flavour) {
    let server = with_alice(flavour, &["-@all", "+@read", "-@dangerous", "allkeys"]);
    let info = server.client().line("COMMAND INFO GPULOCK.INSPECT");
    if info.list()[0].list()[6].list().is_empty() {
        // This server has no categories for modules: the rule grants none of them.
        assert!(alice(&server).line("GPULOCK.LIST").err().starts_with("NOPERM"));
        return;
    }
    let mut client = alice(&server);
    for line in [
        "GPULOCK.INSPECT mine:1",
        "GPULOCK.LIST",
        "GPULOCK.STATS",
        "GPULOCK.STATS KEY mine:1",
        "GPULOCK.METRICS",
    ] {
        assert!(!client.line(line).is_err(), "{line}");
    }
    for line in [
        "GPULOCK.ACQUIRE mine:2 me",
        "GPULOCK.RELEASE mine:1 outsider",
        "GPULOCK.EXTEND mine:1 outsider",
        "GPULOCK.FORCERELEASE mine:1",
        "GPULOCK.RESETSTATS",
        "GPULOCK.LOG",
    ] {
        assert!(client.line(line).err().starts_with("NOPERM"), "{line}");
    }
}

/// Whether ACL rules of this server can restrict databases.
fn has_databases_in_rules(server: &Server) -> bool {
    !call!(server.client(), "ACL", "SETUSER", "probe", "db=0").is_err()
}

fn locks_in_databases_without_permission_are_omitted(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "allkeys"]);
    if !has_databases_in_rules(&server) {
        return skip("ACL rules of this server cannot restrict databases");
    }
    load_relay(&server);
    let mut admin = server.client();
    admin.line("SELECT 1");
    for line in ["GPULOCK.ACQUIRE hidden:1 outsider", "GPULOCK.RELEASE hidden:1 me"] {
        assert!(!admin.line(line).is_err(), "{line}");
    }
    let commands = [&["GPULOCK.METRICS"][..], &["GPULOCK.LOG"], &["GPULOCK.LOG", "1"]];
    for (rules, may_use) in [
        (&["+@all", "allkeys", "db=0"][..], false),
        (&["+@all", "allkeys", "db=0,1"], true),
        (&["+@all", "allkeys", "alldbs"], true),
        (&["+@all", "allkeys", "db=0", "(+@all allkeys db=1)"], true),
        // The rules need neither SELECT nor another command of the server.
        (
            &["-@all", "+gpulock.metrics", "+gpulock.log", "+eval", "allkeys", "db=0"],
            false,
        ),
        (&["-@all", "+gpulock.metrics", "+gpulock.log", "+eval", "allkeys"], true),
    ] {
        set_rules(&server, rules);
        let mut client = alice(&server);
        let ways = if rules[0] == "+@all" { &WAYS[..] } else { &["plainly", "EVAL"] };
        for (way, words) in
            ways.iter().flat_map(|way| commands.iter().map(move |words| (way, words)))
        {
            let reply = send_in(&mut client, way, words);
            let shown = contains(&reply, "hidden:1");
            assert_eq!(shown, may_use, "{rules:?}, {words:?} {way}: {reply:?}");
            if words.len() == 1 || !may_use {
                assert!(contains(&reply, "mine:1"), "{rules:?}, {words:?} {way}");
            }
        }
    }
    assert!(contains(&admin.line("GPULOCK.LOG"), "hidden:1"));
}

fn a_user_that_loses_a_database_is_refused_in_it(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "allkeys"]);
    if !has_databases_in_rules(&server) {
        return skip("ACL rules of this server cannot restrict databases");
    }
    let mut client = alice(&server);
    client.line("SELECT 1");
    assert!(client.line("GPULOCK.ACQUIRE hidden:1 me").int() > 0);
    // The connection stays open, with a database selected that it may no longer use.
    assert_eq!(server.client().line("ACL SETUSER alice db=0"), "OK");
    for line in [
        "GPULOCK.LIST",
        "GPULOCK.STATS KEY hidden:1",
        "GPULOCK.INSPECT hidden:1",
        "GPULOCK.METRICS",
        "GPULOCK.LOG",
    ] {
        let reply = client.line(line);
        assert!(reply.err().starts_with("NOPERM"), "{line}: {reply:?}");
    }
}

fn log_counts_only_readable_entries(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut admin = server.client();
    assert_eq!(admin.line("CONFIG SET gpulock.log-len 1000"), "OK");
    // Many newer entries of a foreign key, and one of her own among them.
    for n in 0..300 {
        admin.line(&format!("GPULOCK.RELEASE yours:{n} me"));
        if n == 200 {
            admin.line("GPULOCK.RELEASE mine:2 me");
        }
    }
    let mut client = alice(&server);
    for (count, expected) in
        [("0", &[][..]), ("1", &["mine:2"]), ("2", &["mine:2", "mine:1"])]
    {
        let reply = call!(client, "GPULOCK.LOG", count);
        let keys: Vec<_> =
            reply.list().iter().map(|entry| entry.field("key").text()).collect();
        assert_eq!(keys, expected, "LOG {count}");
    }
    assert_eq!(client.line("GPULOCK.LOG").list().len(), 2);
    assert_eq!(admin.line("GPULOCK.LOG 250").list().len(), 250);
    assert_eq!(admin.line("GPULOCK.LOG").list().len(), 303);
}
