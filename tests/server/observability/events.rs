//! Events: one message for each end of a hold, and if enabled for each grant, in exactly the
//! JSON that clients of the replaced lock manager parse, after the change of the key.

use std::time::UNIX_EPOCH;

use gpulock_testkit::{Client, Cluster, Flavour, Value, call};
use serde_json::{Value as Json, json};

use crate::support::clock::DEADLINE;
use crate::support::events::{next_event, next_message, subscriber};

tests! {
    the_message_is_exactly_the_documented_one,
    each_end_has_its_reason,
    the_setting_events_selects_what_is_published,
    for_an_adopted_lock_only_releases_and_the_end_of_its_lease_are_published,
    an_overwritten_lock_is_published_as_ended_and_the_new_value_is_no_grant,
    the_channel_is_the_prefix_followed_by_the_key,
    names_of_any_bytes_produce_valid_json,
    the_event_contains_the_database,
    transactions_and_scripts_publish_events_in_order,
    the_key_changes_before_the_event_is_published,
    a_subscriber_on_another_cluster_node_receives_events,
}

fn unix_seconds() -> f64 {
    UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs_f64()
}

/// Checks that no other message was published before this moment.
#[track_caller]
fn assert_no_message(client: &mut Client, subscriber: &mut Client) {
    assert_eq!(client.line("PUBLISH now x"), 1);
    let (channel, text) = next_message(subscriber);
    let shown = (channel.escape_ascii().to_string(), text.escape_ascii().to_string());
    assert_eq!(shown, ("now".into(), "x".into()));
}

fn the_message_is_exactly_the_documented_one(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    let before = unix_seconds();
    let token = client.line("GPULOCK.ACQUIRE gpu_lock:0 locked_by_asr").int();
    client.line("GPULOCK.RELEASE gpu_lock:0 locked_by_asr");
    for (kind, reason) in
        [("lock_acquired", ""), ("lock_released", r#""release_reason":"normal","#)]
    {
        let (channel, text) = next_message(&mut subscriber);
        assert_eq!(channel, b"gpu_lock:gpu_lock:0");
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        let event: Json = serde_json::from_str(&text).expect("JSON");
        // Seconds, with at most three decimals.
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

fn each_end_has_its_reason(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    for (command, reason) in [
        ("GPULOCK.RELEASE k me", "normal"),
        ("GPULOCK.RELEASE k me REASON done", "done"),
        ("GPULOCK.FORCERELEASE k", "forced"),
        ("GPULOCK.FORCERELEASE k REASON hung", "hung"),
        ("GPULOCK.EXTEND k me PX 1", "timeout"),
        ("DEL k", "removed"),
    ] {
        let token = client.line("GPULOCK.ACQUIRE k me PX 100000").int();
        client.line(command);
        let event = next_event(&mut subscriber);
        assert_eq!(event["event_type"], "lock_released", "{command}");
        assert_eq!(event["release_reason"], reason, "{command}");
        assert_eq!(event["owner"], "me", "{command}");
        assert_eq!(event["task_name"], "me", "{command}");
        assert_eq!(event["token"], token, "{command}");
    }
    // No hold ends, so no event is published.
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
    assert_no_message(&mut client, &mut subscriber);
    client.line("CONFIG SET maxmemory-policy allkeys-lru");
    client.line("CONFIG SET maxmemory 1");
    client.line("PING");
    assert_eq!(next_event(&mut subscriber)["release_reason"], "evicted");
}

fn the_setting_events_selects_what_is_published(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    let both = ["lock_acquired", "lock_released"];
    for (setting, published) in
        [("off", &[][..]), ("release", &both[1..]), ("all", &both), ("off", &[])]
    {
        assert_eq!(call!(client, "CONFIG", "SET", "gpulock.events", setting), "OK");
        client.line("GPULOCK.ACQUIRE k me");
        client.line("GPULOCK.ACQUIRE k me UNIQUE");
        client.line("GPULOCK.RELEASE k me");
        for expected in published {
            assert_eq!(next_event(&mut subscriber)["event_type"], *expected, "{setting}");
        }
        assert_no_message(&mut client, &mut subscriber);
    }
}

fn for_an_adopted_lock_only_releases_and_the_end_of_its_lease_are_published(
    flavour: &Flavour,
) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    let adopt = |client: &mut Client| {
        client.line("SET k me PX 100000");
        assert_eq!(client.line("GPULOCK.ACQUIRE k other"), Value::Null);
    };
    for (command, reason) in [
        ("GPULOCK.RELEASE k me", Some("normal")),
        ("GPULOCK.FORCERELEASE k", Some("forced")),
        ("DEL k", None),
        ("SET k other", None),
    ] {
        adopt(&mut client);
        assert_no_message(&mut client, &mut subscriber);
        client.line(command);
        client.line("GPULOCK.INSPECT k");
        if let Some(reason) = reason {
            let event = next_event(&mut subscriber);
            assert_eq!(event["event_type"], "lock_released");
            assert_eq!(event["release_reason"], reason);
            assert_eq!(event["token"], Json::Null);
        }
        assert_no_message(&mut client, &mut subscriber);
        client.line("DEL k");
        client.line("GPULOCK.INSPECT k");
        assert_no_message(&mut client, &mut subscriber);
    }
    adopt(&mut client);
    client.line("PEXPIRE k 500");
    client.line("GPULOCK.INSPECT k");
    assert_eq!(next_event(&mut subscriber)["release_reason"], "timeout");
    // After its renewal, it has a token.
    adopt(&mut client);
    let token = client.line("GPULOCK.EXTEND k me").int();
    client.line("GPULOCK.RELEASE k me");
    assert_eq!(next_event(&mut subscriber)["token"], token);
}

fn an_overwritten_lock_is_published_as_ended_and_the_new_value_is_no_grant(
    flavour: &Flavour,
) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    client.line("GPULOCK.ACQUIRE k me");
    assert_eq!(next_event(&mut subscriber)["event_type"], "lock_acquired");
    client.line("SET k successor");
    client.line("GPULOCK.INSPECT k");
    let event = next_event(&mut subscriber);
    assert_eq!(
        (&event["owner"], &event["release_reason"]),
        (&json!("me"), &json!("removed"))
    );
    assert_no_message(&mut client, &mut subscriber);
}

fn the_channel_is_the_prefix_followed_by_the_key(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    for prefix in ["", "locks/", "gpu_lock:", "\u{e4} b"] {
        let set = call!(client, "CONFIG", "SET", "gpulock.channel-prefix", prefix);
        assert_eq!(set, "OK");
        call!(client, "GPULOCK.ACQUIRE", b"k\0\xff", "me");
        call!(client, "GPULOCK.RELEASE", b"k\0\xff", "me");
        let (channel, _) = next_message(&mut subscriber);
        assert_eq!(channel, [prefix.as_bytes(), b"k\0\xff"].concat());
    }
}

fn names_of_any_bytes_produce_valid_json(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
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
            let (channel, text) = next_message(&mut subscriber);
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
    // The prefix is removed once, and only at the start.
    call!(client, "GPULOCK.ACQUIRE", "k", "locked_by_locked_by_x");
    assert_eq!(next_event(&mut subscriber)["task_name"], "locked_by_x");
    call!(client, "GPULOCK.ACQUIRE", "j", "not_locked_by_x");
    assert_eq!(next_event(&mut subscriber)["task_name"], "not_locked_by_x");
}

fn the_event_contains_the_database(flavour: &Flavour) {
    let server = flavour.start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    for (db, command) in
        [(3, "GPULOCK.RELEASE k me"), (7, "GPULOCK.EXTEND k me PX 1"), (9, "DEL k")]
    {
        call!(client, "SELECT", db);
        client.line("GPULOCK.ACQUIRE k me");
        client.line(command);
        assert_eq!(next_event(&mut subscriber)["db"], db, "{command}");
    }
}

fn transactions_and_scripts_publish_events_in_order(flavour: &Flavour) {
    let server = flavour.server().module_args(&["gpulock.events", "all"]).start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    let script = "redis.call('GPULOCK.ACQUIRE', KEYS[1], 'a') \
            redis.call('GPULOCK.RELEASE', KEYS[1], 'a') \
            redis.call('GPULOCK.ACQUIRE', KEYS[1], 'b') \
            redis.call('DEL', KEYS[1]) \
            return redis.call('GPULOCK.ACQUIRE', KEYS[1], 'c')";
    assert!(call!(client, "EVAL", script, 1, "k").int() > 0);
    client.line("DEL k");
    client.line("GPULOCK.INSPECT k");
    let published = |subscriber: &mut Client| -> Vec<String> {
        let mut published = Vec::new();
        for _ in 0..6 {
            let event = next_event(subscriber);
            let owner = event["owner"].as_str().expect("text");
            let reason = event["release_reason"].as_str().unwrap_or("granted");
            published.push(format!("{owner} {reason}"));
        }
        published
    };
    let expected =
        ["a granted", "a normal", "b granted", "b removed", "c granted", "c removed"];
    assert_eq!(published(&mut subscriber), expected);
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
    assert_eq!(published(&mut subscriber), expected);
    assert_no_message(&mut client, &mut subscriber);
}

fn the_key_changes_before_the_event_is_published(flavour: &Flavour) {
    let server = flavour
        .server()
        .arg("notify-keyspace-events", "KA")
        .module_args(&["gpulock.events", "all"])
        .start();
    let (mut client, mut subscriber) = (server.client(), subscriber(&server, "*"));
    // Keyspace notifications and events arrive in the order of the changes.
    let published = |subscriber: &mut Client| -> String {
        let (_, text) = next_message(subscriber);
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
            assert_eq!(published(&mut subscriber), *word, "{line}");
        }
        if expected.contains(&"lock_released") {
            assert_eq!(client.line("EXISTS k"), 0);
        }
    }
}

fn a_subscriber_on_another_cluster_node_receives_events(flavour: &Flavour) {
    let cluster = Cluster::start(flavour, 2);
    let here = cluster.primary_index("k");
    let there = usize::from(here == 0);
    let mut subscriber = subscriber(&cluster.nodes()[there], "*");
    let mut client = cluster.nodes()[here].client();
    for (command, reason) in
        [("GPULOCK.RELEASE k me", "normal"), ("GPULOCK.EXTEND k me PX 1", "timeout")]
    {
        let token = client.line("GPULOCK.ACQUIRE k me").int();
        client.line(command);
        let message = subscriber.read_within(DEADLINE);
        let message = message.expect("a message over the cluster bus");
        assert_eq!(message.list()[2], "gpu_lock:k");
        let event: Json =
            serde_json::from_slice(message.list()[3].bytes()).expect("JSON");
        assert_eq!(event["release_reason"], reason);
        assert_eq!(event["token"], token);
    }
}
