//! Each change of the keyspace by the module looks like that of the native command: to
//! subscribers, WATCH, client-side caches, the dirty counter, the keyspace statistics and the
//! append-only file.

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    changes_of_a_lock_look_like_native_commands,
    calls_that_change_nothing_have_no_visible_effect,
    an_expired_key_ends_as_for_the_native_command,
    transactions_scripts_and_functions_replicate_like_native_commands,
    the_file_and_replicas_get_plain_commands_with_the_exact_expiry_time,
    the_file_contains_no_command_of_the_module,
    background_checks_have_no_visible_effect,
    a_lock_is_saved_exactly_like_the_value_of_set,
    a_read_deletes_no_expired_key_where_native_reads_do_not,
}

/// What other clients can observe of some calls.
#[derive(Debug, PartialEq)]
struct Observed {
    /// Channel and message of each keyspace notification.
    notifications: Vec<(String, String)>,
    watch_aborted: bool,
    cache_invalidated: bool,
    dirty: i64,
    hits: i64,
    misses: i64,
    /// The commands in the append-only file, with absolute times as `<ms>`.
    stream: Vec<String>,
}

impl Observed {
    fn nothing() -> Self {
        Self {
            notifications: vec![],
            watch_aborted: false,
            cache_invalidated: false,
            dirty: 0,
            hits: 0,
            misses: 0,
            stream: vec![],
        }
    }
}

/// A server on which all effects can be observed.
fn observable(flavour: &Flavour) -> Server {
    flavour
        .server()
        .arg("appendonly", "yes")
        .arg("appendfsync", "always")
        .arg("notify-keyspace-events", "KEAmn")
        .start()
}

/// Runs `calls` and returns what others observe of them. All of it concerns the key `k`, which
/// `before` prepares.
fn observe(server: &Server, before: &[&str], calls: &[&str]) -> Observed {
    let mut actor = server.client();
    let prepare = |actor: &mut Client| {
        actor.line("DEL k");
        for line in before {
            let reply = actor.line(line);
            assert!(!reply.is_err(), "{line}: {reply:?}");
        }
    };
    prepare(&mut actor);
    let mut watcher = server.client();
    assert_eq!(watcher.line("WATCH k"), "OK");
    let mut cache = server.client3();
    assert_eq!(cache.line("CLIENT TRACKING ON"), "OK");
    cache.line("TYPE k");
    cache.line("TYPE sentinel");
    let mut subscriber = server.client();
    send!(subscriber, "PSUBSCRIBE", "__key*", "the end");
    subscriber.read();
    subscriber.read();
    let counters = |actor: &mut Client| {
        let stats = actor.info("stats");
        let persistence = actor.info("persistence");
        [
            persistence["rdb_changes_since_last_save"].parse::<i64>().unwrap(),
            stats["keyspace_hits"].parse().unwrap(),
            stats["keyspace_misses"].parse().unwrap(),
        ]
    };
    let written = stream(server).len();
    let [dirty, hits, misses] = counters(&mut actor);

    for line in calls {
        let reply = actor.line(line);
        assert!(!reply.is_err(), "{line}: {reply:?}");
    }

    let after = counters(&mut actor);
    let stream: Vec<_> = stream(server)[written..].to_vec();
    assert_eq!(watcher.line("MULTI"), "OK");
    assert_eq!(watcher.line("PING"), "QUEUED");
    let watch_aborted = watcher.line("EXEC").is_null();
    call!(actor, "PUBLISH", "the end", ".");
    let mut notifications = vec![];
    loop {
        // pmessage, pattern, channel, message
        let message = subscriber.read();
        let words: Vec<String> = message.list().iter().map(Value::text).collect();
        if words[2] == "the end" {
            break;
        }
        notifications.push((words[2].clone(), words[3].clone()));
    }
    assert_eq!(actor.line("SET sentinel 1"), "OK");
    let mut cache_invalidated = false;
    loop {
        let push = cache.push_within(DEADLINE).expect("the push for the sentinel");
        let keys = push.list()[1].list();
        if keys.iter().any(|key| *key == "sentinel") {
            break;
        }
        cache_invalidated |= keys.iter().any(|key| *key == "k");
    }
    Observed {
        notifications,
        watch_aborted,
        cache_invalidated,
        dirty: after[0] - dirty,
        hits: after[1] - hits,
        misses: after[2] - misses,
        stream,
    }
}

/// The append-only file with one command a line and absolute times as `<ms>`; without SELECT,
/// which only the first command needs.
fn stream(server: &Server) -> Vec<String> {
    let is_time = |word: &str| word.len() == 13 && word.parse::<u64>().is_ok();
    server
        .aof()
        .into_iter()
        .filter(|command| command[0] != "SELECT")
        .map(|command| {
            let words = command.into_iter();
            let shown =
                words.map(|word| if is_time(&word) { "<ms>".into() } else { word });
            shown.collect::<Vec<String>>().join(" ")
        })
        .collect()
}

/// An expiry time in the far future, for leases and native commands.
const FAR_FUTURE: &str = "9000000000000";

#[track_caller]
fn assert_same(server: &Server, before: &[&str], calls: &[&str], native_calls: &[&str]) {
    let native = observe(server, before, native_calls);
    let module = observe(server, before, calls);
    assert_eq!(module, native, "{calls:?} and {native_calls:?} on {}", server.name());
    assert_ne!(module, Observed::nothing(), "{calls:?} had no effect");
}

fn changes_of_a_lock_look_like_native_commands(flavour: &Flavour) {
    let server = observable(flavour);
    let held = ["GPULOCK.ACQUIRE k me PX 60000 UNIQUE"];
    let adopted = ["SET k me PX 60000"];
    let set = ["SET k me PX 60000"];
    let expire = [&*format!("PEXPIREAT k {FAR_FUTURE}")];
    let del = ["DEL k"];
    let acquire = ["GPULOCK.ACQUIRE k me PX 60000"];
    assert_same(&server, &[], &acquire, &set);
    assert_same(&server, &[], &["GPULOCK.ACQUIRE k me EX 60"], &set);
    assert_same(&server, &[], &["GPULOCK.ACQUIRE k me"], &set);
    for before in [&held, &adopted] {
        for renewal in [
            "GPULOCK.ACQUIRE k me PX 5000 UNIQUE",
            "GPULOCK.EXTEND k me PX 5000",
            "GPULOCK.EXTEND k me",
            "GPULOCK.FORCERELEASE k AFTER 5000",
        ] {
            assert_same(&server, before, &[renewal], &expire);
        }
        for end in [
            "GPULOCK.RELEASE k me",
            "GPULOCK.RELEASE k me REASON done",
            "GPULOCK.FORCERELEASE k",
            "GPULOCK.FORCERELEASE k OWNER me",
        ] {
            assert_same(&server, before, &[end], &del);
        }
    }
}

fn calls_that_change_nothing_have_no_visible_effect(flavour: &Flavour) {
    let server = observable(flavour);
    let held = ["GPULOCK.ACQUIRE k me PX 60000"];
    let adopted = ["SET k me PX 60000"];
    for before in [&held, &adopted] {
        for line in [
            "GPULOCK.ACQUIRE k you",
            "GPULOCK.ACQUIRE k you UNIQUE",
            "GPULOCK.ACQUIRE k me",
            "GPULOCK.RELEASE k you",
            "GPULOCK.EXTEND k you",
            "GPULOCK.FORCERELEASE k OWNER you",
            "GPULOCK.FORCERELEASE k TOKEN 1",
            "GPULOCK.FORCERELEASE k OWNER you AFTER 5000",
            "GPULOCK.INSPECT k",
            "GPULOCK.LIST",
            "GPULOCK.STATS",
            "GPULOCK.STATS KEY k",
            "GPULOCK.METRICS",
            "GPULOCK.LOG",
            "GPULOCK.LOG RESET",
            "GPULOCK.RESETSTATS",
            "INFO gpulock",
        ] {
            let seen = observe(&server, before, &[line]);
            assert_eq!(seen, Observed::nothing(), "{line} on {}", server.name());
        }
    }
    for line in [
        "GPULOCK.RELEASE k me",
        "GPULOCK.EXTEND k me",
        "GPULOCK.FORCERELEASE k",
        "GPULOCK.INSPECT k",
    ] {
        let seen = observe(&server, &[], &[line]);
        assert_eq!(seen, Observed::nothing(), "{line} on {}", server.name());
    }
}

fn an_expired_key_ends_as_for_the_native_command(flavour: &Flavour) {
    let server = observable(flavour);
    let mut client = server.client();
    assert_eq!(client.line("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    // The lease has ended, and the key exists until a command finds it expired.
    let expired = |acquire: &str| {
        let calls = ["PEXPIRE k 1", "DEBUG SLEEP 0.01", acquire];
        observe(&server, &["SET k you PX 60000"], &calls)
    };
    let native = expired("SET k me NX PX 60000");
    let module = expired("GPULOCK.ACQUIRE k me PX 60000");
    let names: Vec<_> =
        module.notifications.iter().map(|(_, message)| message.as_str()).collect();
    assert!(names.contains(&"expired"), "{names:?}");
    assert_eq!(module, native, "{flavour}");
}

fn transactions_scripts_and_functions_replicate_like_native_commands(flavour: &Flavour) {
    let server = observable(flavour);
    let mut client = server.client();
    let library = "#!lua name=locks
            redis.register_function('ours', function(keys)
                redis.call('GPULOCK.ACQUIRE', keys[1], 'me', 'PX', 60000)
                redis.call('GPULOCK.EXTEND', keys[1], 'me', 'PX', 60000)
                return redis.call('GPULOCK.RELEASE', keys[1], 'me') end)
            redis.register_function('native', function(keys, args)
                redis.call('SET', keys[1], 'me', 'PX', 60000)
                redis.call('PEXPIREAT', keys[1], args[1])
                return redis.call('DEL', keys[1]) end)";
    assert_eq!(call!(client, "FUNCTION", "LOAD", library), "locks");
    let calls = [
        "GPULOCK.ACQUIRE k me PX 60000",
        "GPULOCK.EXTEND k me PX 60000",
        "GPULOCK.RELEASE k me",
    ];
    let expire = format!("PEXPIREAT k {FAR_FUTURE}");
    let native = ["SET k me PX 60000", &*expire, "DEL k"];
    let in_multi =
        |calls: &[&'static str; 3]| [&["MULTI"][..], calls, &["EXEC"]].concat();
    let native: [&'static str; 3] = native.map(|line| &*line.to_owned().leak());
    assert_same(&server, &[], &in_multi(&calls), &in_multi(&native));
    let fcall = format!("FCALL native 1 k {FAR_FUTURE}");
    assert_same(&server, &[], &["FCALL ours 1 k"], &[&fcall]);

    // Scripts contain spaces, so they are called by digest.
    let load =
        |client: &mut Client, body: &str| call!(client, "SCRIPT", "LOAD", body).text();
    let calls = load(
        &mut client,
        "redis.call('GPULOCK.ACQUIRE', KEYS[1], 'me', 'PX', 60000)
             redis.call('GPULOCK.EXTEND', KEYS[1], 'me', 'PX', 60000)
             return redis.call('GPULOCK.RELEASE', KEYS[1], 'me')",
    );
    let native = load(
        &mut client,
        "redis.call('SET', KEYS[1], 'me', 'PX', 60000)
             redis.call('PEXPIREAT', KEYS[1], ARGV[1])
             return redis.call('DEL', KEYS[1])",
    );
    let calls = format!("EVALSHA {calls} 1 k");
    let native = format!("EVALSHA {native} 1 k {FAR_FUTURE}");
    assert_same(&server, &[], &[&calls], &[&native]);
}

fn the_file_and_replicas_get_plain_commands_with_the_exact_expiry_time(
    flavour: &Flavour,
) {
    let server = observable(flavour);
    let replica = flavour.server().named("replica").replica_of(&server).start();
    let mut monitor = replica.monitor();
    let mut client = server.client();
    let mut expected: Vec<Vec<String>> = vec![];
    let mut expect = |words: &[&str]| {
        expected.push(words.iter().map(|word| (*word).to_owned()).collect());
    };
    let expiry = |client: &mut Client| client.line("PEXPIRETIME k").int().to_string();
    client.line("GPULOCK.ACQUIRE k me PX 60000");
    expect(&["SET", "k", "me", "PXAT", &expiry(&mut client)]);
    client.line("GPULOCK.EXTEND k me PX 70000");
    expect(&["PEXPIREAT", "k", &expiry(&mut client)]);
    client.line("GPULOCK.ACQUIRE k me EX 80 UNIQUE");
    client.line("GPULOCK.EXTEND k me");
    // The time of the first may be a millisecond earlier; the key has that of the second.
    expect(&["PEXPIREAT", "k", "*"]);
    expect(&["PEXPIREAT", "k", &expiry(&mut client)]);
    client.line("GPULOCK.RELEASE k me");
    expect(&["DEL", "k"]);
    client.line("GPULOCK.ACQUIRE k me");
    expect(&["SET", "k", "me", "PXAT", &expiry(&mut client)]);
    client.line("GPULOCK.FORCERELEASE k");
    expect(&["DEL", "k"]);
    client.line("SET the-end 1");

    let matches = |actual: &[String], expected: &[String]| {
        actual.len() == expected.len()
            && actual
                .iter()
                .zip(expected)
                .all(|(actual, word)| actual == word || word == "*")
    };
    let written: Vec<_> =
        server.aof().into_iter().filter(|c| c.get(1).is_some_and(|k| k == "k")).collect();
    assert_eq!(written.len(), expected.len(), "{written:?}");
    for (actual, expected) in written.iter().zip(&expected) {
        assert!(matches(actual, expected), "{actual:?} in the file, for {expected:?}");
    }

    let mut replicated: Vec<Vec<String>> = vec![];
    loop {
        // +time [db source] "word" "word" …
        let line = monitor.read().text();
        let words: Vec<String> =
            line.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        match words.get(1).map(String::as_str) {
            Some("the-end") => break,
            Some("k") => replicated.push(words),
            _ => {}
        }
    }
    assert_eq!(replicated, written, "the replica and the file get the same commands");
    replica.wait_caught_up_with(&server);
}

fn the_file_contains_no_command_of_the_module(flavour: &Flavour) {
    let server = observable(flavour);
    let mut client = server.client();
    for line in [
        "GPULOCK.ACQUIRE k me",
        "GPULOCK.ACQUIRE k you",
        "GPULOCK.INSPECT k",
        "GPULOCK.RESETSTATS",
        "GPULOCK.LOG RESET",
        "GPULOCK.LIST",
        "GPULOCK.STATS KEY k",
        "MULTI",
        "GPULOCK.EXTEND k me",
        "GPULOCK.RESETSTATS",
        "GPULOCK.LOG RESET",
        "GPULOCK.RELEASE k you",
        "GPULOCK.STATS",
        "EXEC",
        "GPULOCK.RELEASE k you",
        "GPULOCK.FORCERELEASE k",
    ] {
        assert!(!client.line(line).is_err(), "{line}");
    }
    let script = "redis.call('GPULOCK.ACQUIRE', KEYS[1], 'me')
            redis.call('GPULOCK.RESETSTATS') redis.call('GPULOCK.LOG', 'RESET')
            return redis.call('GPULOCK.RELEASE', KEYS[1], 'you')";
    assert_eq!(call!(client, "EVAL", script, 1, "k"), 0);
    let names: Vec<String> =
        server.aof().iter().map(|command| command[0].to_uppercase()).collect();
    assert!(names.contains(&"SET".to_owned()), "{names:?}");
    let plain = ["SELECT", "SET", "PEXPIREAT", "DEL", "MULTI", "EXEC"];
    assert!(names.iter().all(|name| plain.contains(&name.as_str())), "{names:?}");
}

fn background_checks_have_no_visible_effect(flavour: &Flavour) {
    let server = observable(flavour);
    let mut client = server.client();
    for i in 0..20 {
        assert!(call!(client, "GPULOCK.ACQUIRE", format!("gpu:{i}"), "me").int() > 0);
    }
    let encoded = client.line("OBJECT ENCODING gpu:0");
    let mut subscriber = server.client();
    send!(subscriber, "PSUBSCRIBE", "__key*");
    subscriber.read();
    let written = stream(&server).len();
    assert_eq!(client.line("DEL gpu:19"), 1);
    let before = client.info("stats");
    // The check that notices this end has checked all locks.
    wait_until(DEADLINE, "the deletion to be noticed", || {
        client.line("GPULOCK.STATS").field("removed") == 1
    });
    let after = client.info("stats");
    for field in ["keyspace_hits", "keyspace_misses"] {
        assert_eq!(after[field], before[field], "{field} on {flavour}");
    }
    assert_eq!(client.line("OBJECT ENCODING gpu:0"), encoded);
    assert_eq!(stream(&server)[written..], ["DEL gpu:19"]);
    client.line("SET sentinel 1");
    for expected in ["gpu:19", "sentinel"] {
        loop {
            let message = subscriber.read();
            let text = format!("{message:?}");
            if text.contains("__keyspace") {
                assert!(text.contains(expected), "{text} instead of {expected}");
                break;
            }
        }
        if expected == "gpu:19" {
            assert!(format!("{:?}", subscriber.read()).contains("__keyevent"));
        }
    }
}

/// `OBJECT ENCODING` is not compared: the module may store an owner as `raw` where SET stores
/// it as `embstr` or `int`.
fn a_lock_is_saved_exactly_like_the_value_of_set(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for owner in ["me".to_owned(), "12345".to_owned(), "o".repeat(36), "o".repeat(300)] {
        call!(client, "SET", "native", &owner, "PX", 60_000);
        call!(client, "GPULOCK.ACQUIRE", "ours", &owner, "PX", 60_000);
        let native = client.line("DUMP native");
        assert_eq!(client.line("DUMP ours"), native, "{owner} on {flavour}");
        assert!(call!(client, "GPULOCK.EXTEND", "ours", &owner).int() > 0);
        assert_eq!(client.line("DUMP ours"), native, "{owner} on {flavour}");
        assert_eq!(call!(client, "GPULOCK.RELEASE", "ours", &owner), 1);
    }
}

fn a_read_deletes_no_expired_key_where_native_reads_do_not(flavour: &Flavour) {
    let primary = observable(flavour);
    let mut client = primary.client();
    assert_eq!(client.line("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    // A new replica gets the stream only after its first acknowledgement.
    assert_eq!(client.line("SET warm 1"), "OK");
    replica.wait_caught_up_with(&primary);
    // On a paused primary and on replicas of both kinds, readers do not see an expired key, and
    // it is not deleted until the primary deletes it.
    for role in ["paused", "read-only replica", "writable replica"] {
        let mut reader = match role {
            "paused" => primary.client(),
            _ => replica.client(),
        };
        let read_only = if role == "writable replica" { "no" } else { "yes" };
        let set = call!(reader, "CONFIG", "SET", "replica-read-only", read_only);
        assert_eq!(set, "OK");
        // Without the pause, the primary would delete it.
        let pause = "CLIENT PAUSE 20000 WRITE";
        client.send_lines(&["GPULOCK.ACQUIRE k me PX 300", pause]);
        assert!(client.read().int() > 0);
        assert_eq!(client.read(), "OK");
        replica.wait_caught_up_with(&primary);
        wait_until(DEADLINE, "the end of the lease", || reader.line("GET k").is_null());
        assert_eq!(reader.line("DBSIZE"), 2, "after GET, {role}");
        for line in ["GPULOCK.INSPECT k", "GPULOCK.LIST", "GPULOCK.STATS KEY k"] {
            let reply = reader.line(line);
            assert!(!reply.is_err(), "{line}: {reply:?}");
            assert_eq!(reader.line("DBSIZE"), 2, "after {line}, {role}");
        }
        assert_eq!(client.line("CLIENT UNPAUSE"), "OK");
        assert!(client.line("GPULOCK.INSPECT k").is_null());
        assert_eq!(client.line("DBSIZE"), 1);
        replica.wait_caught_up_with(&primary);
    }
}
