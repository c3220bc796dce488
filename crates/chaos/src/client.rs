//! One client of the load, which sends random calls one after the other. It checks
//! nothing; it only records its calls and their replies.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use gpulock_testkit::Value;

use crate::barrier::Barrier;
use crate::clock::{MS, now};
use crate::history::{
    AcquireOptions, Call, Connection, Entry, EntryWriter, Event, Groups, Lock, Owner,
    Reply, Request,
};
use crate::locks::{CONTENDED_LOCKS, GpuSet};
use crate::protocol::{command_words, parse_reply};
use crate::rng::chance;
use crate::wire::Wire;

/// Time allowed for a reply beyond the requested wait: a server with an append-only file
/// on a busy disk has been seen to stall for nine seconds.
pub const REPLY_TIMEOUT_MS: u64 = 20_000;

/// The longest lease of contended locks, in ms.
pub const LONGEST_LEASE_MS: u64 = 800;

/// The sizes of the groups of a GPU set.
const GROUP_SIZES: [&[usize]; 4] = [&[4, 4], &[2, 2, 4], &[3, 3, 2], &[2, 2, 2, 2]];

/// The number of shares, and of tags for NEAR.
const SHARES: u32 = 3;
const TAGS: u32 = 3;

/// The user of some clients, whose permissions a fault may revoke.
pub const WORKER: &str = "worker";

/// What all clients of a round share.
#[derive(Clone)]
pub struct ClientContext {
    /// Address of the server.
    pub address: (Ipv4Addr, u16),
    /// Each call enters the barrier, so that a fault can have the server for itself.
    pub barrier: Barrier,
    /// Set to stop the clients.
    pub stop: Arc<AtomicBool>,
}

impl ClientContext {
    /// The context for a server.
    pub fn new(address: (Ipv4Addr, u16)) -> Self {
        Self { address, barrier: Barrier::default(), stop: Arc::default() }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Where a client cuts its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutPoint {
    /// After half of the command is sent.
    HalfSent,
    /// After the command is sent, without waiting for the reply.
    Sent,
    /// After waiting for this many ms.
    Waiting(u64),
}

/// A client.
pub struct Client<P> {
    number: u32,
    db: u8,
    shared: ClientContext,
    rng: Rng,
    writer: P,
    wire: Option<Wire>,
    connections: u32,
    owners: u32,
    /// The most recent holder seen by INSPECT.
    last_seen: Option<(Lock, Owner, Option<u64>)>,
}

/// A lock granted to this client.
struct Held {
    lock: Lock,
    owner: Owner,
    token: u64,
    options: AcquireOptions,
}

impl<P: EntryWriter> Client<P> {
    /// A client; its number is unique and not 0.
    pub fn new(number: u32, shared: ClientContext, rng: Rng, writer: P) -> Self {
        Self {
            number,
            db: u8::from(number % 4 == 3),
            shared,
            rng,
            writer,
            wire: None,
            connections: 0,
            owners: 0,
            last_seen: None,
        }
    }

    /// Sends calls until the round stops, then disconnects.
    pub fn run(&mut self) {
        while !self.shared.is_stopped() {
            match self.rng.u64(0..=99) {
                0..53 => self.acquire_one(),
                53..59 => self.wait_in_slices(),
                59..67 => self.acquire_any(),
                67..73 => self.acquire_gpus(),
                73..74 => self.hold_after_notice(),
                74..77 => self.acquire_two(),
                77..83 => self.use_short_lived_lock(),
                83..93 => self.inspect(),
                93..96 => self.release_as_other_owner(),
                96..99 => self.force_release(),
                _ => self.disconnect(),
            }
        }
        self.disconnect();
    }

    fn acquire_one(&mut self) {
        let (lock, owner, options) =
            (self.single_lock(), self.new_owner(), self.random_options());
        let cut = self.maybe_disconnect();
        let options = if cut.is_some() {
            AcquireOptions { lease_ms: 40, ..options }
        } else {
            options
        };
        match self.call(Request::Acquire { lock, owner, options }, cut) {
            Reply::Token(token) => {
                self.hold_and_release(&Held { lock, owner, token, options })
            }
            unknown if unknown.is_unknown() => {
                self.resolve_lost_acquire(lock, owner, options)
            }
            _ => {}
        }
    }

    /// Resolves an acquire call without a reply.
    fn resolve_lost_acquire(
        &mut self,
        lock: Lock,
        owner: Owner,
        options: AcquireOptions,
    ) {
        if !options.unique {
            self.request(Request::Release { lock, owner, token: None });
        } else if let Reply::Token(token) = self.request(Request::Acquire {
            lock,
            owner,
            options: AcquireOptions { block_ms: None, ..options },
        }) {
            self.hold_and_release(&Held { lock, owner, token, options });
        }
    }

    fn wait_in_slices(&mut self) {
        let (lock, owner) = (self.single_lock(), self.new_owner());
        let AcquireOptions { mut priority, share, .. } = self.random_options();
        for _ in 0..8 {
            if chance(&mut self.rng, 3) {
                priority = self.random_priority();
            }
            let options = AcquireOptions {
                block_ms: Some(self.rng.u64(2..=25)),
                unique: true,
                keep_ms: self.random_keep(),
                priority,
                share,
                ..self.random_options()
            };
            let cut = self.maybe_disconnect();
            if let Reply::Token(token) =
                self.call(Request::Acquire { lock, owner, options }, cut)
            {
                return self.hold_and_release(&Held { lock, owner, token, options });
            }
            if self.shared.is_stopped() {
                return;
            }
        }
    }

    fn acquire_any(&mut self) {
        let mut locks: Vec<Lock> = Vec::new();
        for _ in 0..self.rng.u64(2..=4) {
            let lock = self.random_lock();
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        let count = if locks.len() > 1 && self.rng.bool() { 2 } else { 1 };
        let options = self.random_options();
        let options = AcquireOptions {
            block_ms: options.block_ms.map(|ms| ms.min(300)),
            ..options
        };
        let (owner, cut) = (self.new_owner(), self.maybe_disconnect());
        let (all, near) = (locks.clone(), self.random_tag());
        let request =
            Request::AcquireAny { locks, count, groups: None, near, owner, options };
        match self.call(request, cut) {
            Reply::Tokens(tokens) => {
                for (lock, token) in tokens {
                    self.hold_and_release(&Held { lock, owner, token, options });
                }
            }
            unknown if unknown.is_unknown() => {
                for lock in all {
                    self.request(Request::Release { lock, owner, token: None });
                }
            }
            _ => {}
        }
    }

    /// Acquires locks of a GPU set, mostly of some of its groups.
    fn acquire_gpus(&mut self) {
        let (locks, groups, count) = self.random_groups();
        let groups = chance(&mut self.rng, 75).then_some(groups);
        let options = self.random_options();
        let block_ms = options.block_ms.map(|ms| if ms > 500 { 2 * ms } else { ms });
        let options = AcquireOptions { block_ms, ..options };
        let (owner, near) = (self.new_owner(), self.random_tag());
        let request = |options| {
            let (locks, groups) = (locks.clone(), groups.clone());
            Request::AcquireAny { locks, count, groups, near, owner, options }
        };
        let cut = self.maybe_disconnect();
        let mut reply = self.call(request(options), cut);
        if reply.is_unknown() && options.unique {
            reply = self.request(request(AcquireOptions { block_ms: None, ..options }));
        }
        match reply {
            Reply::Tokens(tokens) => {
                for (lock, token) in tokens {
                    self.hold_and_release(&Held { lock, owner, token, options });
                }
            }
            unknown if unknown.is_unknown() => {
                for lock in locks {
                    self.request(Request::Release { lock, owner, token: None });
                }
            }
            _ => {}
        }
    }

    /// All locks of a GPU set in groups, in random order, and a number of locks of each.
    fn random_groups(&mut self) -> (Vec<Lock>, Groups, usize) {
        let mut sizes = self.rng.choice(GROUP_SIZES).unwrap_or_default().to_vec();
        let all = GpuSet::current(self.db).locks();
        let mut left = &all[..];
        let mut groups: Vec<Vec<Lock>> = Vec::new();
        for size in &sizes {
            let (group, others) = left.split_at(*size);
            let mut group = group.to_vec();
            self.rng.shuffle(&mut group);
            groups.push(group);
            left = others;
        }
        self.rng.shuffle(&mut groups);
        sizes = groups.iter().map(Vec::len).collect();
        let count = self.rng.choice(&sizes).copied().unwrap_or(1);
        let count = if self.rng.bool() { count } else { self.rng.usize(1..=count) };
        let large = sizes.iter().filter(|size| **size >= count).count();
        let wanted = if self.rng.bool() { 1 } else { self.rng.usize(1..=large) };
        (groups.concat(), Groups { wanted, sizes }, count)
    }

    /// Is given notice, and renews its lock until it is taken away.
    fn hold_after_notice(&mut self) {
        let (lock, owner) = (self.single_lock(), self.new_owner());
        let options = AcquireOptions {
            block_ms: Some(self.rng.u64(20..=400)),
            grace_ms: None,
            ..self.random_options()
        };
        let Reply::Token(token) = self.request(Request::Acquire { lock, owner, options })
        else {
            return;
        };
        let after_ms = self.rng.u64(1..=30);
        let expected = self.rng.bool().then_some(token);
        self.request(Request::ForceRelease {
            lock,
            owner: Some(owner),
            token: expected,
            after_ms: Some(after_ms),
        });
        let until = now() + (after_ms + 10) * MS;
        let lease_ms = LONGEST_LEASE_MS;
        while now() < until {
            thread::sleep(Duration::from_millis(self.rng.u64(1..=8)));
            let renewed = if options.unique && self.rng.bool() {
                let options = AcquireOptions { lease_ms, block_ms: None, ..options };
                self.request(Request::Acquire { lock, owner, options })
            } else {
                self.request(Request::Extend { lock, owner, lease_ms, token: None })
            };
            match renewed {
                Reply::Null => break,
                Reply::Token(_) if chance(&mut self.rng, 20) => {
                    self.request(Request::Inspect { lock });
                }
                _ => {}
            }
        }
        self.request(Request::Release { lock, owner, token: None });
    }

    /// Holds one lock while it waits for another, which can cause deadlocks.
    fn acquire_two(&mut self) {
        let (first, second, owner) =
            (self.random_lock(), self.random_lock(), self.new_owner());
        let options =
            AcquireOptions { unique: true, block_ms: Some(20), ..self.random_options() };
        let Reply::Token(token) =
            self.request(Request::Acquire { lock: first, owner, options })
        else {
            return;
        };
        if first != second {
            let options =
                AcquireOptions { block_ms: Some(self.rng.u64(5..=150)), ..options };
            if let Reply::Token(token) =
                self.request(Request::Acquire { lock: second, owner, options })
            {
                self.hold_and_release(&Held { lock: second, owner, token, options });
            }
        }
        self.hold_and_release(&Held { lock: first, owner, token, options });
    }

    fn use_short_lived_lock(&mut self) {
        let (lock, owner) = (Lock::short_lived(self.db), self.new_owner());
        let options = AcquireOptions {
            block_ms: self.rng.bool().then(|| self.rng.u64(1..=20)),
            priority: self.random_priority(),
            ..AcquireOptions::with_lease(60_000)
        };
        let Reply::Token(_) = self.request(Request::Acquire { lock, owner, options })
        else {
            return;
        };
        if chance(&mut self.rng, 30) {
            self.request(Request::Extend { lock, owner, lease_ms: 60_000, token: None });
        }
        self.request(Request::Release { lock, owner, token: None });
        if chance(&mut self.rng, 20) {
            self.request(Request::Release { lock, owner, token: None });
        }
    }

    fn inspect(&mut self) {
        let lock = self.single_lock();
        if let Reply::Inspection(inspection) = self.request(Request::Inspect { lock }) {
            self.last_seen =
                inspection.owner.map(|owner| (lock, owner, inspection.token));
        }
    }

    fn release_as_other_owner(&mut self) {
        let (lock, owner) = (self.random_lock(), self.new_owner());
        let token = self.last_seen.filter(|seen| seen.0 == lock).and_then(|seen| seen.2);
        self.request(Request::Release { lock, owner, token });
    }

    fn force_release(&mut self) {
        let Some((lock, owner, token)) = self.last_seen.take() else { return };
        let by_token = chance(&mut self.rng, 70);
        let token = token.filter(|_| by_token);
        let owner = (token.is_none() || self.rng.bool()).then_some(owner);
        let after_ms = chance(&mut self.rng, 40).then(|| self.rng.u64(1..=100));
        self.request(Request::ForceRelease { lock, owner, token, after_ms });
    }

    /// Holds a lock for a while, and gives it up in one of several ways.
    fn hold_and_release(&mut self, held: &Held) {
        let Held { lock, owner, options, .. } = *held;
        let mut token = held.token;
        if chance(&mut self.rng, 10) {
            let lease_ms = self.random_lease();
            let expected = self.rng.bool().then_some(token);
            match self.request(Request::Extend { lock, owner, lease_ms, token: expected })
            {
                Reply::Token(renewed) => token = renewed,
                Reply::Null => return,
                _ => {}
            }
        }
        match self.rng.u64(0..=99) {
            0..75 => {}
            75..95 => thread::sleep(Duration::from_micros(self.rng.u64(1..=600))),
            _ => thread::sleep(Duration::from_millis(self.rng.u64(1..=5))),
        }
        match self.rng.u64(0..=99) {
            0..4 => {
                let token = Some(token - 1);
                self.request(Request::Release { lock, owner, token });
            }
            4..8 if options.grace_ms.is_some() => return self.disconnect(),
            8..12 if options.unique && options.grace_ms.is_some_and(|ms| ms > 0) => {
                self.disconnect();
                let options = AcquireOptions { block_ms: None, ..options };
                match self.request(Request::Acquire { lock, owner, options }) {
                    Reply::Token(renewed) => token = renewed,
                    Reply::Null => return,
                    _ => {}
                }
            }
            12..20 if options.lease_ms <= 50 => return,
            _ => {}
        }
        self.release(lock, owner, token);
    }

    fn release(&mut self, lock: Lock, owner: Owner, token: u64) {
        let token = self.rng.bool().then_some(token);
        let cut = self.maybe_disconnect();
        let request = Request::Release { lock, owner, token };
        let reply = self.call(request.clone(), cut);
        let again = reply.is_unknown()
            || matches!(reply, Reply::Error(_))
            || chance(&mut self.rng, 3);
        if again {
            self.request(request);
        }
    }

    fn random_lock(&mut self) -> Lock {
        Lock(self.db, self.rng.u32(..CONTENDED_LOCKS))
    }

    /// For a call that names no other lock: a contended lock, most often the first one,
    /// which has a longer queue, or sometimes a GPU.
    fn single_lock(&mut self) -> Lock {
        match self.rng.u64(0..=99) {
            0..25 => Lock(self.db, 0),
            25..33 => {
                let gpus = GpuSet::current(self.db).locks();
                gpus[self.rng.usize(..gpus.len())]
            }
            _ => self.random_lock(),
        }
    }

    fn new_owner(&mut self) -> Owner {
        self.owners += 1;
        Owner(self.number, self.owners)
    }

    fn random_lease(&mut self) -> u64 {
        match chance(&mut self.rng, 12) {
            true => self.rng.u64(1..=40),
            false => self.rng.u64(300..=LONGEST_LEASE_MS),
        }
    }

    fn random_options(&mut self) -> AcquireOptions {
        let block_ms = match self.rng.u64(0..=99) {
            0..40 => None,
            40..75 => Some(self.rng.u64(1..=100)),
            _ => Some(self.rng.u64(500..=6_000)),
        };
        let unique = chance(&mut self.rng, 40);
        let is_session = chance(&mut self.rng, 30);
        let has_grace = self.rng.bool();
        let grace = if has_grace { self.rng.u64(1..=80) } else { 0 };
        AcquireOptions {
            lease_ms: self.random_lease(),
            block_ms,
            unique,
            grace_ms: is_session.then_some(grace),
            // KEEP requires UNIQUE.
            keep_ms: self.random_keep().filter(|_| unique),
            priority: self.random_priority(),
            share: chance(&mut self.rng, 25).then(|| self.rng.u32(..SHARES)),
        }
    }

    /// Mostly 0.
    fn random_priority(&mut self) -> i64 {
        if chance(&mut self.rng, 30) { self.rng.i64(-2..=3) } else { 0 }
    }

    fn random_keep(&mut self) -> Option<u64> {
        let is_given = chance(&mut self.rng, 40);
        is_given.then(|| *self.rng.choice(&[0, 5, 50, 1_000]).unwrap_or(&0))
    }

    fn random_tag(&mut self) -> Option<u32> {
        self.rng.bool().then(|| self.rng.u32(..TAGS))
    }

    fn maybe_disconnect(&mut self) -> Option<CutPoint> {
        if !chance(&mut self.rng, 1) {
            return None;
        }
        Some(match self.rng.u64(0..=4) {
            0 => CutPoint::HalfSent,
            1..3 => CutPoint::Sent,
            _ => CutPoint::Waiting(self.rng.u64(1..=20)),
        })
    }

    fn request(&mut self, request: Request) -> Reply {
        self.call(request, None)
    }

    /// Sends a call, and records it with its reply.
    fn call(&mut self, request: Request, cut: Option<CutPoint>) -> Reply {
        let barrier = self.shared.barrier.clone();
        let _inside = barrier.enter();
        if !self.connect() {
            return Reply::Lost;
        }
        let connection = Connection(self.number, self.connections);
        let sent = now();
        let mut call =
            Call { connection, sent, received: sent, request, reply: Reply::Lost };
        self.writer.begin_call(&call);
        let reply = self.exchange(&call.request, cut);
        let closing = now();
        if reply.is_unknown() {
            self.wire = None;
        }
        call.reply = reply.clone();
        call.received = now();
        self.writer.write(Entry::Call(call));
        if reply.is_unknown() {
            self.writer.write(Entry::Event(Event::Closed { connection, at: closing }));
        }
        reply
    }

    fn exchange(&mut self, request: &Request, cut: Option<CutPoint>) -> Reply {
        let Some(wire) = &mut self.wire else { return Reply::Lost };
        let words = command_words(request);
        let sent = match cut {
            Some(CutPoint::HalfSent) => wire.send_half(&words),
            _ => wire.send(&words),
        };
        let block_ms =
            request.options().and_then(|options| options.block_ms).unwrap_or(0);
        let timeout_ms = match cut {
            None => block_ms + REPLY_TIMEOUT_MS,
            Some(CutPoint::Waiting(ms)) => ms,
            Some(CutPoint::HalfSent | CutPoint::Sent) => return Reply::Lost,
        };
        match sent.and_then(|()| wire.read(Duration::from_millis(timeout_ms))) {
            Ok(Some(value)) => parse_reply(request, &value),
            Ok(None) if cut.is_none() => Reply::Timeout,
            Ok(None) | Err(_) => Reply::Lost,
        }
    }

    /// Closes the connection.
    fn disconnect(&mut self) {
        let at = now();
        if self.wire.take().is_some() {
            let connection = Connection(self.number, self.connections);
            self.writer.write(Entry::Event(Event::Closed { connection, at }));
        }
    }

    /// Connects if necessary. Returns false if the round stops first.
    fn connect(&mut self) -> bool {
        while self.wire.is_none() {
            if self.shared.is_stopped() {
                return false;
            }
            self.connections += 1;
            // Every second connection of some clients has subscriptions.
            let subscribes = self.number % 4 == 2 && self.connections.is_multiple_of(2);
            self.wire = self.handshake(subscribes);
            if subscribes && self.wire.is_some() {
                let connection = Connection(self.number, self.connections);
                self.writer.write(Entry::Event(Event::Subscribed { connection }));
            }
            if self.wire.is_none() {
                // The server is down or loading, with no event to wait for.
                thread::sleep(Duration::from_millis(2));
            }
        }
        true
    }

    fn handshake(&self, subscribes: bool) -> Option<Wire> {
        let mut wire = Wire::connect(self.shared.address).ok()?;
        let name = Connection(self.number, self.connections);
        if self.number % 4 == 1 {
            request_ok(&mut wire, &format!("AUTH {WORKER} x"))?;
        }
        if subscribes {
            let Value::Map(_) = request_line(&mut wire, "HELLO 3")? else { return None };
        }
        request_ok(&mut wire, &format!("CLIENT SETNAME {name}"))?;
        request_ok(&mut wire, &format!("SELECT {}", self.db))?;
        if subscribes {
            // The reply is a push, which `read` skips; so wait for the reply to PING.
            wire.send(&["SUBSCRIBE".to_owned(), "gpu_lock:lock:1".to_owned()]).ok()?;
            (request_line(&mut wire, "PING")? == "PONG").then_some(())?;
        }
        Some(wire)
    }
}

fn request_line(wire: &mut Wire, line: &str) -> Option<Value> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    wire.send(&words).ok()?;
    wire.read(Duration::from_millis(REPLY_TIMEOUT_MS)).ok()?
}

/// Sends a line whose reply must be OK.
fn request_ok(wire: &mut Wire, line: &str) -> Option<()> {
    (request_line(wire, line)? == "OK").then_some(())
}
