//! A server in small: its keys, its clients, and the lock manager that ships, driven by the engine that
//! ships. Beside the manager, the world keeps queues and holds as the command reference has them, by
//! other means; where the two differ, a law is broken. What the engine writes is checked in
//! `engine_keys.rs`, what clients get in `commands.rs`.

use gpulock_core::engine::{Keyspace, deferred};
use gpulock_core::state::arena::Id;
use gpulock_core::state::lock::Bytes;
use gpulock_core::state::outbox::Grant;
use gpulock_core::state::settings::Settings;
use gpulock_core::state::wait_queue::Waiter;
use gpulock_core::{LockManager, Now};

use crate::engine_keys::Current;
use crate::flaw::Flaw;
use crate::holds::{Held, Holds, Tie};
use crate::keyspace::{KEYS, MemoryKeys, Value, name};
use crate::law::{Breach, Law};
use crate::queue::{Position, Queue, Waits};

/// The number of clients.
pub const CLIENTS: usize = 6;

/// The time at which a world begins, in microseconds since the epoch.
const BEGIN_US: u64 = 1_000_000_000;

/// A server: its keys, its clock, its clients, and the lock manager.
#[derive(Clone, Debug)]
pub struct World {
    /// The lock manager.
    pub manager: LockManager,
    pub(crate) keys: MemoryKeys,
    /// The waiters, in the order that is right.
    pub(crate) queue: Queue,
    /// The holds that are right.
    pub(crate) holds: Holds,
    pub(crate) last_token: u64,
    /// Grants that are not delivered yet: they are at the end of the turn of the server's loop.
    pub(crate) in_flight: Vec<InFlight>,
    /// Grants whose client was gone before they were delivered.
    pub(crate) undelivered: Vec<InFlight>,
    /// The number of connections that each client has had.
    pub(crate) connections: [u64; CLIENTS],
    /// Keys that are absent since the manager was shown that, or freed them, and had to decide who is
    /// next.
    pub(crate) shown_free: [bool; KEYS.len()],
    /// Whether keys may be written.
    pub(crate) writes: Writes,
    /// Deferred work is done at the end of the turn, as in a cluster, where a command may not touch the
    /// keys of others.
    pub(crate) defers_longer: bool,
    /// Work is cut into the smallest portions.
    pub(crate) small_budgets: bool,
    pub(crate) flaw: Flaw,
    pub(crate) current: Current,
    breach: Option<Breach>,
}

/// Whether keys may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writes {
    /// The server accepts writes.
    Accepted,
    /// The server is paused: it executes no command.
    Paused,
    /// The server refuses every write command, and goes on otherwise.
    Refused,
    /// A command of another client is being executed, and the server processes events
    /// meanwhile: connections close, but no timer is fired.
    WithinCommand,
}

/// A grant on its way to a client that waited.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) connection: u64,
    /// Its position.
    pub(crate) position: Position,
    pub(crate) grants: Vec<Grant>,
    pub(crate) waiter: Box<Waiter>,
    pub(crate) set: Vec<Bytes>,
}

impl World {
    /// A server without keys.
    pub fn new(settings: Settings, flaw: Flaw) -> Self {
        let now = Now::from_micros(BEGIN_US);
        Self {
            manager: LockManager::new(settings, 1, now),
            keys: MemoryKeys::new(BEGIN_US),
            queue: Queue::default(),
            holds: Holds::default(),
            last_token: 0,
            in_flight: Vec::new(),
            undelivered: Vec::new(),
            connections: [0; CLIENTS],
            shown_free: [false; KEYS.len()],
            writes: Writes::Accepted,
            defers_longer: false,
            small_budgets: false,
            flaw,
            current: Current::default(),
            breach: None,
        }
    }

    /// Work is cut into the smallest portions from now on.
    pub fn use_small_budgets(&mut self) {
        self.small_budgets = true;
        self.manager.set_budget(1);
    }

    /// The law that was broken first.
    pub fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Notes a breach unless `holds`; the first one is kept.
    pub(crate) fn require(&mut self, law: Law, holds: bool, expected: &'static str) {
        if !holds {
            self.breach = self.breach.or(Some(Breach { law, expected }));
        }
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.keys.now()
    }

    /// Whether keys may be written.
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// A key is about to be written: not while the server would refuse a client's write, and not in
    /// the middle of another client's command.
    pub(crate) fn write_key(&mut self) {
        let is_accepted = self.writes == Writes::Accepted;
        self.require(Law::Permission, is_accepted, "written while writes are accepted");
    }

    /// The keys.
    pub fn keys(&self) -> &MemoryKeys {
        &self.keys
    }

    /// The number of a client's connection, and the client of a connection.
    pub(crate) fn connection(&self, client: usize) -> u64 {
        self.connections[client] * CLIENTS as u64 + client as u64
    }

    /// Whether the client waits, or its grant is in flight.
    pub fn is_waiting(&self, client: usize) -> bool {
        let connection = self.connection(client);
        self.queue.find_connection(connection).is_some()
            || self.in_flight.iter().any(|in_flight| in_flight.connection == connection)
    }

    /// The number of clients that wait.
    pub fn waiting(&self) -> usize {
        self.queue.connected().count()
    }

    /// The token of a lock, as its holder knows it.
    pub fn token(&self, key: usize) -> Option<u64> {
        self.holds[key].as_ref().and_then(|held| held.token)
    }

    /// The index of a lock's key; none when nothing is known of the lock.
    pub(crate) fn key_of(&self, id: Id) -> Option<usize> {
        let lock = self.manager.table().get(id)?;
        KEYS.iter().position(|key| *key == &*lock.key)
    }

    /// Notes which leases have ended: their holds are over by right.
    pub(crate) fn note_ended_leases(&mut self) {
        for key in 0..KEYS.len() {
            if self.keys.get(key).is_none() {
                self.end_hold_by_right(key);
            }
        }
    }

    /// Forgets the holds that are over by right and that the manager has ended.
    pub(crate) fn forget_ended_holds(&mut self) {
        for key in 0..KEYS.len() {
            let is_known = self.token(key).is_some_and(|it| self.manager_holds(key, it));
            self.holds[key].take_if(|held| held.ended && !is_known);
        }
    }

    /// A hold is over by right, and the manager may not know it yet.
    pub(crate) fn end_hold_by_right(&mut self, key: usize) {
        if let Some(held) = &mut self.holds[key] {
            held.ended = true;
        }
    }

    fn manager_holds(&self, key: usize, token: u64) -> bool {
        let id = self.manager.table().find(name(key));
        let hold = id.and_then(|id| self.manager.table().get(id)?.hold.as_ref());
        hold.is_some_and(|hold| hold.token() == Some(token))
    }

    /// Whether a lock is free by right.
    fn is_free_by_right(&self, key: usize) -> bool {
        self.holds[key].as_ref().is_none_or(|held| held.ended)
    }

    /// Whether a lock is granted, and the grant is not received yet.
    pub(crate) fn is_unreceived(&self, key: usize) -> bool {
        self.holds[key].as_ref().is_some_and(|held| held.token.is_none())
    }

    /// A key is set to the owner that was granted its lock.
    pub(crate) fn begin_hold(&mut self, key: usize, owner: &[u8], until_ms: u64) {
        self.end_by_module(key);
        let is_free = self.is_free_by_right(key);
        self.require(Law::MutualExclusion, is_free, "granted when it is free");
        self.write_key();
        self.holds[key] = Some(Held::new(owner));
        self.shown_free[key] = false;
        let value = Value::Text(Bytes::from_slice(owner), Some(until_ms));
        self.keys.put_ours(key, value);
    }

    /// A key is deleted because its lock is no longer held.
    pub(crate) fn end_hold(&mut self, key: usize) {
        self.end_by_module(key);
        let is_free = self.is_free_by_right(key);
        self.require(Law::MutualExclusion, is_free, "deleted when it is free");
        self.write_key();
        self.holds[key] = None;
        self.keys.put(key, None);
        self.shown_free[key] = true;
    }

    /// A client receives a grant, with this token.
    pub(crate) fn receive_token(&mut self, key: usize, token: u64, session: Tie) {
        self.require(
            Law::RisingTokens,
            token > self.last_token,
            "larger than all before",
        );
        self.last_token = self.last_token.max(token);
        if let Some(held) = &mut self.holds[key] {
            held.token = Some(token);
            held.session = session;
        }
    }

    /// A client receives a renewal, with the token of the hold; an adopted hold gets its first one.
    pub(crate) fn receive_renewal(&mut self, key: usize, token: u64) {
        if token > self.last_token {
            let goes_on = self.holds[key].as_ref();
            let goes_on = goes_on.is_some_and(|held| !held.ended && held.token.is_some());
            self.require(
                Law::RisingTokens,
                !goes_on,
                "a hold that goes on keeps its token",
            );
            self.holds[key] = self.keys.text(key).map(Held::new);
            self.receive_token(key, token, Tie::No);
        }
        let is_same = self.token(key) == Some(token);
        self.require(Law::RisingTokens, is_same, "renewed with its own token");
        if let Some(held) = &mut self.holds[key] {
            let is_over = std::mem::take(&mut held.over);
            held.renewed = true;
            held.ended = false;
            self.require(Law::MutualExclusion, !is_over, "what was over is not renewed");
        }
        if let Some(held) = &mut self.holds[key] {
            held.forget_closed_session();
        }
    }

    /// The module ends a hold, if it may: a grant that did not arrive gives its waiter the position
    /// back.
    fn end_by_module(&mut self, key: usize) {
        if !self.is_ended_by_module(key) {
            return;
        }
        if let Some(Held { lost: true, renewed: false, token: Some(token), .. }) =
            self.holds[key].take()
        {
            self.restore_position(token);
        }
    }

    /// A waiter that did not receive its grant gets its position back, once for all locks of a set.
    fn restore_position(&mut self, token: u64) {
        let is_it = |grant: &Grant| grant.token == token;
        let mut lost = self.undelivered.iter();
        let Some(lost) = lost.find(|lost| lost.grants.iter().any(is_it)) else { return };
        let mut position = lost.position.clone();
        let is_queued = self.queue.positions().iter().any(|other| {
            let meets = |key| other.keys.contains(key);
            other.unique
                && other.owner == position.owner
                && position.keys.iter().any(meets)
        });
        let keep_ms = self.manager.settings().place_keep;
        if position.unique && keep_ms > 0 && !is_queued {
            position.waits = Waits::Kept { until_ms: self.now().ms() + keep_ms };
            self.queue.insert(position);
        }
    }

    /// Deletes a key, or sets it, as other clients do: its hold is over by right.
    pub(crate) fn put_external(&mut self, key: usize, value: Option<Value>) {
        self.end_hold_by_right(key);
        // A lease that others have shortened unnoticed is over as well, but that cannot be known.
        let is_over = self.keys.is_over(key) && self.is_known_to_be_over(key);
        if let Some(held) = &mut self.holds[key] {
            held.over |= is_over;
        }
        self.shown_free[key] = false;
        self.keys.put_external_value(key, value);
    }

    fn is_known_to_be_over(&self, key: usize) -> bool {
        let id = self.manager.table().find(name(key));
        id.is_some_and(|id| self.manager.is_lease_over(id, self.now()))
    }

    /// Carries out the deferred work, if the server lets it start.
    pub(crate) fn run_deferred(&mut self) {
        if self.may_start() {
            let began = self.now();
            deferred::run(self, began);
            self.take_replies();
        }
        if !self.manager.deferred().has_work() {
            self.undelivered.clear();
        }
    }

    /// What follows each step: deferred work is carried out, waiting clients get their replies, idle
    /// locks are forgotten, and the laws are checked.
    pub(crate) fn finish_step(&mut self) {
        self.take_replies();
        if !self.defers_longer {
            self.run_deferred();
        }
        self.manager.forget_idle();
        self.check();
    }
}
