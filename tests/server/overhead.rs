//! Who uses no lock notices nothing of the module: other people's commands do not reach
//! it, and what it does in the background is none of their business. (What it costs in
//! time is measured in docs/benchmarks.md.)

use std::collections::BTreeSet;

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;

tests! {
    commands_on_other_keys_leave_the_locks_alone,
    keyspace_notifications_stay_as_the_operator_set_them,
    the_background_calls_no_command,
    the_background_leaves_the_keys_as_they_are,
}

/// Waits until the background has looked at the keys of all locks once more: until it
/// finds one that was taken away just now.
#[track_caller]
fn wait_background(client: &mut Client, sacrifice: &str) {
    let held = stats(client)["locks_held"];
    assert_eq!(call!(client, "DEL", sacrifice), 1);
    wait_until(DEADLINE, "the background to look", || stats(client)["locks_held"] < held);
}

fn commands_on_other_keys_leave_the_locks_alone(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for n in 0..20 {
        call!(client, "GPULOCK.ACQUIRE", format!("gpu:{n}"), "me", "PX", 100_000);
    }
    let listed = |client: &mut Client| -> Vec<(String, Value)> {
        let rows = client.line("GPULOCK.LIST");
        let row = |row: &Value| (row.field("key").text(), row.field("token"));
        rows.list().iter().map(row).collect()
    };
    let (counters, rows) = (stats(&mut client), listed(&mut client));
    for n in 0..200 {
        for line in [
            format!("SET other:{n} x PX 5"),
            format!("SET other:{n} me"),
            format!("GET other:{n}"),
            format!("EXPIRE other:{n} 1"),
            format!("INCR counter:{n}"),
            format!("RENAME other:{n} third:{n}"),
            format!("COPY third:{n} gone:{n}"),
            format!("DEL third:{n}"),
            format!("GET gpu:{}", n % 20),
            format!("PTTL gpu:{}", n % 20),
        ] {
            assert!(!client.line(&line).is_err(), "{line}");
        }
    }
    assert_eq!(stats(&mut client), counters);
    assert_eq!(listed(&mut client), rows);
    assert!(client.line("GPULOCK.LOG").list().is_empty());
}

fn keyspace_notifications_stay_as_the_operator_set_them(flavour: &Flavour) {
    for wanted in ["", "KEx"] {
        let server = flavour.server().arg("notify-keyspace-events", wanted).start();
        let mut client = server.client();
        let setting = |client: &mut Client| {
            let setting = client.line("CONFIG GET notify-keyspace-events");
            let mut letters: Vec<char> =
                setting.field("notify-keyspace-events").text().chars().collect();
            letters.sort_unstable();
            letters.into_iter().collect::<String>()
        };
        let at_start = setting(&mut client);
        assert_eq!(at_start.len(), wanted.len());
        client.line("GPULOCK.ACQUIRE a me");
        client.line("GPULOCK.ACQUIRE b me");
        wait_background(&mut client, "a");
        client.line("GPULOCK.RELEASE b me");
        assert_eq!(setting(&mut client), at_start);
        assert_eq!(client.line("PUBSUB NUMPAT"), 0);
    }
}

fn the_background_calls_no_command(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for key in ["a", "b", "c", "d"] {
        call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 100_000);
    }
    assert_eq!(client.line("CONFIG RESETSTAT"), "OK");
    for sacrifice in ["a", "b", "c"] {
        wait_background(&mut client, sacrifice);
    }
    let called: BTreeSet<String> = client.info("commandstats").into_keys().collect();
    let own = ["cmdstat_config|resetstat", "cmdstat_del", "cmdstat_gpulock.stats"];
    let called: BTreeSet<String> =
        called.into_iter().map(|name| name.to_lowercase()).collect();
    let foreign: Vec<_> =
        called.iter().filter(|name| !own.contains(&name.as_str())).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert!(called.contains("cmdstat_del"), "the statistics are on: {called:?}");
}

fn the_background_leaves_the_keys_as_they_are(flavour: &Flavour) {
    // Without the decay of each minute.
    let builder = flavour.server().arg("lfu-decay-time", 0);
    let server = builder.arg("maxmemory-policy", "allkeys-lfu").start();
    let mut client = server.client();
    for key in ["a", "b", "sacrifice", "another"] {
        call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 100_000);
    }
    client.line("SET plain me");
    client.line("GPULOCK.ACQUIRE plain other");
    let shape = |client: &mut Client| -> Vec<Value> {
        ["a", "b", "plain"]
            .iter()
            .flat_map(|key| {
                let encoding = call!(client, "OBJECT", "ENCODING", key);
                let freq = call!(client, "OBJECT", "FREQ", key);
                [encoding, freq, call!(client, "PEXPIRETIME", key)]
            })
            .collect()
    };
    let counts = |client: &mut Client| {
        let stats = client.info("stats");
        let dirty = &client.info("persistence")["rdb_changes_since_last_save"];
        let fields = ["keyspace_hits", "keyspace_misses"].map(|name| stats[name].clone());
        (fields, dirty.clone())
    };
    let before = (shape(&mut client), counts(&mut client));
    wait_background(&mut client, "sacrifice");
    wait_background(&mut client, "another");
    let (hits, dirty) = counts(&mut client);
    assert_eq!(shape(&mut client), before.0);
    assert_eq!(hits, before.1.0);
    // Two keys were deleted, by this test.
    let number = |text: &str| text.parse::<i64>().expect("a number");
    assert_eq!(number(&dirty), number(&before.1.1) + 2);
}
