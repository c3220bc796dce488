//! The users that docs/operations.md recommends, with the rules as written there: each user
//! can call the commands in its rules, and no other command of the server.

use std::collections::BTreeSet;
use std::fs;

use gpulock_testkit::{AclUser, Client, Flavour, Server, Value, call, send, workspace};

tests! {
    each_user_can_call_exactly_the_commands_in_its_rules,
    a_worker_can_use_locks_and_nothing_else,
    the_rules_cover_the_keys_of_the_examples_and_of_pools,
    a_watchdog_can_inspect_and_force_but_not_acquire,
    a_reader_can_read_but_not_change,
    a_worker_with_the_rules_of_old_clients_can_run_the_script,
    the_rules_work_in_the_configuration_file,
}

fn docs() -> String {
    let path = workspace().join("docs/operations.md");
    fs::read_to_string(path).expect("the docs")
}

/// The keys of the first examples that a user sees, and keys like those of `gpulock run --pool`.
fn keys_of_examples() -> BTreeSet<String> {
    let examples: String = ["README.md", "docs/first-session.md"]
        .map(|page| fs::read_to_string(workspace().join(page)).expect("a page"))
        .join("\n");
    let words: Vec<&str> = examples.split_whitespace().collect();
    let mut keys: BTreeSet<String> = words
        .windows(2)
        .filter(|pair| {
            ["GPULOCK.ACQUIRE", "GPULOCK.RELEASE", "--key", "--keys"].contains(&pair[0])
        })
        .flat_map(|pair| pair[1].split(','))
        // Words without a colon are placeholders: "key".
        .filter(|key| key.contains(':'))
        .map(str::to_owned)
        .collect();
    for key in ["gpu_lock:0", "gpu:0", "{node7}:gpu:2"] {
        assert!(keys.contains(key), "{key} is not among {keys:?}");
    }
    let of_pools = [
        "{gpus:node7}:gpu:0",
        "{train:78843640f115}:GPU-5a1c",
        "{train:78843640f115}:GPU-5a1c:7",
        "{train:78843640f115}:MIG-77aa",
    ];
    keys.extend(of_pools.map(str::to_owned));
    keys
}

/// The additional rules for clients with the Lua script, as in the docs.
fn rules_of_old_clients() -> String {
    let docs = docs();
    let start = docs.find("`+set ").expect("the rules of old clients") + 1;
    let length = docs[start..].find('`').expect("the end of the rules");
    docs[start..start + length].replace('\n', " ")
}

/// A server with the users of the docs, and a lock that none of them can see.
fn start(flavour: &Flavour) -> Server {
    let server = flavour.start();
    let mut admin = server.client();
    for user in AclUser::all_documented() {
        user.create(&mut admin);
    }
    assert!(admin.line("GPULOCK.ACQUIRE foreign:0 outsider").int() > 0);
    assert_eq!(admin.line("GPULOCK.RELEASE foreign:0 a-stranger"), 0);
    server
}

#[track_caller]
fn login(server: &Server, name: &str) -> Client {
    let password = AclUser::documented(name).password;
    let mut client = server.client();
    assert_eq!(call!(client, "AUTH", name, password), "OK");
    client
}

#[track_caller]
fn assert_refused(client: &mut Client, lines: &[&str]) {
    for line in lines {
        let reply = client.line(line);
        assert!(reply.err().starts_with("NOPERM"), "{line}: {reply:?}");
    }
}

/// The keys of the rows.
#[track_caller]
fn keys(rows: &Value) -> Vec<String> {
    rows.list().iter().map(|row| row.field("key").text()).collect()
}

/// A command of the server, or a subcommand (`client|kill`).
struct Command {
    name: String,
    /// The minimum number of words in a call.
    words: usize,
    categories: Vec<String>,
}

/// Every command of the server.
fn all_commands(client: &mut Client) -> Vec<Command> {
    let mut open = client.line("COMMAND").list().to_vec();
    let mut all = Vec::new();
    while let Some(command) = open.pop() {
        let info = command.list();
        if !info[9].list().is_empty() {
            open.extend_from_slice(info[9].list());
            continue;
        }
        let words = usize::try_from(info[1].int().abs()).expect("a number of words");
        let categories = info[6].list().iter().map(Value::text).collect();
        all.push(Command { name: info[0].text().to_lowercase(), words, categories });
    }
    all
}

/// Whether the user has the permission for the command, for any keys.
#[track_caller]
fn may_call(admin: &mut Client, user: &str, command: &Command) -> bool {
    let mut words: Vec<&str> = command.name.split('|').collect();
    words.resize(command.words.max(words.len()), "x");
    let reply = admin.cmd(&[&["ACL", "DRYRUN", user], &words[..]].concat());
    reply == "OK" || !reply.text().contains("has no permissions to run the")
}

fn each_user_can_call_exactly_the_commands_in_its_rules(flavour: &Flavour) {
    let server = start(flavour);
    let mut admin = server.client();
    let commands = all_commands(&mut admin);
    assert!(commands.len() > 300, "only {} commands", commands.len());
    for AclUser { name, rules, .. } in AclUser::all_documented() {
        let named: BTreeSet<&str> = rules
            .split(' ')
            .filter_map(|rule| rule.strip_prefix('+'))
            .filter(|rule| !rule.starts_with('@'))
            .collect();
        let mut allowed = BTreeSet::new();
        for command in &commands {
            let is_of = |category: &str| command.categories.iter().any(|c| c == category);
            // All users have this category.
            if is_of("@connection") && !is_of("@dangerous") {
                continue;
            }
            if may_call(&mut admin, &name, command) {
                allowed.insert(command.name.as_str());
            }
        }
        assert_eq!(allowed, named, "{name}");
    }
}

fn a_worker_can_use_locks_and_nothing_else(flavour: &Flavour) {
    let server = start(flavour);
    let mut worker = login(&server, "worker");
    let mut subscriber = login(&server, "worker");
    send!(subscriber, "SUBSCRIBE", "gpu_lock:gpu_lock:0");
    assert_eq!(subscriber.read().list()[0], "subscribe");
    let token = worker.line("GPULOCK.ACQUIRE gpu_lock:0 asr EX 60 UNIQUE SESSION").int();
    assert_eq!(worker.line("GPULOCK.EXTEND gpu_lock:0 asr EX 60"), token);
    assert_eq!(worker.line("GPULOCK.INSPECT gpu_lock:0").field("owner"), "asr");
    let mut waiter = login(&server, "worker");
    waiter
        .send_lines(&["GPULOCK.ACQUIREANY 2 gpu_lock:0 gpu_lock:1 tts COUNT 2 BLOCK 0"]);
    server.wait_blocked(1);
    assert_eq!(worker.line("GPULOCK.RELEASE gpu_lock:0 asr"), 1);
    assert_eq!(waiter.read().list().len(), 2);
    let event = subscriber.read().list()[2].text();
    assert!(event.contains("lock_released") && event.contains("asr"), "{event}");
    assert_refused(
        &mut worker,
        &[
            "GPULOCK.ACQUIRE foreign:0 asr",
            "GPULOCK.ACQUIREANY 2 gpu_lock:2 foreign:0 asr",
            "GPULOCK.RELEASE foreign:0 outsider",
            "GPULOCK.INSPECT foreign:0",
            "GPULOCK.FORCERELEASE gpu_lock:0",
            "GPULOCK.LIST",
            "GPULOCK.LOG",
            "DEL gpu_lock:0",
            "SET gpu_lock:0 asr",
            "PEXPIRE gpu_lock:0 1",
            "FLUSHALL",
            "PUBLISH gpu_lock:gpu_lock:0 x",
            "SUBSCRIBE __keyevent@0__:set",
            "PSUBSCRIBE *",
            "MONITOR",
            "CLIENT KILL ID 1",
            "CLIENT UNBLOCK 1",
            "CLIENT PAUSE 1",
            "CONFIG GET *",
            "EVAL return(1) 0",
        ],
    );
}

fn the_rules_cover_the_keys_of_the_examples_and_of_pools(flavour: &Flavour) {
    let server = start(flavour);
    let mut worker = login(&server, "worker");
    let mut watchdog = login(&server, "watchdog");
    let mut reader = login(&server, "reader");
    for key in keys_of_examples() {
        let mut subscriber = login(&server, "worker");
        send!(subscriber, "SUBSCRIBE", format!("gpu_lock:{key}"));
        let subscribed = subscriber.read();
        assert_eq!(subscribed.list()[0], "subscribe", "{key}");
        let token = call!(worker, "GPULOCK.ACQUIRE", &key, "asr", "EX", 60).int();
        assert_eq!(call!(worker, "GPULOCK.EXTEND", &key, "asr"), token, "{key}");
        assert_eq!(call!(worker, "GPULOCK.RELEASE", &key, "asr"), 1, "{key}");
        let event = subscriber.read().list()[2].text();
        assert!(event.contains("lock_released"), "{key}: {event}");
        call!(worker, "GPULOCK.ACQUIRE", &key, "tts", "EX", 60);
        let seen = call!(reader, "GPULOCK.INSPECT", &key);
        assert_eq!(seen.field("owner"), "tts", "{key}");
        assert_eq!(keys(&reader.line("GPULOCK.LIST")), [key.as_str()]);
        assert_eq!(call!(watchdog, "GPULOCK.FORCERELEASE", &key), "tts", "{key}");
    }
}

fn a_watchdog_can_inspect_and_force_but_not_acquire(flavour: &Flavour) {
    let server = start(flavour);
    let mut admin = server.client();
    let token = admin.line("GPULOCK.ACQUIRE gpu_lock:0 asr EX 60").int();
    let mut watchdog = login(&server, "watchdog");
    assert_eq!(keys(&watchdog.line("GPULOCK.LIST")), ["gpu_lock:0"]);
    assert_eq!(watchdog.line("GPULOCK.INSPECT gpu_lock:0").field("token"), token);
    let force = format!("GPULOCK.FORCERELEASE gpu_lock:0 OWNER asr TOKEN {token}");
    assert_eq!(watchdog.line(&force), "asr");
    assert_refused(
        &mut watchdog,
        &[
            "GPULOCK.FORCERELEASE foreign:0",
            "GPULOCK.INSPECT foreign:0",
            "GPULOCK.ACQUIRE gpu_lock:0 asr",
            "GPULOCK.ACQUIREANY 1 gpu_lock:0 asr",
            "GPULOCK.RELEASE gpu_lock:0 asr",
            "GPULOCK.EXTEND gpu_lock:0 asr",
            "GPULOCK.RESETSTATS",
            "DEL gpu_lock:0",
            "SUBSCRIBE gpu_lock:gpu_lock:0",
        ],
    );
}

fn a_reader_can_read_but_not_change(flavour: &Flavour) {
    let server = start(flavour);
    let mut admin = server.client();
    assert!(admin.line("GPULOCK.ACQUIRE gpu_lock:0 asr EX 60").int() > 0);
    assert_eq!(admin.line("GPULOCK.RELEASE gpu_lock:0 tts"), 0);
    let mut reader = login(&server, "reader");
    assert_eq!(reader.line("GPULOCK.INSPECT gpu_lock:0").field("owner"), "asr");
    assert_eq!(keys(&reader.line("GPULOCK.LIST")), ["gpu_lock:0"]);
    assert_eq!(keys(&reader.line("GPULOCK.LOG")), ["gpu_lock:0"]);
    assert_eq!(reader.line("GPULOCK.STATS").field("locks_held"), 2);
    assert_eq!(reader.line("GPULOCK.STATS KEY gpu_lock:0").field("acquired"), 1);
    let metrics = reader.line("GPULOCK.METRICS").text();
    assert!(metrics.contains("key=\"gpu_lock:0\"") && !metrics.contains("foreign"));
    assert_eq!(reader.info("gpulock")["gpulock_locks_held"], "2");
    assert_refused(
        &mut reader,
        &[
            "GPULOCK.INSPECT foreign:0",
            "GPULOCK.STATS KEY foreign:0",
            "GPULOCK.ACQUIRE gpu_lock:1 asr",
            "GPULOCK.RELEASE gpu_lock:0 asr",
            "GPULOCK.EXTEND gpu_lock:0 asr",
            "GPULOCK.FORCERELEASE gpu_lock:0",
            "GPULOCK.RESETSTATS",
            "GET gpu_lock:0",
            "DEL gpu_lock:0",
            "SUBSCRIBE gpu_lock:gpu_lock:0",
        ],
    );
}

fn a_worker_with_the_rules_of_old_clients_can_run_the_script(flavour: &Flavour) {
    const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then
        return redis.call('del', KEYS[1]) else return 0 end";
    let server = start(flavour);
    let more = format!("ACL SETUSER worker {}", rules_of_old_clients());
    assert_eq!(server.client().line(&more), "OK");
    let mut worker = login(&server, "worker");
    assert_eq!(worker.line("SET gpu_lock:0 locked_by_asr NX EX 60"), "OK");
    assert!(worker.line("GPULOCK.ACQUIRE gpu_lock:0 tts").is_null());
    let freed = call!(worker, "EVAL", RELEASE, 1, "gpu_lock:0", "locked_by_asr");
    assert_eq!(freed, 1);
    let digest = "0".repeat(40);
    let unknown = call!(worker, "EVALSHA", digest, 1, "gpu_lock:0", "locked_by_asr");
    assert!(unknown.err().starts_with("NOSCRIPT"), "{unknown:?}");
    assert_refused(&mut worker, &["SET foreign:0 x", "GET foreign:0", "DEL foreign:0"]);
}

fn the_rules_work_in_the_configuration_file(flavour: &Flavour) {
    let mut server = flavour.server();
    for AclUser { rules, .. } in AclUser::all_documented() {
        server = server.arg("user", rules);
    }
    let server = server.start();
    let mut worker = login(&server, "worker");
    assert!(worker.line("GPULOCK.ACQUIRE gpu_lock:0 asr EX 60").int() > 0);
    let mut watchdog = login(&server, "watchdog");
    assert_eq!(watchdog.line("GPULOCK.FORCERELEASE gpu_lock:0"), "asr");
    assert_eq!(keys(&login(&server, "reader").line("GPULOCK.LOG")), ["gpu_lock:0"]);
}
