//! Calls by the ten thousand, right, wrong and garbage: the server lives, its counters add up,
//! nothing is left behind, and what it refuses changes nothing. `GPULOCK_FUZZ` says how many
//! calls of each test (`make fuzz`), `GPULOCK_SEED` which.

use std::ops::Range;
use std::time::Duration;

use gpulock_testkit::{
    Client, Flavour, Server, Value, call, encode, on_every_server, send, wait_until,
};

#[path = "support/dice.rs"]
mod dice;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/grammar.rs"]
mod grammar;
#[path = "support/law.rs"]
mod law;
#[path = "support/state.rs"]
mod state;
#[path = "support/wire.rs"]
mod wire;
use dice::Dice;
use grammar::{KEYS, KINDS, OWNERS, Words, garbage, spoiled, well_formed};
use state::state;
use wire::Wire;

const LATER: Duration = Duration::from_secs(20);

/// Calls for each test, when nothing is asked for: a few seconds on a server.
const SHORT: usize = 20_000;

fn calls_wanted() -> usize {
    let asked = std::env::var("GPULOCK_FUZZ").ok();
    asked.map_or(SHORT, |calls| calls.parse().expect("GPULOCK_FUZZ: how many calls"))
}

const RELAY: &str = "#!lua name=relay
    redis.register_function('relay', function(_, args)
        return redis.pcall(unpack(args)) end)";

/// A script that reads a key at its begin and at its end, and is busy in between, so that the
/// server processes events meanwhile.
const BUSY: &str = "
    local function now()
        local time = redis.call('TIME')
        return time[1] * 1000 + time[2] / 1000
    end
    local first, done = redis.call('GET', KEYS[1]), now() + 10
    while now() < done do for _ = 1, 1000 do end end
    return redis.call('GET', KEYS[1]) == first and 'SAME' or 'CHANGED'";

/// A call that somebody's script or function makes.
fn relayed(dice: &mut Dice, words: &Words) -> Words {
    let means: [&[&str]; 3] = [
        &["EVAL", "return redis.pcall(unpack(ARGV))", "0"],
        &["EVAL_RO", "return redis.pcall(unpack(ARGV))", "0"],
        &["FCALL", "relay", "0"],
    ];
    let means = dice.pick(&means).iter().map(|word| word.as_bytes().to_vec());
    means.chain(words.iter().cloned()).collect()
}

fn shown(words: &Words) -> String {
    let word = |word: &Vec<u8>| match word.len() {
        0..1100 => format!("\"{}\"", word.escape_ascii()),
        length => format!("<{length} bytes>"),
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

mod what_is_refused {
    //! Batches of calls that must be refused, on locks in every state there is.

    use super::*;

    const BATCH: usize = 1_000;

    #[test]
    fn changes_neither_a_key_nor_a_lock() {
        on_every_server(|flavour| {
            let server = flavour
                .server()
                // Longer than the test: the kept place is there at its end.
                .module_args(&["gpulock.place-keep", "3600000"])
                .start();
            let mut client = server.client();
            let _waiters = make_locks(&server, &mut client);
            assert_eq!(call!(client, "FUNCTION", "LOAD", RELAY), "relay");
            let mut dice = Dice::new();
            let before = state(&mut client);
            for _ in 0..calls_wanted().div_ceil(BATCH) {
                let batch: Vec<Words> =
                    (0..BATCH).map(|_| spoiled(&mut dice, 1)).collect();
                refuses(&mut client, &mut dice, &batch);
                if state(&mut client) != before {
                    find_culprit(&mut client, &batch);
                }
            }
            assert_eq!(client.line("GPULOCK.STATS").field("internal_errors"), 0);
        });
    }

    /// Sends a batch in one of several ways, and sees that each call is refused.
    fn refuses(client: &mut Client, dice: &mut Dice, batch: &[Words]) {
        match dice.below(4) {
            0 => refuses_all(
                client,
                &batch.iter().map(|words| relayed(dice, words)).collect::<Vec<_>>(),
            ),
            1 => batch.iter().for_each(|words| {
                assert_eq!(client.line("MULTI"), "OK");
                let queued = client.cmd(words);
                let done = client.line("EXEC");
                let refused = queued.is_err() && done.is_err()
                    || done.list().iter().all(Value::is_err);
                assert!(refused, "{}: {queued:?} {done:?}", shown(words));
            }),
            _ => refuses_all(client, batch),
        }
    }

    /// Sends them in one write.
    fn refuses_all(client: &mut Client, batch: &[Words]) {
        client.send_raw(
            &batch.iter().map(|words| encode(words)).collect::<Vec<_>>().concat(),
        );
        for words in batch {
            // One that waits instead would have no answer.
            let answer = client.read_within(LATER);
            let refused = answer.as_ref().is_some_and(Value::is_err);
            assert!(refused, "{}: {answer:?}", shown(words));
        }
    }

    /// A batch changed something: which call was it?
    fn find_culprit(client: &mut Client, batch: &[Words]) {
        for words in batch {
            let before = state(client);
            let answer = client.cmd(words);
            assert_eq!(state(client), before, "{}: {answer:?}", shown(words));
        }
        panic!("a batch changed something that its calls one by one do not");
    }

    /// Locks held, adopted, without an end, waited for, set aside and free, a place that is
    /// kept, and a key of each other type.
    fn make_locks(server: &Server, client: &mut Client) -> Vec<Client> {
        let [held, unique, adopted, endless, aside, ..] = KEYS;
        let [me, you, ..] = OWNERS;
        for words in [
            &[b"GPULOCK.ACQUIRE", held, me, b"SESSION", b"GRACE", b"5"][..],
            &[b"GPULOCK.ACQUIRE", unique, you, b"UNIQUE"],
            &[b"SET", adopted, you, b"PX", b"600000"],
            &[b"SET", endless, me],
            &[b"RPUSH", b"list", b"x"],
            &[b"SADD", b"set", b"x"],
            &[b"ZADD", b"zset", b"1", b"x"],
            &[b"HSET", b"hash", b"x", b"1"],
            &[b"XADD", b"stream", b"*", b"x", b"1"],
        ] {
            let answer = client.cmd(words);
            assert!(!answer.is_err() && !answer.is_null(), "{words:?}: {answer:?}");
        }
        assert!(call!(client, "GPULOCK.ACQUIRE", adopted, me).is_null());
        let keeps =
            call!(client, "GPULOCK.ACQUIRE", unique, "away", "UNIQUE", "BLOCK", 1);
        assert!(keeps.is_null());
        let mut waits = server.client();
        send!(waits, "GPULOCK.ACQUIRE", held, "waits", "BLOCK", 0, "SESSION");
        let mut gang = server.client();
        send!(
            gang,
            "GPULOCK.ACQUIREANY",
            2,
            adopted,
            aside,
            "gang",
            "COUNT",
            2,
            "BLOCK",
            0
        );
        server.wait_blocked(2);
        let reserved = call!(client, "GPULOCK.INSPECT", aside).field("reserved_for");
        assert_eq!(reserved, "gang");
        vec![waits, gang]
    }
}

mod a_storm_of_calls {
    //! Many connections that say anything at all, at once.

    use super::*;

    /// How many connections speak.
    const WIRES: usize = 24;
    /// How many are sent between two looks.
    const BURST: usize = 2_000;
    const WARM_UP: usize = 4_000;
    /// How many calls go out in one write at most.
    const PIPELINE: usize = 12;
    /// How much more memory a server at rest may have than before. Redis was seen with 5 KB
    /// more, buffers of the one client that is left; Valkey 9 with 87 KB, whether after
    /// sixty thousand calls or six times as many. A leak of seven bytes for each call of the
    /// shortest run would be seen, and of an eighth of a byte in the long one.
    const SLACK: i64 = 128 << 10;
    /// How long a server goes on giving back memory after a storm, by its own clock, in
    /// seconds; two were seen.
    const REST: i64 = 4;

    #[test]
    fn leaves_the_server_as_it_was() {
        on_every_server(|flavour| {
            let mut storm = Storm::new(flavour);
            // What a server makes once and keeps, tables and buffers, is made now.
            storm.name_many_locks();
            storm.blow(WARM_UP);
            storm.ends();
            let before = storm.memory_at_rest();
            storm.blow(calls_wanted());
            storm.ends();
            wait_until(LATER, "memory to come back", || storm.memory() - before < SLACK);
            let more = storm.memory() - before;
            eprintln!("{} calls, {more} bytes more", storm.carried_out);
            let log = storm.server.log();
            assert!(!log.contains("internal error"), "a panic was caught");
            // While a rule names one of its commands, the module stays.
            storm.judge.line("ACL DELUSER worker");
            // The server refuses it while anybody is blocked, or a timer runs.
            assert_eq!(storm.judge.line("MODULE UNLOAD gpulock"), "OK");
        });
    }

    struct Storm {
        server: Server,
        dice: Dice,
        wires: Vec<Wire>,
        /// Looks on, and is never a part of it.
        judge: Client,
        /// The ids of clients that may be killed.
        ids: Range<usize>,
        /// The youngest token that was heard of.
        token: i64,
        /// How many calls the server has carried out or refused.
        carried_out: usize,
    }

    impl Storm {
        fn new(flavour: &Flavour) -> Self {
            let server = flavour
                .server()
                // The server keeps a histogram for each command that was ever called.
                .arg("latency-tracking", "no")
                .arg("busy-reply-threshold", 1)
                // Leases that nobody chose end within the storm as well.
                .module_args(&["gpulock.default-lease", "100"])
                .start();
            let mut judge = server.client();
            assert_eq!(call!(judge, "FUNCTION", "LOAD", RELAY), "relay");
            assert_eq!(judge.line("CONFIG SET slowlog-log-slower-than -1"), "OK");
            let first = usize::try_from(judge.id()).expect("small") + 1;
            let (ids, dice) = (first..first, Dice::new());
            Self { server, dice, wires: Vec::new(), judge, ids, token: 1, carried_out: 0 }
        }

        /// The module's index is in a thousand parts, each of which is made with its first
        /// name: garbage, which is names too, would come to the last of them much later.
        fn name_many_locks(&mut self) {
            for n in 0..20_000 {
                let key = format!("name:{n}");
                let granted = call!(self.judge, "GPULOCK.ACQUIRE", key, "me", "EX", 600);
                assert!(granted.int() > 0);
                assert_eq!(call!(self.judge, "GPULOCK.RELEASE", key, "me"), 1);
            }
        }

        /// Sends on until the server has carried out so many calls.
        fn blow(&mut self, calls: usize) {
            let port = self.server.port();
            self.wires = (0..WIRES).map(|_| Wire::new(port)).collect();
            self.ids.end += WIRES;
            let before = self.calls();
            while self.calls() < before + calls {
                let mut sent = 0;
                while sent < BURST {
                    sent += self.speak();
                }
                let stats = figures::flatten(&self.asked("GPULOCK.STATS"));
                law::is_kept_by(&stats);
                assert_eq!(stats["internal_errors"], 0);
            }
            self.carried_out += self.calls() - before;
        }

        /// Those of the judge count as well.
        fn calls(&mut self) -> usize {
            let stats = self.asked("INFO commandstats").text();
            let ours = stats
                .lines()
                .filter(|line| line.to_ascii_lowercase().starts_with("cmdstat_gpulock."));
            let figures = ours.filter_map(|line| line.split_once(':'));
            let counted = figures.flat_map(|(_, figures)| figures.split(','));
            counted
                .filter_map(|figure| figure.split_once('='))
                .filter(|(name, _)| ["calls", "rejected_calls"].contains(name))
                .map(|(_, count)| count.parse::<usize>().expect("a number"))
                .sum()
        }

        /// What the judge is answered once no script is busy.
        fn asked(&mut self, line: &str) -> Value {
            loop {
                let answer = self.judge.line(line);
                if !answer.is_err() || !answer.err().starts_with("BUSY ") {
                    return answer;
                }
            }
        }

        /// Sends some calls over one of the connections; how many.
        fn speak(&mut self) -> usize {
            let at = self.dice.below(WIRES);
            let calls = 1 + self.dice.below(PIPELINE);
            let bytes = (0..calls).map(|_| self.utterance()).collect::<Vec<_>>().concat();
            if self.dice.below(20) == 0 {
                // Half a call, and nobody there to say the rest.
                self.wires[at].send(&bytes[..self.dice.below(bytes.len().max(1))]);
                self.wires[at].cut();
                self.ids.end += 1;
            } else {
                self.wires[at].send(&bytes);
                let answers = self.wires[at].answers();
                self.listen(&answers);
            }
            calls
        }

        fn listen(&mut self, answers: &[u8]) {
            let text = String::from_utf8_lossy(answers);
            assert!(!text.contains("internal error"), "{text}");
            assert!(!text.contains("CHANGED"), "a key changed within a script: {text}");
            let numbers =
                text.lines().filter_map(|line| line.strip_prefix(':')?.parse().ok());
            let mut tokens = numbers.filter(|number| *number > 1 << 40);
            self.token = tokens.next_back().unwrap_or(self.token);
        }

        /// What one says: a call in one of many ways, or something else.
        fn utterance(&mut self) -> Vec<u8> {
            let words = self.words();
            match self.dice.below(40) {
                0..30 => encode(&words),
                30..33 => encode(&relayed(&mut self.dice, &words)),
                33..35 => self.transaction(),
                35..38 => encode(&outsiders(&mut self.dice, &self.ids)),
                38 => [words.join(&b' '), b"\r\n".to_vec()].concat(),
                _ => self.damaged(&words),
            }
        }

        fn words(&mut self) -> Words {
            match self.dice.below(10) {
                0..7 => well_formed(&mut self.dice, self.token),
                7..9 => spoiled(&mut self.dice, self.token),
                _ => garbage(&mut self.dice),
            }
        }

        fn transaction(&mut self) -> Vec<u8> {
            let mut bytes = encode(&["MULTI"]);
            for _ in 0..self.dice.below(5) {
                let words = self.words();
                bytes.extend(encode(&words));
            }
            bytes.extend(encode(&[self.dice.pick(&["EXEC", "EXEC", "EXEC", "DISCARD"])]));
            bytes
        }

        /// A call some of whose bytes changed on the way, the lengths before them too.
        fn damaged(&mut self, words: &Words) -> Vec<u8> {
            let mut bytes = encode(words);
            for _ in 0..=self.dice.below(3) {
                let at = self.dice.below(bytes.len());
                bytes[at] = self.dice.pick(b"\r\n*$:-09\0 \"'a\xff");
            }
            bytes
        }

        /// All clients go, and all keys: no lock is held, nobody waits, and every hold that
        /// began was counted when it ended.
        fn ends(&mut self) {
            self.wires.clear();
            wait_until(LATER, "the clients to be gone", || {
                self.asked("INFO clients").text().contains("connected_clients:1\r")
            });
            assert_eq!(self.judge.line("FLUSHALL"), "OK");
            wait_until(LATER, "all locks to have ended", || {
                self.judge.line("GPULOCK.STATS").field("locks_held") == 0
            });
            law::adds_up(&mut self.judge, 0, 0);
            wait_until(LATER, "no place to be kept", || {
                (0..16).all(|db| {
                    assert_eq!(call!(self.judge, "SELECT", db), "OK");
                    self.judge.line("GPULOCK.LIST").list().is_empty()
                })
            });
        }

        /// What is in use when the server has given back what it will.
        fn memory_at_rest(&mut self) -> i64 {
            let until = self.uptime() + REST;
            let mut least = i64::MAX;
            wait_until(LATER, "the server to have rested", || {
                least = least.min(self.memory());
                self.uptime() > until
            });
            least
        }

        fn uptime(&mut self) -> i64 {
            let server = self.judge.info("server");
            server["uptime_in_seconds"].parse().expect("a number")
        }

        /// What is in use, all forgotten that may be forgotten.
        fn memory(&mut self) -> i64 {
            for line in [
                "SELECT 0",
                "SCRIPT FLUSH",
                "ACL LOG RESET",
                "GPULOCK.LOG RESET",
                "GPULOCK.RESETSTATS",
            ] {
                assert_eq!(self.judge.line(line), "OK");
            }
            let memory = self.judge.info("memory");
            memory["used_memory"].parse().expect("a number")
        }
    }

    /// What others do meanwhile: to the keys, to the clients, to the settings. No pause:
    /// CLIENT UNBLOCK of a client that is paused ends most servers (valkey#2111).
    fn outsiders(dice: &mut Dice, ids: &Range<usize>) -> Words {
        let key = dice.pick(&KEYS).to_vec();
        let other = dice.pick(&KEYS).to_vec();
        let owner = dice.pick(&OWNERS).to_vec();
        let kind = dice.pick(&KINDS).as_bytes().to_vec();
        let id = (ids.start + dice.below(ids.len())).to_string().into_bytes();
        let line = dice.pick(&[
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
        // The option, where its value stands as well.
        if line == "CLIENT KILL ID ID" {
            words[2] = b"ID".to_vec();
        }
        words
    }
}
