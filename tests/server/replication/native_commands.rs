//! Whatever a command of the module does to the keyspace looks as the native command does
//! it: to subscribers, to WATCH, to client-side caches, to the dirty counter, to the
//! statistics of the keyspace and to the append-only file.

use gpulock_testkit::{Client, Flavour, Server, Value, call, send, wait_until};

use crate::support::clock::DEADLINE;

tests! {
    what_changes_a_lock_is_noticed_as_the_native_command_is,
    what_changes_nothing_is_not_noticed,
    a_lease_that_ran_out_unnoticed_ends_as_for_the_native_command,
    transactions_scripts_and_functions_are_replicated_as_with_native_commands,
    the_file_and_the_replicas_get_plain_commands_with_the_very_time_of_the_key,
    no_command_of_the_module_is_ever_in_the_file,
    looks_in_the_background_leave_no_trace,
    a_lock_is_saved_byte_for_byte_as_set_is,
    a_look_deletes_no_key_where_a_native_read_would_not,
}

/// All that others can notice of some calls.
#[derive(Debug, PartialEq)]
struct Noticed {
    /// Channel and message of each keyspace notification.
    notifications: Vec<(String, String)>,
    watch_aborted: bool,
    cache_invalidated: bool,
    dirty: i64,
    hits: i64,
    misses: i64,
    /// What the append-only file got, absolute times replaced by `<ms>`.
    stream: Vec<String>,
}

impl Noticed {
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

/// A server whose every trace can be read.
fn transparent(flavour: &Flavour) -> Server {
    flavour
        .server()
        .arg("appendonly", "yes")
        .arg("appendfsync", "always")
        .arg("notify-keyspace-events", "KEAmn")
        .start()
}

/// Does the calls, each a line, and tells what others noticed. All of it is about the key
/// `k`, which `before` prepares.
fn noticed(server: &Server, before: &[&str], calls: &[&str]) -> Noticed {
    let mut actor = server.client();
    let prepare = |actor: &mut Client| {
        actor.line("DEL k");
        for line in before {
            let answer = actor.line(line);
            assert!(!answer.is_err(), "{line}: {answer:?}");
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
        let answer = actor.line(line);
        assert!(!answer.is_err(), "{line}: {answer:?}");
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
    Noticed {
        notifications,
        watch_aborted,
        cache_invalidated,
        dirty: after[0] - dirty,
        hits: after[1] - hits,
        misses: after[2] - misses,
        stream,
    }
}

/// The append-only file, a line each command, absolute times replaced by `<ms>`, and
/// without the choice of the database, which only the first command of all needs.
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

/// A moment in the far future, for leases and native expiries alike.
const LATER: &str = "9000000000000";

#[track_caller]
fn assert_same(server: &Server, before: &[&str], ours: &[&str], natives: &[&str]) {
    let native = noticed(server, before, natives);
    let module = noticed(server, before, ours);
    assert_eq!(module, native, "{ours:?} beside {natives:?} on {}", server.name());
    assert_ne!(module, Noticed::nothing(), "{ours:?} was not noticed at all");
}

fn what_changes_a_lock_is_noticed_as_the_native_command_is(flavour: &Flavour) {
    let server = transparent(flavour);
    let held = ["GPULOCK.ACQUIRE k me PX 60000 UNIQUE"];
    let adopted = ["SET k me PX 60000"];
    let set = ["SET k me PX 60000"];
    let expire = [&*format!("PEXPIREAT k {LATER}")];
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

fn what_changes_nothing_is_not_noticed(flavour: &Flavour) {
    let server = transparent(flavour);
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
            let seen = noticed(&server, before, &[line]);
            assert_eq!(seen, Noticed::nothing(), "{line} on {}", server.name());
        }
    }
    for line in [
        "GPULOCK.RELEASE k me",
        "GPULOCK.EXTEND k me",
        "GPULOCK.FORCERELEASE k",
        "GPULOCK.INSPECT k",
    ] {
        let seen = noticed(&server, &[], &[line]);
        assert_eq!(seen, Noticed::nothing(), "{line} on {}", server.name());
    }
}

fn a_lease_that_ran_out_unnoticed_ends_as_for_the_native_command(flavour: &Flavour) {
    let server = transparent(flavour);
    let mut client = server.client();
    assert_eq!(client.line("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    // The key is over, and still there until somebody looks.
    let over = |take: &str| {
        let calls = ["PEXPIRE k 1", "DEBUG SLEEP 0.01", take];
        noticed(&server, &["SET k you PX 60000"], &calls)
    };
    let native = over("SET k me NX PX 60000");
    let module = over("GPULOCK.ACQUIRE k me PX 60000");
    let names: Vec<_> =
        module.notifications.iter().map(|(_, message)| message.as_str()).collect();
    assert!(names.contains(&"expired"), "{names:?}");
    assert_eq!(module, native, "{flavour}");
}

fn transactions_scripts_and_functions_are_replicated_as_with_native_commands(
    flavour: &Flavour,
) {
    let server = transparent(flavour);
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
    let ours = [
        "GPULOCK.ACQUIRE k me PX 60000",
        "GPULOCK.EXTEND k me PX 60000",
        "GPULOCK.RELEASE k me",
    ];
    let expire = format!("PEXPIREAT k {LATER}");
    let native = ["SET k me PX 60000", &*expire, "DEL k"];
    let in_multi =
        |calls: &[&'static str; 3]| [&["MULTI"][..], calls, &["EXEC"]].concat();
    let native: [&'static str; 3] = native.map(|line| &*line.to_owned().leak());
    assert_same(&server, &[], &in_multi(&ours), &in_multi(&native));
    let fcall = format!("FCALL native 1 k {LATER}");
    assert_same(&server, &[], &["FCALL ours 1 k"], &[&fcall]);

    // Scripts have spaces, so that they are kept by their digests.
    let load =
        |client: &mut Client, body: &str| call!(client, "SCRIPT", "LOAD", body).text();
    let ours = load(
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
    let ours = format!("EVALSHA {ours} 1 k");
    let native = format!("EVALSHA {native} 1 k {LATER}");
    assert_same(&server, &[], &[&ours], &[&native]);
}

fn the_file_and_the_replicas_get_plain_commands_with_the_very_time_of_the_key(
    flavour: &Flavour,
) {
    let server = transparent(flavour);
    let replica = flavour.server().named("replica").replica_of(&server).start();
    let mut monitor = replica.monitor();
    let mut client = server.client();
    let mut expected: Vec<Vec<String>> = vec![];
    let mut expect = |words: &[&str]| {
        expected.push(words.iter().map(|word| (*word).to_owned()).collect());
    };
    let until = |client: &mut Client| client.line("PEXPIRETIME k").int().to_string();
    client.line("GPULOCK.ACQUIRE k me PX 60000");
    expect(&["SET", "k", "me", "PXAT", &until(&mut client)]);
    client.line("GPULOCK.EXTEND k me PX 70000");
    expect(&["PEXPIREAT", "k", &until(&mut client)]);
    client.line("GPULOCK.ACQUIRE k me EX 80 UNIQUE");
    client.line("GPULOCK.EXTEND k me");
    // A millisecond may have passed between the two; the key shows the last.
    expect(&["PEXPIREAT", "k", "*"]);
    expect(&["PEXPIREAT", "k", &until(&mut client)]);
    client.line("GPULOCK.RELEASE k me");
    expect(&["DEL", "k"]);
    client.line("GPULOCK.ACQUIRE k me");
    expect(&["SET", "k", "me", "PXAT", &until(&mut client)]);
    client.line("GPULOCK.FORCERELEASE k");
    expect(&["DEL", "k"]);
    client.line("SET the-end 1");

    let is = |got: &[String], expected: &[String]| {
        got.len() == expected.len()
            && got.iter().zip(expected).all(|(got, word)| got == word || word == "*")
    };
    let written: Vec<_> =
        server.aof().into_iter().filter(|c| c.get(1).is_some_and(|k| k == "k")).collect();
    assert_eq!(written.len(), expected.len(), "{written:?}");
    for (got, expected) in written.iter().zip(&expected) {
        assert!(is(got, expected), "{got:?} in the file, for {expected:?}");
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
    assert_eq!(replicated, written, "to the replica as to the file");
    replica.wait_caught_up_with(&server);
}

fn no_command_of_the_module_is_ever_in_the_file(flavour: &Flavour) {
    let server = transparent(flavour);
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

fn looks_in_the_background_leave_no_trace(flavour: &Flavour) {
    let server = transparent(flavour);
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
    // That the end of one was found proves that all were looked at.
    wait_until(DEADLINE, "the deleted lock to be found out", || {
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
                assert!(text.contains(expected), "{text} where {expected} was due");
                break;
            }
        }
        if expected == "gpu:19" {
            assert!(format!("{:?}", subscriber.read()).contains("__keyevent"));
        }
    }
}

/// `OBJECT ENCODING` is no promise: the module may store an owner `raw` where SET stores it
/// `embstr` or `int`.
fn a_lock_is_saved_byte_for_byte_as_set_is(flavour: &Flavour) {
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

fn a_look_deletes_no_key_where_a_native_read_would_not(flavour: &Flavour) {
    let primary = transparent(flavour);
    let mut client = primary.client();
    assert_eq!(client.line("DEBUG SET-ACTIVE-EXPIRE 0"), "OK");
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    // A replica just linked gets the stream only after its first acknowledgement.
    assert_eq!(client.line("SET warm 1"), "OK");
    replica.wait_caught_up_with(&primary);
    // On a primary that is paused, and on replicas of both kinds, a key whose time is
    // over is gone for readers, and stays until the primary says that it is deleted.
    for place in ["paused", "read-only replica", "writable replica"] {
        let mut reader = match place {
            "paused" => primary.client(),
            _ => replica.client(),
        };
        let read_only = if place == "writable replica" { "no" } else { "yes" };
        let set = call!(reader, "CONFIG", "SET", "replica-read-only", read_only);
        assert_eq!(set, "OK");
        // Else the primary's own look deletes it for all.
        let pause = "CLIENT PAUSE 20000 WRITE";
        client.send_lines(&["GPULOCK.ACQUIRE k me PX 300", pause]);
        assert!(client.read().int() > 0);
        assert_eq!(client.read(), "OK");
        replica.wait_caught_up_with(&primary);
        wait_until(DEADLINE, "the end of the lease", || reader.line("GET k").is_null());
        assert_eq!(reader.line("DBSIZE"), 2, "after GET, {place}");
        for line in ["GPULOCK.INSPECT k", "GPULOCK.LIST", "GPULOCK.STATS KEY k"] {
            let answer = reader.line(line);
            assert!(!answer.is_err(), "{line}: {answer:?}");
            assert_eq!(reader.line("DBSIZE"), 2, "after {line}, {place}");
        }
        assert_eq!(client.line("CLIENT UNPAUSE"), "OK");
        assert!(client.line("GPULOCK.INSPECT k").is_null());
        assert_eq!(client.line("DBSIZE"), 1);
        replica.wait_caught_up_with(&primary);
    }
}
