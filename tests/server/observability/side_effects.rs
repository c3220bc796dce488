//! The server's own views of its commands (SLOWLOG, MONITOR, `INFO commandstats`, LATENCY
//! HISTOGRAM), its error and hit counters and ACL LOG show what clients sent, and nothing that
//! the module does on its own initiative. The few exceptions are listed in docs/operations.md,
//! and here with exactly what each view shows.

use std::collections::BTreeMap;
use std::time::Duration;

use gpulock_testkit::{Builder, Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::{DEADLINE, unix_ms};
use crate::support::queue::waiter;

tests! {
    idle_locks_and_waiters_leave_no_trace,
    hand_offs_leave_no_trace,
    the_ends_of_waits_leave_no_trace,
    refused_writes_leave_no_trace,
    checks_of_waited_for_keys_do_not_count_as_uses_of_them,
    a_changed_setting_leaves_no_trace,
    the_slow_log_has_only_the_commands_of_clients,
    the_setting_timeout_is_read_at_load_and_when_it_changes,
    an_entry_of_the_log_leaves_a_client_list,
    a_lease_that_was_lengthened_after_its_end_leaves_an_object_encoding,
    unloading_leaves_the_search_for_users_and_clients,
    only_redis_7_0_shows_checks_in_a_cluster_and_with_required_replicas,
}

/// Commands of the observer, of the test kit and of replicas.
const OBSERVING: [&str; 11] = [
    "acl|log",
    "config|resetstat",
    "echo",
    "info",
    "latency|histogram",
    "monitor",
    "ping",
    "psync",
    "replconf",
    "slowlog|get",
    "slowlog|reset",
];

/// Commands with subcommands, which the server counts one by one.
const CONTAINERS: [&str; 8] =
    ["acl", "client", "cluster", "config", "latency", "module", "object", "slowlog"];

/// The name under which the server counts a command line.
fn name_of(line: &str) -> String {
    let mut words = line.split(' ').map(str::to_lowercase);
    let command = words.next().unwrap_or_default();
    match words.next() {
        Some(sub) if CONTAINERS.contains(&&*command) => format!("{command}|{sub}"),
        _ => command,
    }
}

/// Whether MONITOR leaves out a command.
fn is_administrative(line: &str) -> bool {
    ["acl", "client", "config", "module"]
        .contains(&name_of(line).split('|').next().unwrap_or_default())
}

/// A server that logs each command, with the views empty.
struct Observed {
    server: Server,
    client: Client,
    monitor: Client,
}

/// What the views show beyond the commands that clients sent.
#[derive(Debug, PartialEq)]
struct Unasked {
    slow_log: Vec<String>,
    monitor: Vec<String>,
    /// The names in `commandstats`, each as often as it was called.
    counted: Vec<String>,
    /// The same in the latency histograms.
    timed: Vec<String>,
    /// Calls that failed or were rejected, errors, and entries of ACL LOG.
    errors: i64,
    hits: i64,
    misses: i64,
}

impl Unasked {
    /// The module called these commands, and `hits` keys were found.
    fn calls(lines: &[&str], hits: i64) -> Self {
        let all = || lines.iter().map(|line| (*line).to_owned());
        let mut counted: Vec<String> = lines.iter().map(|line| name_of(line)).collect();
        counted.sort_unstable();
        Self {
            slow_log: all().collect(),
            monitor: all().filter(|line| !is_administrative(line)).collect(),
            timed: counted.clone(),
            counted,
            errors: 0,
            hits,
            misses: 0,
        }
    }

    fn nothing() -> Self {
        Self::calls(&[], 0)
    }
}

impl Observed {
    #[track_caller]
    fn start(flavour: &Flavour) -> Self {
        Self::start_with(flavour.server())
    }

    #[track_caller]
    fn start_with(builder: Builder) -> Self {
        let server = logging_all(builder).start();
        Self::of(server)
    }

    #[track_caller]
    fn of(server: Server) -> Self {
        let (client, monitor) = (server.client(), server.monitor());
        let mut observed = Self { server, client, monitor };
        observed.unasked(&[]);
        observed
    }

    /// What the views show since the last call, beyond these lines.
    #[track_caller]
    fn unasked(&mut self, sent: &[&str]) -> Unasked {
        let monitor = beyond(self.monitored(), sent);
        let slow_log = beyond(slow_log(&mut self.client), sent);
        let (stats, failed) = commandstats(&mut self.client);
        let histograms = call!(self.client, "LATENCY", "HISTOGRAM").map();
        let timed = histograms
            .iter()
            .map(|(name, histogram)| {
                (name.to_lowercase(), histogram.field("calls").int())
            })
            .collect();
        let counters = self.client.info("stats");
        let number = |name: &str| counters[name].parse::<i64>().expect("a number");
        let denied = call!(self.client, "ACL", "LOG").list().len();
        let unasked = Unasked {
            slow_log,
            monitor,
            counted: calls_beyond(stats, sent),
            timed: calls_beyond(timed, sent),
            errors: failed
                + number("total_error_replies")
                + i64::try_from(denied).expect("a small number"),
            hits: number("keyspace_hits"),
            misses: number("keyspace_misses"),
        };
        assert_eq!(call!(self.client, "CONFIG", "RESETSTAT"), "OK");
        assert_eq!(call!(self.client, "SLOWLOG", "RESET"), "OK");
        unasked
    }

    /// The commands that MONITOR showed until now.
    #[track_caller]
    fn monitored(&mut self) -> Vec<String> {
        assert_eq!(call!(self.client, "ECHO", "until-now"), "until-now");
        let mut lines = Vec::new();
        loop {
            let shown = self.monitor.read().text();
            let (_, command) = shown.split_once("] \"").expect("a line of MONITOR");
            let line = command.trim_end_matches('"').replace("\" \"", " ");
            if line == "ECHO until-now" {
                return lines;
            }
            lines.push(line);
        }
    }

    /// A new connection that waits for a lock.
    #[track_caller]
    fn waiter(&self, line: &str) -> Client {
        let client = waiter(&self.server, line);
        self.server.wait_blocked(1);
        client
    }
}

/// Logs each command in the slow log.
fn logging_all(builder: Builder) -> Builder {
    builder
        .arg("slowlog-log-slower-than", 0)
        .arg("slowlog-max-len", 100_000)
        .arg("latency-monitor-threshold", 1)
}

/// The commands in the slow log, the oldest first.
#[track_caller]
fn slow_log(client: &mut Client) -> Vec<String> {
    let entries = call!(client, "SLOWLOG", "GET", -1);
    let line = |entry: &Value| {
        let words: Vec<String> = entry.list()[3].list().iter().map(Value::text).collect();
        words.join(" ")
    };
    entries.list().iter().rev().map(line).collect()
}

/// The calls of each command, and the number of calls that failed or were rejected.
#[track_caller]
fn commandstats(client: &mut Client) -> (BTreeMap<String, i64>, i64) {
    let mut calls = BTreeMap::new();
    let mut failed = 0;
    for (name, stats) in client.info("commandstats") {
        let number = |field: &str| {
            let fields = stats.split(',').find_map(|one| one.strip_prefix(field));
            fields.and_then(|n| n.parse::<i64>().ok()).expect("a number")
        };
        let name = name.trim_start_matches("cmdstat_").to_lowercase();
        calls.insert(name, number("calls="));
        failed += number("rejected_calls=") + number("failed_calls=");
    }
    (calls, failed)
}

/// The lines without those that were sent, each once.
fn beyond(mut lines: Vec<String>, sent: &[&str]) -> Vec<String> {
    lines.retain(|line| !OBSERVING.contains(&&*name_of(line)));
    for sent in sent {
        if let Some(index) = lines.iter().position(|line| line == sent) {
            lines.remove(index);
        }
    }
    lines
}

/// The names without those of the lines that were sent, each as often as it was called.
fn calls_beyond(mut calls: BTreeMap<String, i64>, sent: &[&str]) -> Vec<String> {
    calls.retain(|name, _| !OBSERVING.contains(&&**name));
    for line in sent {
        if let Some(calls) = calls.get_mut(&name_of(line)) {
            *calls -= 1;
        }
    }
    let each = |(name, calls)| (0..calls).map(move |_| String::clone(&name));
    calls.into_iter().flat_map(each).collect()
}

fn idle_locks_and_waiters_leave_no_trace(flavour: &Flavour) {
    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    for key in 0..50 {
        assert!(call!(client, "GPULOCK.ACQUIRE", key, "me").int() > 0);
    }
    let mut another = observed.waiter("GPULOCK.ACQUIRE 7 you BLOCK 0");
    let sets = "GPULOCK.ACQUIREANY 3 1 2 free set COUNT 2 BLOCK 0 UNIQUE";
    let _set = waiter(&observed.server, sets);
    observed.server.wait_blocked(2);
    observed.unasked(&[]);
    observed.monitored();
    // Nothing is sent for a second.
    assert_eq!(observed.monitor.read_within(Duration::from_secs(1)), None);
    assert_eq!(another.read_within(Duration::ZERO), None);
    assert_eq!(observed.unasked(&[]), Unasked::nothing());
}

fn hand_offs_leave_no_trace(flavour: &Flavour) {
    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    let expected = Unasked::nothing();

    let (hold, wait) = ("GPULOCK.ACQUIRE a me", "GPULOCK.ACQUIRE a you BLOCK 0");
    client.line(hold);
    let mut next = observed.waiter(wait);
    client.line("DEL a");
    assert!(next.read().int() > 0);
    let unasked = observed.unasked(&[hold, wait, "DEL a"]);
    assert_eq!(unasked, expected, "after a DEL by another client");

    let (hold, wait) = ("GPULOCK.ACQUIRE b me PX 30", "GPULOCK.ACQUIRE b you BLOCK 0");
    client.line(hold);
    next.send_lines(&[wait]);
    assert!(next.read().int() > 0);
    assert_eq!(observed.unasked(&[hold, wait]), expected, "at the end of a lease");

    let (hold, wait) = ("GPULOCK.ACQUIRE c me SESSION", "GPULOCK.ACQUIRE c you BLOCK 0");
    client.line(hold);
    let mut next = observed.waiter(wait);
    drop(client);
    assert!(next.read().int() > 0);
    assert_eq!(observed.unasked(&[hold, wait]), expected, "at the end of a session");

    let sent = [
        "GPULOCK.ACQUIREANY 2 e f me COUNT 2 UNIQUE SESSION GRACE 20",
        "GPULOCK.ACQUIREANY 2 e f you COUNT 2 UNIQUE BLOCK 0",
    ];
    let mut client = observed.server.client();
    client.line(sent[0]);
    let mut next = observed.waiter(sent[1]);
    drop(client);
    assert!(!next.read().is_null());
    assert_eq!(observed.unasked(&sent), expected, "at the end of a grace period");
}

fn the_ends_of_waits_leave_no_trace(flavour: &Flavour) {
    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    client.line("GPULOCK.ACQUIRE a me");
    observed.unasked(&["GPULOCK.ACQUIRE a me"]);

    let wait = "GPULOCK.ACQUIRE a you BLOCK 30 UNIQUE";
    assert!(client.line(wait).is_null());
    assert_eq!(observed.unasked(&[wait]), Unasked::nothing(), "after a timeout");

    let wait = "GPULOCK.ACQUIRE a you BLOCK 0 UNIQUE";
    let next = observed.waiter(wait);
    drop(next);
    observed.server.wait_blocked(0);
    let unasked = observed.unasked(&[wait]);
    assert_eq!(unasked, Unasked::nothing(), "after a disconnect");
}

fn refused_writes_leave_no_trace(flavour: &Flavour) {
    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    let sent = [
        "GPULOCK.ACQUIRE a me SESSION",
        "GPULOCK.ACQUIRE a you BLOCK 400",
        "CONFIG SET min-replicas-to-write 1",
    ];
    client.line(sent[0]);
    let mut next = observed.waiter(sent[1]);
    assert_eq!(observed.client.line(sent[2]), "OK");
    drop(client);
    assert!(next.read().is_null());
    assert_eq!(observed.unasked(&sent), Unasked::nothing());
}

fn checks_of_waited_for_keys_do_not_count_as_uses_of_them(flavour: &Flavour) {
    // Without the decay every minute.
    let builder = flavour.server().arg("lfu-decay-time", 0);
    let mut observed = Observed::start_with(
        builder.arg("maxmemory-policy", "allkeys-lfu").arg("lfu-log-factor", 0),
    );
    let mut client = observed.server.client();
    client.line("GPULOCK.ACQUIRE a me");
    let _next = observed.waiter("GPULOCK.ACQUIRE a you BLOCK 0");
    let frequency = |client: &mut Client| call!(client, "OBJECT", "FREQ", "a").int();
    let before = frequency(&mut client);
    observed.unasked(&[]);
    // Another waiter is handed its lock several times, so the queues were checked.
    for _ in 0..5 {
        client.line("GPULOCK.ACQUIRE b me");
        let mut next = waiter(&observed.server, "GPULOCK.ACQUIRE b you BLOCK 0");
        observed.server.wait_blocked(2);
        client.line("DEL b");
        assert!(next.read().int() > 0);
        client.line("DEL b");
    }
    let unasked = observed.unasked(&[]);
    assert_eq!((unasked.hits, unasked.misses), (0, 0));
    assert_eq!(frequency(&mut client), before);
}

fn a_changed_setting_leaves_no_trace(flavour: &Flavour) {
    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    client.line("GPULOCK.ACQUIRE a me");
    observed.unasked(&[]);
    for line in [
        "CONFIG SET busy-reply-threshold 4999",
        "CONFIG SET maxmemory 1000000000",
        "CONFIG SET maxmemory-policy allkeys-lru",
        "CONFIG SET min-replicas-to-write 0",
        "CONFIG SET appendonly no",
        "CONFIG SET gpulock.log-len 17",
        "CONFIG SET slowlog-max-len 1000 slowlog-log-slower-than 0",
    ] {
        assert_eq!(client.line(line), "OK", "{line}");
        assert_eq!(observed.unasked(&[line]), Unasked::nothing(), "{line}");
    }
}

/// The steps of Redis' own test of the slow log that count entries.
fn the_slow_log_has_only_the_commands_of_clients(flavour: &Flavour) {
    let server = flavour.server().arg("slowlog-log-slower-than", 1_000_000).start();
    let mut client = server.client();
    assert_eq!(client.line("SLOWLOG LEN"), 0);
    assert_eq!(client.line("CONFIG SET slowlog-log-slower-than 0"), "OK");
    assert_eq!(client.line("CONFIG SET slowlog-max-len 10"), "OK");
    for _ in 0..100 {
        client.line("PING");
    }
    assert_eq!(client.line("SLOWLOG LEN"), 10);
    // Entries are numbered from 0: two of CONFIG, 100 of PING, one of SLOWLOG LEN.
    let newest = client.line("SLOWLOG GET 1");
    assert_eq!(newest.list()[0].list()[0], 102);

    client.line("SLOWLOG RESET");
    assert_eq!(call!(client, "CONFIG", "SET", "masterauth", ""), "OK");
    assert_eq!(client.line("ACL SETUSER another +get +set"), "OK");
    assert_eq!(client.line("CONFIG SET slowlog-log-slower-than 0"), "OK");
    assert_eq!(client.line("CONFIG SET slowlog-log-slower-than 10000000"), "OK");
    let names: Vec<String> =
        slow_log(&mut client).iter().map(|line| name_of(line)).collect();
    assert_eq!(names, ["slowlog|reset", "config|set", "acl|setuser", "config|set"]);
}

fn the_setting_timeout_is_read_at_load_and_when_it_changes(flavour: &Flavour) {
    let at_load = |builder: Builder| -> Vec<String> {
        let server = logging_all(builder).start();
        let mut lines = beyond(slow_log(&mut server.client()), &[]);
        lines.sort_unstable();
        lines
    };
    // Valkey 9 reads settings for its own Lua module.
    let mut expected = at_load(flavour.server().without_module());
    expected.push("CONFIG GET timeout".to_owned());
    expected.sort_unstable();
    assert_eq!(at_load(flavour.server()), expected);

    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    for line in ["CONFIG SET timeout 600", "CONFIG SET timeout 0"] {
        client.line(line);
        let expected = Unasked::calls(&["CONFIG GET timeout"], 0);
        assert_eq!(observed.unasked(&[line]), expected);
    }
}

fn an_entry_of_the_log_leaves_a_client_list(flavour: &Flavour) {
    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    let id = client.id();
    observed.unasked(&["CLIENT ID"]);
    let list = format!("CLIENT LIST ID {id}");
    for (line, listed) in [
        ("GPULOCK.RELEASE a me", true),
        // A repetition by the same client.
        ("GPULOCK.RELEASE a me", false),
        ("GPULOCK.RELEASE b me", true),
    ] {
        assert_eq!(client.line(line), 0);
        let calls: &[&str] = if listed { &[&list] } else { &[] };
        assert_eq!(observed.unasked(&[line]), Unasked::calls(calls, 0), "{line}");
    }
    // An entry without a client does not.
    client.line("GPULOCK.ACQUIRE a me PX 1");
    wait_until(DEADLINE, "the end of the lease", || {
        observed.server.info("gpulock")["gpulock_expired"] == "1"
    });
    let unasked = observed.unasked(&["GPULOCK.ACQUIRE a me PX 1"]);
    assert_eq!(unasked, Unasked::nothing());
}

fn a_lease_that_was_lengthened_after_its_end_leaves_an_object_encoding(
    flavour: &Flavour,
) {
    let mut observed = Observed::start(flavour);
    let mut client = observed.server.client();
    // The server executes a transaction at one point in time, so the key still exists.
    let sent = [
        "MULTI",
        "GPULOCK.ACQUIRE a me PX 1",
        "PEXPIRE a 100000",
        "EXEC",
        "GPULOCK.EXTEND a me",
    ];
    client.send_lines(&sent[..4]);
    for _ in &sent[..4] {
        client.read();
    }
    let granted = unix_ms();
    wait_until(DEADLINE, "the end of the lease", || unix_ms() > granted + 1);
    assert!(client.line(sent[4]).int() > 0);
    let expected = Unasked::calls(&["OBJECT ENCODING a"], 1);
    assert_eq!(observed.unasked(&sent), expected);
}

fn unloading_leaves_the_search_for_users_and_clients(flavour: &Flavour) {
    let mut observed = Observed::start(flavour);
    let mut user = observed.server.client();
    let kill = format!("CLIENT KILL ID {}", user.id());
    // It is closed, because its last command is one of the module's.
    user.line("GPULOCK.ACQUIRE a me");
    observed.unasked(&[]);
    let mut client = observed.server.client();
    assert_eq!(client.line("MODULE UNLOAD gpulock"), "OK");
    user.wait_closed();
    let expected = Unasked::calls(&["ACL LIST", "CLIENT LIST", &kill], 0);
    assert_eq!(observed.unasked(&["MODULE UNLOAD gpulock"]), expected);
}

/// Before it writes a key on its own initiative, the module asks whether the server accepts
/// the write. Only Redis 7.0 has no way to ask without executing a command.
fn only_redis_7_0_shows_checks_in_a_cluster_and_with_required_replicas(
    flavour: &Flavour,
) {
    let executes_checks = !flavour.is_valkey() && flavour.version() < (7, 2, 0);
    let (hold, wait) = ("GPULOCK.ACQUIRE a me", "GPULOCK.ACQUIRE a you BLOCK 0");
    let hand_off = |observed: &mut Observed| {
        let mut client = observed.server.client();
        client.line(hold);
        let mut next = observed.waiter(wait);
        client.line("DEL a");
        assert!(next.read().int() > 0);
        observed.unasked(&[hold, wait, "DEL a"])
    };
    let expected = |checks: usize| {
        let checks = if executes_checks { checks } else { 0 };
        Unasked::calls(&vec!["GPULOCK.EXTEND a -"; checks], 0)
    };

    let primary = logging_all(flavour.server().named("primary")).start();
    let replica = flavour.server().named("replica").replica_of(&primary).start();
    let mut client = primary.client();
    assert_eq!(client.line("CONFIG SET min-replicas-to-write 1"), "OK");
    wait_until(DEADLINE, "writes to be accepted", || client.line("SET b 1") == "OK");
    assert_eq!(hand_off(&mut Observed::of(primary)), expected(1));
    drop(replica);

    let node = logging_all(flavour.server().named("node").cluster()).start();
    let mut client = node.client();
    assert_eq!(client.line("CLUSTER ADDSLOTSRANGE 0 16383"), "OK");
    wait_until(DEADLINE, "the cluster to be up", || client.line("SET b 1") == "OK");
    // Whether the key is gone because its slot is, and whether the write is accepted.
    assert_eq!(hand_off(&mut Observed::of(node)), expected(2));
}
