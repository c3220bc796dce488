//! One client of the load: what it asks, one call after the other, drawn by lot. It holds
//! nobody to anything: it only writes down what it asked and heard.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gpulock_testkit::Value;

use crate::clock::{MS, Nanos, now};
use crate::dice::Dice;
use crate::gate::Gate;
use crate::history::{
    Answer, Ask, Call, Connection, Entry, Event, How, Lock, Owner, Pen,
};
use crate::speech::{meaning, words};
use crate::wire::Wire;

/// How long a call may take beyond the time it was asked to wait: a server with an append-only
/// file on a disk that others keep busy was seen to stand still for nine seconds.
pub const PATIENCE_MS: u64 = 20_000;

/// The longest lease that the load asks for on a lock that is fought for, in ms.
pub const LONGEST_LEASE_MS: u64 = 800;

/// How many locks of each database are fought for.
pub const HOT: u32 = 10;

/// The first of the locks that are used for a moment and never again: their histories are
/// small enough for `linearizable`.
pub const FIRST_BRIEF: u32 = 1_000;

/// For how long a brief lock is in use.
const BRIEF: Nanos = 3 * MS;

/// The user of some clients, whose rights may be withdrawn.
pub const WORKER: &str = "worker";

/// What all clients of a run share.
#[derive(Clone)]
pub struct Floor {
    /// Where the server listens.
    pub address: (Ipv4Addr, u16),
    /// Whoever asks goes through it, so that a fault can have the server for itself.
    pub gate: Gate,
    /// No new calls.
    pub stop: Arc<AtomicBool>,
}

impl Floor {
    /// A floor in front of a server.
    pub fn new(address: (Ipv4Addr, u16)) -> Self {
        Self { address, gate: Gate::default(), stop: Arc::default() }
    }

    fn is_closed(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Where a client cuts its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Half the call is sent.
    HalfSent,
    /// The call is sent, and nobody waits for the answer.
    Sent,
    /// After so many ms.
    Waiting(u64),
}

/// A client.
pub struct Client<P> {
    number: u32,
    db: u8,
    floor: Floor,
    dice: Dice,
    pen: P,
    wire: Option<Wire>,
    connections: u32,
    owners: u32,
    /// A hold of anybody's, seen a moment ago.
    seen: Option<(Lock, Owner, Option<u64>)>,
}

/// A lock that this client was granted.
struct Held {
    lock: Lock,
    owner: Owner,
    token: u64,
    how: How,
}

impl<P: Pen> Client<P> {
    /// A client with a number of its own, not 0.
    pub fn new(number: u32, floor: Floor, dice: Dice, pen: P) -> Self {
        Self {
            number,
            db: u8::from(number % 4 == 3),
            floor,
            dice,
            pen,
            wire: None,
            connections: 0,
            owners: 0,
            seen: None,
        }
    }

    /// Asks until the floor is closed, then gives up what it holds and leaves.
    pub fn run(&mut self) {
        while !self.floor.is_closed() {
            match self.dice.between(0, 99) {
                0..58 => self.take_one(),
                58..64 => self.wait_in_slices(),
                64..74 => self.take_some(),
                74..77 => self.take_two_in_turn(),
                77..83 => self.take_a_brief_one(),
                83..93 => self.look(),
                93..96 => self.release_as_a_stranger(),
                96..99 => self.force(),
                _ => self.leave(),
            }
        }
        self.leave();
    }

    fn take_one(&mut self) {
        let (lock, owner, how) = (self.hot_lock(), self.new_owner(), self.some_how());
        let cut = self.maybe_cut();
        let how = if cut.is_some() { How { lease_ms: 40, ..how } } else { how };
        match self.call(Ask::Acquire { lock, owner, how }, cut) {
            Answer::Token(token) => self.hold(&Held { lock, owner, token, how }),
            unknown if unknown.is_unknown() => self.find_out(lock, owner, how),
            _ => {}
        }
    }

    /// After a lost answer.
    fn find_out(&mut self, lock: Lock, owner: Owner, how: How) {
        if !how.unique {
            self.ask(Ask::Release { lock, owner, token: None });
        } else if let Answer::Token(token) =
            self.ask(Ask::Acquire { lock, owner, how: How { block_ms: None, ..how } })
        {
            self.hold(&Held { lock, owner, token, how });
        }
    }

    fn wait_in_slices(&mut self) {
        let (lock, owner) = (self.hot_lock(), self.new_owner());
        for _ in 0..8 {
            let how = How {
                block_ms: Some(self.dice.between(2, 25)),
                unique: true,
                ..self.some_how()
            };
            let cut = self.maybe_cut();
            if let Answer::Token(token) =
                self.call(Ask::Acquire { lock, owner, how }, cut)
            {
                return self.hold(&Held { lock, owner, token, how });
            }
            if self.floor.is_closed() {
                return;
            }
        }
    }

    fn take_some(&mut self) {
        let mut locks: Vec<Lock> = Vec::new();
        for _ in 0..self.dice.between(2, 4) {
            let lock = self.hot_lock();
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        let count = if locks.len() > 1 && self.dice.percent(50) { 2 } else { 1 };
        let how = self.some_how();
        let how = How { block_ms: how.block_ms.map(|ms| ms.min(300)), ..how };
        let (owner, cut) = (self.new_owner(), self.maybe_cut());
        let all = locks.clone();
        match self.call(Ask::AcquireAny { locks, count, owner, how }, cut) {
            Answer::Tokens(tokens) => {
                for (lock, token) in tokens {
                    self.hold(&Held { lock, owner, token, how });
                }
            }
            unknown if unknown.is_unknown() => {
                for lock in all {
                    self.ask(Ask::Release { lock, owner, token: None });
                }
            }
            _ => {}
        }
    }

    /// Holds one while it waits for another, as those do who end in a deadlock.
    fn take_two_in_turn(&mut self) {
        let (first, second, owner) = (self.hot_lock(), self.hot_lock(), self.new_owner());
        let how = How { unique: true, block_ms: Some(20), ..self.some_how() };
        let Answer::Token(token) = self.ask(Ask::Acquire { lock: first, owner, how })
        else {
            return;
        };
        if first != second {
            let how = How { block_ms: Some(self.dice.between(5, 150)), ..how };
            if let Answer::Token(token) =
                self.ask(Ask::Acquire { lock: second, owner, how })
            {
                self.hold(&Held { lock: second, owner, token, how });
            }
        }
        self.hold(&Held { lock: first, owner, token, how });
    }

    fn take_a_brief_one(&mut self) {
        let number =
            FIRST_BRIEF + u32::try_from(now() / BRIEF % 1_000_000_000).unwrap_or(0);
        let (lock, owner) = (Lock(self.db, number), self.new_owner());
        let block_ms = self.dice.percent(50).then(|| self.dice.between(1, 20));
        let how = How { lease_ms: 60_000, block_ms, unique: false, grace_ms: None };
        let Answer::Token(_) = self.ask(Ask::Acquire { lock, owner, how }) else {
            return;
        };
        if self.dice.percent(30) {
            self.ask(Ask::Extend { lock, owner, lease_ms: 60_000, token: None });
        }
        self.ask(Ask::Release { lock, owner, token: None });
        if self.dice.percent(20) {
            self.ask(Ask::Release { lock, owner, token: None });
        }
    }

    fn look(&mut self) {
        let lock = self.hot_lock();
        if let Answer::Shown(shown) = self.ask(Ask::Inspect { lock }) {
            self.seen = shown.owner.map(|owner| (lock, owner, shown.token));
        }
    }

    fn release_as_a_stranger(&mut self) {
        let (lock, owner) = (self.hot_lock(), self.new_owner());
        let token = self.seen.filter(|seen| seen.0 == lock).and_then(|seen| seen.2);
        self.ask(Ask::Release { lock, owner, token });
    }

    fn force(&mut self) {
        let Some((lock, owner, token)) = self.seen.take() else { return };
        let by_token = self.dice.percent(70);
        let token = token.filter(|_| by_token);
        let owner = (token.is_none() || self.dice.percent(50)).then_some(owner);
        self.ask(Ask::Force { lock, owner, token });
    }

    /// Uses a lock for a while, and gives it up in one of the ways there are.
    fn hold(&mut self, held: &Held) {
        let Held { lock, owner, how, .. } = *held;
        let mut token = held.token;
        if self.dice.percent(10) {
            let lease_ms = self.some_lease();
            let asked = self.dice.percent(50).then_some(token);
            match self.ask(Ask::Extend { lock, owner, lease_ms, token: asked }) {
                Answer::Token(renewed) => token = renewed,
                Answer::Null => return,
                _ => {}
            }
        }
        match self.dice.between(0, 99) {
            0..75 => {}
            75..95 => thread::sleep(Duration::from_micros(self.dice.between(1, 600))),
            _ => thread::sleep(Duration::from_millis(self.dice.between(1, 5))),
        }
        match self.dice.between(0, 99) {
            0..4 => {
                let token = Some(token - 1);
                self.ask(Ask::Release { lock, owner, token });
            }
            4..8 if how.grace_ms.is_some() => return self.leave(),
            8..12 if how.unique && how.grace_ms.is_some_and(|ms| ms > 0) => {
                self.leave();
                let how = How { block_ms: None, ..how };
                match self.ask(Ask::Acquire { lock, owner, how }) {
                    Answer::Token(renewed) => token = renewed,
                    Answer::Null => return,
                    _ => {}
                }
            }
            12..20 if how.lease_ms <= 50 => return,
            _ => {}
        }
        self.give_back(lock, owner, token);
    }

    fn give_back(&mut self, lock: Lock, owner: Owner, token: u64) {
        let token = self.dice.percent(50).then_some(token);
        let cut = self.maybe_cut();
        let ask = Ask::Release { lock, owner, token };
        let answer = self.call(ask.clone(), cut);
        let again = answer.is_unknown()
            || matches!(answer, Answer::Refused(_))
            || self.dice.percent(3);
        if again {
            self.ask(ask);
        }
    }

    fn hot_lock(&mut self) -> Lock {
        Lock(self.db, self.dice.below(HOT))
    }

    fn new_owner(&mut self) -> Owner {
        self.owners += 1;
        Owner(self.number, self.owners)
    }

    fn some_lease(&mut self) -> u64 {
        match self.dice.percent(12) {
            true => self.dice.between(1, 40),
            false => self.dice.between(300, LONGEST_LEASE_MS),
        }
    }

    fn some_how(&mut self) -> How {
        let block_ms = match self.dice.between(0, 99) {
            0..40 => None,
            40..75 => Some(self.dice.between(1, 100)),
            _ => Some(self.dice.between(500, 6_000)),
        };
        let is_tied = self.dice.percent(30);
        let has_grace = self.dice.percent(50);
        let grace = if has_grace { self.dice.between(1, 80) } else { 0 };
        How {
            lease_ms: self.some_lease(),
            block_ms,
            unique: self.dice.percent(40),
            grace_ms: is_tied.then_some(grace),
        }
    }

    fn maybe_cut(&mut self) -> Option<Cut> {
        if !self.dice.percent(1) {
            return None;
        }
        Some(match self.dice.between(0, 4) {
            0 => Cut::HalfSent,
            1..3 => Cut::Sent,
            _ => Cut::Waiting(self.dice.between(1, 20)),
        })
    }

    fn ask(&mut self, ask: Ask) -> Answer {
        self.call(ask, None)
    }

    /// Asks, and writes down what came of it.
    fn call(&mut self, ask: Ask, cut: Option<Cut>) -> Answer {
        let gate = self.floor.gate.clone();
        let _inside = gate.enter();
        if !self.connect() {
            return Answer::Lost;
        }
        let connection = Connection(self.number, self.connections);
        let asked = now();
        let mut call =
            Call { connection, asked, heard: asked, ask, answer: Answer::Lost };
        self.pen.intend(&call);
        let answer = self.exchange(&call.ask, cut);
        let closing = now();
        if answer.is_unknown() {
            self.wire = None;
        }
        call.answer = answer.clone();
        call.heard = now();
        self.pen.write(Entry::Call(call));
        if answer.is_unknown() {
            self.pen.write(Entry::Event(Event::Closed { connection, at: closing }));
        }
        answer
    }

    fn exchange(&mut self, ask: &Ask, cut: Option<Cut>) -> Answer {
        let Some(wire) = &mut self.wire else { return Answer::Lost };
        let words = words(ask);
        let sent = match cut {
            Some(Cut::HalfSent) => wire.send_half(&words),
            _ => wire.send(&words),
        };
        let block_ms = ask.how().and_then(|how| how.block_ms).unwrap_or(0);
        let patience_ms = match cut {
            None => block_ms + PATIENCE_MS,
            Some(Cut::Waiting(ms)) => ms,
            Some(Cut::HalfSent | Cut::Sent) => return Answer::Lost,
        };
        match sent.and_then(|()| wire.read(Duration::from_millis(patience_ms))) {
            Ok(Some(value)) => meaning(ask, &value),
            Ok(None) if cut.is_none() => Answer::Silence,
            Ok(None) | Err(_) => Answer::Lost,
        }
    }

    /// Closes the connection.
    fn leave(&mut self) {
        let at = now();
        if self.wire.take().is_some() {
            let connection = Connection(self.number, self.connections);
            self.pen.write(Entry::Event(Event::Closed { connection, at }));
        }
    }

    /// Sees to it that there is a connection; false when the floor closed before.
    fn connect(&mut self) -> bool {
        while self.wire.is_none() {
            if self.floor.is_closed() {
                return false;
            }
            self.connections += 1;
            // Every second connection of some clients has subscriptions.
            let subscribes = self.number % 4 == 2 && self.connections.is_multiple_of(2);
            self.wire = self.greeted(subscribes);
            if subscribes && self.wire.is_some() {
                let connection = Connection(self.number, self.connections);
                self.pen.write(Entry::Event(Event::Subscribed { connection }));
            }
            if self.wire.is_none() {
                // The server is not there, or loads; nothing says when it will be.
                thread::sleep(Duration::from_millis(2));
            }
        }
        true
    }

    fn greeted(&self, subscribes: bool) -> Option<Wire> {
        let mut wire = Wire::connect(self.floor.address).ok()?;
        let name = Connection(self.number, self.connections);
        if self.number % 4 == 1 {
            greet(&mut wire, &format!("AUTH {WORKER} x"))?;
        }
        if subscribes {
            let Value::Map(_) = said(&mut wire, "HELLO 3")? else { return None };
        }
        greet(&mut wire, &format!("CLIENT SETNAME {name}"))?;
        greet(&mut wire, &format!("SELECT {}", self.db))?;
        if subscribes {
            // Its answer is a push, and only the next one is read.
            wire.send(&["SUBSCRIBE".to_owned(), "gpu_lock:lock:1".to_owned()]).ok()?;
            (said(&mut wire, "PING")? == "PONG").then_some(())?;
        }
        Some(wire)
    }
}

fn said(wire: &mut Wire, line: &str) -> Option<Value> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    wire.send(&words).ok()?;
    wire.read(Duration::from_millis(PATIENCE_MS)).ok()?
}

/// Says a line whose answer must be OK.
fn greet(wire: &mut Wire, line: &str) -> Option<()> {
    (said(wire, line)? == "OK").then_some(())
}
