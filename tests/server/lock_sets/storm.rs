//! A thousand clients that wait for several of many locks, time out, disconnect and are killed.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::assert_counters;
use crate::support::counters::stats;
use crate::support::locks::{acquire_each, granted};
use crate::support::rng::{Pick, seeded_rng};

tests! {
    in_a_storm_all_survivors_are_granted_and_nothing_remains,
}

const KEYS: usize = 64;

const CLIENTS: usize = 1000;

/// A client of the storm, with a connection that never blocks.
struct Runner {
    stream: TcpStream,
    unread: Vec<u8>,
    id: i64,
    owner: String,
    keys: Vec<String>,
    count: usize,
    /// The wait timeout in ms; 0: none.
    block: usize,
    session: bool,
    state: State,
}

impl Runner {
    fn new(server: &Server, rng: &mut Rng, number: usize) -> Self {
        let address = (Ipv4Addr::LOCALHOST, server.port());
        let stream = TcpStream::connect(address).expect("connecting");
        stream.set_nonblocking(true).expect("a socket that does not block");
        let count = 1 + rng.usize(..8);
        let mut keys: Vec<_> = (0..KEYS).map(|key| format!("gpu:{key}")).collect();
        for chosen in 0..KEYS - 1 {
            keys.swap(chosen, chosen + rng.usize(..KEYS - chosen));
        }
        keys.truncate(count + rng.usize(..9));
        Self {
            stream,
            unread: vec![],
            id: 0,
            owner: format!("r{number}"),
            keys,
            count,
            block: rng.pick(&[0, 0, 0, 1 + timeout_ms(number)]),
            session: rng.usize(..2) == 0,
            state: State::Waits,
        }
    }

    /// Sends CLIENT ID and the request for its locks.
    fn send_request(&mut self, rng: &mut Rng) {
        let (owner, keys) = (&self.owner, self.keys.join(" "));
        let options = rng.pick(&["", " UNIQUE"]);
        let session = if self.session { " SESSION" } else { "" };
        let line = format!(
            "CLIENT ID\r\nGPULOCK.ACQUIREANY {} {keys} {owner} COUNT {} BLOCK {} PX \
             600000{options}{session}\r\n",
            self.keys.len(),
            self.count,
            self.block
        );
        self.stream.write_all(line.as_bytes()).expect("sending");
    }

    /// The next reply. A closed connection is expected only after a kill or a disconnect.
    fn try_read(&mut self) -> Option<Value> {
        if let Some(value) = self.parsed() {
            return Some(value);
        }
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) if !self.is_gone() => panic!("{}: disconnected", self.owner),
            Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) if self.is_gone() => {}
            Err(error) => panic!("{}: {error}", self.owner),
        }
        self.parsed()
    }

    /// Whether either side closed its connection.
    fn is_gone(&self) -> bool {
        matches!(self.state, State::Killed | State::Left)
    }

    fn parsed(&mut self) -> Option<Value> {
        let (value, used) = Value::parse(&self.unread).expect("RESP")?;
        self.unread.drain(..used);
        Some(value)
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Waits,
    Killed,
    Left,
    Served,
    TimedOut,
}

/// A wait timeout from 1 ms to 2 s, different for each client.
const fn timeout_ms(number: usize) -> usize {
    number * 7919 % 2000
}

/// All clients, and the holders of the locks as seen from outside.
struct Storm {
    actor: Client,
    rng: Rng,
    runners: Vec<Runner>,
    holders: BTreeMap<String, String>,
    /// Owners and their granted locks, to be released soon.
    to_release: Vec<(String, Vec<String>)>,
    /// Locks that the storm has not granted yet.
    seeds: Vec<String>,
    kills: usize,
    last_token: BTreeMap<String, i64>,
}

impl Storm {
    fn start(server: &Server) -> Self {
        let (mut actor, mut rng) = (server.client(), seeded_rng());
        let seeds: Vec<_> = (0..KEYS).map(|key| format!("gpu:{key}")).collect();
        let all: Vec<_> = seeds.iter().map(String::as_str).collect();
        acquire_each(&mut actor, &all, "seed");
        let mut runners: Vec<_> =
            (0..CLIENTS).map(|n| Runner::new(server, &mut rng, n)).collect();
        for runner in &mut runners {
            runner.send_request(&mut rng);
        }
        let holders = seeds.iter().map(|key| (key.clone(), "seed".to_owned())).collect();
        wait_until(DEADLINE, "all requests to arrive", || {
            stats(&mut actor)["acquire_requests"] == (KEYS + CLIENTS) as i64
        });
        let patient = runners.iter().filter(|runner| runner.block == 0).count();
        let waiting = stats(&mut actor)["clients_waiting"];
        assert!((patient as i64..=CLIENTS as i64).contains(&waiting), "{waiting}");
        Self {
            actor,
            rng,
            runners,
            holders,
            to_release: vec![],
            seeds,
            kills: 0,
            last_token: BTreeMap::new(),
        }
    }

    /// Reads all replies, and releases locks or kills a client; true when no client waits.
    fn step(&mut self) -> bool {
        for index in 0..self.runners.len() {
            while let Some(reply) = self.runners[index].try_read() {
                self.handle(index, &reply);
            }
        }
        self.release_some();
        // A killed client may have been granted its locks just before: read that first.
        if self.kills < CLIENTS / 5 && self.kill() {
            return false;
        }
        self.runners.iter().all(|runner| runner.state != State::Waits)
            && self.to_release.is_empty()
            && self.seeds.is_empty()
    }

    fn handle(&mut self, index: usize, reply: &Value) {
        let runner = &mut self.runners[index];
        match reply {
            Value::Int(id) => runner.id = *id,
            Value::Null => {
                assert!(runner.block > 0, "{} has no wait timeout", runner.owner);
                assert!(
                    runner.state != State::Served,
                    "{} has two replies",
                    runner.owner
                );
                if runner.state == State::Waits {
                    runner.state = State::TimedOut;
                }
            }
            Value::Array(_) => self.granted(index, reply),
            other => panic!("{}: {other:?}", runner.owner),
        }
    }

    fn granted(&mut self, index: usize, reply: &Value) {
        let runner = &mut self.runners[index];
        let pairs = granted(reply);
        assert_eq!(pairs.len(), runner.count, "{}: {reply:?}", runner.owner);
        let gone = runner.is_gone();
        assert!(gone || runner.state == State::Waits, "{} twice", runner.owner);
        // Its session has ended, and the locks may have other holders by now.
        if gone && runner.session {
            return;
        }
        let mut keys: Vec<String> = vec![];
        for (key, token) in pairs {
            assert!(runner.keys.contains(&key), "{key} for {}", runner.owner);
            assert!(!keys.contains(&key), "{key} twice for {}", runner.owner);
            let last = self.last_token.insert(key.clone(), token);
            assert!(
                last.is_none_or(|last| last < token),
                "{key}: {token} after {last:?}"
            );
            let holder = self.holders.insert(key.clone(), runner.owner.clone());
            assert_eq!(holder, None, "{key} for {}", runner.owner);
            keys.push(key);
        }
        if !gone {
            runner.state = State::Served;
        }
        self.to_release.push((runner.owner.clone(), keys));
    }

    /// Releases the locks of some holders.
    fn release_some(&mut self) {
        let mut freed = vec![];
        for _ in 0..self.rng.usize(..4).min(self.seeds.len()) {
            let which = self.rng.usize(..self.seeds.len());
            freed.push((self.seeds.swap_remove(which), "seed".to_owned()));
        }
        for _ in 0..self.rng.usize(..self.to_release.len() + 1) {
            let which = self.rng.usize(..self.to_release.len());
            let (owner, keys) = self.to_release.swap_remove(which);
            freed.extend(keys.into_iter().map(|key| (key, owner.clone())));
        }
        let line =
            |(key, owner): &(String, String)| format!("GPULOCK.RELEASE {key} {owner}");
        let lines: Vec<_> = freed.iter().map(line).collect();
        for (key, owner) in &freed {
            assert_eq!(self.holders.remove(key).as_ref(), Some(owner), "{key}");
        }
        self.actor.send_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for line in lines {
            assert_eq!(self.actor.read(), 1, "{line}");
        }
    }

    /// Kills or disconnects a random client, unless that client does not wait.
    fn kill(&mut self) -> bool {
        let which = self.rng.usize(..self.runners.len());
        let runner = &mut self.runners[which];
        if runner.state != State::Waits || runner.id == 0 {
            return false;
        }
        self.kills += 1;
        // A waiter without SESSION is only killed: its grant, if any, is released later.
        if runner.session && self.rng.usize(..2) == 0 {
            runner.stream.shutdown(std::net::Shutdown::Both).expect("disconnecting");
            runner.state = State::Left;
            return true;
        }
        let killed = call!(self.actor, "CLIENT", "KILL", "ID", runner.id);
        assert_eq!(killed, 1, "{}", runner.owner);
        runner.state = State::Killed;
        true
    }
}

fn in_a_storm_all_survivors_are_granted_and_nothing_remains(flavour: &Flavour) {
    let server = flavour
        .server()
        .module_args(&["gpulock.place-keep", "100", "gpulock.log-len", "0"])
        .start();
    let start = Instant::now();
    let mut storm = Storm::start(&server);
    wait_until(Duration::from_secs(90), "all survivors to be served", || storm.step());
    let Storm { mut actor, runners, .. } = storm;
    let of = |state| runners.iter().filter(|runner| runner.state == state).count();
    let [served, timed_out, killed, left] =
        [State::Served, State::TimedOut, State::Killed, State::Left].map(of);
    eprintln!(
        "{flavour}: {served} served, {timed_out} timed out, {killed} killed, \
         {left} disconnected in {:?}",
        start.elapsed()
    );
    assert!(served > CLIENTS / 3, "{served}");
    for key in 0..KEYS {
        let key = format!("gpu:{key}");
        wait_until(DEADLINE, format!("{key} to be free"), || {
            call!(actor, "GPULOCK.INSPECT", key).is_null()
        });
    }
    assert_eq!(actor.line("DBSIZE"), 0);
    assert_eq!(server.info("clients")["blocked_clients"], "0");
    let stats = stats(&mut actor);
    assert_eq!((stats["deadlocks"], stats["internal_errors"]), (0, 0));
    assert_counters(&mut actor, 0, 0);
}
