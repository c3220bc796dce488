//! The commands of clients. Each runs the engine, and its outcome is compared with the command
//! reference.

use gpulock_core::engine::commands::{self, Outcome};
use gpulock_core::engine::read::state_of;
use gpulock_core::report::list::Listed;
use gpulock_core::request::{self, Acquire, AcquireAny, Extend, ForceRelease, Release};
use gpulock_core::rules::acquire_any::KeyGrants;
use gpulock_core::rules::deadlock::DeadlockCheck;
use gpulock_core::rules::wait::Waiting;
use gpulock_core::state::key_state::is_valid_owner;
use gpulock_core::state::log::Text;
use gpulock_core::state::wait_queue::{Ticket, Wanted};
use gpulock_core::{CommandError, LockManager};

use crate::call::{Call, OWNERS};
use crate::flaw::Flaw;
use crate::groups::{Groups, is_complete};
use crate::holds::{Held, HoldParams, SessionTie};
use crate::keyspace::{Current, Write};
use crate::law::Law;
use crate::memory_keys::name;
use crate::queue::{Position, PositionState};
use crate::turns_of_call::TurnsOfCall;
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
        let turns = self.turns_of(call);
        let (request, caller) = (self.request(call), call.caller(connection));
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
                    self.receive_grant(key, token, params_of(call, connection));
                }
                _ => {
                    self.check_immediate_grant(call, &[key], &turns);
                    self.receive_token(key, token, params_of(call, connection));
                }
            },
            Ok(Outcome::Refused | Outcome::Waits(_)) => {
                let is_behind = self.small_budgets && self.is_behind();
                let is_right =
                    !was_absent || is_behind || !self.is_available(key, call, &turns);
                self.require(
                    Law::NoLostWakeUp,
                    is_right,
                    "ACQUIRE is refused only when the lock is held",
                );
                self.check_wait(call, &outcome, turns);
            }
            Err(_) => self.check_error(call, &outcome, &turns),
        }
        self.current = Current::default();
    }

    fn acquire_any(&mut self, call: &Call, count: usize) {
        let connection = self.connection(call.client);
        self.current = Current::of(call.owner);
        let order = self.reading_order(call);
        let turns = self.turns_of(call);
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
            groups: self.request_groups(call),
            near: None,
            how: self.request(call),
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
                let got: Vec<usize> =
                    grants.iter().map(|grant| call.keys[grant.index]).collect();
                let has: Vec<bool> =
                    call.keys.iter().map(|key| got.contains(key)).collect();
                let is_whole = grants.len() == call.wants()
                    && is_complete(call.groups.as_ref(), call.wants(), &has);
                self.require(Law::AllOrNothing, is_whole, "COUNT locks are granted");
                self.check_preference(call, &got, &held, &read, &turns);
                let grants = got.into_iter().zip(grants.iter().map(|grant| grant.token));
                self.receive_grants(call.owner, grants, params_of(call, connection));
            }
            Ok(Outcome::Refused | Outcome::Waits(_)) => {
                let is_available = |key: &&usize| {
                    self.keys.get(**key).is_none()
                        && self.is_available(**key, call, &turns)
                };
                let has = |key: &usize| {
                    held.contains(key) || absent.contains(key) && is_available(&key)
                };
                let has: Vec<bool> = call.keys.iter().map(has).collect();
                let too_few = !is_complete(call.groups.as_ref(), call.wants(), &has);
                let is_behind = self.small_budgets && self.is_behind();
                let is_right = too_few || is_behind;
                self.require(
                    Law::NoLostWakeUp,
                    is_right,
                    "ACQUIREANY is refused only when too few locks are free",
                );
                self.check_wait(call, &outcome, turns);
            }
            Err(_) => self.check_error(call, &outcome, &turns),
        }
        self.current = Current::default();
    }

    /// The options of a call, as the lock manager gets them.
    fn request(&self, call: &Call) -> Acquire<'static> {
        let request = call.request();
        match self.flaw {
            Flaw::IgnoresPriorities => Acquire { priority: 0, ..request },
            _ => request,
        }
    }

    /// The groups of a call, as the lock manager gets them.
    fn request_groups(&self, call: &Call) -> Option<request::Groups> {
        let groups = call.groups.as_ref()?;
        let is_free = |key: &usize| self.keys.get(*key).is_none();
        let free: Vec<bool> = call.keys.iter().map(is_free).collect();
        let mut flawed = groups.clone();
        match self.flaw {
            Flaw::ShiftsGroups => flawed.sizes = vec![1, call.keys.len() - 1],
            Flaw::WaitsForAllGroups
                if !is_complete(Some(groups), call.wants(), &free) =>
            {
                flawed.wanted = groups.sizes.len();
            }
            _ => {}
        }
        Some(flawed.request())
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

    /// Checks that the locks that the owner holds count first, that the first groups are preferred
    /// of those that have enough locks, and that the first available locks are granted of each, of
    /// those whose keys it has read.
    fn check_preference(
        &mut self,
        call: &Call,
        got: &[usize],
        held: &[usize],
        read: &[usize],
        turns: &TurnsOfCall,
    ) {
        let order = |key: &usize| call.keys.iter().position(|other| other == key);
        self.require(
            Law::Order,
            got.is_sorted_by_key(order),
            "locks are granted in the order of the keys",
        );
        let count = call.count.unwrap_or(1);
        let is_available = |key: &usize| {
            read.contains(key)
                && self.keys.get(*key).is_none()
                && self.is_available(*key, call, turns)
        };
        let whole = Groups { wanted: 1, sizes: vec![call.keys.len()] };
        let (mut counts_held, mut are_first) = (true, true);
        // The groups that it got locks of, and the others that it could have had.
        let (mut chosen, mut passed) = (Vec::new(), Vec::new());
        for (number, range) in call.groups.as_ref().unwrap_or(&whole).ranges().enumerate()
        {
            let keys = &call.keys[range];
            let of_group =
                |keys: &[usize]| keys.iter().filter(|key| got.contains(key)).count();
            let held: Vec<usize> =
                keys.iter().copied().filter(|key| held.contains(key)).collect();
            let preference = (held.is_empty(), number);
            if of_group(keys) == 0 {
                let available = keys.iter().filter(|key| is_available(key)).count();
                if held.len() + available >= count {
                    passed.push(preference);
                }
                continue;
            }
            chosen.push(preference);
            counts_held &= of_group(&held) == held.len().min(count);
            let is_new = |key: &&usize| got.contains(key) && !held.contains(key);
            let last = keys.iter().rposition(|key| is_new(&key)).unwrap_or(0);
            are_first &=
                !keys[..last].iter().any(|key| !got.contains(key) && is_available(key));
        }
        self.require(Law::AllOrNothing, counts_held, "held locks count first");
        self.require(Law::Order, are_first, "the first available locks are granted");
        let are_preferred =
            chosen.iter().max() < passed.iter().min() || passed.is_empty();
        self.require(Law::Order, are_preferred, "the first groups are preferred");
        let new: Vec<usize> =
            got.iter().copied().filter(|key| !held.contains(key)).collect();
        if !new.is_empty() {
            self.check_immediate_grant(call, &new, turns);
        }
    }

    /// Checks that a call that was granted locks at once passed only waiters with a later turn. The
    /// other calls of its owner in these queues end.
    fn check_immediate_grant(&mut self, call: &Call, new: &[usize], turns: &TurnsOfCall) {
        let is_passed = |it: &&Position, key: usize| {
            it.keys.contains(&key)
                && !it.is_superseded_by(call)
                && self.certainly_takes(it, key, &turns.known)
        };
        let (mut is_first, mut passes_plain, mut passes_bound) = (true, false, false);
        for key in new {
            let others = self.queue.connected().filter(|it| is_passed(it, *key));
            for other in others {
                let is_later = turns.earliest.arrival < other.turn().arrival;
                // The grant itself is counted already.
                let since = other.joined.grants_since[*key].cast_signed() - 1;
                is_first &= turns.earliest < other.turn();
                passes_plain |= call.is_plain() && other.is_plain() && !is_later;
                passes_bound |= match &turns.same {
                    Some(same) => same.joined.behind.contains(&other.turn().arrival),
                    None => {
                        !is_later && since >= other.bound(self.queue.round, call.priority)
                    }
                };
            }
        }
        self.require(
            Law::PlainOrder,
            !passes_plain,
            "a caller without PRIORITY and SHARE passes none that waits",
        );
        let (is_first, passes_bound) = match self.turns_are_uncertain {
            true => (true, false),
            false => (is_first, passes_bound),
        };
        self.require(
            Law::BoundedWait,
            !passes_bound,
            "no newcomer passes a waiter whose bound is reached",
        );
        self.require(Law::Order, is_first, "no waiter with an earlier turn is passed");
        self.queue.retain(|position| !position.is_superseded_by(call));
    }

    /// Queues a call that waits, and checks that it may.
    fn check_wait<T>(
        &mut self,
        call: &Call,
        outcome: &Result<Outcome<T>, CommandError>,
        turns: TurnsOfCall,
    ) {
        if let Ok(Outcome::Waits(ticket)) = outcome {
            let has_room = self.has_room(call, &turns);
            self.require(Law::Room, has_room, "a wait beyond max-waiters is refused");
            self.enqueue(call, *ticket, turns);
            let closes_cycle = call.unique && self.closes_cycle(call);
            self.require(
                Law::Deadlocks,
                !closes_cycle,
                "a wait that closes a cycle is refused",
            );
        }
    }

    /// Whether one more client may wait. Kept positions do not count, nor does the call that a
    /// UNIQUE owner takes over or gives up, unless it was granted meanwhile.
    fn has_room(&self, call: &Call, turns: &TurnsOfCall) -> bool {
        let granted = |arrival: &u64| {
            self.in_flight.iter().any(|it| it.position.turn().arrival == *arrival)
        };
        turns.given_up.iter().any(|arrival| !granted(arrival))
            || (self.queue.connected().filter(|it| !it.is_superseded_by(call)).count()
                as u64)
                < self.max_waiters()
    }

    fn enqueue(&mut self, call: &Call, ticket: Ticket, turns: TurnsOfCall) {
        let connection = self.connection(call.client);
        let state = self.new_wait(connection, ticket, call.block_ms);
        let holds = self.held_under(call);
        self.turns_are_uncertain |= self.small_budgets && self.is_behind();
        let waiter = self.manager.queues().get(ticket);
        let turn = waiter.map(|waiter| waiter.turn).filter(|_| self.small_budgets);
        let same = turns.same.filter(|same| same.turn == turn);
        if same.is_some() {
            for key in &call.keys {
                let counted = &mut self.queue.grants[*key];
                *counted = turns.grants[*key].max(*counted);
            }
        }
        self.queue.begin(call, same.map(|same| same.joined), holds, state);
        self.make_room();
    }

    /// The number of the locks of a call that are held under its share, as far as the lock manager
    /// knows.
    fn held_under(&self, call: &Call) -> usize {
        let is_held = |key: &&usize| {
            let held = self.holds[**key].as_ref();
            held.is_some_and(|held| held.share == call.share) && self.is_known(**key)
        };
        match call.share {
            Some(_) => call.keys.iter().filter(is_held).count(),
            None => 0,
        }
    }

    /// Queues a call without reading its keys first.
    pub(crate) fn wait_again(
        &mut self,
        call: &Call,
        connection: Option<u64>,
    ) -> Option<PositionState> {
        let connection = connection?;
        let (keys, count, of_set) = (call.names(), call.wants(), call.count.is_some());
        let groups = call.effective_groups().map(Groups::request);
        let groups = groups.as_ref();
        let wanted = Wanted { keys: &keys, count, groups, of_set, ..Wanted::default() };
        let (request, now) = (call.request(), self.now());
        let skipped = DeadlockCheck::Skipped;
        match self.manager.wait(wanted, &request, connection, &skipped, true, now) {
            Ok(Waiting::Queued(ticket)) => Some(self.new_wait(connection, ticket, None)),
            _ => None,
        }
    }

    /// Checks that a call that was refused would close a cycle, or that too many clients wait.
    fn check_error<T>(
        &mut self,
        call: &Call,
        outcome: &Result<Outcome<T>, CommandError>,
        turns: &TurnsOfCall,
    ) {
        match outcome {
            Err(CommandError::Deadlock { .. }) => {
                let closes_cycle = call.unique && self.closes_cycle(call);
                self.require(
                    Law::Deadlocks,
                    closes_cycle,
                    "a refused wait would close a cycle",
                );
            }
            Err(CommandError::MaxWaiters) => {
                let has_room = self.has_room(call, turns);
                self.require(
                    Law::Room,
                    !has_room,
                    "a wait is refused only if as many clients as max-waiters wait",
                );
            }
            _ => {}
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
                self.receive_grant(key, token, HoldParams::NONE);
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
    pub(crate) fn token_argument(&self, key: usize, right: Option<bool>) -> Option<u64> {
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

/// What a call says of the holds that it gets.
fn params_of(call: &Call, connection: u64) -> HoldParams {
    let session = match call.session_grace_ms {
        Some(grace_ms) => SessionTie::Connected { connection, grace_ms },
        None => SessionTie::None,
    };
    HoldParams { session, share: call.share }
}
