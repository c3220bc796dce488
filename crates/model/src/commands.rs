//! The commands of clients. Each runs the engine, and its outcome is compared with the command
//! reference.

use gpulock_core::engine::commands::{self, Outcome};
use gpulock_core::engine::read::state_of;
use gpulock_core::report::list::Listed;
use gpulock_core::request::{AcquireAny, Extend, ForceRelease, Release};
use gpulock_core::rules::acquire_any::KeyGrants;
use gpulock_core::rules::deadlock::DeadlockCheck;
use gpulock_core::rules::wait::Waiting;
use gpulock_core::state::key_state::is_valid_owner;
use gpulock_core::state::log::Text;
use gpulock_core::state::wait_queue::{Ticket, Wanted};
use gpulock_core::{CommandError, LockManager};

use crate::call::{Call, OWNERS};
use crate::flaw::Flaw;
use crate::holds::{Held, SessionTie};
use crate::keyspace::{Current, Write};
use crate::law::Law;
use crate::memory_keys::name;
use crate::queue::PositionState;
use crate::world::World;

impl World {
    /// ACQUIRE, or ACQUIREANY. No effect while the client waits.
    pub fn acquire(&mut self, call: &Call) {
        self.command_begins();
        if !self.is_waiting(call.client) {
            match call.count {
                None => self.acquire_one(call),
                Some(count) => self.acquire_any(call, count),
            }
        }
        self.finish_step();
    }

    fn acquire_one(&mut self, call: &Call) {
        let (key, connection) = (call.keys[0], self.connection(call.client));
        self.current = Current::of(call.owner);
        let opened = self.open_named(key);
        let was_absent = self.keys.get(key).is_none();
        let was_own = self.keys.text(key) == Some(OWNERS[call.owner]);
        let others =
            self.queue.first_except(key, |it| it.is_superseded_by(call)).is_some();
        let (request, caller) = (call.request(), call.caller(connection));
        let outcome = commands::acquire(self, opened, name(key), &request, caller);
        self.remove_ended_waits();
        self.known_free[key] |=
            was_absent && self.keys.get(key).is_none() && is_decided(&outcome);
        match outcome {
            Ok(Outcome::Granted(token)) => match self.current.named_write {
                Some(Write::Expire) => {
                    let is_right = call.unique && was_own;
                    self.require(
                        Law::MutualExclusion,
                        is_right,
                        "a UNIQUE owner renews only its own lock",
                    );
                    self.receive_grant(key, token, session_of(call, connection));
                }
                _ => {
                    self.check_immediate_grant(call, &[key]);
                    self.receive_token(key, token, session_of(call, connection));
                }
            },
            Ok(Outcome::Refused | Outcome::Waits(_)) => {
                let is_right = !was_absent || others;
                self.require(
                    Law::NoLostWakeUp,
                    is_right,
                    "ACQUIRE is refused only when the lock is held",
                );
                self.check_wait(call, &outcome);
            }
            Err(_) => self.check_deadlock(call, &outcome),
        }
        self.current = Current::default();
    }

    fn acquire_any(&mut self, call: &Call, count: usize) {
        let connection = self.connection(call.client);
        self.current = Current::of(call.owner);
        let order = self.reading_order(call);
        let is_absent = |world: &Self, key: &usize| world.keys.get(*key).is_none();
        let absent: Vec<usize> =
            call.keys.iter().copied().filter(|key| is_absent(self, key)).collect();
        let own: Vec<usize> = call
            .keys
            .iter()
            .copied()
            .filter(|key| call.unique && self.keys.text(*key) == Some(OWNERS[call.owner]))
            .collect();
        let request = AcquireAny {
            keys: call.names().into(),
            count,
            groups: None,
            near: None,
            how: call.request(),
        };
        let caller = call.caller(connection);
        let mut read = Vec::new();
        let outcome = commands::acquire_any(self, 0, &request, caller, |world, index| {
            let key = call.keys[index];
            // A key is opened again to be written.
            if !read.contains(&key) {
                read.push(key);
            }
            Ok(world.open_named(key))
        });
        self.remove_ended_waits();
        self.check_read(&read, order, call, &outcome);
        let held: Vec<usize> = own.into_iter().filter(|key| read.contains(key)).collect();
        // A free lock for which the owner waits in another call is left to the next probe.
        if is_decided(&outcome) && !call.unique {
            for key in absent.iter().filter(|key| read.contains(key)) {
                self.known_free[*key] |= self.keys.get(*key).is_none();
            }
        }
        match &outcome {
            Ok(Outcome::Granted(grants)) => {
                let is_whole = grants.len() == count;
                self.require(Law::AllOrNothing, is_whole, "COUNT locks are granted");
                let got: Vec<usize> =
                    grants.iter().map(|grant| call.keys[grant.index]).collect();
                let renewed = got.iter().filter(|key| held.contains(key)).count();
                let counts_held = renewed == held.len().min(count);
                self.require(Law::AllOrNothing, counts_held, "held locks count first");
                self.check_preference(call, &got, &held, &read);
                let grants = got.into_iter().zip(grants.iter().map(|grant| grant.token));
                self.receive_grants(call.owner, grants, session_of(call, connection));
            }
            Ok(Outcome::Refused | Outcome::Waits(_)) => {
                let is_available = |key: &&usize| {
                    let first =
                        self.queue.first_except(**key, |it| it.is_superseded_by(call));
                    self.keys.get(**key).is_none() && first.is_none()
                };
                let free = absent.iter().filter(is_available).count();
                let too_few = free + held.len() < count;
                let is_behind = self.small_budgets && self.is_behind();
                let is_right = too_few || is_behind;
                self.require(
                    Law::NoLostWakeUp,
                    is_right,
                    "ACQUIREANY is refused only when too few locks are free",
                );
                self.check_wait(call, &outcome);
            }
            Err(_) => self.check_deadlock(call, &outcome),
        }
        self.current = Current::default();
    }

    /// The keys of a call in the order in which ACQUIREANY reads them: those of locks that the
    /// lock manager knows to be held come last, and the locks of the UNIQUE owner first. Returns
    /// also how many of them are not held by another owner.
    fn reading_order(&self, call: &Call) -> (Vec<usize>, usize) {
        let stage = |key: &usize| {
            let id = self.manager.table().find(name(*key));
            let hold = id.and_then(|id| self.manager.table().get(id)?.hold.as_ref());
            match hold {
                Some(hold) if call.unique && *hold.owner == *OWNERS[call.owner] => 0,
                Some(hold) if self.now().ms() < hold.until_ms => 2,
                _ => 1,
            }
        };
        let mut keys = call.keys.clone();
        keys.sort_by_key(stage);
        let early = keys.iter().filter(|key| stage(key) < 2).count();
        (keys, early)
    }

    /// Checks which keys ACQUIREANY has read: in the right order, all of them if it got no lock,
    /// and none that it did not need.
    fn check_read(
        &mut self,
        read: &[usize],
        (order, early): (Vec<usize>, usize),
        call: &Call,
        outcome: &Result<Outcome<KeyGrants>, CommandError>,
    ) {
        self.require(
            Law::Order,
            order.starts_with(read),
            "ACQUIREANY reads the keys in order, those of held locks last",
        );
        match outcome {
            Ok(Outcome::Granted(grants)) => {
                let mut got = grants.iter().map(|grant| call.keys[grant.index]);
                let is_last_needed = got.any(|key| Some(&key) == read.last())
                    || call.unique && read.len() == early;
                self.require(
                    Law::Order,
                    is_last_needed,
                    "ACQUIREANY reads no key after it has found its locks",
                );
            }
            Ok(Outcome::Refused | Outcome::Waits(_)) => self.require(
                Law::NoLostWakeUp,
                read.len() == order.len(),
                "ACQUIREANY is refused only after it has read all its keys",
            ),
            Err(_) => {}
        }
    }

    /// Checks that the first available locks in the order of the call are granted, of those whose
    /// keys it has read.
    fn check_preference(
        &mut self,
        call: &Call,
        got: &[usize],
        held: &[usize],
        read: &[usize],
    ) {
        let order = |key: &usize| call.keys.iter().position(|other| other == key);
        self.require(
            Law::Order,
            got.is_sorted_by_key(order),
            "locks are granted in the order of the keys",
        );
        let new: Vec<usize> =
            got.iter().copied().filter(|key| !held.contains(key)).collect();
        let Some(last) = new.last() else { return };
        let passed = call.keys.iter().filter(|key| order(key) < order(last));
        let is_available = |key: &usize| {
            let first =
                self.queue.first_except(*key, |position| position.is_superseded_by(call));
            read.contains(key) && self.keys.get(*key).is_none() && first.is_none()
        };
        let mut passed = passed.filter(|key| !got.contains(key));
        let are_first = !passed.any(is_available);
        self.require(Law::Order, are_first, "the first available locks are granted");
        self.check_immediate_grant(call, &new);
    }

    /// Checks that a call that was granted locks at once passed no connected waiter. The other
    /// calls of its owner in these queues end.
    fn check_immediate_grant(&mut self, call: &Call, new: &[usize]) {
        let own = self.queue.positions().iter().enumerate();
        let own: Vec<(usize, bool)> = own
            .filter(|(_, it)| it.is_superseded_by(call))
            .map(|(at, it)| (at, it.is_repeated_by(call)))
            .collect();
        let position = match own[..] {
            [(at, true)] => at,
            _ => usize::MAX,
        };
        for key in new {
            let first =
                self.queue.first_except(*key, |position| position.is_superseded_by(call));
            let is_first = first.is_none_or(|first| position < first);
            self.require(Law::Order, is_first, "no waiter is passed");
        }
        self.queue.retain(|position| !position.is_superseded_by(call));
    }

    /// Queues a call that waits, and checks that it closes no cycle.
    fn check_wait<T>(&mut self, call: &Call, outcome: &Result<Outcome<T>, CommandError>) {
        if let Ok(Outcome::Waits(ticket)) = outcome {
            self.enqueue(call, *ticket);
            let closes_cycle = call.unique && self.closes_cycle(call);
            self.require(
                Law::Deadlocks,
                !closes_cycle,
                "a wait that closes a cycle is refused",
            );
        }
    }

    fn enqueue(&mut self, call: &Call, ticket: Ticket) {
        let connection = self.connection(call.client);
        let state = self.new_wait(connection, ticket, call.block_ms);
        self.queue.begin(call, state);
    }

    /// Queues a call without reading its keys first.
    pub(crate) fn wait_again(
        &mut self,
        call: &Call,
        connection: Option<u64>,
    ) -> Option<PositionState> {
        let connection = connection?;
        let (keys, count, of_set) = (call.names(), call.wants(), call.count.is_some());
        let wanted = Wanted { keys: &keys, count, of_set, ..Wanted::default() };
        let (request, now) = (call.request(), self.now());
        let skipped = DeadlockCheck::Skipped;
        match self.manager.wait(wanted, &request, connection, &skipped, true, now) {
            Ok(Waiting::Queued(ticket)) => Some(self.new_wait(connection, ticket, None)),
            _ => None,
        }
    }

    /// Checks that a call that was refused as a deadlock would close a cycle.
    fn check_deadlock<T>(
        &mut self,
        call: &Call,
        outcome: &Result<Outcome<T>, CommandError>,
    ) {
        if let Err(CommandError::Deadlock { .. }) = outcome {
            let closes_cycle = call.unique && self.closes_cycle(call);
            self.require(
                Law::Deadlocks,
                closes_cycle,
                "a refused wait would close a cycle",
            );
        }
    }

    /// RELEASE by an owner, with the right TOKEN, a wrong one, or none.
    pub fn release(&mut self, key: usize, owner: usize, right_token: Option<bool>) {
        self.command_begins();
        let token = self.token_argument(key, right_token);
        let opened = self.open_named(key);
        let may_release = self.keys.text(key) == Some(OWNERS[owner]);
        let reason = Text::Borrowed(b"normal");
        let request = Release { owner: OWNERS[owner], token, reason };
        // Every TOKEN matches a hold without a token.
        let held = self.holds[key].as_ref().filter(|held| !held.ended);
        let token_matches =
            right_token != Some(false) || held.is_none_or(|held| held.token.is_none());
        let before = self.allow_end(key, may_release && token_matches);
        let released = commands::release(self, opened, name(key), request, Some(1));
        self.finish_end(key, before, released == Ok(true));
        if released == Ok(false) {
            let is_right = !may_release || token.is_some();
            self.require(
                Law::MutualExclusion,
                is_right,
                "the owner can release its lock",
            );
        }
        self.finish_step();
    }

    /// FORCERELEASE, with or without OWNER and TOKEN.
    pub fn force_release(
        &mut self,
        key: usize,
        owner: Option<usize>,
        right_token: Option<bool>,
    ) {
        self.command_begins();
        let token = self.token_argument(key, right_token);
        let opened = self.open_named(key);
        let holder = self.keys.text(key).map(<[u8]>::to_vec);
        let is_meant = holder.as_deref().is_some_and(|holder| {
            is_valid_owner(holder) && owner.is_none_or(|owner| OWNERS[owner] == holder)
        });
        let request = ForceRelease {
            owner: owner.map(|owner| OWNERS[owner]),
            token,
            after_ms: None,
            reason: Text::Borrowed(b"forced"),
        };
        let before = self.allow_end(key, is_meant);
        let forced = commands::force_release(self, opened, name(key), request, None);
        let from = forced.ok().flatten();
        self.finish_end(key, before, from.is_some());
        if let Some(from) = from {
            let is_right = is_meant && holder.as_deref() == Some(&*from);
            self.require(
                Law::MutualExclusion,
                is_right,
                "FORCERELEASE returns the holder",
            );
        }
        self.finish_step();
    }

    /// Allows the command to end the hold of a key, if `may_end`. Returns that hold.
    fn allow_end(&mut self, key: usize, may_end: bool) -> Option<Held> {
        self.current.may_end = may_end.then_some(key);
        if may_end { self.holds[key].take() } else { None }
    }

    /// Finishes the command. A hold that it did not end continues.
    fn finish_end(&mut self, key: usize, before: Option<Held>, ended: bool) {
        if !ended && before.is_some() {
            self.holds[key] = before;
        }
        self.current = Current::default();
    }

    /// EXTEND by an owner.
    pub fn extend(&mut self, key: usize, owner: usize, lease_ms: Option<u64>) {
        self.command_begins();
        self.current = Current::of(owner);
        let opened = self.open_named(key);
        let is_own = self.keys.text(key) == Some(OWNERS[owner]);
        let request = Extend { owner: OWNERS[owner], lease_ms, token: None };
        match commands::extend(self, opened, name(key), &request) {
            Ok(Some(token)) => {
                self.require(
                    Law::MutualExclusion,
                    is_own,
                    "only the owner extends a lock",
                );
                self.receive_grant(key, token, SessionTie::None);
            }
            Ok(None) => {
                self.require(
                    Law::MutualExclusion,
                    !is_own,
                    "the owner can extend its lock",
                );
            }
            Err(_) => {}
        }
        self.current = Current::default();
        self.finish_step();
    }

    /// INSPECT.
    pub fn inspect(&mut self, key: usize) {
        self.command_begins();
        let now = self.now();
        let opened = self.open_named(key);
        let state = state_of(self, &opened, name(key));
        if let Ok(inspection) = self.manager.inspect(name(key), &state, now) {
            let owner = self.keys.text(key).filter(|it| is_valid_owner(it));
            let shown = inspection.and_then(|inspection| inspection.owner);
            let is_right = shown.as_deref() == owner;
            self.require(
                Law::MutualExclusion,
                is_right,
                "INSPECT shows the owner in the key",
            );
        }
        self.finish_step();
    }

    /// LIST. Each row must show what the key shows.
    pub fn list(&mut self) {
        self.command_begins();
        // LIST does not hand off: what it finds free is left to the next probe.
        let known_free = self.known_free;
        for id in self.manager.table().by_age().collect::<Vec<_>>() {
            let Some(key) = self.key_of(id) else { continue };
            if let Listed::Row(row) = commands::list_row(self, id) {
                let is_right = match row.owner {
                    Some(owner) => self.keys.text(key) == Some(&*owner),
                    None => self.manager.all_positions(id).next().is_some(),
                };
                self.require(
                    Law::MutualExclusion,
                    is_right,
                    "LIST shows the owners in the keys",
                );
            }
        }
        self.known_free = known_free;
        self.finish_step();
    }

    /// RESETSTATS.
    pub fn reset_stats(&mut self) {
        self.command_begins();
        if self.flaw == Flaw::ResetsByStartingOver && self.queue.positions().is_empty() {
            let settings = self.manager.settings().clone();
            self.manager = LockManager::new(settings, 1, self.now());
        }
        self.manager.reset_stats();
        let adopted = self.manager.counters().adopted;
        let are_held = adopted == self.manager.table().held();
        self.require(Law::CountersAddUp, are_held, "held locks count as adopted");
        self.finish_step();
    }

    /// The TOKEN argument for a lock: the right one, a wrong one, or none.
    fn token_argument(&self, key: usize, right: Option<bool>) -> Option<u64> {
        let token = self.token(key).unwrap_or(77);
        right.map(|right| if right { token } else { token + 1 })
    }
}

/// Whether the lock manager has decided which waiter gets a free lock. Some errors come before
/// that.
fn is_decided<T>(outcome: &Result<Outcome<T>, CommandError>) -> bool {
    !matches!(
        outcome,
        Err(CommandError::WrongType
            | CommandError::OutOfMemory
            | CommandError::SessionInScript
            | CommandError::LeaseTooLong { .. })
    )
}

/// The session of a grant to a call.
fn session_of(call: &Call, connection: u64) -> SessionTie {
    match call.session_grace_ms {
        Some(grace_ms) => SessionTie::Connected { connection, grace_ms },
        None => SessionTie::None,
    }
}
