//! Invalid input of every kind returns an error that names the mistake, and changes nothing.
//! Unusual but valid input works: any bytes, large keys, a server without free memory.

use gpulock_testkit::{Client, Flavour, Server, call, send};

use crate::support::server_state::server_state;

tests! {
    an_invalid_call_returns_its_error_and_changes_nothing,
    invalid_calls_count_only_as_requests,
    invalid_calls_leak_no_memory,
    owners_can_be_any_bytes,
    keys_and_reasons_can_be_any_bytes,
    a_key_of_half_a_megabyte_is_a_valid_lock,
    without_memory_locks_are_renewed_and_released_but_not_granted,
    a_replica_changes_no_lock_even_when_it_is_writable,
}

type Words = Vec<Vec<u8>>;

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// A call with `value` instead of the word `name`.
fn with(line: &str, name: &str, value: &[u8]) -> Words {
    let mut all = words(line);
    for word in all.iter_mut().filter(|word| **word == name.as_bytes()) {
        *word = value.to_vec();
    }
    all
}

const SYNTAX: &str = "ERR syntax error";
const OWNER: &str = "ERR owner must be 1 to 1024 bytes long";
const REASON: &str = "ERR REASON must be at most 64 bytes long";
const WRONG_TYPE: &str =
    "WRONGTYPE Operation against a key holding the wrong kind of value";

fn number(what: &str, min: u64, max: u64) -> String {
    format!("ERR {what} must be an integer from {min} to {max}")
}

/// The server's own error.
fn arity(command: &str) -> String {
    format!("ERR wrong number of arguments for '{command}' command")
}

/// Words that are not a valid number in any option.
const NOT_NUMBERS: [&str; 16] = [
    "",
    "-1",
    "+1",
    "01",
    "1.0",
    "1e3",
    "0x10",
    "x",
    "1x",
    " 1",
    "1 ",
    "١",
    "\0",
    "9007199254740992",
    "9223372036854775808",
    "18446744073709551617",
];

/// Invalid calls, each with its complete error.
fn invalid_calls() -> Vec<(Words, String)> {
    let mut calls: Vec<(Words, String)> = vec![];
    let mut add = |call: Words, error: &str| calls.push((call, error.to_owned()));

    for line in [
        "GPULOCK.ACQUIRE",
        "GPULOCK.ACQUIRE held",
        "GPULOCK.RELEASE",
        "GPULOCK.RELEASE held",
        "GPULOCK.EXTEND",
        "GPULOCK.EXTEND held",
        "GPULOCK.FORCERELEASE",
        "GPULOCK.INSPECT",
        "GPULOCK.INSPECT held extra",
        "GPULOCK.RESETSTATS extra",
    ] {
        let command = line.split(' ').next().unwrap();
        add(words(line), &arity(command));
    }
    for line in [
        "GPULOCK.ACQUIRE free me extra",
        "GPULOCK.ACQUIRE free me 5",
        "GPULOCK.ACQUIRE free me EX",
        "GPULOCK.ACQUIRE free me PX",
        "GPULOCK.ACQUIRE free me UNIQUE PX",
        "GPULOCK.ACQUIRE free me EX 5 EX 5",
        "GPULOCK.ACQUIRE free me EX 5 PX 5000",
        "GPULOCK.ACQUIRE free me PX 5000 PX 5000",
        "GPULOCK.ACQUIRE free me UNIQUE UNIQUE",
        "GPULOCK.ACQUIRE free me unique EX 5 Unique",
        "GPULOCK.ACQUIRE free me TOKEN 5",
        "GPULOCK.ACQUIRE free me REASON x",
        "GPULOCK.ACQUIRE free me GRACE 5",
        "GPULOCK.ACQUIRE free me UNIQUEX",
        "GPULOCK.ACQUIRE free me NX",
        "GPULOCK.ACQUIRE held me UNIQUE NX",
        "GPULOCK.RELEASE held me extra",
        "GPULOCK.RELEASE held me TOKEN",
        "GPULOCK.RELEASE held me REASON",
        "GPULOCK.RELEASE held me TOKEN 5 TOKEN 5",
        "GPULOCK.RELEASE held me REASON a REASON b",
        "GPULOCK.RELEASE held me EX 5",
        "GPULOCK.RELEASE held me OWNER me",
        "GPULOCK.EXTEND held me extra",
        "GPULOCK.EXTEND held me EX",
        "GPULOCK.EXTEND held me PX",
        "GPULOCK.EXTEND held me TOKEN",
        "GPULOCK.EXTEND held me EX 5 PX 5000",
        "GPULOCK.EXTEND held me PX 5 PX 5",
        "GPULOCK.EXTEND held me TOKEN 5 TOKEN 5",
        "GPULOCK.EXTEND held me UNIQUE",
        "GPULOCK.EXTEND held me REASON x",
        "GPULOCK.FORCERELEASE held extra",
        "GPULOCK.FORCERELEASE held OWNER",
        "GPULOCK.FORCERELEASE held TOKEN",
        "GPULOCK.FORCERELEASE held REASON",
        "GPULOCK.FORCERELEASE held AFTER",
        "GPULOCK.FORCERELEASE held AFTER 5 AFTER 5",
        "GPULOCK.FORCERELEASE held OWNER me OWNER me",
        "GPULOCK.FORCERELEASE held TOKEN 5 TOKEN 5",
        "GPULOCK.FORCERELEASE held REASON a REASON a",
        "GPULOCK.FORCERELEASE held EX 5",
        "GPULOCK.LIST extra",
        "GPULOCK.LIST MATCH",
        "GPULOCK.LIST LIMIT",
        "GPULOCK.LIST MATCH * MATCH *",
        "GPULOCK.LIST LIMIT 5 LIMIT 5",
        "GPULOCK.LIST MATCH * LIMIT",
        "GPULOCK.STATS KEY",
        "GPULOCK.STATS held",
        "GPULOCK.STATS KEY held extra",
        "GPULOCK.STATS LOCK held",
        "GPULOCK.LOG 1 2",
        "GPULOCK.LOG RESET RESET",
        "GPULOCK.LOG RESET 1",
        "GPULOCK.METRICS extra",
        "GPULOCK.METRICS 0",
        "GPULOCK.METRICS CURSOR",
        "GPULOCK.METRICS COUNT 5",
        "GPULOCK.METRICS CURSOR 0 COUNT",
        "GPULOCK.METRICS CURSOR 0 CURSOR 0",
        "GPULOCK.METRICS CURSOR 0 COUNT 5 COUNT 5",
    ] {
        add(words(line), SYNTAX);
    }
    let most = (1 << 53) - 1;
    for invalid in NOT_NUMBERS.iter().chain(&["0"]) {
        let invalid = invalid.as_bytes();
        for line in ["GPULOCK.ACQUIRE free me", "GPULOCK.EXTEND held me"] {
            add(with(&format!("{line} PX <n>"), "<n>", invalid), &number("PX", 1, most));
            let seconds = number("EX", 1, most / 1000);
            add(with(&format!("{line} EX <n>"), "<n>", invalid), &seconds);
        }
        for line in [
            "GPULOCK.RELEASE held me TOKEN <n>",
            "GPULOCK.EXTEND held me TOKEN <n>",
            "GPULOCK.FORCERELEASE held TOKEN <n>",
        ] {
            add(with(line, "<n>", invalid), &number("TOKEN", 1, most));
        }
        let notice = with("GPULOCK.FORCERELEASE held AFTER <n>", "<n>", invalid);
        add(notice, &number("AFTER", 1, most));
    }
    add(words("GPULOCK.ACQUIRE free me EX 9007199254741"), &number("EX", 1, most / 1000));
    for invalid in NOT_NUMBERS {
        let invalid = invalid.as_bytes();
        add(with("GPULOCK.LIST LIMIT <n>", "<n>", invalid), &number("LIMIT", 0, most));
        add(with("GPULOCK.LOG <n>", "<n>", invalid), &number("count", 0, most));
        let metrics = "GPULOCK.METRICS CURSOR <n>";
        add(with(metrics, "<n>", invalid), &number("CURSOR", 0, most));
    }
    for invalid in NOT_NUMBERS.iter().chain(&["0", "1025"]) {
        let metrics = "GPULOCK.METRICS CURSOR 0 COUNT <n>";
        add(with(metrics, "<n>", invalid.as_bytes()), &number("COUNT", 1, 1024));
    }
    let unknown = "ERR unknown CURSOR: start again with CURSOR 0";
    add(words(&format!("GPULOCK.METRICS CURSOR {most}")), unknown);
    let too_long = "ERR lease exceeds gpulock.max-lease (86400000 ms)";
    for line in ["GPULOCK.ACQUIRE free me", "GPULOCK.EXTEND held me"] {
        for lease in
            ["PX 86400001", "EX 86401", "PX 9007199254740991", "EX 9007199254740"]
        {
            add(words(&format!("{line} {lease}")), too_long);
        }
    }
    for invalid in [vec![], vec![b'o'; 1025], vec![b'o'; 100_000]] {
        for line in [
            "GPULOCK.ACQUIRE free <o>",
            "GPULOCK.ACQUIRE held <o> UNIQUE PX 5000",
            "GPULOCK.RELEASE held <o>",
            "GPULOCK.EXTEND held <o>",
            "GPULOCK.FORCERELEASE held OWNER <o>",
        ] {
            add(with(line, "<o>", &invalid), OWNER);
        }
    }
    for line in
        ["GPULOCK.RELEASE held me REASON <r>", "GPULOCK.FORCERELEASE held REASON <r>"]
    {
        add(with(line, "<r>", &[b'r'; 65]), REASON);
        add(with(line, "<r>", &[0xff; 1000]), REASON);
    }
    for kind in TYPES {
        for line in [
            "GPULOCK.ACQUIRE <k> me",
            "GPULOCK.ACQUIRE <k> me UNIQUE",
            "GPULOCK.RELEASE <k> me",
            "GPULOCK.EXTEND <k> me",
            "GPULOCK.FORCERELEASE <k>",
            "GPULOCK.FORCERELEASE <k> OWNER me TOKEN 5",
            "GPULOCK.FORCERELEASE <k> AFTER 5",
            "GPULOCK.INSPECT <k>",
        ] {
            add(with(line, "<k>", kind.as_bytes()), WRONG_TYPE);
        }
    }
    calls
}

/// The types other than string; each is also the name of a key of that type.
const TYPES: [&str; 5] = ["list", "set", "zset", "hash", "stream"];

fn make_keys(client: &mut Client) {
    for line in [
        "GPULOCK.ACQUIRE held me PX 600000",
        "GPULOCK.ACQUIRE other you EX 600 UNIQUE",
        "SET adopted outsider PX 600000",
        "GPULOCK.ACQUIRE adopted me",
        "SET endless outsider",
        "RPUSH list x",
        "SADD set x",
        "ZADD zset 1 x",
        "HSET hash x 1",
        "XADD stream * x 1",
    ] {
        let reply = client.line(line);
        assert!(!reply.is_err(), "{line}: {reply:?}");
    }
}

fn counter(client: &mut Client, name: &str) -> i64 {
    client.line("GPULOCK.STATS").field(name).int()
}

/// A subscriber to all messages of clients, of the module and of the keyspace.
fn subscriber(server: &Server) -> Client {
    let mut client = server.client();
    let set = client.line("CONFIG SET notify-keyspace-events KEA gpulock.events all");
    assert_eq!(set, "OK");
    send!(client, "PSUBSCRIBE", "*");
    client.read();
    client
}

/// The messages so far.
fn published(subscriber: &mut Client, actor: &mut Client) -> Vec<String> {
    call!(actor, "PUBLISH", "the end", "");
    let mut messages = vec![];
    loop {
        let message = subscriber.read();
        if message.list()[2] == "the end" {
            return messages;
        }
        messages.push(format!("{message:?}"));
    }
}

fn display(call: &Words) -> String {
    let word = |word: &Vec<u8>| match word.len() {
        0..100 => word.escape_ascii().to_string(),
        n => format!("<{n} bytes>"),
    };
    call.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn an_invalid_call_returns_its_error_and_changes_nothing(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    make_keys(&mut client);
    // Check the server's own errors.
    assert_eq!(client.line("GET list").err(), WRONG_TYPE);
    assert_eq!(client.line("GET").err(), arity("get"));
    assert_eq!(client.line("SET k v XX NX").err(), SYNTAX);
    let mut subscriber = subscriber(&server);
    let before = server_state(&mut client);
    for (call, error) in invalid_calls() {
        let reply = client.cmd(&call);
        assert_eq!(reply.err(), error, "{}", display(&call));
    }
    if server_state(&mut client) != before {
        // Find the call that changed the state.
        for (call, _) in invalid_calls() {
            let before = server_state(&mut client);
            client.cmd(&call);
            assert_eq!(server_state(&mut client), before, "{}", display(&call));
        }
        panic!("only all calls together change the state: {before:?}");
    }
    assert_eq!(published(&mut subscriber, &mut client), Vec::<String>::new());
    // The same calls in a transaction and from a script.
    for (call, error) in invalid_calls() {
        let script = "return redis.pcall(unpack(ARGV))";
        let in_script = [&words("EVAL <script> 0")[..], &call].concat();
        let in_script = with_script(in_script, script);
        if error.starts_with("ERR wrong number") {
            assert!(client.cmd(&in_script).is_err(), "{}", display(&call));
            continue;
        }
        assert_eq!(client.cmd(&in_script).err(), error, "{}", display(&call));
        client.line("MULTI");
        assert_eq!(client.cmd(&call), "QUEUED", "{}", display(&call));
        let replies = client.line("EXEC");
        assert_eq!(replies.list()[0].err(), error, "{}", display(&call));
    }
    assert_eq!(server_state(&mut client), before);
    assert_eq!(published(&mut subscriber, &mut client), Vec::<String>::new());
}

fn with_script(mut call: Words, script: &str) -> Words {
    call[1] = script.as_bytes().to_vec();
    call
}

fn invalid_calls_count_only_as_requests(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    make_keys(&mut client);
    client.line("GPULOCK.RESETSTATS");
    let is_of = |call: &Words, name: &str| call[0] == name.as_bytes();
    let (mut acquires, mut releases) = (0, 0);
    for (call, error) in invalid_calls() {
        client.cmd(&call);
        // The server refuses calls with too few arguments before they reach the module.
        let reached = i64::from(!error.starts_with("ERR wrong number"));
        acquires += reached * i64::from(is_of(&call, "GPULOCK.ACQUIRE"));
        releases += reached * i64::from(is_of(&call, "GPULOCK.RELEASE"));
    }
    assert!(acquires > 40 && releases > 20);
    assert_eq!(counter(&mut client, "acquire_requests"), acquires);
    assert_eq!(counter(&mut client, "release_script_errors"), releases);
    assert_eq!(counter(&mut client, "normal_release_failures"), releases);
    for name in ["ownership_violations", "refused", "extend_failures"] {
        assert_eq!(counter(&mut client, name), 0, "{name}");
    }
}

fn invalid_calls_leak_no_memory(flavour: &Flavour) {
    // The server's slow log would take memory.
    let server = flavour.server().arg("slowlog-log-slower-than", -1).start();
    let mut client = server.client();
    make_keys(&mut client);
    let calls = invalid_calls();
    let mut used = vec![];
    for _ in 0..4 {
        for (call, _) in &calls {
            client.cmd(call);
        }
        used.push(server.used_memory());
    }
    // The first round fills buffers. After that the memory must not grow, not even by a byte
    // for each call.
    let growth = used[3] - used[1];
    assert!(growth < i64::try_from(calls.len()).unwrap(), "{used:?}");
}

/// Strings that careless code might handle wrongly.
fn unusual_strings() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![
        (0..=255).collect(),
        b"\r\n".to_vec(),
        b"a\r\nDEL other\r\n".to_vec(),
        b"\0".to_vec(),
        b"a\0b".to_vec(),
        b"a\0".to_vec(),
        b"%s%n%s%n%s%n%d".to_vec(),
        b"\"quoted\" \\ 'single'".to_vec(),
        b"{\"json\": 1}".to_vec(),
        b"$5\r\nhello".to_vec(),
        b" leading and trailing ".to_vec(),
        b"12345".to_vec(),
        b"-1".to_vec(),
        b"PX".to_vec(),
        b"locked_by_".to_vec(),
        b"\xff\xfe\xed\xa0\x80".to_vec(),
        "ü→🔒".as_bytes().to_vec(),
        vec![b'o'; 1024],
        vec![0xff; 1024],
    ];
    all.extend((0..=255u8).map(|byte| vec![byte]));
    all
}

fn owners_can_be_any_bytes(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("CONFIG SET gpulock.events all");
    for owner in unusual_strings() {
        let what = owner.escape_ascii().to_string();
        let token = call!(client, "GPULOCK.ACQUIRE", "k", owner, "UNIQUE").int();
        assert!(token > 0, "{what}");
        assert_eq!(client.line("GET k").bytes(), owner, "{what}");
        assert_eq!(client.line("GPULOCK.INSPECT k").field("owner").bytes(), owner);
        let row = client.line("GPULOCK.LIST").list()[0].clone();
        assert_eq!(row.field("owner").bytes(), owner);
        for other in unusual_strings().iter().filter(|other| **other != owner).take(5) {
            assert_eq!(call!(client, "GPULOCK.RELEASE", "k", other), 0, "{what}");
        }
        let logged = client.line("GPULOCK.LOG").list()[0].field("holder");
        assert_eq!(logged.bytes(), &owner[..owner.len().min(128)], "{what}");
        assert_eq!(call!(client, "GPULOCK.EXTEND", "k", owner), token, "{what}");
        let again = call!(client, "GPULOCK.ACQUIRE", "k", owner, "UNIQUE");
        assert_eq!(again, token, "{what}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", "k", owner), 1, "{what}");
        call!(client, "GPULOCK.ACQUIRE", "k", owner);
        let freed = call!(client, "GPULOCK.FORCERELEASE", "k", "OWNER", owner);
        assert_eq!(freed.bytes(), owner, "{what}");
        assert_eq!(client.line("EXISTS k"), 0, "{what}");
    }
}

fn keys_and_reasons_can_be_any_bytes(flavour: &Flavour) {
    let server = flavour.server().arg("appendonly", "yes").start();
    let mut client = server.client();
    let mut strings = unusual_strings();
    strings.push(vec![]);
    strings.sort();
    strings.dedup();
    for key in &strings {
        let what = key.escape_ascii().to_string();
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "me").int() > 0, "{what}");
    }
    let limit = strings.len();
    let mut listed: Vec<Vec<u8>> = call!(client, "GPULOCK.LIST", "LIMIT", limit)
        .list()
        .iter()
        .map(|row| row.field("key").bytes().to_vec())
        .collect();
    listed.sort();
    assert_eq!(listed, strings);
    assert_eq!(call!(client, "DBSIZE"), i64::try_from(strings.len()).unwrap());
    // Prometheus reads lines: a key must not break one.
    for line in client.line("GPULOCK.METRICS").text().lines() {
        let whole = line.starts_with('#')
            || line.rsplit_once(' ').is_some_and(|(_, n)| n.parse::<f64>().is_ok());
        assert!(whole && line.contains("gpulock_"), "{line:?}");
    }
    let mut subscriber = server.client();
    send!(subscriber, "PSUBSCRIBE", "gpu_lock:*");
    subscriber.read();
    for key in &strings {
        let what = key.escape_ascii().to_string();
        assert_eq!(call!(client, "GPULOCK.INSPECT", key).field("owner"), "me");
        let own = call!(client, "GPULOCK.STATS", "KEY", key);
        assert_eq!(own.is_null(), key.len() > 128, "{what}");
        assert!(own.is_null() || own.field("acquired") == 1, "{what}");
        let reason = &key[..key.len().min(64)];
        let freed = call!(client, "GPULOCK.RELEASE", key, "me", "REASON", reason);
        assert_eq!(freed, 1, "{what}");
        let event = subscriber.read();
        let [_, _, channel, text] = event.list() else { panic!("{event:?}") };
        assert_eq!(channel.bytes(), [b"gpu_lock:", &key[..]].concat(), "{what}");
        let body: serde_json::Value = serde_json::from_slice(text.bytes()).unwrap();
        let replaced = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(body["lock_key"], replaced(key), "{what}");
        assert_eq!(body["release_reason"], replaced(reason), "{what}");
    }
    assert_eq!(call!(client, "DBSIZE"), 0);
}

fn a_key_of_half_a_megabyte_is_a_valid_lock(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let key = vec![b'k'; 512 * 1024];
    let mut subscriber = server.client();
    send!(subscriber, "PSUBSCRIBE", "gpu_lock:*");
    subscriber.read();
    let token = call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 60_000).int();
    assert!(call!(client, "GPULOCK.ACQUIRE", key, "you").is_null());
    assert_eq!(call!(client, "GPULOCK.RELEASE", key, "you"), 0);
    assert_eq!(call!(client, "GPULOCK.INSPECT", key).field("token"), token);
    let row = client.line("GPULOCK.LIST").list()[0].clone();
    assert_eq!(row.field("key").bytes(), key);
    let entry = client.line("GPULOCK.LOG").list()[0].clone();
    assert_eq!(entry.field("key").bytes(), &key[..128]);
    // It has no counters, because METRICS repeats each key many times.
    assert!(call!(client, "GPULOCK.STATS", "KEY", key).is_null());
    assert!(client.line("GPULOCK.METRICS").bytes().len() < key.len());
    assert_eq!(call!(client, "GPULOCK.EXTEND", key, "me"), token);
    assert_eq!(call!(client, "GPULOCK.RELEASE", key, "me"), 1);
    assert!(subscriber.read().list()[2].bytes().ends_with(&key));
    assert!(call!(client, "GPULOCK.INSPECT", key).is_null());
}

fn without_memory_locks_are_renewed_and_released_but_not_granted(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for i in 0..6 {
        let key = format!("gpu:{i}");
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "me", "UNIQUE").int() > 0);
    }
    client.line("SET outside outsider PX 60000");
    let token = client.line("GPULOCK.INSPECT gpu:0").field("token");
    assert_eq!(client.line("CONFIG SET maxmemory 1"), "OK");
    let native = client.line("SET free me");
    assert!(native.err().starts_with("OOM"));
    let refused = client.line("GPULOCK.ACQUIRE free me");
    assert_eq!(refused.err(), native.err());
    assert!(client.line("GPULOCK.ACQUIRE free me UNIQUE PX 5000").is_err());
    assert_eq!(client.line("EXISTS free"), 0);
    // Calls that need no new lock still work.
    assert!(client.line("GPULOCK.ACQUIRE gpu:0 you").is_null());
    assert_eq!(client.line("GPULOCK.ACQUIRE gpu:0 me UNIQUE PX 50000"), token);
    assert_eq!(client.line("GPULOCK.EXTEND gpu:0 me PX 70000"), token);
    assert!(client.line("PTTL gpu:0").int() > 60_000);
    assert!(client.line("GPULOCK.EXTEND outside outsider").int() > token.int());
    assert_eq!(client.line("GPULOCK.RELEASE gpu:1 me"), 1);
    assert_eq!(client.line("GPULOCK.RELEASE gpu:2 you"), 0);
    assert_eq!(client.line("GPULOCK.FORCERELEASE gpu:2"), "me");
    assert_eq!(client.line("GPULOCK.RELEASE outside outsider"), 1);
    let script = "redis.call('GPULOCK.EXTEND', KEYS[1], 'me')
            return redis.call('GPULOCK.RELEASE', KEYS[1], 'me')";
    assert_eq!(call!(client, "EVAL", script, 1, "gpu:3"), 1);
    // Redis 7.0 queues no command at all then.
    client.line("MULTI");
    let native = client.line("DEL nothing");
    client.line("DISCARD");
    client.line("MULTI");
    assert_eq!(client.line("GPULOCK.EXTEND gpu:4 me"), native);
    assert_eq!(client.line("GPULOCK.RELEASE gpu:4 me"), native);
    let replies = client.line("EXEC");
    if native == "QUEUED" {
        assert_eq!(replies.list()[1], 1);
    } else {
        assert!(replies.err().starts_with("EXECABORT"));
        assert_eq!(client.line("GPULOCK.RELEASE gpu:4 me"), 1);
    }
    for line in ["INSPECT gpu:0", "LIST", "STATS", "METRICS", "LOG", "RESETSTATS"] {
        let reply = client.line(&format!("GPULOCK.{line}"));
        assert!(!reply.is_err(), "{line}: {reply:?}");
    }
    assert_eq!(client.line("CONFIG SET maxmemory 0"), "OK");
    assert!(client.line("GPULOCK.ACQUIRE free me").int() > 0);
    // gpu:0, gpu:5 and free.
    assert_eq!(counter(&mut client, "locks_held"), 3);
}

fn a_replica_changes_no_lock_even_when_it_is_writable(flavour: &Flavour) {
    let primary = flavour.start();
    let mut client = primary.client();
    assert!(client.line("GPULOCK.ACQUIRE held me PX 600000").int() > 0);
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    replica.wait_caught_up_with(&primary);
    let mut reader = replica.client();
    let native = reader.line("SET k v");
    for read_only in ["yes", "no"] {
        assert_eq!(call!(reader, "CONFIG", "SET", "replica-read-only", read_only), "OK");
        let before = server_state(&mut reader);
        for line in [
            "GPULOCK.ACQUIRE free me",
            "GPULOCK.ACQUIRE held you",
            "GPULOCK.ACQUIRE held me UNIQUE",
            "GPULOCK.RELEASE held me",
            "GPULOCK.RELEASE held you",
            "GPULOCK.EXTEND held me",
            "GPULOCK.FORCERELEASE held",
            "GPULOCK.FORCERELEASE free",
        ] {
            let reply = reader.line(line);
            assert_eq!(reply.err(), native.err(), "{line}, read-only {read_only}");
            assert!(reply.err().starts_with("READONLY "), "{reply:?}");
        }
        assert_eq!(server_state(&mut reader), before, "read-only {read_only}");
        assert_eq!(reader.line("GPULOCK.INSPECT held").field("owner"), "me");
        for line in ["LIST", "STATS", "STATS KEY held", "METRICS", "LOG"] {
            let reply = reader.line(&format!("GPULOCK.{line}"));
            assert!(!reply.is_err(), "{line}: {reply:?}");
        }
    }
    assert_eq!(client.line("GPULOCK.RELEASE held me"), 1);
}
