//! The module does not affect clients that use no locks: their commands do not reach it, and
//! its background work changes nothing for them. (docs/benchmarks.md has the cost in time.)

use std::collections::BTreeSet;

use gpulock_testkit::{Client, Flavour, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counters::stats;

tests! {
    commands_on_other_keys_do_not_affect_locks,
    the_module_does_not_change_notify_keyspace_events,
    background_work_calls_no_command,
    background_work_does_not_change_keys,
}

/// Waits until the background sweep has checked all locks again, by deleting a key and waiting
/// until the sweep notices.
#[track_caller]
fn wait_sweep(client: &mut Client, sacrifice: &str) {
    let held = stats(client)["locks_held"];
    assert_eq!(call!(client, "DEL", sacrifice), 1);
    wait_until(DEADLINE, "the background sweep", || stats(client)["locks_held"] < held);
}

fn commands_on_other_keys_do_not_affect_locks(flavour: &Flavour) {
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

fn the_module_does_not_change_notify_keyspace_events(flavour: &Flavour) {
    for flags in ["", "KEx"] {
        let server = flavour.server().arg("notify-keyspace-events", flags).start();
        let mut client = server.client();
        let setting = |client: &mut Client| {
            let setting = client.line("CONFIG GET notify-keyspace-events");
            let mut letters: Vec<char> =
                setting.field("notify-keyspace-events").text().chars().collect();
            letters.sort_unstable();
            letters.into_iter().collect::<String>()
        };
        let at_start = setting(&mut client);
        assert_eq!(at_start.len(), flags.len());
        client.line("GPULOCK.ACQUIRE a me");
        client.line("GPULOCK.ACQUIRE b me");
        wait_sweep(&mut client, "a");
        client.line("GPULOCK.RELEASE b me");
        assert_eq!(setting(&mut client), at_start);
        assert_eq!(client.line("PUBSUB NUMPAT"), 0);
    }
}

fn background_work_calls_no_command(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for key in ["a", "b", "c", "d"] {
        call!(client, "GPULOCK.ACQUIRE", key, "me", "PX", 100_000);
    }
    assert_eq!(client.line("CONFIG RESETSTAT"), "OK");
    for sacrifice in ["a", "b", "c"] {
        wait_sweep(&mut client, sacrifice);
    }
    let called: BTreeSet<String> = client.info("commandstats").into_keys().collect();
    let own = ["cmdstat_config|resetstat", "cmdstat_del", "cmdstat_gpulock.stats"];
    let called: BTreeSet<String> =
        called.into_iter().map(|name| name.to_lowercase()).collect();
    let other: Vec<_> =
        called.iter().filter(|name| !own.contains(&name.as_str())).collect();
    assert!(other.is_empty(), "{other:?}");
    assert!(called.contains("cmdstat_del"), "statistics are enabled: {called:?}");
}

fn background_work_does_not_change_keys(flavour: &Flavour) {
    // Without the decay every minute.
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
    wait_sweep(&mut client, "sacrifice");
    wait_sweep(&mut client, "another");
    let (hits, dirty) = counts(&mut client);
    assert_eq!(shape(&mut client), before.0);
    assert_eq!(hits, before.1.0);
    // This test deleted two keys.
    let number = |text: &str| text.parse::<i64>().expect("a number");
    assert_eq!(number(&dirty), number(&before.1.1) + 2);
}
