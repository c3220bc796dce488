//! The module compared with what it replaces: `SET key owner NX` to acquire, and a Lua script
//! to release. Random steps on one lock of each kind have the same replies and results; and
//! when both kinds of clients share a lock, it never has two owners.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use gpulock_testkit::{Client, Flavour, Server, Value, call, wait_until};

use crate::support::clock::DEADLINE;
use crate::support::counter_law::lawful_stats;
use crate::support::counters::stats;
use crate::support::rng::{Pick, seeded_rng};

tests! {
    release_atomicity,
    both_kinds_of_clients_of_one_lock_agree_with_the_model,
    a_lock_contended_by_both_kinds_of_clients_never_has_two_owners,
}

/// The release script of the replaced lock manager's clients.
const SCRIPT: &str = "if redis.call('get',KEYS[1]) == ARGV[1] then \
                      return redis.call('del',KEYS[1]) else return 0 end";

/// A lease that ends before the next step, in ms.
const SHORT: usize = 4;
const LONG: usize = 3_600_000;

/// The two kinds of locks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Module,
    Script,
}

impl Kind {
    /// The key of this kind, in the tests with two keys.
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

/// Waits until a short lease that was set before this call has ended.
fn wait_past(client: &mut Client, ms: usize) {
    let end = server_ms(client) + i64::try_from(ms).expect("a short time");
    wait_until(DEADLINE, "the end of a short lease", || server_ms(client) > end);
}

/// An owner of 1 to 1024 bytes, with bytes that careless code might handle wrongly.
fn random_owner(rng: &mut Rng) -> Vec<u8> {
    // 44 bytes are the longest string that the server stores in one piece with its header.
    let random = 1 + rng.usize(..1024);
    let length = rng.pick(&[1, 2, 19, 36, 44, 45, 64, 1023, 1024, random]);
    let bytes: Vec<u8> = match rng.usize(..6) {
        0 => (0..length).map(|_| rng.usize(..256) as u8).collect(),
        1 => (0..length).map(|_| rng.pick(b"\r\n\0 $*:")).collect(),
        2 => (0..length).map(|_| rng.pick(b"%sdn'\"\\{}")).collect(),
        3 => (0..length).map(|_| rng.pick(b"\xff\xfe\xc3\x28\xf0\x80")).collect(),
        // The server stores a number as an integer, but not all digits are a number.
        4 => (0..length.min(20)).map(|_| rng.pick(b"0123456789")).collect(),
        _ => format!("locked_by_{:length$}", rng.usize(..3)).into_bytes(),
    };
    bytes.into_iter().take(1024).collect()
}

/// An owner that differs slightly from the given one.
fn similar(owner: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut similar = owner.to_vec();
    let at = rng.usize(..similar.len());
    match rng.usize(..3) {
        0 if similar.len() > 1 => similar.truncate(at.max(1)),
        1 if similar.len() < 1024 => similar.push(rng.pick(b"\0 \n0")),
        _ => similar[at] ^= 1,
    }
    similar
}

/// A few owners, so that the same ones meet again; some are replaced over time.
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

    /// A random owner, more often the current holder or a similar one.
    fn pick_similar(&mut self, holder: &Value, rng: &mut Rng) -> Vec<u8> {
        match holder {
            Value::Bulk(holder) if (1..=1024).contains(&holder.len()) => {
                match rng.usize(..4) {
                    0 | 1 => holder.clone(),
                    2 => similar(holder, rng),
                    _ => self.pick(rng),
                }
            }
            _ => self.pick(rng),
        }
    }
}

/// A step, which is applied to both keys.
#[derive(Debug)]
enum Step {
    Acquire(Vec<u8>, Lease),
    Release(Vec<u8>),
    /// A command of a client that does not use locks; the key is its first argument.
    OtherCommand(&'static str, Vec<Vec<u8>>),
    ShortenLease(usize),
}

impl Step {
    fn random(rng: &mut Rng, owners: &mut Owners, holder: &Value) -> Self {
        let arguments =
            |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
        let other_command =
            |name, words: &[&[u8]]| Self::OtherCommand(name, arguments(words));
        match rng.usize(..32) {
            0..10 => Self::Acquire(owners.pick(rng), Lease::random(rng)),
            10..20 => Self::Release(owners.pick_similar(holder, rng)),
            20 => other_command("DEL", &[]),
            21 => other_command("UNLINK", &[]),
            22 => other_command("SET", &[&owners.pick(rng)]),
            23 => other_command("SET", &[&owners.pick(rng), b"KEEPTTL"]),
            24 => other_command("SET", &[&owners.pick(rng), b"XX", b"PX", b"100000"]),
            25 => other_command(
                "PEXPIRE",
                &[(60_000 + rng.usize(..LONG)).to_string().as_bytes()],
            ),
            26 => other_command("PERSIST", &[]),
            27 => other_command("APPEND", &[&owners.pick(rng)]),
            28 => other_command("SETRANGE", &[b"0", b"x"]),
            29 => other_command("INCR", &[]),
            30 if rng.usize(..4) == 0 => other_command("LPUSH", &[b"no owner"]),
            30 => other_command("SET", &[b""]),
            _ => Self::ShortenLease(1 + rng.usize(..SHORT)),
        }
    }

    fn run(&self, kind: Kind, client: &mut Client) -> Value {
        match self {
            Self::Acquire(owner, lease) => kind.acquire(client, kind.key(), owner, lease),
            Self::Release(owner) => kind.release(client, kind.key(), owner),
            Self::OtherCommand(name, arguments) => {
                let mut command = vec![name.as_bytes(), kind.key().as_bytes()];
                command.extend(arguments.iter().map(Vec::as_slice));
                client.cmd(&command)
            }
            Self::ShortenLease(ms) => call!(client, "PEXPIRE", kind.key(), ms),
        }
    }

    /// The short lease that this step set, if any.
    fn short(&self) -> Option<usize> {
        match self {
            Self::Acquire(_, lease) => lease.is_short().then_some(lease.ms),
            Self::ShortenLease(ms) => Some(*ms),
            _ => None,
        }
    }

    /// The reply in words that both kinds have in common.
    fn meaning(&self, kind: Kind, reply: &Value) -> String {
        match (self, kind, reply) {
            (Self::Acquire(..), Kind::Module, Value::Int(1..)) => "granted".to_owned(),
            (Self::Acquire(..), Kind::Script, Value::Simple(_)) => "granted".to_owned(),
            (Self::Acquire(..), _, Value::Null) => "refused".to_owned(),
            // On a key that is not a lock, the module returns an error where SET NX returns
            // null.
            (Self::Acquire(..), Kind::Module, Value::Error(text))
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

/// The visible state of a key, and its expiry time.
fn key_state(client: &mut Client, key: &str) -> (Value, Value, Value, i64) {
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
    // A command, and not the active expiry, is the first to find a lease ended.
    assert_eq!(call!(client, "DEBUG", "SET-ACTIVE-EXPIRE", "0"), "OK");
    let mut owners = Owners::new(&mut rng);
    let mut holder = Value::Null;
    let (mut granted, mut released, mut not_held, mut failed) = (0, 0, 0, 0);
    let mut longest_ms = 0;

    for number in 0..STEPS {
        let step = Step::random(&mut rng, &mut owners, &holder);
        let start = Instant::now();
        let reply = step.run(Kind::Module, &mut client);
        let original = step.run(Kind::Script, &mut client);
        let meaning = step.meaning(Kind::Module, &reply);
        assert_eq!(
            meaning,
            step.meaning(Kind::Script, &original),
            "step {number}: {step:?}"
        );
        longest_ms = longest_ms.max(start.elapsed().as_millis());
        match (&step, reply) {
            (Step::Acquire(..), Value::Int(_)) => granted += 1,
            (Step::Release(_), Value::Int(1)) => released += 1,
            (Step::Release(_), Value::Int(_)) => not_held += 1,
            (Step::Release(_), _) => failed += 1,
            _ => {}
        }

        if let Some(ms) = step.short() {
            wait_past(&mut client, ms);
            // Half of the time the next command is the first to find the lease ended.
            if rng.usize(..2) == 0 {
                holder = Value::Null;
                continue;
            }
        }
        let [module, script] =
            [Kind::Module, Kind::Script].map(|kind| key_state(&mut client, kind.key()));
        holder = module.2.clone();
        // The second command ran a moment later, so its lease ends later.
        let apart = i128::from(module.3.abs_diff(script.3));
        let allowed = i128::try_from(longest_ms).expect("a short time") + 2;
        assert!(
            (module.3 < 0) == (script.3 < 0) && apart <= allowed,
            "step {number}: {step:?}: ends at {} and {}",
            module.3,
            script.3
        );
        assert_eq!(
            (module.0, module.1, module.2),
            (script.0, script.1, script.2),
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

fn both_kinds_of_clients_of_one_lock_agree_with_the_model(flavour: &Flavour) {
    const STEPS: usize = 3_000;
    let key = "gpu_lock:0";
    let mut rng = seeded_rng();
    let server = flavour.start();
    let mut clients = [server.client(), server.client(), server.client()];
    let mut owners = Owners::new(&mut rng);
    // The model is the holder of the lock.
    let mut holder: Option<Vec<u8>> = None;

    for number in 0..STEPS {
        let which = rng.usize(..clients.len());
        let client = &mut clients[which];
        let kind = rng.pick(&[Kind::Module, Kind::Script]);
        let held = holder.clone().map_or(Value::Null, Value::Bulk);
        let mut short = None;
        let step = match rng.usize(..12) {
            0..4 => {
                let (owner, lease) = (owners.pick(&mut rng), Lease::random(&mut rng));
                let reply = kind.acquire(client, key, &owner, &lease);
                let free = holder.is_none();
                assert_eq!(!reply.is_null(), free, "step {number}: {reply:?}");
                if free {
                    holder = Some(owner);
                    short = lease.is_short().then_some(lease.ms);
                }
                format!("{kind:?} {lease:?} {reply:?}")
            }
            4 => {
                let owner = owners.pick_similar(&held, &mut rng);
                let lease = Lease::px(LONG).ms;
                let reply =
                    call!(client, "GPULOCK.ACQUIRE", key, &owner, "PX", lease, "UNIQUE");
                let holds = holder.as_ref().is_none_or(|holder| *holder == owner);
                assert_eq!(!reply.is_null(), holds, "step {number}: {reply:?}");
                holder = holder.or(Some(owner));
                format!("UNIQUE {reply:?}")
            }
            5..8 => {
                let owner = owners.pick_similar(&held, &mut rng);
                let reply = kind.release(client, key, &owner);
                let holds = holder.as_ref() == Some(&owner);
                assert_eq!(reply, i64::from(holds), "step {number}: {kind:?} {owner:?}");
                holder = holder.filter(|_| !holds);
                format!("{kind:?} release {reply:?}")
            }
            8 | 9 => {
                let owner = owners.pick_similar(&held, &mut rng);
                let lease = Lease::random(&mut rng);
                let Lease { unit, number: n, ms } = &lease;
                let reply = call!(client, "GPULOCK.EXTEND", key, &owner, unit, n);
                let holds = holder.as_ref() == Some(&owner);
                assert_eq!(!reply.is_null(), holds, "step {number}: {reply:?}");
                short = (holds && lease.is_short()).then_some(*ms);
                format!("extend {lease:?} {reply:?}")
            }
            10 => {
                let owner = owners.pick_similar(&held, &mut rng);
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
            wait_past(client, ms);
            holder = None;
        }
        // Check the key, which all clients see, and the module's record of it.
        let expected = holder.clone().map_or(Value::Null, Value::Bulk);
        assert_eq!(call!(client, "GET", key), expected, "step {number}: {step}");
        let seen = call!(client, "GPULOCK.INSPECT", key);
        let owner = if seen.is_null() { Value::Null } else { seen.field("owner") };
        assert_eq!(owner, expected, "step {number}: {step}");
    }
    assert_used(&server);
}

fn a_lock_contended_by_both_kinds_of_clients_never_has_two_owners(flavour: &Flavour) {
    const THREADS: usize = 6;
    const ROUNDS: usize = 25;
    let key = "gpu_lock:0";
    let server = flavour.start();
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for i in 0..THREADS {
            let (kind, inside) = ([Kind::Module, Kind::Script][i % 2], &inside);
            let mut client = server.client();
            let owner = format!("{kind:?}-{i}").into_bytes();
            let lease = Lease::px(LONG);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    wait_until(Duration::from_secs(60), "the lock", || {
                        !kind.acquire(&mut client, key, &owner, &lease).is_null()
                    });
                    let others = inside.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(
                        others, 0,
                        "{kind:?} has a lock that another client holds"
                    );
                    assert_eq!(call!(client, "GET", key).bytes(), owner);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(kind.release(&mut client, key, &owner), 1);
                }
            });
        }
    });
    let counters = stats(&mut server.client());
    let rounds = i64::try_from(THREADS / 2 * ROUNDS).expect("a small number");
    assert_eq!((counters["acquired"], counters["releases"]), (rounds, rounds));
    assert_eq!(counters["ownership_violations"], 0);
    assert_used(&server);
}

/// Checks the counter law, and that there were grants.
fn assert_used(server: &Server) {
    let stats = lawful_stats(&mut server.client());
    assert!(stats["acquired"] + stats["adopted"] > 0, "{stats:?}");
}
