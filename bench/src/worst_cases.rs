//! Worst cases: the longest time that one command keeps the server from serving others, for each
//! command at its limits. The time is the server's own (`INFO commandstats`), so it contains the
//! command alone, without the connection.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::{Cmd, Connection, ConnectionLike, Value, cmd};

use crate::measure::Setup;
use crate::names;
use crate::open_files;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::raw_connection::{RawConnection, encode};
use crate::series::{Recorder, Series};
use crate::server::BenchServer;

/// Times that each case is measured.
const REPEATS: usize = 5;
/// Commands in a pipeline that builds a case.
const BATCH: usize = 1_000;
const LEASE_MS: u64 = 60_000_000;
/// The length of the slow log: waiting calls have entries too, when they end.
const SLOW_LOG: i64 = 20_000;
/// The name of the client whose commands are measured.
const CLIENT: &str = "measured";
/// The most keys that a call may name.
const KEYS_MAX: usize = 1_024;
/// The length of the longest owner.
const OWNER_MAX: usize = 1_024;

/// Two kinds of work that no command of the module does.
pub(crate) const ROLE_CHANGE: &str = "REPLICAOF";
pub(crate) const SETTING: &str = "CONFIG SET";

/// Until the positions of closed connections are removed.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// When waits expire, after the first of them began.
const EXPIRE: Duration = Duration::from_secs(3);

/// A function that builds the worst cases of one kind on a server and measures them.
type Kind = (&'static str, fn(&mut Bed) -> Result<()>);

const KINDS: [Kind; 13] = [
    ("a million locks", million_locks),
    ("long names", long_names),
    ("a queue of lock sets", queue_of_sets),
    ("counters of locks", counters),
    ("log entries", log),
    ("large pools", large_pools),
    ("hand-off of lock sets", hand_off_of_whole_sets),
    ("hand-off of half lock sets", hand_off_of_half_sets),
    ("calls with GROUPS", calls_with_groups),
    ("deadlocks", deadlocks),
    ("calls taken over", taken_over),
    ("waits that expire", expiring_waits),
    ("the end of a session", end_of_session),
];

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let mut recorder = Recorder::new(names::WORST_CASES);
    progress.set_rounds(KINDS.len());
    for (name, kind) in KINDS {
        progress.set_step(name);
        let mut bed = Bed::start(setup, &mut recorder)?;
        kind(&mut bed).context(name)?;
        progress.finish_round();
    }
    Ok(recorder.into_series())
}

/// A server, and where its measurements go.
struct Bed<'a> {
    server: BenchServer,
    connection: Connection,
    recorder: &'a mut Recorder,
}

impl<'a> Bed<'a> {
    fn start(setup: &Setup, recorder: &'a mut Recorder) -> Result<Self> {
        let server =
            BenchServer::start(&setup.flavour, Some(&setup.module), |builder| {
                builder
                    .arg("gpulock.events", "all")
                    .arg("gpulock.max-waiters", 20_000)
                    .arg("slowlog-max-len", SLOW_LOG)
            })?;
        let mut connection = server.connect()?;
        cmd("CLIENT").arg("SETNAME").arg(CLIENT).exec(&mut connection)?;
        Ok(Self { server, connection, recorder })
    }

    fn send(&mut self, commands: impl IntoIterator<Item = Cmd>) -> Result<()> {
        let commands: Vec<Cmd> = commands.into_iter().collect();
        commands
            .chunks(BATCH)
            .try_for_each(|batch| Pipeline::new(batch).send(&mut self.connection))
    }

    /// Sets one of the server's settings.
    fn configure(&mut self, name: &str, value: i64) -> Result<()> {
        Ok(cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut self.connection)?)
    }

    /// The time that a command takes in the server, in ms; and its reply, which may be an error.
    fn time(&mut self, command: &Cmd) -> Result<(f64, Value)> {
        self.configure("slowlog-log-slower-than", 0)?;
        let packed = command.get_packed_command();
        let reply = match self.connection.req_packed_command(&packed) {
            Ok(reply) => reply,
            Err(error) if error.is_connection_dropped() || error.is_timeout() => {
                return Err(error.into());
            }
            Err(error) => Value::SimpleString(error.to_string()),
        };
        self.configure("slowlog-log-slower-than", -1)?;
        let logged: Vec<SlowCommand> =
            cmd("SLOWLOG").arg("GET").arg(SLOW_LOG).query(&mut self.connection)?;
        cmd("SLOWLOG").arg("RESET").exec(&mut self.connection)?;
        let words = logged.iter().find(|(_, _, _, words, _, client)| {
            client == CLIENT
                && words.first().is_some_and(|it| it.as_slice() == name(command))
        });
        let (_, _, us, ..) = words.context("the command is not in the slow log")?;
        Ok((*us as f64 / 1e3, reply))
    }

    fn record(&mut self, command: &str, limits: &str, ms: f64) {
        self.recorder.record(command, limits, names::LONGEST_MS, ms);
    }

    /// Measures a command that changes nothing.
    fn measure(&mut self, name: &str, limits: &str, command: &Cmd) -> Result<Value> {
        let mut last = Value::Nil;
        for _ in 0..REPEATS {
            let (ms, reply) = self.time(command)?;
            self.record(name, limits, ms);
            last = reply;
        }
        Ok(last)
    }

    /// Acquires locks.
    fn hold(&mut self, keys: &[String], owner: &str, options: &[&str]) -> Result<()> {
        self.send(keys.iter().map(|key| acquire(key, owner, options)))
    }

    /// Connects clients that each wait in one call.
    fn wait(&self, calls: impl IntoIterator<Item = Cmd>) -> Result<Vec<RawConnection>> {
        let mut connections = Vec::new();
        for call in calls {
            let mut connection = RawConnection::connect(&self.server)?;
            connection.send_blocking(&call.get_packed_command())?;
            connections.push(connection);
        }
        Ok(connections)
    }
}

/// An entry of the slow log: its number, the time, the microseconds, the words of the command, and
/// the address and the name of the client.
type SlowCommand = (u64, u64, u64, Vec<Vec<u8>>, String, String);

/// The name of a command.
fn name(command: &Cmd) -> &[u8] {
    match command.args_iter().next() {
        Some(redis::Arg::Simple(name)) => name,
        _ => b"",
    }
}

fn key(number: usize) -> String {
    format!("gpu_lock:{number:07}")
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(key).collect()
}

/// Keys of a set, which no other set names.
fn keys_of(set: usize, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("set:{set}:gpu:{number:04}")).collect()
}

/// A name of the greatest length.
fn long_name(prefix: &str) -> String {
    format!("{prefix}{}", "a".repeat(OWNER_MAX - prefix.len()))
}

fn acquire(key: &str, owner: &str, options: &[&str]) -> Cmd {
    let mut acquire = cmd("GPULOCK.ACQUIRE");
    acquire.arg(key).arg(owner).arg("PX").arg(LEASE_MS).arg(options);
    acquire
}

fn release(key: &str, owner: &str) -> Cmd {
    let mut release = cmd("GPULOCK.RELEASE");
    release.arg(key).arg(owner);
    release
}

fn acquire_any(keys: &[String], owner: &str, count: usize, options: &[&str]) -> Cmd {
    let mut acquire = cmd("GPULOCK.ACQUIREANY");
    acquire.arg(keys.len()).arg(keys).arg(owner).arg("COUNT").arg(count);
    acquire.arg("PX").arg(LEASE_MS).arg(options);
    acquire
}

/// A command of which all arguments are words.
fn line(text: &str) -> Cmd {
    let mut words = text.split(' ');
    let mut command = cmd(words.next().unwrap_or_default());
    command.arg(words.collect::<Vec<_>>());
    command
}

fn million_locks(bed: &mut Bed<'_>) -> Result<()> {
    bed.configure("gpulock.tracked-keys", 100_000)?;
    bed.hold(&keys(1_000_000), "me", &[])?;
    for (name, limits, command) in [
        ("LIST", "1,000 of 1,000,000 locks (default LIMIT)", "GPULOCK.LIST"),
        ("LIST", "LIMIT 1000000", "GPULOCK.LIST LIMIT 1000000"),
        ("LIST", "MATCH finds none of 1,000,000 locks", "GPULOCK.LIST MATCH no*"),
        (
            "LIST",
            "MATCH with 99 stars finds none of 1,000,000 locks",
            concat!(
                "GPULOCK.LIST MATCH ",
                "*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0",
                "*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0",
                "*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0*0x"
            ),
        ),
        ("LIST", "CURSOR, MATCH finds none", "GPULOCK.LIST CURSOR 0 MATCH no*"),
        ("LIST", "CURSOR, LIMIT 1000000", "GPULOCK.LIST CURSOR 0 LIMIT 1000000"),
        ("STATS", "1,000,000 locks", "GPULOCK.STATS"),
        ("STATS", "KEY, 1,000,000 locks", "GPULOCK.STATS KEY gpu_lock:0000000"),
        ("INSPECT", "1,000,000 locks", "GPULOCK.INSPECT gpu_lock:0000000"),
    ] {
        bed.measure(name, limits, &line(command))?;
    }
    // A role change is no command of the module. The holds end in portions, unless the server
    // becomes a primary again at once.
    let (ms, _) = bed.time(&line("REPLICAOF 127.0.0.1 1"))?;
    bed.record(ROLE_CHANGE, "1,000,000 locks held", ms);
    let (ms, _) = bed.time(&line("REPLICAOF NO ONE"))?;
    bed.record(ROLE_CHANGE, "back to primary at once, 1,000,000 locks held", ms);
    Ok(())
}

fn long_names(bed: &mut Bed<'_>) -> Result<()> {
    let owner = long_name("me");
    let keys: Vec<String> = (0..2_000).map(|n| long_name(&format!("{n:05}"))).collect();
    bed.hold(&keys, &owner, &[])?;
    bed.measure(
        "LIST",
        "1,000 locks, keys and owners of 1,024 bytes",
        &line("GPULOCK.LIST"),
    )?;
    for (limits, pattern) in [
        ("MATCH a*a*…b, keys of 1,024 bytes", format!("*{}b", "a*".repeat(511))),
        ("MATCH *aaa…b, keys of 1,024 bytes", format!("*{}b", "a".repeat(1_022))),
        ("MATCH *[abc…]b, keys of 1,024 bytes", format!("*[{}]b", "c".repeat(1_018))),
    ] {
        let mut list = cmd("GPULOCK.LIST");
        list.arg("MATCH").arg(&pattern);
        bed.measure("LIST", limits, &list)?;
        list.arg("CURSOR").arg(0);
        bed.measure("LIST", &format!("CURSOR, {limits}"), &list)?;
    }
    Ok(())
}

fn queue_of_sets(bed: &mut Bed<'_>) -> Result<()> {
    let common = "common".to_owned();
    bed.hold(std::slice::from_ref(&common), "me", &[])?;
    let calls = (0..100).map(|set| {
        let mut keys: Vec<String> = (1..KEYS_MAX)
            .map(|number| format!("{set}:{number}:{}", "k".repeat(100)))
            .collect();
        keys.push(common.clone());
        acquire_any(&keys, &long_name(&set.to_string()), KEYS_MAX, &["BLOCK", "0"])
    });
    let _waiters = bed.wait(calls)?;
    let limits = "100 calls wait for 1,024 locks each, of which 1,023 are reserved";
    bed.measure("INSPECT", limits, &line("GPULOCK.INSPECT common"))?;
    Ok(())
}

fn counters(bed: &mut Bed<'_>) -> Result<()> {
    const TRACKED: usize = 100_000;
    let all = keys(TRACKED);
    for repeat in 0..3 {
        bed.configure("gpulock.tracked-keys", 100_000)?;
        bed.hold(&all, "me", &[])?;
        let (ms, _) = bed.time(&line("GPULOCK.RESETSTATS"))?;
        bed.record("RESETSTATS", "100,000 locks held, each with counters", ms);
        bed.send(all.iter().map(|key| release(key, "me")))?;
        let (ms, _) = bed.time(&line("GPULOCK.RESETSTATS"))?;
        bed.record("RESETSTATS", "100,000 free locks with counters", ms);
        bed.hold(&all, "me", &[])?;
        bed.send(all.iter().map(|key| release(key, "me")))?;
        let (ms, _) = bed.time(&line("CONFIG SET gpulock.tracked-keys 0"))?;
        bed.record(SETTING, "gpulock.tracked-keys from 100,000 to 0", ms);
        let (ms, _) = bed.time(&release(&all[repeat], "me"))?;
        bed.record("RELEASE", "right after that", ms);
    }
    Ok(())
}

fn log(bed: &mut Bed<'_>) -> Result<()> {
    const ENTRIES: usize = 100_000;
    for _ in 0..3 {
        bed.configure("gpulock.log-len", 100_000)?;
        let owner = long_name("other");
        let violation =
            |number: usize| release(&format!("{number:07}{}", "k".repeat(121)), &owner);
        let fail = |bed: &mut Bed<'_>| -> Result<()> {
            let commands: Vec<Cmd> = (0..ENTRIES).map(violation).collect();
            for batch in commands.chunks(BATCH) {
                let bytes: Vec<u8> =
                    batch.iter().flat_map(Cmd::get_packed_command).collect();
                bed.connection.req_packed_commands(&bytes, 0, batch.len())?;
            }
            Ok(())
        };
        fail(bed)?;
        for _ in 0..3 {
            for (limits, command) in [
                ("of 100,000 entries", "GPULOCK.LOG"),
                ("100000, of 100,000 entries", "GPULOCK.LOG 100000"),
            ] {
                let (ms, _) = bed.time(&line(command))?;
                bed.record("LOG", limits, ms);
            }
        }
        let (ms, _) = bed.time(&line("GPULOCK.LOG RESET"))?;
        bed.record("LOG", "RESET of 100,000 entries", ms);
        fail(bed)?;
        let (ms, _) = bed.time(&line("CONFIG SET gpulock.log-len 0"))?;
        bed.record(SETTING, "gpulock.log-len from 100,000 to 0", ms);
        let (ms, _) = bed.time(&violation(0))?;
        bed.record("RELEASE", "right after the log was emptied", ms);
    }
    Ok(())
}

fn large_pools(bed: &mut Bed<'_>) -> Result<()> {
    let owner = long_name("me");
    let all = keys(KEYS_MAX);
    let released = |bed: &mut Bed<'_>, owner: &str| {
        let releases: Vec<Cmd> = all.iter().map(|key| release(key, owner)).collect();
        let bytes: Vec<u8> = releases.iter().flat_map(Cmd::get_packed_command).collect();
        bed.connection.req_packed_commands(&bytes, 0, releases.len())
    };
    for count in [512, KEYS_MAX] {
        for (limits, options) in [
            ("all free", &[][..]),
            ("all free, UNIQUE SESSION", &["UNIQUE", "SESSION"][..]),
        ] {
            for _ in 0..REPEATS {
                let (ms, _) = bed.time(&acquire_any(&all, &owner, count, options))?;
                bed.record(
                    "ACQUIREANY",
                    &format!("COUNT {count} of 1,024, {limits}"),
                    ms,
                );
                released(bed, &owner)?;
            }
        }
    }
    bed.hold(&all, &owner, &["UNIQUE"])?;
    for (limits, owner, options) in [
        ("1,024 locks, all held by others", "other", &[][..]),
        ("COUNT 1024, all held by the UNIQUE owner", &*owner, &["UNIQUE"]),
        ("1,024 locks, joins all queues and expires", "other", &["UNIQUE", "BLOCK", "1"]),
    ] {
        let command = acquire_any(&all, owner, KEYS_MAX, options);
        bed.measure("ACQUIREANY", limits, &command)?;
    }
    let waiters = bed.wait((0..200).map(|number| {
        let owner = long_name(&number.to_string());
        acquire_any(&all, &owner, KEYS_MAX, &["UNIQUE", "BLOCK", "0"])
    }))?;
    for (limits, options) in [
        ("1,024 locks, 200 calls wait for all of them", &[][..]),
        ("1,024 locks, joins 200 calls that wait for all", &["UNIQUE", "BLOCK", "1"]),
    ] {
        let command = acquire_any(&all, "other", KEYS_MAX, options);
        bed.measure("ACQUIREANY", limits, &command)?;
    }
    drop(waiters);
    for repeat in 0..REPEATS {
        let plain = keys_of(repeat, KEYS_MAX);
        bed.send(plain.iter().map(|key| {
            let mut set = cmd("SET");
            set.arg(key).arg(&owner);
            set
        }))?;
        let (ms, _) = bed.time(&acquire_any(&plain, "other", KEYS_MAX, &[]))?;
        bed.record("ACQUIREANY", "1,024 locks, all set by other commands", ms);
        let unknown = keys_of(100 + repeat, KEYS_MAX);
        bed.hold(&unknown[..1], "me", &[])?;
        let options = &["UNIQUE", "BLOCK", "1"];
        let (ms, _) = bed.time(&acquire_any(&unknown, &owner, KEYS_MAX, options))?;
        bed.record("ACQUIREANY", "1,024 locks, all but one unknown, joins", ms);
    }
    Ok(())
}

fn hand_off_of_whole_sets(bed: &mut Bed<'_>) -> Result<()> {
    hand_off_of_sets(bed, KEYS_MAX, "1,024 locks")
}

fn hand_off_of_half_sets(bed: &mut Bed<'_>) -> Result<()> {
    hand_off_of_sets(bed, KEYS_MAX / 2, "512 of 1,024 locks")
}

/// A thousand calls wait for `count` locks of a pool each. Each lock that is given up is reserved
/// for the first call; the last one completes its set.
fn hand_off_of_sets(bed: &mut Bed<'_>, count: usize, what: &str) -> Result<()> {
    const CALLS: usize = 1_000;
    open_files::raise_limit((2 * CALLS + 200) as u64)?;
    let all = keys(KEYS_MAX);
    let owner = |call: usize| long_name(&format!("{call:04}"));
    bed.hold(&all, "me", &["UNIQUE"])?;
    let options = ["UNIQUE", "SESSION", "BLOCK", "0"];
    let calls = (0..CALLS).map(|call| acquire_any(&all, &owner(call), count, &options));
    let waiters = bed.wait(calls)?;
    let (last, others) = all[..count].split_last().context("a set is not empty")?;
    let mut holder = "me".to_owned();
    for call in 0..2 * REPEATS {
        bed.send(others.iter().map(|key| release(key, &holder)))?;
        let (name, command) = match call % 2 {
            0 => ("RELEASE", release(last, &holder)),
            _ => ("FORCERELEASE", line(&format!("GPULOCK.FORCERELEASE {last}"))),
        };
        let (ms, _) = bed.time(&command)?;
        bed.record(name, &format!("completes a set; 1,000 calls wait for {what}"), ms);
        holder = owner(call);
    }
    drop(waiters);
    let mut longest: f64 = 0.0;
    for _ in 0..200 {
        longest = longest.max(bed.time(&line("GPULOCK.EXTEND free nobody"))?.0);
    }
    bed.record("EXTEND", &format!("1,000 calls for {what} end"), longest);
    Ok(())
}

/// 500 calls wait for four locks of one of 64 groups of eight, or of a group of their own that lacks
/// one: so each of them counts a lock of the 64 groups that is given up, and none collects it.
fn calls_with_groups(bed: &mut Bed<'_>) -> Result<()> {
    const CALLS: usize = 500;
    const LIMITS: &str = "500 calls wait for 4 locks of one of 64 groups of 8";
    open_files::raise_limit((2 * CALLS + 200) as u64)?;
    let common = keys(512);
    bed.hold(&common, "me", &["UNIQUE"])?;
    let sizes = [&["4"][..], &["8"; 64]].concat();
    let waits = |call: usize, block: &str| {
        let own = (0..4).map(|number| format!("own:{call}:{number}"));
        let all: Vec<String> = own.chain(common.iter().cloned()).collect();
        let options = [&["GROUPS", "1", "65"], &sizes[..], &["BLOCK", block]].concat();
        acquire_any(&all, &format!("{call:04}"), 4, &options)
    };
    bed.hold(
        &(0..CALLS).map(|call| format!("own:{call}:3")).collect::<Vec<_>>(),
        "me",
        &[],
    )?;
    let waiters = bed.wait((0..CALLS).map(|call| waits(call, "0")))?;
    for group in common.chunks(8).take(2 * REPEATS) {
        let [first, second, third, fourth, ..] = group else { continue };
        let (ms, _) = bed.time(&release(first, "me"))?;
        bed.record("RELEASE", &format!("a lock that stays free; {LIMITS}"), ms);
        let (ms, _) = bed.time(&acquire(first, "newcomer", &[]))?;
        bed.record("ACQUIRE", &format!("such a lock; {LIMITS}"), ms);
        bed.send([
            release(first, "newcomer"),
            release(second, "me"),
            release(third, "me"),
        ])?;
        let (ms, _) = bed.time(&release(fourth, "me"))?;
        bed.record("RELEASE", &format!("completes a group; {LIMITS}"), ms);
    }
    bed.measure("ACQUIREANY", &format!("waits; {LIMITS}"), &waits(CALLS, "1"))?;
    drop(waiters);
    let mut longest: f64 = 0.0;
    for _ in 0..200 {
        longest = longest.max(bed.time(&line("GPULOCK.EXTEND free nobody"))?.0);
    }
    bed.record("EXTEND", &format!("the clients are gone; {LIMITS}"), longest);
    Ok(())
}

fn deadlocks(bed: &mut Bed<'_>) -> Result<()> {
    let owners: Vec<String> = (0..1_000).map(|n| long_name(&format!("{n:04}"))).collect();
    for (number, owner) in owners.iter().enumerate() {
        bed.hold(&[key(number)], owner, &["UNIQUE"])?;
    }
    let calls = (1..owners.len()).map(|n| {
        acquire(&key((n + 1) % owners.len()), &owners[n], &["UNIQUE", "BLOCK", "0"])
    });
    let _waiters = bed.wait(calls)?;
    let closes = acquire(&key(1), &owners[0], &["UNIQUE", "BLOCK", "1"]);
    let reply = bed.measure("ACQUIRE", "a cycle of 1,000 owners", &closes)?;
    ensure!(format!("{reply:?}").contains("DEADLOCK"), "the cycle was not found");
    let keys: Vec<String> = (1..KEYS_MAX).map(|n| key(n % 999 + 1)).take(998).collect();
    let closes = acquire_any(&keys, &owners[0], keys.len(), &["UNIQUE", "BLOCK", "1"]);
    bed.measure("ACQUIREANY", "cycles through 1,000 owners", &closes)?;
    Ok(())
}

fn taken_over(bed: &mut Bed<'_>) -> Result<()> {
    const CALLS: usize = 1_000;
    open_files::raise_limit((2 * CALLS + 200) as u64)?;
    let first: Vec<String> =
        (0..CALLS).map(|set| format!("set:{set}:gpu:0000")).collect();
    bed.hold(&first, "me", &[])?;
    for _ in 0..3 {
        let calls = (0..CALLS).map(|set| {
            acquire_any(
                &keys_of(set, KEYS_MAX),
                "one",
                KEYS_MAX,
                &["UNIQUE", "BLOCK", "0"],
            )
        });
        let waiters = bed.wait(calls)?;
        let again = acquire_any(&first, "one", first.len(), &["UNIQUE", "BLOCK", "1"]);
        let (ms, _) = bed.time(&again)?;
        bed.record("ACQUIREANY", "replaces 1,000 calls for 1,024 locks each", ms);
        drop(waiters);
        thread::sleep(SETTLE_TIME);
    }
    Ok(())
}

fn expiring_waits(bed: &mut Bed<'_>) -> Result<()> {
    const CALLS: usize = 5_000;
    open_files::raise_limit((2 * CALLS + 200) as u64)?;
    bed.hold(&[key(0), key(1)], "me", &[])?;
    for _ in 0..3 {
        let start = Instant::now();
        let mut connections = RawConnection::connect_many(&bed.server, CALLS)?;
        for (number, connection) in connections.iter_mut().enumerate() {
            let owner = long_name(&number.to_string());
            let left = EXPIRE.saturating_sub(start.elapsed()).as_millis();
            connection.send(&encode(&[
                "GPULOCK.ACQUIRE",
                &key(0),
                &owner,
                "UNIQUE",
                "BLOCK",
                &left.to_string(),
            ]))?;
        }
        let mut longest: f64 = 0.0;
        while start.elapsed() < EXPIRE + Duration::from_millis(400) {
            for command in [acquire(&key(1), "other", &[]), release(&key(0), "other")] {
                let (ms, _) = bed.time(&command)?;
                longest = longest.max(ms);
            }
        }
        bed.record("ACQUIRE, RELEASE", "while 5,000 waits expire at once", longest);
    }
    Ok(())
}

fn end_of_session(bed: &mut Bed<'_>) -> Result<()> {
    for _ in 0..3 {
        let mut holder = bed.server.connect()?;
        let commands: Vec<Cmd> =
            keys(100_000).iter().map(|key| acquire(key, "me", &["SESSION"])).collect();
        for batch in commands.chunks(BATCH) {
            Pipeline::new(batch).send(&mut holder)?;
        }
        drop(holder);
        let mut longest: f64 = 0.0;
        while bed.server.process().info_int("gpulock", "gpulock_locks_held") > 0 {
            let (ms, _) = bed.time(&line("GPULOCK.EXTEND gpu_lock:0000000 nobody"))?;
            longest = longest.max(ms);
        }
        bed.record("EXTEND", "while a session of 100,000 locks ends", longest);
    }
    Ok(())
}
