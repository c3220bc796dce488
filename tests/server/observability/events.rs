//! Events: at every end of a lock, and on request at every grant, one message in exactly
//! the JSON that the replaced clients read, after the key is changed.

use std::time::{Duration, UNIX_EPOCH};

use gpulock_testkit::{Client, Cluster, Flavour, Server, Value, call};
use serde_json::{Value as Json, json};

tests! {
    the_message_is_the_one_of_the_contract_letter_by_letter,
    every_end_has_its_reason,
    how_much_is_told_is_the_operators_choice,
    of_an_adopted_lock_only_what_gpulock_did_and_the_end_of_its_lease_is_told,
    a_successor_that_overwrote_a_lock_ends_it_and_is_itself_no_grant,
    the_channel_is_the_prefix_and_the_key,
    names_of_any_bytes_make_valid_json,
    the_database_is_told,
    transactions_and_scripts_tell_their_events_in_order,
    the_key_is_changed_before_the_event_is_told,
    a_subscriber_at_another_node_of_a_cluster_hears_it,
}

fn unix_seconds() -> f64 {
    UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs_f64()
}

/// A subscriber to every channel.
fn listener(server: &Server) -> Client {
    let mut listener = server.client();
    listener.send(&["PSUBSCRIBE", "*"]);
    assert_eq!(listener.read().list()[0], "psubscribe");
    listener
}

/// The next message: its channel and its bytes.
#[track_caller]
fn heard(listener: &mut Client) -> (Vec<u8>, Vec<u8>) {
    let message = listener.read();
    let [_, _, channel, text] = message.list() else { panic!("{message:?}") };
    (channel.bytes().to_vec(), text.bytes().to_vec())
}

/// The next message as JSON.
#[track_caller]
fn event(listener: &mut Client) -> Json {
    let (_, text) = heard(listener);
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Checks that nothing was published before this moment and not heard yet.
#[track_caller]
fn nothing_more(client: &mut Client, listener: &mut Client) {
    assert_eq!(client.line("PUBLISH now x"), 1);
    let (channel, text) = heard(listener);
    let shown = (channel.escape_ascii().to_string(), text.escape_ascii().to_string());
    assert_eq!(shown, ("now".into(), "x".into()));
}

fn the_message_is_the_one_of_the_contract_letter_by_letter(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    let before = unix_seconds();
    let token = client.line("GPULOCK.ACQUIRE gpu_lock:0 locked_by_asr").int();
    client.line("GPULOCK.RELEASE gpu_lock:0 locked_by_asr");
    for (kind, reason) in
        [("lock_acquired", ""), ("lock_released", r#""release_reason":"normal","#)]
    {
        let (channel, text) = heard(&mut listener);
        assert_eq!(channel, b"gpu_lock:gpu_lock:0");
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        let event: Json = serde_json::from_str(&text).expect("JSON");
        // Seconds with the milliseconds as a fraction, a millisecond cut off at most.
        let timestamp = event["timestamp"].as_f64().expect("a number");
        assert!((before - 0.001..=unix_seconds()).contains(&timestamp), "{text}");
        let written = text.split_once(r#""timestamp":"#).expect("a time").1;
        let written = written.split_once(',').expect("more").0;
        let fraction = written.split_once('.').map_or("", |(_, fraction)| fraction);
        assert!(fraction.len() <= 3, "{text}");
        assert_eq!(
            text,
            format!(
                r#"{{"event_type":"{kind}","lock_key":"gpu_lock:0","task_name":"asr",{reason}"timestamp":{written},"owner":"locked_by_asr","token":{token},"db":0}}"#
            )
        );
    }
}

fn every_end_has_its_reason(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    for (ends, reason) in [
        ("GPULOCK.RELEASE k me", "normal"),
        ("GPULOCK.RELEASE k me REASON done", "done"),
        ("GPULOCK.FORCERELEASE k", "forced"),
        ("GPULOCK.FORCERELEASE k REASON hung", "hung"),
        ("GPULOCK.EXTEND k me PX 1", "timeout"),
        ("DEL k", "removed"),
    ] {
        let token = client.line("GPULOCK.ACQUIRE k me PX 100000").int();
        client.line(ends);
        let event = event(&mut listener);
        assert_eq!(event["event_type"], "lock_released", "{ends}");
        assert_eq!(event["release_reason"], reason, "{ends}");
        assert_eq!(event["owner"], "me", "{ends}");
        assert_eq!(event["task_name"], "me", "{ends}");
        assert_eq!(event["token"], token, "{ends}");
    }
    // Nothing ended, nothing is told.
    for line in [
        "GPULOCK.ACQUIRE k me PX 100000",
        "GPULOCK.ACQUIRE k you",
        "GPULOCK.ACQUIRE k me UNIQUE",
        "GPULOCK.EXTEND k me",
        "GPULOCK.RELEASE k you",
        "GPULOCK.RELEASE free me",
        "GPULOCK.FORCERELEASE free",
        "GPULOCK.FORCERELEASE k OWNER you",
        "GPULOCK.RELEASE k me TOKEN 0",
    ] {
        client.line(line);
    }
    nothing_more(&mut client, &mut listener);
    client.line("CONFIG SET maxmemory-policy allkeys-lru");
    client.line("CONFIG SET maxmemory 1");
    client.line("PING");
    assert_eq!(event(&mut listener)["release_reason"], "evicted");
}

fn how_much_is_told_is_the_operators_choice(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    let both = ["lock_acquired", "lock_released"];
    for (choice, told) in
        [("off", &[][..]), ("release", &both[1..]), ("all", &both), ("off", &[])]
    {
        assert_eq!(call!(client, "CONFIG", "SET", "gpulock.events", choice), "OK");
        client.line("GPULOCK.ACQUIRE k me");
        client.line("GPULOCK.ACQUIRE k me UNIQUE");
        client.line("GPULOCK.RELEASE k me");
        for expected in told {
            assert_eq!(event(&mut listener)["event_type"], *expected, "{choice}");
        }
        nothing_more(&mut client, &mut listener);
    }
}

fn of_an_adopted_lock_only_what_gpulock_did_and_the_end_of_its_lease_is_told(
    flavour: &Flavour,
) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    let adopt = |client: &mut Client| {
        client.line("SET k me PX 100000");
        assert_eq!(client.line("GPULOCK.ACQUIRE k other"), Value::Null);
    };
    for (ends, reason) in [
        ("GPULOCK.RELEASE k me", Some("normal")),
        ("GPULOCK.FORCERELEASE k", Some("forced")),
        ("DEL k", None),
        ("SET k other", None),
    ] {
        adopt(&mut client);
        nothing_more(&mut client, &mut listener);
        client.line(ends);
        client.line("GPULOCK.INSPECT k");
        if let Some(reason) = reason {
            let event = event(&mut listener);
            assert_eq!(event["event_type"], "lock_released");
            assert_eq!(event["release_reason"], reason);
            assert_eq!(event["token"], Json::Null);
        }
        nothing_more(&mut client, &mut listener);
        client.line("DEL k");
        client.line("GPULOCK.INSPECT k");
        nothing_more(&mut client, &mut listener);
    }
    adopt(&mut client);
    client.line("PEXPIRE k 500");
    client.line("GPULOCK.INSPECT k");
    assert_eq!(event(&mut listener)["release_reason"], "timeout");
    // Renewed, it has a token to tell.
    adopt(&mut client);
    let token = client.line("GPULOCK.EXTEND k me").int();
    client.line("GPULOCK.RELEASE k me");
    assert_eq!(event(&mut listener)["token"], token);
}

fn a_successor_that_overwrote_a_lock_ends_it_and_is_itself_no_grant(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    client.line("GPULOCK.ACQUIRE k me");
    assert_eq!(event(&mut listener)["event_type"], "lock_acquired");
    client.line("SET k successor");
    client.line("GPULOCK.INSPECT k");
    let event = event(&mut listener);
    assert_eq!(
        (&event["owner"], &event["release_reason"]),
        (&json!("me"), &json!("removed"))
    );
    nothing_more(&mut client, &mut listener);
}

fn the_channel_is_the_prefix_and_the_key(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    for prefix in ["", "locks/", "gpu_lock:", "\u{e4} b"] {
        let set = call!(client, "CONFIG", "SET", "gpulock.channel-prefix", prefix);
        assert_eq!(set, "OK");
        call!(client, "GPULOCK.ACQUIRE", b"k\0\xff", "me");
        call!(client, "GPULOCK.RELEASE", b"k\0\xff", "me");
        let (channel, _) = heard(&mut listener);
        assert_eq!(channel, [prefix.as_bytes(), b"k\0\xff"].concat());
    }
}

fn names_of_any_bytes_make_valid_json(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    let hostile: [&[u8]; 8] = [
        b"\"quoted\"",
        b"back\\slash",
        b"\r\n\t\0\x1f",
        b"\xff\xfe not utf-8 \xc3",
        b"</script>",
        "\u{2028}\u{1f600}".as_bytes(),
        b"\"}\n{\"event_type\":\"x\"",
        b"locked_by_",
    ];
    for name in hostile {
        let key = [b"k", name].concat();
        let token = call!(client, "GPULOCK.ACQUIRE", &key, name).int();
        call!(client, "GPULOCK.RELEASE", &key, name, "REASON", name);
        for kind in ["lock_acquired", "lock_released"] {
            let (channel, text) = heard(&mut listener);
            assert_eq!(channel, [b"gpu_lock:", &key[..]].concat());
            let event: Json = serde_json::from_slice(&text).expect("valid JSON");
            let owner = String::from_utf8_lossy(name);
            let task = owner.strip_prefix("locked_by_").unwrap_or(&owner);
            assert_eq!(event["event_type"], kind);
            assert_eq!(event["owner"], owner.as_ref());
            assert_eq!(event["task_name"], task);
            assert_eq!(event["lock_key"], String::from_utf8_lossy(&key).as_ref());
            assert_eq!(event["token"], token);
            if kind == "lock_released" {
                assert_eq!(event["release_reason"], owner.as_ref());
            }
        }
    }
    // Only in front, and only once.
    call!(client, "GPULOCK.ACQUIRE", "k", "locked_by_locked_by_x");
    assert_eq!(event(&mut listener)["task_name"], "locked_by_x");
    call!(client, "GPULOCK.ACQUIRE", "j", "not_locked_by_x");
    assert_eq!(event(&mut listener)["task_name"], "not_locked_by_x");
}

fn the_database_is_told(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    for (db, ends) in
        [(3, "GPULOCK.RELEASE k me"), (7, "GPULOCK.EXTEND k me PX 1"), (9, "DEL k")]
    {
        call!(client, "SELECT", db);
        client.line("GPULOCK.ACQUIRE k me");
        client.line(ends);
        assert_eq!(event(&mut listener)["db"], db, "{ends}");
    }
}

fn transactions_and_scripts_tell_their_events_in_order(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    let script = "redis.call('GPULOCK.ACQUIRE', KEYS[1], 'a') \
            redis.call('GPULOCK.RELEASE', KEYS[1], 'a') \
            redis.call('GPULOCK.ACQUIRE', KEYS[1], 'b') \
            redis.call('DEL', KEYS[1]) \
            return redis.call('GPULOCK.ACQUIRE', KEYS[1], 'c')";
    assert!(call!(client, "EVAL", script, 1, "k").int() > 0);
    client.line("DEL k");
    client.line("GPULOCK.INSPECT k");
    let told = |listener: &mut Client| -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..6 {
            let event = event(listener);
            let owner = event["owner"].as_str().expect("text");
            let reason = event["release_reason"].as_str().unwrap_or("granted");
            told.push(format!("{owner} {reason}"));
        }
        told
    };
    let expected =
        ["a granted", "a normal", "b granted", "b removed", "c granted", "c removed"];
    assert_eq!(told(&mut listener), expected);
    for line in [
        "MULTI",
        "GPULOCK.ACQUIRE k a",
        "GPULOCK.RELEASE k a",
        "GPULOCK.ACQUIRE k b",
        "DEL k",
        "GPULOCK.ACQUIRE k c",
        "DEL k",
        "GPULOCK.INSPECT k",
        "EXEC",
    ] {
        client.line(line);
    }
    assert_eq!(told(&mut listener), expected);
    nothing_more(&mut client, &mut listener);
}

fn the_key_is_changed_before_the_event_is_told(flavour: &Flavour) {
    let server = flavour
        .server()
        .arg("notify-keyspace-events", "KA")
        .module_args(&["gpulock.events", "all"])
        .start();
    let (mut client, mut listener) = (server.client(), listener(&server));
    // The server tells of its keys when it changes them: one order for both.
    let told = |listener: &mut Client| -> String {
        let (_, text) = heard(listener);
        let text = String::from_utf8(text).expect("UTF-8");
        match serde_json::from_str::<Json>(&text) {
            Ok(event) => event["event_type"].as_str().expect("text").to_owned(),
            Err(_) => text,
        }
    };
    for (line, expected) in [
        ("GPULOCK.ACQUIRE k me", &["set", "expire", "lock_acquired"][..]),
        ("GPULOCK.RELEASE k me", &["del", "lock_released"]),
        ("GPULOCK.ACQUIRE k me", &["set", "expire", "lock_acquired"]),
        ("GPULOCK.FORCERELEASE k", &["del", "lock_released"]),
        ("GPULOCK.ACQUIRE k me PX 1", &["set", "expire", "lock_acquired"]),
        ("PING", &["expired", "lock_released"]),
    ] {
        client.line(line);
        for word in expected {
            assert_eq!(told(&mut listener), *word, "{line}");
        }
        if expected.contains(&"lock_released") {
            assert_eq!(client.line("EXISTS k"), 0);
        }
    }
}

fn a_subscriber_at_another_node_of_a_cluster_hears_it(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 2);
    let here = cluster.primary_index("k");
    let there = usize::from(here == 0);
    let mut listener = listener(&cluster.nodes()[there]);
    let mut client = cluster.nodes()[here].client();
    for (ends, reason) in
        [("GPULOCK.RELEASE k me", "normal"), ("GPULOCK.EXTEND k me PX 1", "timeout")]
    {
        let token = client.line("GPULOCK.ACQUIRE k me").int();
        client.line(ends);
        let message = listener.read_within(Duration::from_secs(10));
        let message = message.expect("a message by way of the cluster's bus");
        assert_eq!(message.list()[2], "gpu_lock:k");
        let event: Json =
            serde_json::from_slice(message.list()[3].bytes()).expect("JSON");
        assert_eq!(event["release_reason"], reason);
        assert_eq!(event["token"], token);
    }
}
