//! The server's descriptions of the module's commands are complete and correct: COMMAND INFO,
//! which clients and proxies use; COMMAND DOCS, which redis-cli uses for its hints; and COMMAND
//! GETKEYS, which clusters and ACLs use.

use std::collections::{BTreeMap, BTreeSet};

use gpulock_testkit::{Client, Flavour, Value, call};

tests! {
    the_table_contains_all_commands_of_the_module,
    command_info_returns_arity_flags_keys_and_categories,
    command_docs_returns_summary_since_complexity_and_arguments,
    command_getkeys_returns_the_keys_of_each_call,
}

/// The description of a command. All commands also have the flag `module`.
struct Description {
    name: &'static str,
    arity: i64,
    flags: &'static str,
    categories: &'static str,
    /// First and last key, and the step.
    keys: [i64; 3],
    /// The access to the key, as in COMMAND GETKEYSANDFLAGS.
    access: Option<&'static str>,
    /// The syntax as redis-cli shows it.
    syntax: &'static str,
}

const ONE_KEY: [i64; 3] = [1, 1, 1];
const NONE: [i64; 3] = [0, 0, 0];

#[rustfmt::skip]
const COMMANDS: [Description; 11] = [
    Description { name: "ACQUIRE", arity: -3, flags: "write fast blocking", categories: "@write @fast @blocking", keys: ONE_KEY,
        access: Some("RW access update"),
        syntax: "key owner [EX seconds|PX milliseconds] [BLOCK milliseconds] [UNIQUE [KEEP milliseconds]] [SESSION [GRACE milliseconds]] [PRIORITY priority] [SHARE share]" },
    Description { name: "ACQUIREANY", arity: -4, flags: "write blocking movablekeys", categories: "@write @slow @blocking", keys: NONE,
        access: Some("RW access update"),
        syntax: "numkeys key [key ...] owner [COUNT n [GROUPS m numgroups size [size ...]]] [NEAR tag] [EX seconds|PX milliseconds] [BLOCK milliseconds] [UNIQUE [KEEP milliseconds]] [SESSION [GRACE milliseconds]] [PRIORITY priority] [SHARE share]" },
    Description { name: "RELEASE", arity: -3, flags: "write fast", categories: "@write @fast", keys: ONE_KEY,
        access: Some("RW access delete"), syntax: "key owner [TOKEN n] [REASON text]" },
    Description { name: "EXTEND", arity: -3, flags: "write fast", categories: "@write @fast", keys: ONE_KEY,
        access: Some("RW access update"), syntax: "key owner [EX seconds|PX milliseconds] [TOKEN n]" },
    Description { name: "FORCERELEASE", arity: -2, flags: "write fast", categories: "@write @fast @dangerous", keys: ONE_KEY,
        access: Some("RW access delete"), syntax: "key [OWNER owner] [TOKEN n] [AFTER ms] [REASON text]" },
    Description { name: "INSPECT", arity: 2, flags: "readonly fast", categories: "@read @fast", keys: ONE_KEY,
        access: Some("RO access"), syntax: "key" },
    Description { name: "LIST", arity: -1, flags: "readonly", categories: "@read @slow", keys: NONE,
        access: None, syntax: "[MATCH pattern] [LIMIT n] [CURSOR cursor]" },
    Description { name: "STATS", arity: -1, flags: "readonly fast loading stale movablekeys", categories: "@read @fast", keys: NONE,
        access: Some("RO access"), syntax: "[KEY key]" },
    Description { name: "RESETSTATS", arity: 1, flags: "fast loading stale", categories: "@dangerous", keys: NONE,
        access: None, syntax: "" },
    Description { name: "LOG", arity: -1, flags: "readonly loading stale", categories: "@read @slow @dangerous", keys: NONE,
        access: None, syntax: "[count [OFFSET n]|RESET]" },
    Description { name: "METRICS", arity: -1, flags: "readonly loading stale", categories: "@read @slow", keys: NONE,
        access: None, syntax: "[CURSOR cursor [COUNT n]]" },
];

impl Description {
    fn full_name(&self) -> String {
        format!("GPULOCK.{}", self.name)
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.list().iter().map(Value::text).collect()
}

fn the_table_contains_all_commands_of_the_module(flavour: &Flavour) {
    let server = flavour.start();
    let listed = server.client().line("COMMAND LIST FILTERBY MODULE gpulock");
    let listed: BTreeSet<_> =
        listed.list().iter().map(|name| name.text().to_uppercase()).collect();
    let named: BTreeSet<_> = COMMANDS.iter().map(Description::full_name).collect();
    assert_eq!(listed, named);
}

fn command_info_returns_arity_flags_keys_and_categories(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    // Redis 7.0 has no API for categories; the module loads and works without them.
    let categorized = !client
        .line("COMMAND LIST FILTERBY ACLCAT dangerous")
        .list()
        .iter()
        .all(|name| !name.text().to_uppercase().starts_with("GPULOCK."));
    assert_eq!(categorized, flavour.is_valkey() || flavour.version() >= (7, 2, 0));
    for command in &COMMANDS {
        let name = command.full_name();
        let reply = call!(client, "COMMAND", "INFO", &name);
        let info = reply.list()[0].list();
        assert_eq!(info[0].text().to_uppercase(), name);
        assert_eq!(info[1].int(), command.arity, "{name}");
        let flags = texts(&info[2]);
        let mut expected = words(command.flags);
        expected.insert("module".into());
        assert_eq!(flags, expected, "{name}");
        let keys = [info[3].int(), info[4].int(), info[5].int()];
        assert_eq!(keys, command.keys, "{name}");
        let categories =
            if categorized { words(command.categories) } else { BTreeSet::new() };
        assert_eq!(texts(&info[6]), categories, "{name}");
        let key_specs = info[8].list();
        assert_eq!(key_specs.len(), usize::from(command.access.is_some()), "{name}");
        for spec in key_specs {
            let expected = words(command.access.unwrap_or_default());
            assert_eq!(texts(&spec.field("flags")), expected, "{name}");
        }
    }
}

/// The syntax of arguments as redis-cli shows it.
fn hint(arguments: &[Value], separator: &str) -> String {
    let shown: Vec<String> = arguments
        .iter()
        .map(|argument| {
            let argument = argument.map();
            let kind = argument["type"].text();
            let token = argument.get("token").map(Value::text);
            let what = match &*kind {
                "oneof" => hint(argument["arguments"].list(), "|"),
                "block" => hint(argument["arguments"].list(), " "),
                "pure-token" => String::new(),
                "key" | "string" | "integer" | "pattern" => argument["name"].text(),
                other => panic!("an argument of type {other}"),
            };
            let all = match token {
                Some(token) => format!("{token} {what}").trim_end().to_owned(),
                None => what,
            };
            let flags = argument.get("flags").map(texts).unwrap_or_default();
            let all = match flags.contains("multiple") {
                true => format!("{all} [{all} ...]"),
                false => all,
            };
            if flags.contains("optional") { format!("[{all}]") } else { all }
        })
        .collect();
    shown.join(separator)
}

fn command_docs_returns_summary_since_complexity_and_arguments(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    for command in &COMMANDS {
        let name = command.full_name();
        let all = call!(client, "COMMAND", "DOCS", &name);
        let docs: BTreeMap<_, _> =
            all.map().into_values().next().expect("an entry").map();
        let summary = docs["summary"].text();
        assert!(summary.len() > 20 && summary.ends_with('.'), "{name}: {summary}");
        let since = docs["since"].text();
        assert_eq!(since.split('.').count(), 3, "{name}: {since}");
        assert!(since.split('.').all(|n| n.parse::<u32>().is_ok()), "{since}");
        let complexity = docs["complexity"].text();
        assert!(complexity.starts_with("O("), "{name}: {complexity}");
        assert_eq!(docs["group"], "module", "{name}");
        assert_eq!(docs["module"], "gpulock", "{name}");
        let arguments = docs.get("arguments").map_or(&[][..], Value::list);
        assert_eq!(hint(arguments, " "), command.syntax, "{name}");
    }
}

/// A valid call of each command, and its key's access in COMMAND GETKEYSANDFLAGS.
#[rustfmt::skip]
const CALLS: [(&str, Option<&str>); 22] = [
    ("GPULOCK.ACQUIRE k o",                     Some("RW access update")),
    ("GPULOCK.ACQUIRE k o PX 5 UNIQUE",         Some("RW access update")),
    ("GPULOCK.ACQUIREANY 1 k o",                Some("RW access update")),
    ("GPULOCK.ACQUIREANY 1 k o COUNT 1 PX 5",   Some("RW access update")),
    ("GPULOCK.RELEASE k o TOKEN 1 REASON x",    Some("RW access delete")),
    ("GPULOCK.EXTEND k o PX 5",                 Some("RW access update")),
    ("GPULOCK.FORCERELEASE k",                  Some("RW access delete")),
    ("GPULOCK.FORCERELEASE k OWNER o",          Some("RW access delete")),
    ("GPULOCK.FORCERELEASE k AFTER 5",          Some("RW access delete")),
    ("GPULOCK.INSPECT k",                       Some("RO access")),
    ("GPULOCK.STATS KEY k",                     Some("RO access")),
    ("gpulock.stats key k",                     Some("RO access")),
    ("GPULOCK.STATS",                           None),
    ("GPULOCK.LIST",                            None),
    ("GPULOCK.LIST MATCH k LIMIT 1",            None),
    ("GPULOCK.LIST CURSOR 0",                   None),
    ("GPULOCK.RESETSTATS",                      None),
    ("GPULOCK.LOG",                             None),
    ("GPULOCK.LOG RESET",                       None),
    ("GPULOCK.LOG 1 OFFSET 2",                  None),
    ("GPULOCK.METRICS",                         None),
    ("GPULOCK.METRICS CURSOR 0 COUNT 1",        None),
];

fn command_getkeys_returns_the_keys_of_each_call(flavour: &Flavour) {
    let server = flavour.start();
    let mut client = server.client();
    let query = |client: &mut Client, how: &str, line: &str| {
        let words = ["COMMAND", how].into_iter().chain(line.split(' '));
        client.cmd(&words.collect::<Vec<_>>())
    };
    for (line, access) in CALLS {
        let keys = query(&mut client, "GETKEYS", line);
        let with_flags = query(&mut client, "GETKEYSANDFLAGS", line);
        let Some(access) = access else {
            assert!(keys.is_err(), "{line}: {keys:?}");
            assert!(with_flags.is_err(), "{line}: {with_flags:?}");
            continue;
        };
        let keys = keys.list();
        assert!(keys.len() == 1 && keys[0] == "k", "{line}: {keys:?}");
        let [only] = with_flags.list() else { panic!("{line}: {with_flags:?}") };
        assert_eq!(only.list()[0], "k", "{line}");
        assert_eq!(texts(&only.list()[1]), words(access), "{line}");
    }
    // The server accepts each call.
    for (line, _) in CALLS {
        let reply = client.line(line);
        assert!(!reply.is_err(), "{line}: {reply:?}");
    }
}
