//! Every reply in both protocols, and on every way a command can come: plainly, in a
//! transaction, from a script, from a function, in another database.

use gpulock_testkit::{Client, Flavour, Server, Value, call};

tests! {
    every_reply_has_its_shape_in_resp3_and_is_the_same_flat_in_resp2,
    a_transaction_answers_as_the_commands_alone_do,
    a_script_and_a_function_answer_as_the_commands_alone_do,
    a_script_gets_nulls_and_maps_as_from_native_commands,
    a_script_hears_errors_and_goes_on_where_it_asks_for_that,
    a_script_that_may_only_read_can_look_and_not_take,
    an_error_within_a_transaction_is_that_commands_own,
    the_same_key_of_another_database_is_another_lock,
    a_pipeline_is_answered_in_its_order,
}

/// A reply without its values: what a client's parser meets.
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

/// The same reply as RESP2 has it.
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
    names.push("extend_failures");
    if of_server {
        names.push("internal_errors");
    }
    names.extend(["locks_held", "clients_waiting"]);
    let numbers: Vec<_> = names.iter().map(|name| format!("{name}=int")).collect();
    format!("{{{} wait_ms={HISTOGRAM} hold_ms={HISTOGRAM}}}", numbers.join(" "))
}

/// What INSPECT tells; token and `held_ms` as given.
fn inspect_shape(owner: &str, token: &str, held: &str) -> String {
    format!(
        "{{owner={owner} token={token} lease_ms=int held_ms={held} session=null \
         grace_ms=null adopted=int reserved_for=null waiting=int waiters=[]}}"
    )
}

/// Every command with every kind of answer it has, in RESP3.
fn every_reply() -> Vec<(&'static str, String)> {
    let row = "{key=bulk owner=bulk token=int lease_ms=int held_ms=int waiting=int}";
    let adopted =
        "{key=bulk owner=bulk token=null lease_ms=int held_ms=null waiting=int}";
    let entry = "{kind=bulk db=int key=bulk holder=bulk token=int caller=bulk \
        client=bulk held_ms=int reason=bulk unix_ms=int count=int}";
    let stale = "{kind=bulk db=int key=bulk holder=null token=null caller=bulk \
        client=bulk held_ms=null reason=bulk unix_ms=int count=int}";
    vec![
        ("FLUSHALL", "+OK".into()),
        // What was held before is found to be gone, and logged, at the latest here.
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
        ("GPULOCK.RESETSTATS", "+OK".into()),
    ]
}

fn every_reply_has_its_shape_in_resp3_and_is_the_same_flat_in_resp2(flavour: &Flavour) {
    let server = flavour.start();
    let (mut resp2, mut resp3) = (server.client(), server.client3());
    let answers = |client: &mut Client| {
        let each = every_reply().into_iter().map(|(line, _)| client.line(line));
        each.collect::<Vec<_>>()
    };
    let in_3 = answers(&mut resp3);
    let in_2 = answers(&mut resp2);
    for (((line, expected), in_3), in_2) in every_reply().iter().zip(in_3).zip(in_2) {
        assert_eq!(shape(&in_3), *expected, "{line}");
        let (in_2, flat) = (shape(&in_2), shape(&flattened(&in_3)));
        assert_eq!(in_2, flat, "{line}");
    }
}

fn a_transaction_answers_as_the_commands_alone_do(flavour: &Flavour) {
    let server = flavour.start();
    for mut client in [server.client(), server.client3()] {
        let lines = every_reply().into_iter().map(|(line, _)| line);
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

/// Hands a command on; its answer is that of the script.
const RELAY: &str = "return redis.call(unpack(ARGV))";

fn load_relay(server: &Server) {
    let library = format!(
        "#!lua name=relay\n\
         redis.register_function('relay', function(_, ARGV) {RELAY} end)"
    );
    assert_eq!(call!(server.client(), "FUNCTION", "LOAD", library), "relay");
}

/// Entries of the log as if no client had caused them: a script has no line to show.
fn without_client(log: &Value) -> Value {
    let anonymous = |entry: &Value| {
        let mut fields = entry.list().to_vec();
        let at = fields.iter().position(|name| *name == "client").expect("the field");
        fields[at + 1] = Value::Null;
        Value::Array(fields)
    };
    Value::Array(log.list().iter().map(anonymous).collect())
}

fn a_script_and_a_function_answer_as_the_commands_alone_do(flavour: &Flavour) {
    let server = flavour.start();
    load_relay(&server);
    let mut client = server.client();
    let lines = || every_reply().into_iter().map(|(line, _)| line);
    let alone: Vec<_> = lines().map(|line| client.line(line)).collect();
    for how in [["EVAL", RELAY], ["FCALL", "relay"]] {
        for (line, alone) in lines().zip(&alone) {
            let words = [how[0], how[1], "0"].into_iter().chain(line.split(' '));
            let answer = client.cmd(&words.collect::<Vec<_>>());
            let got = shape(&answer);
            let expected = match line {
                "GPULOCK.LOG" | "GPULOCK.LOG 1" => shape(&without_client(alone)),
                _ => shape(alone),
            };
            assert_eq!(got, expected, "{line} by {how:?}");
        }
    }
}

fn a_script_gets_nulls_and_maps_as_from_native_commands(flavour: &Flavour) {
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
        let got = call!(client, "EVAL", script, 3, "k", "hash", "none", resp);
        let got: Vec<_> = got.list().iter().map(Value::text).collect();
        assert!(got[1..6].iter().all(|kind| *kind == got[0]), "{resp}: {got:?}");
        assert_eq!(got[7], got[6], "{resp}");
        assert_eq!(got[8], "me", "{resp}");
    }
    // The token is whole: Lua's numbers are doubles.
    let script = "return redis.call('GPULOCK.EXTEND', KEYS[1], 'me')";
    let token = client.line("GPULOCK.EXTEND k me").int();
    assert_eq!(call!(client, "EVAL", script, 1, "k"), token);
}

fn a_script_hears_errors_and_goes_on_where_it_asks_for_that(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    client.line("RPUSH list x");
    let alone = client.line("GPULOCK.ACQUIRE list me");
    let script = "return redis.pcall('GPULOCK.ACQUIRE', KEYS[1], 'me').err";
    let heard = call!(client, "EVAL", script, 1, "list").text();
    assert_eq!(heard, alone.err(), "{flavour}");
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

fn a_script_that_may_only_read_can_look_and_not_take(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    assert!(client.line("GPULOCK.ACQUIRE k me").int() > 0);
    let mut relay = |line: &str| {
        let words = ["EVAL_RO", RELAY, "0"].into_iter().chain(line.split(' '));
        client.cmd(&words.collect::<Vec<_>>())
    };
    for line in ["INSPECT k", "LIST", "STATS", "STATS KEY k", "LOG", "METRICS"] {
        let answer = relay(&format!("GPULOCK.{line}"));
        assert!(!answer.is_err() && !answer.is_null(), "{line}: {answer:?}");
    }
    let native = relay("DEL k");
    for line in ["ACQUIRE k you", "RELEASE k me", "EXTEND k me", "FORCERELEASE k"] {
        let answer = relay(&format!("GPULOCK.{line}"));
        let same = |error: &Value| error.err().replace("GPULOCK.", "");
        assert_eq!(same(&answer), same(&native), "{line}");
    }
    assert_eq!(relay("GET k"), "me");
}

fn an_error_within_a_transaction_is_that_commands_own(flavour: &Flavour) {
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
    let answers = client.line("EXEC");
    let [token, wrong_type, number, syntax, released] = answers.list() else {
        panic!("{answers:?}");
    };
    assert!(token.int() > 0);
    assert!(wrong_type.err().starts_with("WRONGTYPE "));
    assert!(number.err().starts_with("ERR EX must be an integer"));
    assert_eq!(syntax.err(), "ERR syntax error");
    assert_eq!(*released, 1);

    // What the server itself refuses ends the transaction before it began.
    client.line("MULTI");
    assert_eq!(client.line("GPULOCK.ACQUIRE k me"), "QUEUED");
    assert!(client.line("GPULOCK.ACQUIRE k").is_err());
    assert!(client.line("EXEC").err().starts_with("EXECABORT"));
    assert_eq!(client.line("EXISTS k"), 0);

    // A discarded one, and one whose watched key changed, did nothing.
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

fn the_same_key_of_another_database_is_another_lock(flavour: &Flavour) {
    let server = flavour.start();
    let (mut zero, mut three) = (server.client(), server.client());
    assert_eq!(three.line("SELECT 3"), "OK");
    let in_zero = zero.line("GPULOCK.ACQUIRE k me").int();
    let in_three = three.line("GPULOCK.ACQUIRE k you").int();
    assert!(in_three > in_zero, "tokens rise over all databases");
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
    // A script and a transaction that change the database mean that one.
    let script = "redis.call('SELECT', 3)
            return redis.call('GPULOCK.INSPECT', KEYS[1])[2]";
    assert_eq!(call!(zero, "EVAL", script, 1, "k"), "you");
    zero.line("MULTI");
    zero.line("SELECT 3");
    zero.line("GPULOCK.RELEASE k you");
    zero.line("SELECT 0");
    zero.line("GPULOCK.RELEASE k me");
    let answers = zero.line("EXEC");
    assert_eq!(
        (&answers.list()[1], &answers.list()[3]),
        (&Value::Int(1), &Value::Int(1))
    );
    assert!(three.line("GPULOCK.INSPECT k").is_null());
    assert!(zero.line("GPULOCK.INSPECT k").is_null());
}

fn a_pipeline_is_answered_in_its_order(flavour: &Flavour) {
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
