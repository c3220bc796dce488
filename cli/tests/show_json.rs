//! The output of `--json`: the module's replies, field by field.

use std::collections::BTreeMap;

use gpulock_testkit::{Client, Server, Value, call, on_every_server};
use serde_json::json as document;

#[path = "support/invoke.rs"]
mod invoke;
#[path = "support/printed.rs"]
mod printed;
use printed::{json, printed};

/// A held lock with a queue, an adopted lock, a reserved lock, and log entries.
fn busy(server: &Server) -> [Client; 2] {
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE gpu:0 asr EX 600");
    client.line("SET gpu:1 locked_by_llm EX 600");
    client.line("GPULOCK.ACQUIRE gpu:0 away BLOCK 1 UNIQUE");
    client.line("GPULOCK.RELEASE gpu:0 other");
    client.line("GPULOCK.ACQUIRE gpu:9 old");
    client.line("GPULOCK.FORCERELEASE gpu:9 REASON stuck");
    let mut waiter = server.client();
    waiter.line("CLIENT SETNAME trainer");
    waiter.send(&[
        "GPULOCK.ACQUIREANY",
        "3",
        "gpu:0",
        "gpu:1",
        "gpu:2",
        "train",
        "COUNT",
        "2",
        "BLOCK",
        "0",
    ]);
    server.wait_blocked(1);
    [client, waiter]
}

/// A reply of the module as JSON.
fn as_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Int(n) => document!(n),
        value if value.is_null() => document!(null),
        Value::Map(pairs) => {
            let field = |(name, value): &(Value, Value)| (name.text(), as_json(value));
            pairs.iter().map(field).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(as_json).collect::<Vec<_>>().into(),
        text => document!(text.text()),
    }
}

/// The reply of INSPECT as printed: `adopted` is a boolean.
fn inspected(mut lock: serde_json::Value) -> serde_json::Value {
    if let Some(adopted) = lock.get_mut("adopted") {
        *adopted = adopted.as_u64().map(|n| n == 1).into();
    }
    lock
}

/// The document, with the times that differ between two calls set to 0.
fn without_times(mut document: serde_json::Value) -> serde_json::Value {
    const TIMES: [&str; 4] = ["held_ms", "lease_ms", "revoked_ms", "waited_ms"];
    match &mut document {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                *value = match value.take() {
                    serde_json::Value::Number(_) if TIMES.contains(&&**name) => {
                        document!(0)
                    }
                    other => without_times(other),
                };
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                *item = without_times(item.take());
            }
        }
        _ => {}
    }
    document
}

#[test]
fn documents_have_the_fields_and_values_of_the_replies() {
    on_every_server(|flavour| {
        let server =
            flavour.server().module_args(&["gpulock.place-keep", "3600000"]).start();
        let _busy = busy(&server);
        let mut client = server.client3();
        let cases: &[(&[&str], &str)] = &[
            (&["ls"], "GPULOCK.LIST"),
            (&["ls", "-n", "9"], "GPULOCK.LIST LIMIT 9"),
            (&["ls", "gpu:0"], "GPULOCK.LIST MATCH gpu:0"),
            (&["inspect", "gpu:0"], "GPULOCK.INSPECT gpu:0"),
            (&["inspect", "gpu:1"], "GPULOCK.INSPECT gpu:1"),
            (&["inspect", "gpu:2"], "GPULOCK.INSPECT gpu:2"),
            (&["inspect", "never"], "GPULOCK.INSPECT never"),
            (&["stats"], "GPULOCK.STATS"),
            (&["stats", "gpu:0"], "GPULOCK.STATS KEY gpu:0"),
            (&["stats", "never"], "GPULOCK.STATS KEY never"),
            (&["log"], "GPULOCK.LOG"),
            (&["log", "-n", "1"], "GPULOCK.LOG 1"),
        ];
        for (args, command) in cases {
            let reply = without_times(as_json(&client.line(command)));
            let expected = if args[0] == "inspect" { inspected(reply) } else { reply };
            assert_eq!(without_times(json(&server, args)), expected, "{args:?}");
        }
        let queue = without_times(as_json(
            &client.line("GPULOCK.INSPECT gpu:0").field("waiters"),
        ));
        assert_eq!(queue.as_array().unwrap().len(), 2);
        assert_eq!(without_times(json(&server, &["queue", "gpu:0"])), queue);
        assert_eq!(json(&server, &["queue", "never"]), document!([]));
    });
}

#[test]
fn resp3_is_supported() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let _busy = busy(&server);
        let url = format!("redis://127.0.0.1:{}/?protocol=resp3", server.port());
        let commands: &[&[&str]] =
            &[&["ls"], &["inspect", "gpu:0"], &["stats"], &["log"]];
        for args in commands {
            let resp3 = json(&server, &[*args, &["--url", &url]].concat());
            assert_eq!(
                without_times(resp3),
                without_times(json(&server, args)),
                "{args:?}"
            );
        }
    });
}

#[test]
fn counters_and_buckets_are_in_the_order_of_the_server() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let printed = printed(&server, &["stats", "--json"]);
        let stats = server.client().line("GPULOCK.STATS");
        let names = stats.list().iter().step_by(2).map(Value::text);
        let positions: Vec<_> =
            names.map(|name| printed.find(&format!("\"{name}\"")).unwrap()).collect();
        assert!(positions.is_sorted(), "{printed}");
        let bounds = ["\"1\"", "\"2\"", "\"10\"", "\"5000000\"", "\"+Inf\""];
        let positions: Vec<_> = bounds.map(|bound| printed.find(bound).unwrap()).into();
        assert!(positions.is_sorted(), "{printed}");
    });
}

#[test]
fn invalid_utf8_is_distinguishable_in_json() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let mut client = server.client();
        let keys: [&[u8]; 3] = [b"\xff", b"\\xff", b"\xfe"];
        for key in keys {
            call!(client, "GPULOCK.ACQUIRE", key, "me");
        }
        let shown = json(&server, &["ls"]);
        let shown: BTreeMap<_, _> = shown
            .as_array()
            .unwrap()
            .iter()
            .map(|lock| (lock["key"].as_str().unwrap().to_owned(), ()))
            .collect();
        assert_eq!(shown.into_keys().collect::<Vec<_>>(), [r"\\xff", r"\xfe", r"\xff"]);
    });
}
