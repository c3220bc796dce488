//! Many connections that send anything at all, concurrently.

use std::ops::Range;

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, encode, wait_until};

use super::{BUSY, RELAY, calls_to_send, relayed};
use crate::support::call_generator::{
    KEYS, OWNERS, TYPES, Words, garbage, invalid, well_formed,
};
use crate::support::clock::DEADLINE;
use crate::support::counter_law::{assert_counter_law, assert_counters};
use crate::support::counters::flatten;
use crate::support::raw_connection::RawConnection;
use crate::support::rng::{Pick, seeded_rng};

tests! { a_storm_of_calls_leaves_nothing_behind }

/// The number of connections.
const CONNECTIONS: usize = 24;
/// The number of calls between two checks.
const BURST: usize = 2_000;
const WARM_UP: usize = 4_000;
/// The maximum number of calls in one write.
const PIPELINE: usize = 12;
/// The allowed growth of an idle server's memory. Measured growth: 5 KB on Redis, which are
/// buffers of the remaining client; 87 KB on Valkey 9, after sixty thousand calls and after
/// six times as many. The test detects a leak of seven bytes a call in the shortest run, and
/// of an eighth of a byte in the long one.
const SLACK: i64 = 128 << 10;
/// The time in seconds, by the server's clock, in which a server frees memory after the
/// storm; measured: two.
const REST: i64 = 4;

fn a_storm_of_calls_leaves_nothing_behind(flavour: &Flavour) {
    let mut storm = Storm::new(flavour);
    // Allocate what a server allocates once and keeps: tables and buffers.
    storm.fill_the_index();
    storm.run(WARM_UP);
    storm.finish();
    let before = storm.memory_at_rest();
    storm.run(calls_to_send());
    storm.finish();
    wait_until(DEADLINE, "the memory to be freed", || storm.memory() - before < SLACK);
    let more = storm.memory() - before;
    eprintln!("{} calls, {more} bytes more", storm.executed);
    let log = storm.server.log();
    assert!(!log.contains("internal error"), "a panic was caught");
    // The server refuses to unload a module whose commands an ACL rule names,
    storm.observer.line("ACL DELUSER worker");
    // and while a client is blocked or a timer runs.
    assert_eq!(storm.observer.line("MODULE UNLOAD gpulock"), "OK");
}

struct Storm {
    server: Server,
    rng: Rng,
    connections: Vec<RawConnection>,
    /// Takes no part in the storm.
    observer: Client,
    /// The ids of the clients that may be killed.
    ids: Range<usize>,
    /// The most recent token in a reply.
    token: i64,
    /// The number of calls that the server executed or refused.
    executed: usize,
}

impl Storm {
    fn new(flavour: &Flavour) -> Self {
        let server = flavour
            .server()
            // The server keeps a histogram for each command that was ever called.
            .arg("latency-tracking", "no")
            .arg("busy-reply-threshold", 1)
            // Leases that a call does not choose end during the storm, too.
            .module_args(&["gpulock.default-lease", "100"])
            .start();
        let mut observer = server.client();
        assert_eq!(call!(observer, "FUNCTION", "LOAD", RELAY), "relay");
        assert_eq!(observer.line("CONFIG SET slowlog-log-slower-than -1"), "OK");
        let first = usize::try_from(observer.id()).expect("small") + 1;
        let (ids, rng) = (first..first, seeded_rng());
        Self {
            server,
            rng,
            connections: Vec::new(),
            observer,
            ids,
            token: 1,
            executed: 0,
        }
    }

    /// The module allocates each of the thousand parts of its index with the first key in
    /// it. Random calls alone would reach the last part much later.
    fn fill_the_index(&mut self) {
        for n in 0..20_000 {
            let key = format!("name:{n}");
            let granted = call!(self.observer, "GPULOCK.ACQUIRE", key, "me", "EX", 600);
            assert!(granted.int() > 0);
            assert_eq!(call!(self.observer, "GPULOCK.RELEASE", key, "me"), 1);
        }
    }

    /// Sends until the server has executed this number of calls.
    fn run(&mut self, calls: usize) {
        let port = self.server.port();
        self.connections = (0..CONNECTIONS).map(|_| RawConnection::new(port)).collect();
        self.ids.end += CONNECTIONS;
        let before = self.calls();
        while self.calls() < before + calls {
            let mut sent = 0;
            while sent < BURST {
                sent += self.send_some();
            }
            let stats = flatten(&self.query("GPULOCK.STATS"));
            assert_counter_law(&stats);
            assert_eq!(stats["internal_errors"], 0);
        }
        self.executed += self.calls() - before;
    }

    /// The number of executed and refused calls, those of the observer included.
    fn calls(&mut self) -> usize {
        let stats = self.query("INFO commandstats").text();
        let ours = stats
            .lines()
            .filter(|line| line.to_ascii_lowercase().starts_with("cmdstat_gpulock."));
        let counters = ours.filter_map(|line| line.split_once(':'));
        let counted = counters.flat_map(|(_, counters)| counters.split(','));
        counted
            .filter_map(|counter| counter.split_once('='))
            .filter(|(name, _)| ["calls", "rejected_calls"].contains(name))
            .map(|(_, count)| count.parse::<usize>().expect("a number"))
            .sum()
    }

    /// Sends a command of the observer until no script is busy.
    fn query(&mut self, line: &str) -> Value {
        loop {
            let reply = self.observer.line(line);
            if !reply.is_err() || !reply.err().starts_with("BUSY ") {
                return reply;
            }
        }
    }

    /// Sends some calls over one of the connections, and returns their number.
    fn send_some(&mut self) -> usize {
        let at = self.rng.usize(..CONNECTIONS);
        let calls = 1 + self.rng.usize(..PIPELINE);
        let bytes = (0..calls).map(|_| self.bytes()).collect::<Vec<_>>().concat();
        if self.rng.usize(..20) == 0 {
            // A part of a call, and no connection for the rest.
            self.connections[at].send(&bytes[..self.rng.usize(..bytes.len().max(1))]);
            self.connections[at].reconnect();
            self.ids.end += 1;
        } else {
            self.connections[at].send(&bytes);
            let replies = self.connections[at].replies();
            self.check(&replies);
        }
        calls
    }

    fn check(&mut self, replies: &[u8]) {
        let text = String::from_utf8_lossy(replies);
        assert!(!text.contains("internal error"), "{text}");
        assert!(!text.contains("CHANGED"), "a key changed within a script: {text}");
        let numbers =
            text.lines().filter_map(|line| line.strip_prefix(':')?.parse().ok());
        let mut tokens = numbers.filter(|number| *number > 1 << 40);
        self.token = tokens.next_back().unwrap_or(self.token);
    }

    /// A call in one of many forms, or other bytes.
    fn bytes(&mut self) -> Vec<u8> {
        let words = self.words();
        match self.rng.usize(..40) {
            0..30 => encode(&words),
            30..33 => encode(&relayed(&mut self.rng, &words)),
            33..35 => self.transaction(),
            35..38 => encode(&other_command(&mut self.rng, &self.ids)),
            38 => [words.join(&b' '), b"\r\n".to_vec()].concat(),
            _ => self.damaged(&words),
        }
    }

    fn words(&mut self) -> Words {
        match self.rng.usize(..10) {
            0..7 => well_formed(&mut self.rng, self.token),
            7..9 => invalid(&mut self.rng, self.token),
            _ => garbage(&mut self.rng),
        }
    }

    fn transaction(&mut self) -> Vec<u8> {
        let mut bytes = encode(&["MULTI"]);
        for _ in 0..self.rng.usize(..5) {
            let words = self.words();
            bytes.extend(encode(&words));
        }
        bytes.extend(encode(&[self.rng.pick(&["EXEC", "EXEC", "EXEC", "DISCARD"])]));
        bytes
    }

    /// A call with changed bytes, also in its lengths.
    fn damaged(&mut self, words: &Words) -> Vec<u8> {
        let mut bytes = encode(words);
        for _ in 0..=self.rng.usize(..3) {
            let at = self.rng.usize(..bytes.len());
            bytes[at] = self.rng.pick(b"\r\n*$:-09\0 \"'a\xff");
        }
        bytes
    }

    /// Closes all connections and deletes all keys, and checks that no lock is held, no client
    /// waits, and the end of every hold was counted.
    fn finish(&mut self) {
        self.connections.clear();
        wait_until(DEADLINE, "the clients to disconnect", || {
            self.query("INFO clients").text().contains("connected_clients:1\r")
        });
        assert_eq!(self.observer.line("FLUSHALL"), "OK");
        wait_until(DEADLINE, "all locks to have ended", || {
            self.observer.line("GPULOCK.STATS").field("locks_held") == 0
        });
        assert_counters(&mut self.observer, 0, 0);
        wait_until(DEADLINE, "all kept positions to end", || {
            (0..16).all(|db| {
                assert_eq!(call!(self.observer, "SELECT", db), "OK");
                self.observer.line("GPULOCK.LIST").list().is_empty()
            })
        });
    }

    /// The memory in use once the server has freed what it can.
    fn memory_at_rest(&mut self) -> i64 {
        let until = self.uptime() + REST;
        let mut least = i64::MAX;
        wait_until(DEADLINE, "the server to be idle for a while", || {
            least = least.min(self.memory());
            self.uptime() > until
        });
        least
    }

    fn uptime(&mut self) -> i64 {
        let server = self.observer.info("server");
        server["uptime_in_seconds"].parse().expect("a number")
    }

    /// The memory in use, without logs, scripts and counters.
    fn memory(&mut self) -> i64 {
        for line in [
            "SELECT 0",
            "SCRIPT FLUSH",
            "ACL LOG RESET",
            "GPULOCK.LOG RESET",
            "GPULOCK.RESETSTATS",
        ] {
            assert_eq!(self.observer.line(line), "OK");
        }
        let memory = self.observer.info("memory");
        memory["used_memory"].parse().expect("a number")
    }
}

/// Commands of other clients that change keys, clients and settings. No CLIENT PAUSE: CLIENT
/// UNBLOCK of a paused client crashes most servers (valkey#2111).
fn other_command(rng: &mut Rng, ids: &Range<usize>) -> Words {
    let key = rng.pick(&KEYS).to_vec();
    let other = rng.pick(&KEYS).to_vec();
    let owner = rng.pick(&OWNERS).to_vec();
    let kind = rng.pick(&TYPES).as_bytes().to_vec();
    let id = (ids.start + rng.usize(..ids.len())).to_string().into_bytes();
    let line = rng.pick(&[
        "SET KEY OWNER PX 50",
        "SET KEY OWNER NX PX 50",
        "SET KEY OWNER",
        "SET KEY OTHER",
        "APPEND KEY x",
        "DEL KEY",
        "DEL KEY OTHER",
        "DEL KEY OTHER",
        "UNLINK KEY OTHER",
        "EVAL BUSY 1 KEY",
        "EVAL BUSY 1 KEY",
        "EVAL BUSY 1 KEY",
        "SET KEY OWNER XX PX 60",
        "SET KEY OWNER XX",
        "PEXPIRE KEY 5",
        "PEXPIRE KEY 60",
        "PERSIST KEY",
        "RENAME KEY OTHER",
        "COPY KEY OTHER REPLACE",
        "MOVE KEY 1",
        "RPUSH KEY x",
        "RPUSH list x",
        "SADD set x",
        "ZADD zset 1 x",
        "HSET hash x 1",
        "XADD stream MAXLEN 5 * x 1",
        "DEL KIND",
        "WATCH KEY",
        "SELECT 1",
        "SELECT 0",
        "SWAPDB 0 1",
        "FLUSHDB",
        "FLUSHALL",
        "HELLO 3",
        "HELLO 3",
        "HELLO 2",
        "AUTH worker x",
        "AUTH worker x",
        "AUTH default x",
        "ACL SETUSER worker -gpulock.acquire -gpulock.acquireany",
        "ACL SETUSER worker resetkeys",
        "ACL SETUSER worker resetkeys ~gpu:*",
        "ACL SETUSER worker reset on nopass ~* &* +@all",
        "ACL SETUSER worker reset on nopass ~* &* +@all",
        "ACL DELUSER worker",
        "RESET",
        "SUBSCRIBE KEY",
        "UNSUBSCRIBE",
        "CLIENT REPLY SKIP",
        "CLIENT UNBLOCK ID",
        "CLIENT UNBLOCK ID ERROR",
        "CLIENT KILL ID ID",
        "CONFIG SET gpulock.tracked-keys 0",
        "CONFIG SET gpulock.tracked-keys 5 gpulock.log-len 9",
        "CONFIG SET gpulock.place-keep 100 gpulock.max-waiters 20",
        "CONFIG SET gpulock.place-keep 0 gpulock.max-waiters 3",
        "CONFIG SET gpulock.max-hold 30 gpulock.warn-hold 5",
        "CONFIG SET gpulock.max-hold 0 gpulock.max-lease 86400000",
        "CONFIG SET gpulock.events all gpulock.channel-prefix OWNER",
        "CONFIG SET gpulock.round 1 gpulock.max-priority 1 gpulock.remembered-tags 2",
        "CONFIG SET gpulock.round 16 gpulock.max-priority 100 gpulock.remembered-tags 9",
        "CONFIG SET gpulock.round 0",
        "CONFIG SET gpulock.max-lease 0",
        "CONFIG SET gpulock.events sometimes",
    ]);
    let word = |word: &str| match word {
        "KEY" => key.clone(),
        "OTHER" => other.clone(),
        "OWNER" => owner.clone(),
        "KIND" => kind.clone(),
        "ID" => id.clone(),
        "BUSY" => BUSY.as_bytes().to_vec(),
        word => word.as_bytes().to_vec(),
    };
    let mut words: Words = line.split(' ').map(word).collect();
    // The name of the option, not its value.
    if line == "CLIENT KILL ID ID" {
        words[2] = b"ID".to_vec();
    }
    words
}
