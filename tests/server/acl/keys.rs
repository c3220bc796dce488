//! Who may what: keys that a user's access list does not name are neither touched nor
//! told of, on whichever way the user asks; and what is for operators can be denied.

use gpulock_testkit::{Client, Flavour, Server, Value, call};

tests! {
    commands_on_foreign_keys_are_refused_by_the_server,
    who_may_only_read_a_key_can_look_and_not_take,
    what_tells_of_many_keys_leaves_out_those_that_the_user_may_not_read,
    the_counters_of_a_foreign_lock_are_not_told_through_scripts_either,
    what_a_user_may_read_is_asked_anew_each_time,
    entries_of_the_log_that_are_about_no_key_are_told_to_all,
    a_rule_against_what_is_dangerous_denies_what_is_for_operators,
    who_may_only_read_gets_the_reading_commands_by_their_category,
    locks_of_databases_that_the_user_may_not_select_are_left_out,
    a_user_that_lost_a_database_learns_nothing_more_of_it,
    a_count_of_log_entries_counts_those_that_the_user_may_read,
}

const NAMES: [&str; 2] = ["mine:1", "yours:1"];

/// A server with a lock of each name, something in the log and counters for both, and
/// with these rules for the user `alice`.
fn with_alice(flavour: &Flavour, rules: &[&str]) -> Server {
    let server = flavour.start();
    let mut client = server.client();
    // Those of others are the older ones.
    for key in NAMES.iter().rev() {
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "somebody").int() > 0);
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

/// Ways to ask for the same.
const WAYS: [&str; 6] = ["plainly", "in RESP3", "MULTI", "EVAL", "EVAL_RO", "FCALL"];

/// The answer of a command of the module, asked for in one of [`WAYS`].
fn ask(client: &mut Client, way: &str, words: &[&str]) -> Value {
    let script = "return redis.call(unpack(ARGV))";
    match way {
        "plainly" => client.cmd(words),
        "in RESP3" => {
            client.hello3();
            let answer = client.cmd(words);
            call!(client, "HELLO", 2);
            answer
        }
        "MULTI" => {
            assert_eq!(client.line("MULTI"), "OK");
            assert_eq!(client.cmd(words), "QUEUED");
            client.line("EXEC").list()[0].clone()
        }
        "EVAL" | "EVAL_RO" => client.cmd(&[&[way, script, "0"], words].concat()),
        _ => client.cmd(&[&["FCALL", "relay", "0"], words].concat()),
    }
}

fn load_relay(server: &Server) {
    let library = "#!lua name=relay
        redis.register_function('relay', function(_, args)
            return redis.call(unpack(args)) end)";
    assert_eq!(call!(server.client(), "FUNCTION", "LOAD", library), "relay");
}

/// Whether an answer of whatever shape holds the text.
fn tells(answer: &Value, text: &str) -> bool {
    match answer {
        Value::Bulk(bytes) | Value::Verbatim(bytes) => {
            String::from_utf8_lossy(bytes).contains(text)
        }
        Value::Simple(shown) | Value::Error(shown) => shown.contains(text),
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.iter().any(|item| tells(item, text))
        }
        Value::Map(pairs) => {
            pairs.iter().any(|(key, value)| tells(key, text) || tells(value, text))
        }
        _ => false,
    }
}

fn commands_on_foreign_keys_are_refused_by_the_server(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut client = alice(&server);
    for line in [
        "GPULOCK.ACQUIRE yours:1 me",
        "GPULOCK.ACQUIRE yours:2 me",
        "GPULOCK.RELEASE yours:1 somebody",
        "GPULOCK.EXTEND yours:1 somebody",
        "GPULOCK.FORCERELEASE yours:1",
        "GPULOCK.INSPECT yours:1",
        "GPULOCK.STATS KEY yours:1",
        "gpulock.stats key yours:1",
    ] {
        assert_eq!(client.line(line).err(), client.line("GET yours:1").err(), "{line}");
    }
    let mut admin = server.client();
    assert_eq!(admin.line("GET yours:1"), "somebody");
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
        let answer = client.line(line);
        assert!(!answer.is_err() && !answer.is_null(), "{line}: {answer:?}");
    }
}

fn who_may_only_read_a_key_can_look_and_not_take(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "%R~mine:*"]);
    let mut client = alice(&server);
    for line in [
        "GPULOCK.ACQUIRE mine:2 me",
        "GPULOCK.RELEASE mine:1 somebody",
        "GPULOCK.EXTEND mine:1 somebody",
        "GPULOCK.FORCERELEASE mine:1",
    ] {
        assert!(client.line(line).err().starts_with("NOPERM"), "{line}");
    }
    assert_eq!(client.line("GPULOCK.INSPECT mine:1").field("owner"), "somebody");
    assert_eq!(client.line("GPULOCK.LIST").list().len(), 1);
    assert_eq!(client.line("GPULOCK.STATS KEY mine:1").field("acquired"), 1);
}

fn what_tells_of_many_keys_leaves_out_those_that_the_user_may_not_read(
    flavour: &Flavour,
) {
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
            let answer = ask(&mut client, way, words);
            assert!(tells(&answer, "mine:1"), "{words:?} {way}: {answer:?}");
            assert!(!tells(&answer, "yours"), "{words:?} {way}: {answer:?}");
            // Not because nobody is told.
            if words.len() == 1 {
                let answer = ask(&mut admin, way, words);
                assert!(tells(&answer, "yours:1"), "{words:?} {way}: {answer:?}");
            }
        }
        let answer = ask(&mut client, way, &["GPULOCK.LIST", "MATCH", "yours:*"]);
        assert_eq!(answer, Value::Array(vec![]), "{way}");
    }
}

fn the_counters_of_a_foreign_lock_are_not_told_through_scripts_either(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    load_relay(&server);
    let mut client = alice(&server);
    let mut admin = server.client();
    for way in ["EVAL", "EVAL_RO", "FCALL"] {
        let words = ["GPULOCK.STATS", "KEY", "yours:1"];
        let answer = ask(&mut client, way, &words);
        assert!(answer.is_err() || answer.is_null(), "{way}: {answer:?}");
        assert!(!ask(&mut admin, way, &words).is_null(), "{way}");
        let answer = ask(&mut client, way, &["GPULOCK.STATS", "KEY", "mine:1"]);
        assert_eq!(answer.field("acquired"), 1, "{way}");
    }
    assert!(client.line("MULTI") == "OK");
    assert!(client.line("GPULOCK.STATS KEY yours:1").err().starts_with("NOPERM"));
    assert!(client.line("EXEC").is_err());
}

fn what_a_user_may_read_is_asked_anew_each_time(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut client = alice(&server);
    let mut shown = |rules: &[&str]| {
        set_rules(&server, rules);
        // The change of one's own rules may close the connection.
        client = alice(&server);
        let rows = client.line("GPULOCK.LIST");
        let mut keys: Vec<_> =
            rows.list().iter().map(|row| row.field("key").text()).collect();
        keys.sort();
        let metrics = client.line("GPULOCK.METRICS").text();
        for name in NAMES {
            let told = metrics.contains(&format!("key=\"{name}\""));
            assert_eq!(told, keys.iter().any(|key| key == name), "{name}: {rules:?}");
        }
        keys
    };
    assert_eq!(shown(&["+@all", "~mine:*"]), ["mine:1"]);
    assert_eq!(shown(&["+@all", "~yours:*"]), ["yours:1"]);
    assert_eq!(shown(&["+@all", "allkeys"]), ["mine:1", "yours:1"]);
    assert_eq!(shown(&["+@all", "%R~*"]), ["mine:1", "yours:1"]);
    assert!(shown(&["+@all", "%W~*"]).is_empty());
    assert!(shown(&["+@all"]).is_empty());
    let selector = shown(&["+@all", "~mine:*", "(+@all ~yours:*)"]);
    assert_eq!(selector, ["mine:1", "yours:1"]);
}

fn entries_of_the_log_that_are_about_no_key_are_told_to_all(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut admin = server.client();
    assert_eq!(admin.line("CONFIG SET maxmemory-policy allkeys-lru"), "OK");
    let answer = alice(&server).line("GPULOCK.LOG");
    let kinds: Vec<_> =
        answer.list().iter().map(|entry| entry.field("kind").text()).collect();
    assert_eq!(kinds, ["warning", "ownership_violation"]);
}

fn a_rule_against_what_is_dangerous_denies_what_is_for_operators(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "-@dangerous", "~mine:*"]);
    let mut client = alice(&server);
    let info = server.client().line("COMMAND INFO GPULOCK.FORCERELEASE");
    let known = !info.list()[0].list()[6].list().is_empty();
    for line in ["GPULOCK.FORCERELEASE mine:1", "GPULOCK.RESETSTATS", "GPULOCK.LOG"] {
        let answer = client.line(line);
        if known {
            assert!(answer.err().starts_with("NOPERM"), "{line}: {answer:?}");
        } else {
            // There the operator names the commands: see below.
            assert!(!answer.is_err(), "{line}: {answer:?}");
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

fn who_may_only_read_gets_the_reading_commands_by_their_category(flavour: &Flavour) {
    let server = with_alice(flavour, &["-@all", "+@read", "-@dangerous", "allkeys"]);
    let info = server.client().line("COMMAND INFO GPULOCK.INSPECT");
    if info.list()[0].list()[6].list().is_empty() {
        // No categories for modules here: nothing of it is granted.
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
        "GPULOCK.RELEASE mine:1 somebody",
        "GPULOCK.EXTEND mine:1 somebody",
        "GPULOCK.FORCERELEASE mine:1",
        "GPULOCK.RESETSTATS",
        "GPULOCK.LOG",
    ] {
        assert!(client.line(line).err().starts_with("NOPERM"), "{line}");
    }
}

/// Whether users can be kept out of databases there.
fn has_databases_in_rules(server: &Server) -> bool {
    !call!(server.client(), "ACL", "SETUSER", "probe", "db=0").is_err()
}

fn locks_of_databases_that_the_user_may_not_select_are_left_out(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "allkeys"]);
    if !has_databases_in_rules(&server) {
        println!("{}: users cannot be kept out of databases", flavour.name());
        return;
    }
    load_relay(&server);
    let mut admin = server.client();
    admin.line("SELECT 1");
    for line in ["GPULOCK.ACQUIRE hidden:1 somebody", "GPULOCK.RELEASE hidden:1 me"] {
        assert!(!admin.line(line).is_err(), "{line}");
    }
    let commands = [&["GPULOCK.METRICS"][..], &["GPULOCK.LOG"], &["GPULOCK.LOG", "1"]];
    for (rules, may_use) in [
        (&["+@all", "allkeys", "db=0"][..], false),
        (&["+@all", "allkeys", "db=0,1"], true),
        (&["+@all", "allkeys", "alldbs"], true),
        (&["+@all", "allkeys", "db=0", "(+@all allkeys db=1)"], true),
        // Neither SELECT nor any other command of the server's own is needed.
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
            let answer = ask(&mut client, way, words);
            let told = tells(&answer, "hidden:1");
            assert_eq!(told, may_use, "{rules:?}, {words:?} {way}: {answer:?}");
            if words.len() == 1 || !may_use {
                assert!(tells(&answer, "mine:1"), "{rules:?}, {words:?} {way}");
            }
        }
    }
    assert!(tells(&admin.line("GPULOCK.LOG"), "hidden:1"));
}

fn a_user_that_lost_a_database_learns_nothing_more_of_it(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "allkeys"]);
    if !has_databases_in_rules(&server) {
        println!("{}: users cannot be kept out of databases", flavour.name());
        return;
    }
    let mut client = alice(&server);
    client.line("SELECT 1");
    assert!(client.line("GPULOCK.ACQUIRE hidden:1 me").int() > 0);
    // The connection stays open, in the database that it may no longer use.
    assert_eq!(server.client().line("ACL SETUSER alice db=0"), "OK");
    for line in [
        "GPULOCK.LIST",
        "GPULOCK.STATS KEY hidden:1",
        "GPULOCK.INSPECT hidden:1",
        "GPULOCK.METRICS",
        "GPULOCK.LOG",
    ] {
        let answer = client.line(line);
        assert!(answer.err().starts_with("NOPERM"), "{line}: {answer:?}");
    }
}

fn a_count_of_log_entries_counts_those_that_the_user_may_read(flavour: &Flavour) {
    let server = with_alice(flavour, &["+@all", "~mine:*"]);
    let mut admin = server.client();
    assert_eq!(admin.line("CONFIG SET gpulock.log-len 1000"), "OK");
    // Many newer ones of others, and one more of hers among them.
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
        let answer = call!(client, "GPULOCK.LOG", count);
        let keys: Vec<_> =
            answer.list().iter().map(|entry| entry.field("key").text()).collect();
        assert_eq!(keys, expected, "LOG {count}");
    }
    assert_eq!(client.line("GPULOCK.LOG").list().len(), 2);
    assert_eq!(admin.line("GPULOCK.LOG 250").list().len(), 250);
    assert_eq!(admin.line("GPULOCK.LOG").list().len(), 303);
}
