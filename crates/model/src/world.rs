//! A minimal server: keys, clients, and the lock manager, driven by the engine that ships. The
//! world also tracks queues and holds as the command reference defines them, independently of the
//! lock manager. Where the two differ, a law is broken. `keyspace.rs` checks what the engine
//! writes, `commands.rs` checks the replies to clients.

use gpulock_core::engine::{Keyspace, deferred};
use gpulock_core::state::arena::Id;
use gpulock_core::state::lock::Bytes;
use gpulock_core::state::outbox::Grant;
use gpulock_core::state::settings::Settings;
use gpulock_core::state::wait_queue::Waiter;
use gpulock_core::{LockManager, Now};

use crate::flaw::Flaw;
use crate::holds::{Held, HoldParams, Holds};
use crate::keyspace::Current;
use crate::law::{Breach, Law};
use crate::memory_keys::{KEYS, MemoryKeys, Value, name};
use crate::notice::Notices;
use crate::queue::{Position, Queue};

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
    /// The expected queues.
    pub(crate) queue: Queue,
    /// The expected holds.
    pub(crate) holds: Holds,
    /// The notices that holders were given.
    pub(crate) notices: Notices,
    /// The largest token that a client received.
    pub(crate) last_token: u64,
    /// Grants that their clients receive at the end of this turn of the event loop.
    pub(crate) in_flight: Vec<InFlight>,
    /// Grants whose client was gone before it received them.
    pub(crate) undelivered: Vec<InFlight>,
    /// The number of connections that each client has had.
    pub(crate) connections: [u64; CLIENTS],
    /// Absent keys of which the lock manager knows that they are absent. It must have handed them
    /// off.
    pub(crate) known_free: [bool; KEYS.len()],
    /// Whether keys may be written.
    pub(crate) writes: Writes,
    /// Whether deferred work is done at the end of the turn only, as in a cluster, where a command
    /// must not touch keys that it does not name.
    pub(crate) defers_to_turn_end: bool,
    /// Whether turns may differ from those of the lock manager: calls joined while it still counted
    /// waiters that had left. It does so until no client waits.
    pub(crate) turns_are_uncertain: bool,
    /// Whether any call of the scope has PRIORITY or SHARE.
    pub(crate) uses_turns: bool,
    /// Whether work is limited to the smallest budgets.
    pub(crate) small_budgets: bool,
    /// Whether the server calls the lock manager before each command.
    pub(crate) is_listening: bool,
    /// When the timer fires, in ms since the epoch; none while it is not armed.
    pub(crate) armed_ms: Option<u64>,
    /// The key of a `DEL` that is executed after the pause.
    pub(crate) postponed_delete: Option<usize>,
    pub(crate) flaw: Flaw,
    /// The command that is being executed.
    pub(crate) current: Current,
    /// The first breach.
    breach: Option<Breach>,
}

/// Whether keys may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writes {
    /// The server accepts writes.
    Accepted,
    /// The server is paused and executes no commands.
    Paused,
    /// The server refuses write commands, and works otherwise.
    Refused,
    /// The server processes events while it executes another client's command: connections close,
    /// but no timer fires.
    WithinCommand,
}

/// A grant on its way to a waiter.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) connection: u64,
    /// The position at which the client waited.
    pub(crate) position: Position,
    pub(crate) grants: Vec<Grant>,
    pub(crate) waiter: Box<Waiter>,
    /// The names of the lock set.
    pub(crate) set: Vec<Bytes>,
}

impl World {
    /// A server without keys.
    pub fn new(settings: Settings, flaw: Flaw) -> Self {
        let now = Now::from_micros(BEGIN_US);
        let queue = Queue::new(settings.round);
        let mut settings = settings;
        if flaw == Flaw::LengthensRounds {
            settings.round *= 3;
        }
        Self {
            manager: LockManager::new(settings, 1, now),
            keys: MemoryKeys::new(BEGIN_US),
            queue,
            holds: Holds::default(),
            notices: Notices::default(),
            last_token: 0,
            in_flight: Vec::new(),
            undelivered: Vec::new(),
            connections: [0; CLIENTS],
            known_free: [false; KEYS.len()],
            writes: Writes::Accepted,
            defers_to_turn_end: false,
            turns_are_uncertain: false,
            uses_turns: false,
            small_budgets: false,
            is_listening: false,
            armed_ms: None,
            postponed_delete: None,
            flaw,
            current: Current::default(),
            breach: None,
        }
    }

    /// Limits work to the smallest budgets from now on.
    pub fn use_small_budgets(&mut self) {
        self.small_budgets = true;
        self.manager.set_budget(1);
    }

    /// The first breach.
    pub fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Records a breach unless `holds`. Only the first one is kept.
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

    /// Checks that the module may write a key now.
    pub(crate) fn check_write(&mut self) {
        let is_accepted = self.writes == Writes::Accepted;
        self.require(
            Law::WritePermission,
            is_accepted,
            "keys are written only while writes are accepted",
        );
    }

    /// The keys.
    pub fn keys(&self) -> &MemoryKeys {
        &self.keys
    }

    /// The number of a client's connection. Its remainder by [`CLIENTS`] is the client.
    pub(crate) fn connection(&self, client: usize) -> u64 {
        self.connections[client] * CLIENTS as u64 + client as u64
    }

    /// Whether a client waits, or its grant is in flight.
    pub fn is_waiting(&self, client: usize) -> bool {
        let connection = self.connection(client);
        self.queue.find_connection(connection).is_some()
            || self.in_flight.iter().any(|in_flight| in_flight.connection == connection)
    }

    /// The number of connected waiters.
    pub fn waiting(&self) -> usize {
        self.queue.connected().count()
    }

    /// The token that the holder of a lock received.
    pub fn token(&self, key: usize) -> Option<u64> {
        self.holds[key].as_ref().and_then(|held| held.token)
    }

    /// The index of a lock's key; none when the lock manager has no record of the lock.
    pub(crate) fn key_of(&self, id: Id) -> Option<usize> {
        let lock = self.manager.table().get(id)?;
        KEYS.iter().position(|key| *key == &*lock.key)
    }

    /// Marks the holds whose leases have ended.
    pub(crate) fn mark_ended_leases(&mut self) {
        for key in 0..KEYS.len() {
            if self.keys.get(key).is_none() {
                self.mark_ended(key);
            }
        }
    }

    /// Removes ended holds that the lock manager has ended, too.
    pub(crate) fn forget_ended_holds(&mut self) {
        for key in 0..KEYS.len() {
            let is_known = self.is_known(key);
            self.holds[key].take_if(|held| held.ended && !is_known);
        }
    }

    /// Marks a hold as ended. The lock manager may not know it yet.
    pub(crate) fn mark_ended(&mut self, key: usize) {
        if let Some(held) = &mut self.holds[key] {
            held.ended = true;
        }
    }

    /// Whether the lock manager knows the hold of a lock, which may have ended meanwhile.
    pub(crate) fn is_known(&self, key: usize) -> bool {
        self.token(key).is_some_and(|token| self.manager_holds(key, token))
    }

    fn manager_holds(&self, key: usize, token: u64) -> bool {
        let id = self.manager.table().find(name(key));
        let hold = id.and_then(|id| self.manager.table().get(id)?.hold.as_ref());
        hold.is_some_and(|hold| hold.token() == Some(token))
    }

    /// Whether a lock is free.
    fn is_free(&self, key: usize) -> bool {
        self.holds[key].as_ref().is_none_or(|held| held.ended)
    }

    /// Whether a lock is granted and its owner has not received the grant.
    pub(crate) fn is_unreceived(&self, key: usize) -> bool {
        self.holds[key].as_ref().is_some_and(|held| held.token.is_none())
    }

    /// The module sets a key to the owner of a new hold.
    pub(crate) fn begin_hold(&mut self, key: usize, owner: &[u8], until_ms: u64) {
        self.restore_positions();
        self.end_by_module(key);
        let is_free = self.is_free(key);
        self.require(Law::MutualExclusion, is_free, "a lock is granted only when free");
        self.check_write();
        self.holds[key] = Some(Held::new(owner));
        self.notices[key] = None;
        self.queue.count_grant(key);
        self.known_free[key] = false;
        let value = Value::Text(Bytes::from_slice(owner), Some(until_ms));
        self.keys.put_ours(key, value);
    }

    /// The module deletes a key whose hold has ended.
    pub(crate) fn end_hold(&mut self, key: usize) {
        self.end_by_module(key);
        let is_free = self.is_free(key);
        self.require(
            Law::MutualExclusion,
            is_free,
            "a key is deleted only when its lock is free",
        );
        self.check_write();
        self.holds[key] = None;
        self.notices[key] = None;
        self.keys.put(key, None);
        self.known_free[key] = true;
    }

    /// A client receives the token of a new hold.
    pub(crate) fn receive_token(&mut self, key: usize, token: u64, params: HoldParams) {
        self.require(
            Law::IncreasingTokens,
            token > self.last_token,
            "a new token is larger than all before it",
        );
        self.last_token = self.last_token.max(token);
        if let Some(held) = &mut self.holds[key] {
            held.token = Some(token);
            held.session = params.session;
            held.share = params.share;
        }
    }

    /// A client receives the token of a renewed hold. An adopted hold gets its first token.
    pub(crate) fn receive_renewal(&mut self, key: usize, token: u64) {
        if token > self.last_token {
            let continues = self.holds[key].as_ref();
            let continues =
                continues.is_some_and(|held| !held.ended && held.token.is_some());
            self.require(
                Law::IncreasingTokens,
                !continues,
                "a continued hold keeps its token",
            );
            self.holds[key] = self.keys.text(key).map(Held::new);
            self.receive_token(key, token, HoldParams::NONE);
        }
        let is_same = self.token(key) == Some(token);
        self.require(
            Law::IncreasingTokens,
            is_same,
            "a renewal returns the token of the hold",
        );
        if let Some(held) = &mut self.holds[key] {
            let was_over = std::mem::take(&mut held.set_after_end);
            held.renewed = true;
            held.ended = false;
            self.require(Law::MutualExclusion, !was_over, "an ended hold is not renewed");
        }
        if let Some(held) = &mut self.holds[key] {
            held.forget_closed_session();
        }
    }

    /// Ends a hold if the module itself may do that. The waiter of an undelivered grant gets its
    /// position back.
    fn end_by_module(&mut self, key: usize) {
        if !self.is_ended_by_module(key) {
            return;
        }
        self.current.ended_by_notice[key] |= self.is_notice_over(key);
        if let Some(token) = self.holds[key].take().and_then(|held| held.lost_token()) {
            self.restore_position(token);
        }
    }

    /// The lock manager restores the position of a waiter before the lock passes on, with others of
    /// a set: their keys may be written first.
    fn restore_positions(&mut self) {
        for key in 0..KEYS.len() {
            let held = self.holds[key].as_ref().filter(|held| !held.ended);
            let token = held.and_then(Held::lost_token);
            let token = token.filter(|_| self.current.may_end != Some(key));
            if let Some(token) = token.filter(|token| !self.manager_holds(key, *token)) {
                self.restore_position(token);
                if let Some(held) = &mut self.holds[key] {
                    held.restored = true;
                }
            }
        }
    }

    /// How long a position is kept while its client is away, in ms.
    pub(crate) fn keep_ms(&self, position: &Position) -> u64 {
        position.keep_ms.unwrap_or(self.manager.settings().place_keep)
    }

    /// `max-waiters`, as it is configured.
    pub(crate) fn max_waiters(&self) -> u64 {
        self.manager.settings().max_waiters + u64::from(self.flaw == Flaw::RefusesEarly)
    }

    /// A position was added: beyond `max-waiters`, the one kept longest gives way.
    pub(crate) fn make_room(&mut self) -> bool {
        self.queue.make_room(self.max_waiters())
    }

    /// Restores the position of the waiter that did not receive a grant, once for all locks of a
    /// set.
    fn restore_position(&mut self, token: u64) {
        let is_it = |grant: &Grant| grant.token == token;
        let mut lost = self.undelivered.iter();
        let Some(lost) = lost.find(|lost| lost.grants.iter().any(is_it)) else { return };
        let mut position = lost.position.clone();
        position.joined.is_first |= self.turns_are_uncertain;
        let is_queued = self.queue.positions().iter().any(|other| {
            let overlaps = |key| other.keys.contains(key);
            other.unique
                && other.owner == position.owner
                && position.keys.iter().any(overlaps)
        });
        let keep_ms = self.keep_ms(&position);
        if position.unique && keep_ms > 0 && !is_queued {
            let until_ms = self.now().ms() + keep_ms;
            position.state = self.queue.new_kept(until_ms);
            self.queue.restore(position);
            self.make_room();
        }
    }

    /// Sets a key, or deletes it, as another client does. This ends its hold.
    pub(crate) fn put_external(&mut self, key: usize, value: Option<Value>) {
        self.mark_ended(key);
        // The lock manager cannot know of the end of a lease that another client shortened
        // unnoticed.
        let is_over = self.keys.is_expired(key) && self.is_end_known(key);
        if let Some(held) = &mut self.holds[key] {
            held.set_after_end |= is_over;
        }
        self.known_free[key] = false;
        if let Some(notice) = &mut self.notices[key] {
            notice.is_uncertain = true;
        }
        self.keys.put_external_value(key, value);
    }

    fn is_end_known(&self, key: usize) -> bool {
        let id = self.manager.table().find(name(key));
        id.is_some_and(|id| self.manager.is_lease_over(id, self.now()))
    }

    /// Does the deferred work if it may start.
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

    /// Finishes a step: waiters get their replies, deferred work is done, idle locks are forgotten,
    /// and the laws are checked.
    pub(crate) fn finish_step(&mut self) {
        self.take_replies();
        if !self.defers_to_turn_end {
            self.run_deferred();
        }
        self.manager.forget_idle();
        self.arm_timer();
        self.check();
        self.current = Current::default();
    }
}
