//! Each reply in both protocols, and for each way of sending a command: directly, in a
//! transaction, from a script or a function, in another database.

use gpulock_testkit::{Client, Flavour, Value, call};

use crate::support::relay::{RELAY, load_relay};

tests! {
    replies_have_the_same_content_in_both_protocols,
    replies_in_a_transaction_are_the_same,
    replies_in_scripts_and_functions_are_the_same,
    a_script_receives_nulls_and_maps_like_those_of_native_commands,
    a_script_can_catch_errors_with_pcall,
    a_read_only_script_can_inspect_but_not_acquire,
    an_error_in_a_transaction_affects_only_its_command,
    the_same_key_in_another_database_is_another_lock,
    replies_of_a_pipeline_are_in_order,
}

/// A reply without its values, as a client's parser sees it.
fn shape(value: &Value) -> String {
    let all = |items: &[Value]| items.iter().map(shape).collect::<Vec<_>>().join(" ");
    match value {
        Value::Int(_) => "int".into(),
        Value::Bulk(_) => "bulk".into(),
        Value::Simple(text) => format!("+{text}"),
        Value::Null => "null".into(),
        Value::NullArray => "null-array".into(),
        Value::Array(items) => format!("[{}]", all(items)),
        Value::Map(pairs) => {
            let pair = |(key, value): &(Value, Value)| {
                format!("{}={}", key.text(), shape(value))
            };
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

/// The same reply in RESP2.
fn flattened(value: &Value) -> Value {
    match value {
        Value::Map(pairs) => Value::Array(
            pairs.iter().flat_map(|(k, v)| [flattened(k), flattened(v)]).collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(flattened).collect()),
        other => other.clone(),
    }
}

const HISTOGRAM: &str = "{count=int sum=int buckets={1=int 2=int 5=int 10=int 20=int \
    50=int 100=int 200=int 500=int 1000=int 2000=int 5000=int 10000=int 20000=int \
    50000=int 100000=int 200000=int 500000=int 1000000=int 2000000=int 5000000=int \
    +Inf=int}}";

const COUNTERS: [&str; 22] = [
    "ownership_violations",
    "release_script_errors",
    "normal_release_failures",
    "emergency_releases",
    "stale_releases",
    "acquire_requests",
    "acquired",
    "acquired_after_wait",
    "renewed",
    "refused",
    "wait_timeouts",
    "waits_abandoned",
    "deadlocks",
    "adopted",
    "releases",
    "expired",
    "session_releases",
    "removed",
    "evicted",
    "moved",
    "undelivered",
    "extends",
];

fn stats_shape(of_server: bool) -> String {
    let mut names = COUNTERS.to_vec();
    names.extend(["extend_failures", "revocations"]);
    if of_server {
        names.push("internal_errors");
    }
    names.extend(["locks_held", "clients_waiting"]);
    let numbers: Vec<_> = names.iter().map(|name| format!("{name}=int")).collect();
    format!("{{{} wait_ms={HISTOGRAM} hold_ms={HISTOGRAM}}}", numbers.join(" "))
}

/// The shape of the reply of INSPECT, with that of the token and of `held_ms` as given.
fn inspect_shape(owner: &str, token: &str, held: &str) -> String {
    format!(
        "{{owner={owner} token={token} lease_ms=int held_ms={held} session=null \
         grace_ms=null adopted=int reserved_for=null revoked_ms=null \
         revoked_reason=null share=null waiting=int waiters=[]}}"
    )
}

/// Each command with each kind of reply, in RESP3.
fn all_replies() -> Vec<(&'static str, String)> {
    let row = "{key=bulk owner=bulk token=int lease_ms=int held_ms=int waiting=int \
        revoked_ms=null}";
    let adopted = "{key=bulk owner=bulk token=null lease_ms=int held_ms=null \
        waiting=int revoked_ms=null}";
    let entry = "{kind=bulk db=int key=bulk holder=bulk token=int caller=bulk \
        client=bulk held_ms=int reason=bulk unix_ms=int count=int}";
    let stale = "{kind=bulk db=int key=bulk holder=null token=null caller=bulk \
        client=bulk held_ms=null reason=bulk unix_ms=int count=int}";
    vec![
        ("FLUSHALL", "+OK".into()),
        // At this call at the latest, the module notices and logs the end of earlier holds.
        ("GPULOCK.LIST", "[]".into()),
        ("GPULOCK.LOG RESET", "+OK".into()),
        ("GPULOCK.RESETSTATS", "+OK".into()),
        ("GPULOCK.LOG", "[]".into()),
        ("GPULOCK.INSPECT k", "null".into()),
        ("GPULOCK.STATS KEY never", "null".into()),
        ("GPULOCK.ACQUIRE k me PX 60000", "int".into()),
        ("GPULOCK.ACQUIRE k you", "null".into()),
        ("GPULOCK.INSPECT k", inspect_shape("bulk", "int", "int")),
        ("GPULOCK.LIST", format!("[{row}]")),
        ("GPULOCK.RELEASE k you", "int".into()),
        ("GPULOCK.RELEASE free you", "int".into()),
        ("GPULOCK.LOG", format!("[{stale} {entry}]")),
        ("GPULOCK.LOG 1", format!("[{stale}]")),
        ("GPULOCK.LOG 0", "[]".into()),
        ("GPULOCK.EXTEND k me", "int".into()),
        ("GPULOCK.EXTEND k you", "null".into()),
        ("GPULOCK.FORCERELEASE k OWNER you", "null".into()),
        ("GPULOCK.FORCERELEASE k OWNER you AFTER 60000", "null".into()),
        ("GPULOCK.FORCERELEASE k AFTER 60000", "bulk".into()),
        ("GPULOCK.FORCERELEASE k", "bulk".into()),
        ("GPULOCK.FORCERELEASE k", "null".into()),
        ("SET outside you", "+OK".into()),
        ("GPULOCK.ACQUIRE outside me", "null".into()),
        ("GPULOCK.INSPECT outside", inspect_shape("bulk", "null", "null")),
        ("GPULOCK.LIST", format!("[{adopted}]")),
        ("SETRANGE long 1025 x", "int".into()),
        ("GPULOCK.INSPECT long", inspect_shape("null", "null", "null")),
        ("GPULOCK.STATS", stats_shape(true)),
        ("GPULOCK.STATS KEY k", stats_shape(false)),
        ("GPULOCK.METRICS", "bulk".into()),
        ("GPULOCK.METRICS CURSOR 0", "[int bulk]".into()),
        ("GPULOCK.RESETSTATS", "+OK".into()),
    ]
}

fn replies_have_the_same_content_in_both_protocols(flavour: &Flavour) {
    let server = flavour.start();
    let (mut resp2, mut resp3) = (server.client(), server.client3());
    let replies = |client: &mut Client| {
        let each = all_replies().into_iter().map(|(line, _)| client.line(line));
        each.collect::<Vec<_>>()
    };
    let in_3 = replies(&mut resp3);
    let in_2 = replies(&mut resp2);
    for (((line, expected), in_3), in_2) in all_replies().iter().zip(in_3).zip(in_2) {
        assert_eq!(shape(&in_3), *expected, "{line}");
        let (in_2, flat) = (shape(&in_2), shape(&flattened(&in_3)));
        assert_eq!(in_2, flat, "{line}");
    }
}

fn replies_in_a_transaction_are_the_same(flavour: &Flavour) {
    let server = flavour.start();
    for mut client in [server.client(), server.client3()] {
        let lines = all_replies().into_iter().map(|(line, _)| line);
        let alone: Vec<_> = lines.clone().map(|line| client.line(line)).collect();
        assert_eq!(client.line("MULTI"), "OK");
        for line in lines.clone() {
            assert_eq!(client.line(line), "QUEUED", "{line}");
        }
        let together = client.line("EXEC");
        assert_eq!(together.list().len(), alone.len());
        for ((line, alone), together) in lines.zip(&alone).zip(together.list()) {
            assert_eq!(shape(together), shape(alone), "{line}");
        }
    }
}

/// Log entries without a client: a script has none.
fn without_client(log: &Value) -> Value {
    let anonymous = |entry: &Value| {
        let mut fields = entry.list().to_vec();
        let at = fields.iter().position(|name| *name == "client").expect("the field");
        fields[at + 1] = Value::Null;
        Value::Array(fields)
    };
    Value::Array(log.list().iter().map(anonymous).collect())
}

fn replies_in_scripts_and_functions_are_the_same(flavour: &Flavour) {
    let server = flavour.start();
    load_relay(&server);
    let mut client = server.client();
    let lines = || all_replies().into_iter().map(|(line, _)| line);
    let alone: Vec<_> = lines().map(|line| client.line(line)).collect();
    for how in [["EVAL", RELAY], ["FCALL", "relay"]] {
        for (line, alone) in lines().zip(&alone) {
            let words = [how[0], how[1], "0"].into_iter().chain(line.split(' '));
            let reply = client.cmd(&words.collect::<Vec<_>>());
            let actual = shape(&reply);
            let expected = match line {
                "GPULOCK.LOG" | "GPULOCK.LOG 1" => shape(&without_client(alone)),
                _ => shape(alone),
            };
            assert_eq!(actual, expected, "{line} by {how:?}");
        }
    }
}

fn a_script_receives_nulls_and_maps_like_those_of_native_commands(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
    for resp in [2, 3] {
        let script = "redis.setresp(tonumber(ARGV[1]))
                local inspect = redis.call('GPULOCK.INSPECT', KEYS[1])
                local config = redis.call('HGETALL', KEYS[2])
                return {
                    type(redis.call('GET', KEYS[3])),
                    type(redis.call('GPULOCK.ACQUIRE', KEYS[1], 'you')),
                    type(redis.call('GPULOCK.EXTEND', KEYS[1], 'you')),
                    type(redis.call('GPULOCK.FORCERELEASE', KEYS[3])),
                    type(redis.call('GPULOCK.INSPECT', KEYS[3])),
                    type(redis.call('GPULOCK.STATS', 'KEY', KEYS[3])),
                    type(config.map), type(inspect.map),
                    (inspect.map or {}).owner or inspect[2]}";
        let actual = call!(client, "EVAL", script, 3, "k", "hash", "none", resp);
        let actual: Vec<_> = actual.list().iter().map(Value::text).collect();
        assert!(actual[1..6].iter().all(|kind| *kind == actual[0]), "{resp}: {actual:?}");
        assert_eq!(actual[7], actual[6], "{resp}");
        assert_eq!(actual[8], "me", "{resp}");
    }
    // The token is exact, although Lua's numbers are doubles.
    let script = "return redis.call('GPULOCK.EXTEND', KEYS[1], 'me')";
    let token = client.line("GPULOCK.EXTEND k me").int();
    assert_eq!(call!(client, "EVAL", script, 1, "k"), token);
}

fn a_script_can_catch_errors_with_pcall(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("RPUSH list x");
    let alone = client.line("GPULOCK.ACQUIRE list me");
    let script = "return redis.pcall('GPULOCK.ACQUIRE', KEYS[1], 'me').err";
    let caught = call!(client, "EVAL", script, 1, "list").text();
    assert_eq!(caught, alone.err(), "{flavour}");
    let script = "return redis.call('GPULOCK.ACQUIRE', KEYS[1], 'me')";
    let native = "return redis.call('GET', KEYS[1])";
    let code = |error: &Value| error.err().split(' ').next().unwrap().to_owned();
    let ended = call!(client, "EVAL", script, 1, "list");
    assert_eq!(code(&ended), code(&call!(client, "EVAL", native, 1, "list")));
    assert_eq!(code(&ended), "WRONGTYPE");
    let script = "redis.pcall('GPULOCK.ACQUIRE', KEYS[1], '', 'NONSENSE')
            return redis.call('GPULOCK.ACQUIRE', KEYS[1], 'me')";
    assert!(call!(client, "EVAL", script, 1, "k").int() > 0);
}

fn a_read_only_script_can_inspect_but_not_acquire(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
    let mut relay = |line: &str| {
        let words = ["EVAL_RO", RELAY, "0"].into_iter().chain(line.split(' '));
        client.cmd(&words.collect::<Vec<_>>())
    };
    for line in ["INSPECT k", "LIST", "STATS", "STATS KEY k", "LOG", "METRICS"] {
        let reply = relay(&format!("GPULOCK.{line}"));
        assert!(!reply.is_err() && !reply.is_null(), "{line}: {reply:?}");
    }
    let native = relay("DEL k");
    for line in ["ACQUIRE k you", "RELEASE k me", "EXTEND k me", "FORCERELEASE k"] {
        let reply = relay(&format!("GPULOCK.{line}"));
        let same = |error: &Value| error.err().replace("GPULOCK.", "");
        assert_eq!(same(&reply), same(&native), "{line}");
    }
    assert_eq!(relay("GET k"), "me");
}

fn an_error_in_a_transaction_affects_only_its_command(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("RPUSH list x");
    client.line("MULTI");
    for line in [
        "GPULOCK.ACQUIRE k me",
        "GPULOCK.ACQUIRE list me",
        "GPULOCK.ACQUIRE j me EX 0",
        "GPULOCK.EXTEND k me NONSENSE",
        "GPULOCK.RELEASE k me",
    ] {
        assert_eq!(client.line(line), "QUEUED");
    }
    let replies = client.line("EXEC");
    let [token, wrong_type, number, syntax, released] = replies.list() else {
        panic!("{replies:?}");
    };
    assert!(token.int() > 0);
    assert!(wrong_type.err().starts_with("WRONGTYPE "));
    assert!(number.err().starts_with("ERR EX must be an integer"));
    assert_eq!(syntax.err(), "ERR syntax error");
    assert_eq!(*released, 1);

    // An error of the server itself aborts the transaction.
    client.line("MULTI");
    assert_eq!(client.line("GPULOCK.ACQUIRE k me"), "QUEUED");
    assert!(client.line("GPULOCK.ACQUIRE k").is_err());
    assert!(client.line("EXEC").err().starts_with("EXECABORT"));
    assert_eq!(client.line("EXISTS k"), 0);

    // A discarded transaction and one with a changed watched key change nothing.
    client.line("MULTI");
    client.line("GPULOCK.ACQUIRE k me");
    assert_eq!(client.line("DISCARD"), "OK");
    assert_eq!(client.line("WATCH k"), "OK");
    assert!(server.client().line("GPULOCK.ACQUIRE k you").int() > 0);
    client.line("MULTI");
    client.line("GPULOCK.FORCERELEASE k");
    assert!(client.line("EXEC").is_null());
    assert_eq!(client.line("GET k"), "you");
}

fn the_same_key_in_another_database_is_another_lock(flavour: &Flavour) {
    let server = flavour.start();
    let (mut zero, mut three) = (server.client(), server.client());
    assert_eq!(three.line("SELECT 3"), "OK");
    let in_zero = zero.line("GPULOCK.ACQUIRE k me").int();
    let in_three = three.line("GPULOCK.ACQUIRE k you").int();
    assert!(in_three > in_zero, "tokens rise across databases");
    assert_eq!(zero.line("GPULOCK.RELEASE k you"), 0);
    assert_eq!(zero.line("GPULOCK.INSPECT k").field("token"), in_zero);
    assert_eq!(three.line("GPULOCK.INSPECT k").field("token"), in_three);
    for (client, owner) in [(&mut zero, "me"), (&mut three, "you")] {
        let rows = client.line("GPULOCK.LIST");
        let [row] = rows.list() else { panic!("{rows:?}") };
        assert_eq!(row.field("owner"), owner);
        assert_eq!(client.line("GPULOCK.STATS KEY k").field("acquired"), 1);
    }
    let stats = zero.line("GPULOCK.STATS");
    assert_eq!((stats.field("acquired").int(), stats.field("locks_held").int()), (2, 2));
    let metrics = zero.line("GPULOCK.METRICS").text();
    for db in [0, 3] {
        let series = format!("gpulock_lock_acquired_total{{db=\"{db}\",key=\"k\"}} 1\n");
        assert!(metrics.contains(&series), "{series}");
    }
    let entry = zero.line("GPULOCK.LOG").list()[0].clone();
    assert_eq!((entry.field("db").int(), entry.field("key").text()), (0, "k".into()));
    // In a script and in a transaction, SELECT changes the database of later commands.
    let script = "redis.call('SELECT', 3)
            return redis.call('GPULOCK.INSPECT', KEYS[1])[2]";
    assert_eq!(call!(zero, "EVAL", script, 1, "k"), "you");
    zero.line("MULTI");
    zero.line("SELECT 3");
    zero.line("GPULOCK.RELEASE k you");
    zero.line("SELECT 0");
    zero.line("GPULOCK.RELEASE k me");
    let replies = zero.line("EXEC");
    assert_eq!(
        (&replies.list()[1], &replies.list()[3]),
        (&Value::Int(1), &Value::Int(1))
    );
    assert!(three.line("GPULOCK.INSPECT k").is_null());
    assert!(zero.line("GPULOCK.INSPECT k").is_null());
}

fn replies_of_a_pipeline_are_in_order(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.send_lines(&[
        "GPULOCK.ACQUIRE k me",
        "GPULOCK.ACQUIRE k you",
        "GPULOCK.EXTEND k me",
        "GPULOCK.RELEASE k me",
        "GPULOCK.ACQUIRE k you",
    ]);
    let token = client.read().int();
    assert!(client.read().is_null());
    assert_eq!(client.read(), token);
    assert_eq!(client.read(), 1);
    assert!(client.read().int() > token);
}
