//! The module beside what it replaces: `SET key owner NX` to take, a Lua script to give
//! back. Random steps, each done to a lock of either kind, must answer and leave the same;
//! and where both kinds of clients share one lock, it never has two owners.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::counters::stats;
use crate::support::rng::{Pick, seeded_rng};

tests! {
    release_atomicity,
    both_ways_on_one_lock_answer_as_the_model_does,
    a_lock_that_both_ways_fight_for_never_has_two_owners,
}

/// How the replaced client gave a lock back.
const SCRIPT: &str = "if redis.call('get',KEYS[1]) == ARGV[1] then \
                      return redis.call('del',KEYS[1]) else return 0 end";

/// A lease that is over before the next step, in ms.
const SHORT: usize = 4;
const LONG: usize = 3_600_000;

/// The two ways to keep a lock.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Module,
    Script,
}

impl Way {
    /// The key of this way, where each has its own.
    fn key(self) -> &'static str {
        match self {
            Self::Module => "A",
            Self::Script => "B",
        }
    }

    fn acquire(
        self,
        client: &mut Client,
        key: &str,
        owner: &[u8],
        lease: &Lease,
    ) -> Value {
        let Lease { unit, number, .. } = lease;
        match self {
            Self::Module => call!(client, "GPULOCK.ACQUIRE", key, owner, unit, number),
            Self::Script => call!(client, "SET", key, owner, "NX", unit, number),
        }
    }

    fn release(self, client: &mut Client, key: &str, owner: &[u8]) -> Value {
        match self {
            Self::Module => call!(client, "GPULOCK.RELEASE", key, owner),
            Self::Script => call!(client, "EVAL", SCRIPT, 1, key, owner),
        }
    }
}

#[derive(Clone, Debug)]
struct Lease {
    unit: &'static str,
    number: usize,
    ms: usize,
}

impl Lease {
    fn px(ms: usize) -> Self {
        Self { unit: "PX", number: ms, ms }
    }

    fn random(rng: &mut Rng) -> Self {
        match rng.usize(..10) {
            0 => Self::px(1 + rng.usize(..SHORT)),
            1..5 => {
                let seconds = 60 + rng.usize(..LONG / 1000);
                Self { unit: "EX", number: seconds, ms: seconds * 1000 }
            }
            _ => Self::px(60_000 + rng.usize(..LONG)),
        }
    }

    fn is_short(&self) -> bool {
        self.ms <= SHORT
    }
}

/// The time on the server's clock, in ms.
fn server_ms(client: &mut Client) -> i64 {
    let time = call!(client, "TIME");
    let number = |i: usize| time.list()[i].text().parse::<i64>().expect("a number");
    number(0) * 1000 + number(1) / 1000
}

/// Waits until a short lease that was set before this call is over.
fn outlast(client: &mut Client, ms: usize) {
    let over = server_ms(client) + i64::try_from(ms).expect("a short time");
    wait_until(Duration::from_secs(20), "the end of a short lease", || {
        server_ms(client) > over
    });
}

/// An owner of 1 to 1024 bytes, of all that a careless program might stumble over.
fn random_owner(rng: &mut Rng) -> Vec<u8> {
    // 44 bytes are the longest string that the server keeps in one piece with its header.
    let random = 1 + rng.usize(..1024);
    let length = rng.pick(&[1, 2, 19, 36, 44, 45, 64, 1023, 1024, random]);
    let bytes: Vec<u8> = match rng.usize(..6) {
        0 => (0..length).map(|_| rng.usize(..256) as u8).collect(),
        1 => (0..length).map(|_| rng.pick(b"\r\n\0 $*:")).collect(),
        2 => (0..length).map(|_| rng.pick(b"%sdn'\"\\{}")).collect(),
        3 => (0..length).map(|_| rng.pick(b"\xff\xfe\xc3\x28\xf0\x80")).collect(),
        // A number is kept as one; and what only looks like one is not.
        4 => (0..length.min(20)).map(|_| rng.pick(b"0123456789")).collect(),
        _ => format!("locked_by_{:length$}", rng.usize(..3)).into_bytes(),
    };
    bytes.into_iter().take(1024).collect()
}

/// An owner that is nearly the one given.
fn near(owner: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut near = owner.to_vec();
    let at = rng.usize(..near.len());
    match rng.usize(..3) {
        0 if near.len() > 1 => near.truncate(at.max(1)),
        1 if near.len() < 1024 => near.push(rng.pick(b"\0 \n0")),
        _ => near[at] ^= 1,
    }
    near
}

/// One owner out of a few, so that they meet again; from time to time a few others.
struct Owners(Vec<Vec<u8>>);

impl Owners {
    fn new(rng: &mut Rng) -> Self {
        Self((0..6).map(|_| random_owner(rng)).collect())
    }

    fn pick(&mut self, rng: &mut Rng) -> Vec<u8> {
        if rng.usize(..20) == 0 {
            let changed = rng.usize(..self.0.len());
            self.0[changed] = random_owner(rng);
        }
        rng.pick(&self.0)
    }

    /// Rather the one who holds the lock now, or one who nearly does.
    fn pick_near(&mut self, holder: &Value, rng: &mut Rng) -> Vec<u8> {
        match holder {
            Value::Bulk(holder) if (1..=1024).contains(&holder.len()) => {
                match rng.usize(..4) {
                    0 | 1 => holder.clone(),
                    2 => near(holder, rng),
                    _ => self.pick(rng),
                }
            }
            _ => self.pick(rng),
        }
    }
}

/// What is done to both keys in one step.
#[derive(Debug)]
enum Step {
    Acquire(Vec<u8>, Lease),
    Release(Vec<u8>),
    /// A command of somebody who knows nothing of locks; the key is its first argument.
    Outside(&'static str, Vec<Vec<u8>>),
    RunOut(usize),
}

impl Step {
    fn random(rng: &mut Rng, owners: &mut Owners, holder: &Value) -> Self {
        let arguments =
            |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
        let outside = |name, words: &[&[u8]]| Self::Outside(name, arguments(words));
        match rng.usize(..32) {
            0..10 => Self::Acquire(owners.pick(rng), Lease::random(rng)),
            10..20 => Self::Release(owners.pick_near(holder, rng)),
            20 => outside("DEL", &[]),
            21 => outside("UNLINK", &[]),
            22 => outside("SET", &[&owners.pick(rng)]),
            23 => outside("SET", &[&owners.pick(rng), b"KEEPTTL"]),
            24 => outside("SET", &[&owners.pick(rng), b"XX", b"PX", b"100000"]),
            25 => {
                outside("PEXPIRE", &[(60_000 + rng.usize(..LONG)).to_string().as_bytes()])
            }
            26 => outside("PERSIST", &[]),
            27 => outside("APPEND", &[&owners.pick(rng)]),
            28 => outside("SETRANGE", &[b"0", b"x"]),
            29 => outside("INCR", &[]),
            30 if rng.usize(..4) == 0 => outside("LPUSH", &[b"no owner"]),
            30 => outside("SET", &[b""]),
            _ => Self::RunOut(1 + rng.usize(..SHORT)),
        }
    }

    fn run(&self, way: Way, client: &mut Client) -> Value {
        match self {
            Self::Acquire(owner, lease) => way.acquire(client, way.key(), owner, lease),
            Self::Release(owner) => way.release(client, way.key(), owner),
            Self::Outside(name, arguments) => {
                let mut command = vec![name.as_bytes(), way.key().as_bytes()];
                command.extend(arguments.iter().map(Vec::as_slice));
                client.cmd(&command)
            }
            Self::RunOut(ms) => call!(client, "PEXPIRE", way.key(), ms),
        }
    }

    /// The lease that is over soon after this step, if it set one.
    fn short(&self) -> Option<usize> {
        match self {
            Self::Acquire(_, lease) => lease.is_short().then_some(lease.ms),
            Self::RunOut(ms) => Some(*ms),
            _ => None,
        }
    }

    /// A reply in the words that both ways have in common.
    fn meaning(&self, way: Way, reply: &Value) -> String {
        match (self, way, reply) {
            (Self::Acquire(..), Way::Module, Value::Int(1..)) => "granted".to_owned(),
            (Self::Acquire(..), Way::Script, Value::Simple(_)) => "granted".to_owned(),
            (Self::Acquire(..), _, Value::Null) => "refused".to_owned(),
            // On a key that is no lock the module answers an error where SET NX just says
            // that there is something.
            (Self::Acquire(..), Way::Module, Value::Error(text))
                if text.starts_with("WRONGTYPE ") =>
            {
                "refused".to_owned()
            }
            // The server adds the name of the script.
            (Self::Release(_), _, Value::Error(text)) => {
                text.split(' ').take(4).collect::<Vec<_>>().join(" ")
            }
            (_, _, reply) => format!("{reply:?}"),
        }
    }
}

/// All that can be seen of a key, and when it is over.
fn state(client: &mut Client, key: &str) -> (Value, Value, Value, i64) {
    (
        call!(client, "TYPE", key),
        call!(client, "EXISTS", key),
        call!(client, "GET", key),
        call!(client, "PEXPIRETIME", key).int(),
    )
}

fn release_atomicity(flavour: &Flavour) {
    const STEPS: usize = 3_000;
    let mut rng = seeded_rng();
    let server = flavour.start();
    let mut client = server.client();
    // The end of a lease shall be met by the commands, not be swept away before.
    assert_eq!(call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", "0"), "OK");
    let mut owners = Owners::new(&mut rng);
    let mut holder = Value::Null;
    let (mut granted, mut released, mut not_held, mut failed) = (0, 0, 0, 0);
    let mut longest_ms = 0;

    for number in 0..STEPS {
        let step = Step::random(&mut rng, &mut owners, &holder);
        let began = Instant::now();
        let reply = step.run(Way::Module, &mut client);
        let original = step.run(Way::Script, &mut client);
        let meaning = step.meaning(Way::Module, &reply);
        assert_eq!(
            meaning,
            step.meaning(Way::Script, &original),
            "step {number}: {step:?}"
        );
        longest_ms = longest_ms.max(began.elapsed().as_millis());
        match (&step, reply) {
            (Step::Acquire(..), Value::Int(_)) => granted += 1,
            (Step::Release(_), Value::Int(1)) => released += 1,
            (Step::Release(_), Value::Int(_)) => not_held += 1,
            (Step::Release(_), _) => failed += 1,
            _ => {}
        }

        if let Some(ms) = step.short() {
            outlast(&mut client, ms);
            // Half of the time the next command is the first to see that it is over.
            if rng.usize(..2) == 0 {
                holder = Value::Null;
                continue;
            }
        }
        let [ours, theirs] =
            [Way::Module, Way::Script].map(|way| state(&mut client, way.key()));
        holder = ours.2.clone();
        // The one was done a moment after the other, and so its lease ends later.
        let apart = i128::from(ours.3.abs_diff(theirs.3));
        let allowed = i128::try_from(longest_ms).expect("a short time") + 2;
        assert!(
            (ours.3 < 0) == (theirs.3 < 0) && apart <= allowed,
            "step {number}: {step:?}: ends at {} and {}",
            ours.3,
            theirs.3
        );
        assert_eq!(
            (ours.0, ours.1, ours.2),
            (theirs.0, theirs.1, theirs.2),
            "step {number}: {step:?}"
        );
    }

    let counters = stats(&mut client);
    assert_eq!(counters["acquired"], granted);
    assert_eq!(counters["releases"], released);
    assert_eq!(counters["ownership_violations"], not_held);
    assert_eq!(counters["release_script_errors"], failed);
    assert!(granted.min(released).min(not_held) > 100, "{counters:?}");
}

fn both_ways_on_one_lock_answer_as_the_model_does(flavour: &Flavour) {
    const STEPS: usize = 3_000;
    let key = "gpu_lock:0";
    let mut rng = seeded_rng();
    let server = flavour.start();
    let mut clients = [server.client(), server.client(), server.client()];
    let mut owners = Owners::new(&mut rng);
    // The whole model: who holds the lock.
    let mut holder: Option<Vec<u8>> = None;

    for number in 0..STEPS {
        let which = rng.usize(..clients.len());
        let client = &mut clients[which];
        let way = rng.pick(&[Way::Module, Way::Script]);
        let held = holder.clone().map_or(Value::Null, Value::Bulk);
        let mut short = None;
        let said = match rng.usize(..12) {
            0..4 => {
                let (owner, lease) = (owners.pick(&mut rng), Lease::random(&mut rng));
                let reply = way.acquire(client, key, &owner, &lease);
                let free = holder.is_none();
                assert_eq!(!reply.is_null(), free, "step {number}: {reply:?}");
                if free {
                    holder = Some(owner);
                    short = lease.is_short().then_some(lease.ms);
                }
                format!("{way:?} {lease:?} {reply:?}")
            }
            4 => {
                let owner = owners.pick_near(&held, &mut rng);
                let lease = Lease::px(LONG).ms;
                let reply =
                    call!(client, "GPULOCK.ACQUIRE", key, &owner, "PX", lease, "UNIQUE");
                let has = holder.as_ref().is_none_or(|holder| *holder == owner);
                assert_eq!(!reply.is_null(), has, "step {number}: {reply:?}");
                holder = holder.or(Some(owner));
                format!("UNIQUE {reply:?}")
            }
            5..8 => {
                let owner = owners.pick_near(&held, &mut rng);
                let reply = way.release(client, key, &owner);
                let has = holder.as_ref() == Some(&owner);
                assert_eq!(reply, i64::from(has), "step {number}: {way:?} {owner:?}");
                holder = holder.filter(|_| !has);
                format!("{way:?} release {reply:?}")
            }
            8 | 9 => {
                let owner = owners.pick_near(&held, &mut rng);
                let lease = Lease::random(&mut rng);
                let Lease { unit, number: n, ms } = &lease;
                let reply = call!(client, "GPULOCK.EXTEND", key, &owner, unit, n);
                let has = holder.as_ref() == Some(&owner);
                assert_eq!(!reply.is_null(), has, "step {number}: {reply:?}");
                short = (has && lease.is_short()).then_some(*ms);
                format!("extend {lease:?} {reply:?}")
            }
            10 => {
                let owner = owners.pick_near(&held, &mut rng);
                let reply = call!(client, "GPULOCK.FORCERELEASE", key, "OWNER", &owner);
                let taken = holder.take_if(|holder| *holder == owner);
                assert_eq!(reply, taken.map_or(Value::Null, Value::Bulk), "{number}");
                format!("force {reply:?}")
            }
            _ => {
                let reply = call!(client, "DEL", key);
                assert_eq!(reply, i64::from(holder.take().is_some()), "{number}");
                "del".to_owned()
            }
        };
        if let Some(ms) = short {
            outlast(client, ms);
            holder = None;
        }
        // As every kind of client sees it: the key, and what the module tells of it.
        let expected = holder.clone().map_or(Value::Null, Value::Bulk);
        assert_eq!(call!(client, "GET", key), expected, "step {number}: {said}");
        let told = call!(client, "GPULOCK.INSPECT", key);
        let owner = if told.is_null() { Value::Null } else { told.field("owner") };
        assert_eq!(owner, expected, "step {number}: {said}");
    }
    assert_counters_add_up(&server);
}

fn a_lock_that_both_ways_fight_for_never_has_two_owners(flavour: &Flavour) {
    const THREADS: usize = 6;
    const TURNS: usize = 25;
    let key = "gpu_lock:0";
    let server = flavour.start();
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for i in 0..THREADS {
            let (way, inside) = ([Way::Module, Way::Script][i % 2], &inside);
            let mut client = server.client();
            let owner = format!("{way:?}-{i}").into_bytes();
            let lease = Lease::px(LONG);
            scope.spawn(move || {
                for _ in 0..TURNS {
                    wait_until(Duration::from_secs(60), "the lock", || {
                        !way.acquire(&mut client, key, &owner, &lease).is_null()
                    });
                    let others = inside.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(others, 0, "{way:?} came in beside somebody");
                    assert_eq!(call!(client, "GET", key).bytes(), owner);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(way.release(&mut client, key, &owner), 1);
                }
            });
        }
    });
    let counters = stats(&mut server.client());
    let turns = i64::try_from(THREADS / 2 * TURNS).expect("a small number");
    assert_eq!((counters["acquired"], counters["releases"]), (turns, turns));
    assert_eq!(counters["ownership_violations"], 0);
    assert_counters_add_up(&server);
}

/// The contract's law: what was taken is what ended and what is held.
fn assert_counters_add_up(server: &Server) {
    let counters = stats(&mut server.client());
    let taken = counters["acquired"] + counters["adopted"];
    #[rustfmt::skip]
    let ended: i64 = [
        "releases", "emergency_releases", "expired", "session_releases", "removed",
        "evicted", "moved", "undelivered",
    ].iter().map(|name| counters[*name]).sum();
    assert_eq!(taken, ended + counters["locks_held"], "{counters:?}");
    assert!(taken > 0, "{counters:?}");
}
