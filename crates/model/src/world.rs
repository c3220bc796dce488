//! A server in small: its keys, its clients, and the keeper that ships. Beside the keeper
//! stands what the contract says of lines and holds, kept by other means; where the two part
//! a law is broken. What is done to keys is in `shell.rs`, what clients ask in `commands.rs`.

use gpulock_core::arena::Id;
use gpulock_core::keeper::Grant;
use gpulock_core::line::Waiter;
use gpulock_core::lock::Bytes;
use gpulock_core::settings::Settings;
use gpulock_core::{Keeper, Now};

use crate::flaw::Flaw;
use crate::holds::{Held, Holds, Tie};
use crate::keyspace::{KEYS, Keyspace, Value, name};
use crate::law::{Breach, Law};
use crate::line::{Line, Place};

/// How many clients there can be.
pub const CLIENTS: usize = 6;

/// The time at which worlds begin, in microseconds since the epoch.
const BEGIN_US: u64 = 1_000_000_000;

/// A server: its keys, its clock, its clients, and the keeper.
#[derive(Clone, Debug)]
pub struct World {
    /// The rules.
    pub keeper: Keeper,
    pub(crate) keys: Keyspace,
    /// All who wait, as they must stand.
    pub(crate) line: Line,
    /// Who holds what, as it must be.
    pub(crate) holds: Holds,
    pub(crate) last_token: u64,
    /// Grants that waiting clients are not told of yet: they are at the end of the turn of
    /// the server's loop.
    pub(crate) untold: Vec<Untold>,
    /// Grants whose client was gone before it was told.
    pub(crate) undelivered: Vec<Untold>,
    /// How often each client has connected.
    pub(crate) connections: [u64; CLIENTS],
    /// Keys that the keeper was shown, or freed, when its answer had to say who is next, and
    /// that are absent since then.
    pub(crate) shown_free: [bool; KEYS.len()],
    /// Whether keys may be written.
    pub(crate) writes: Writes,
    /// What is owed is made good at the end of the turn, as in a cluster, where a command
    /// may not touch what others are owed.
    pub(crate) owes_longer: bool,
    /// Work is cut into the smallest portions.
    pub(crate) in_portions: bool,
    pub(crate) flaw: Flaw,
    breach: Option<Breach>,
}

/// Whether keys may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writes {
    /// The server accepts writes.
    Accepted,
    /// The server is paused: no command is executed.
    Paused,
    /// The server refuses every write command, and goes on otherwise.
    Refused,
    /// A command of another client is being executed, and the server processes events
    /// meanwhile: connections close, but no timer is fired.
    WithinCommand,
}

/// A grant on its way to a client that waited.
#[derive(Clone, Debug)]
pub(crate) struct Untold {
    pub(crate) connection: u64,
    /// Where it stood.
    pub(crate) place: Place,
    pub(crate) grants: Vec<Grant>,
    pub(crate) waiter: Box<Waiter>,
    pub(crate) set: Vec<Bytes>,
}

impl World {
    /// A server without keys.
    pub fn new(settings: Settings, flaw: Flaw) -> Self {
        let now = Now::from_micros(BEGIN_US);
        Self {
            keeper: Keeper::new(settings, 1, now),
            keys: Keyspace::new(BEGIN_US),
            line: Line::default(),
            holds: Holds::default(),
            last_token: 0,
            untold: Vec::new(),
            undelivered: Vec::new(),
            connections: [0; CLIENTS],
            shown_free: [false; KEYS.len()],
            writes: Writes::Accepted,
            owes_longer: false,
            in_portions: false,
            flaw,
            breach: None,
        }
    }

    /// Work is cut into the smallest portions from now on.
    pub fn cut_up(&mut self) {
        self.in_portions = true;
        self.keeper.set_portion(1);
    }

    /// The law that was broken first.
    pub fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Notes a breach unless `holds`; the first one stays.
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

    /// A key is about to be written: not while the server would refuse a client's write, and
    /// not in the middle of a command of somebody else.
    pub(crate) fn write_key(&mut self) {
        let is_accepted = self.writes == Writes::Accepted;
        self.require(Law::Permission, is_accepted, "written while writes are accepted");
    }

    /// The keys.
    pub fn keys(&self) -> &Keyspace {
        &self.keys
    }

    /// The number of a client's connection, and the client of a connection.
    pub(crate) fn connection(&self, client: usize) -> u64 {
        self.connections[client] * CLIENTS as u64 + client as u64
    }

    /// True when the client waits, or its grant is on its way.
    pub fn is_waiting(&self, client: usize) -> bool {
        let connection = self.connection(client);
        self.line.find_connection(connection).is_some()
            || self.untold.iter().any(|untold| untold.connection == connection)
    }

    /// How many clients wait.
    pub fn waiting(&self) -> usize {
        self.line.present().count()
    }

    /// The token of a lock, as its holder knows it.
    pub fn token(&self, key: usize) -> Option<u64> {
        self.holds[key].as_ref().and_then(|held| held.token)
    }

    /// The place of a lock's key among the keys; none when nothing is known of the lock.
    pub(crate) fn key_of(&self, id: Id) -> Option<usize> {
        let lock = self.keeper.table().get(id)?;
        KEYS.iter().position(|key| *key == &*lock.key)
    }

    /// Notes which leases are over: who held a lock holds it no more.
    pub(crate) fn let_leases_end(&mut self) {
        for key in 0..KEYS.len() {
            if self.keys.get(key).is_none() {
                self.end_by_right(key);
            }
            let is_known = self.token(key).is_some_and(|it| self.keeper_holds(key, it));
            self.holds[key].take_if(|held| held.ended && !is_known);
        }
    }

    /// A hold ends, and the keeper may not know of it yet.
    pub(crate) fn end_by_right(&mut self, key: usize) {
        if let Some(held) = &mut self.holds[key] {
            held.ended = true;
        }
    }

    fn keeper_holds(&self, key: usize, token: u64) -> bool {
        let id = self.keeper.table().find(name(key));
        let hold = id.and_then(|id| self.keeper.table().get(id)?.hold.as_ref());
        hold.is_some_and(|hold| hold.token() == Some(token))
    }

    /// Nobody holds a lock by right.
    fn is_nobodys(&self, key: usize) -> bool {
        self.holds[key].as_ref().is_none_or(|held| held.ended)
    }

    /// A lock was granted, and who got it has not heard of it.
    pub(crate) fn is_unheard(&self, key: usize) -> bool {
        self.holds[key].as_ref().is_some_and(|held| held.token.is_none())
    }

    /// A key is written for somebody who was granted its lock.
    pub(crate) fn begin_hold(&mut self, key: usize, owner: &[u8], until_ms: u64) {
        let is_free = self.is_nobodys(key);
        self.require(Law::MutualExclusion, is_free, "granted when nobody holds it");
        self.write_key();
        self.holds[key] = Some(Held::new(owner));
        self.shown_free[key] = false;
        let value = Value::Text(Bytes::from_slice(owner), Some(until_ms));
        self.keys.put_ours(key, value);
    }

    /// A key is deleted since nobody holds its lock any more.
    pub(crate) fn end_hold(&mut self, key: usize) {
        let is_free = self.is_nobodys(key);
        self.require(Law::MutualExclusion, is_free, "deleted when nobody holds it");
        self.write_key();
        self.holds[key] = None;
        self.keys.put(key, None);
        self.shown_free[key] = true;
    }

    /// Somebody hears that a lock is its own, with this token.
    pub(crate) fn hears_token(&mut self, key: usize, token: u64, session: Tie) {
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

    /// Somebody hears that a lock is still its own: with its token, or, if it was adopted,
    /// with its first one.
    pub(crate) fn hears_renewal(&mut self, key: usize, token: u64) {
        if token > self.last_token {
            let goes_on = self.holds[key].as_ref();
            let goes_on = goes_on.is_some_and(|held| !held.ended && held.token.is_some());
            self.require(
                Law::RisingTokens,
                !goes_on,
                "a hold that goes on keeps its token",
            );
            self.holds[key] = self.keys.text(key).map(Held::new);
            self.hears_token(key, token, Tie::No);
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

    /// What follows each step: what is owed is made good, those who waited are answered, and
    /// the laws are looked at.
    pub(crate) fn finish_step(&mut self) {
        self.hear();
        if !self.owes_longer {
            self.make_good();
        }
        self.keeper.trim_tracked();
        self.check();
    }
}
