//! What `--json` gives to programs: the module's own replies, field by field.

use std::collections::BTreeMap;

use gpulock_testkit::{Client, Server, Value, call, on_every_server};
use serde_json::json as document;

#[path = "support/called.rs"]
mod called;
#[path = "support/printed.rs"]
mod printed;
use printed::{json, printed};

/// A held lock with a line, an adopted lock, one set aside, and what went wrong.
fn busy(server: &Server) -> [Client; 2] {
    let mut client = server.client();
    client.line("GPULOCK.ACQUIRE gpu:0 asr EX 600");
    client.line("SET gpu:1 locked_by_llm EX 600");
    client.line("GPULOCK.ACQUIRE gpu:0 away BLOCK 1 UNIQUE");
    client.line("GPULOCK.RELEASE gpu:0 nobody");
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

/// What INSPECT answers, where only this differs: adopted is false or true.
fn inspected(mut lock: serde_json::Value) -> serde_json::Value {
    if let Some(adopted) = lock.get_mut("adopted") {
        *adopted = adopted.as_u64().map(|n| n == 1).into();
    }
    lock
}

/// The document, with the times that go on between two calls set to 0 in it.
fn still(mut document: serde_json::Value) -> serde_json::Value {
    const GO_ON: [&str; 3] = ["held_ms", "lease_ms", "waited_ms"];
    match &mut document {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                *value = match value.take() {
                    serde_json::Value::Number(_) if GO_ON.contains(&&**name) => {
                        document!(0)
                    }
                    other => still(other),
                };
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                *item = still(item.take());
            }
        }
        _ => {}
    }
    document
}

#[test]
fn every_document_has_the_fields_and_the_values_of_the_reply() {
    on_every_server(|flavour| {
        let server =
            flavour.server().module_args(&["gpulock.place-keep", "3600000"]).start();
        let _busy = busy(&server);
        let mut client = server.client3();
        let cases: &[(&[&str], &str)] = &[
            (&["ls"], "GPULOCK.LIST"),
            (&["ls", "-n", "1"], "GPULOCK.LIST LIMIT 1"),
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
            let reply = still(as_json(&client.line(command)));
            let expected = if args[0] == "inspect" { inspected(reply) } else { reply };
            assert_eq!(still(json(&server, args)), expected, "{args:?}");
        }
        let line = still(as_json(&client.line("GPULOCK.INSPECT gpu:0").field("waiters")));
        assert_eq!(line.as_array().unwrap().len(), 2);
        assert_eq!(still(json(&server, &["line", "gpu:0"])), line);
        assert_eq!(json(&server, &["line", "never"]), document!([]));
    });
}

#[test]
fn resp3_is_spoken_as_well() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let _busy = busy(&server);
        let url = format!("redis://127.0.0.1:{}/?protocol=resp3", server.port());
        let asked: &[&[&str]] = &[&["ls"], &["inspect", "gpu:0"], &["stats"], &["log"]];
        for args in asked {
            let resp3 = json(&server, &[*args, &["--url", &url]].concat());
            assert_eq!(still(resp3), still(json(&server, args)), "{args:?}");
        }
    });
}

#[test]
fn counters_and_bounds_stand_in_the_order_of_the_server() {
    on_every_server(|flavour| {
        let server = flavour.start();
        let printed = printed(&server, &["stats", "--json"]);
        let stats = server.client().line("GPULOCK.STATS");
        let names = stats.list().iter().step_by(2).map(Value::text);
        let places: Vec<_> =
            names.map(|name| printed.find(&format!("\"{name}\"")).unwrap()).collect();
        assert!(places.is_sorted(), "{printed}");
        let bounds = ["\"1\"", "\"2\"", "\"10\"", "\"5000000\"", "\"+Inf\""];
        let places: Vec<_> = bounds.map(|bound| printed.find(bound).unwrap()).into();
        assert!(places.is_sorted(), "{printed}");
    });
}

#[test]
fn bytes_that_are_no_text_are_told_apart_in_json() {
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
