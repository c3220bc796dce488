//! Which worlds are equivalent. A world is encoded as words that contain everything that can
//! influence its future and nothing else. Worlds with equal words have the same future, so only one
//! of them is explored.
//!
//! What is normalized or left out, and why that is sound:
//!
//! - **Times** are relative to now: the rules compare times and add durations, and nothing else. Of
//!   past times only the order is encoded, because nothing is added to them.
//! - **Tokens, tickets and arrivals** are encoded as ranks: they are compared, and the next one is
//!   larger than all existing ones.
//! - **Numbers of turns and counts of grants** are left out while no call has PRIORITY or SHARE,
//!   because then each queue is in the order of arrival. With a single lock they are relative to
//!   the count of its queue. What a bound depends on is encoded up to the largest bound.
//! - **Clients**, which are also the owners, are interchangeable: all may make the same calls, so
//!   worlds that differ by a permutation of the clients are equivalent. The smallest hash over all
//!   permutations represents them. Locks are not permuted, because lock sets are ordered.
//! - **Closed connections** are encoded by age, because a connection number is never reused.
//! - **Counters, log, histograms, events**, and the beginnings of holds and waits are reported but
//!   never read while `max-hold` and `warn-hold` are 0, as they are here. The law of the counters
//!   is checked after each step, before worlds are compared.
//! - **The sweep** (`LockManager::next_due`) does not run in a scope: probes come in any order.
//! - **Indexes** (by name, owner, client, deadline, age) contain only what their entries contain. A
//!   law checks that they are complete and have no leftovers.
//!
//! The test below takes the same steps from pairs of equivalent worlds and compares the results.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
use gpulock_core::state::arena::Id;
use gpulock_core::state::deferred::Deferred;
use gpulock_core::state::lock::{Bytes, NO_END, Session};
use gpulock_core::state::outbox::Grant;
use gpulock_core::state::wait_queue::{Ticket, Waiter};

use crate::call::OWNERS;
use crate::holds::{Held, SessionTie};
use crate::memory_keys::{Value, name};
use crate::queue::{Position, PositionState};
use crate::scope::{HIGHEST_PRIORITY, PROBE_MS};
use crate::world::{CLIENTS, InFlight, World, Writes};

/// The bit that marks the words of clients and owners.
const CLIENT_BIT: u64 = 1 << 63;

/// The word for an absent value.
const NONE: u64 = u64::MAX >> 1;

/// The word for the current time. Past times are below it, future times above.
const NOW: u64 = 1 << 40;

/// A hash that is equal for equivalent worlds.
pub(crate) fn fingerprint(world: &World, clients: usize, locks: usize) -> u64 {
    let words = words(world, locks);
    let hashes = permutations(clients).into_iter().map(|names| hash(&words, &names));
    hashes.min().unwrap_or_default()
}

/// The hash of a world whose clients are renamed.
fn hash(words: &[u64], names: &[u64]) -> u64 {
    let mut hasher = FixedState::with_seed(0).build_hasher();
    for word in words {
        hasher.write_u64(match usize::try_from(word ^ CLIENT_BIT) {
            Ok(at) if at < names.len() => CLIENT_BIT | names[at],
            _ => *word,
        });
    }
    hasher.finish()
}

/// All permutations of the numbers below `count`.
fn permutations(count: usize) -> Vec<Vec<u64>> {
    let mut all = vec![Vec::new()];
    for new in 0..count {
        let longer = |shorter: Vec<u64>| {
            (0..=shorter.len()).map(move |at| {
                let mut longer = shorter.clone();
                longer.insert(at, new as u64);
                longer
            })
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// The words of a world.
pub(crate) fn words(world: &World, locks: usize) -> Vec<u64> {
    let (out, past, ranks) =
        (Vec::with_capacity(256), Vec::new(), Ranks::of(world, locks));
    let mut encoder = Encoder { world, locks, out, past, ranks };
    encoder.breach();
    for key in 0..locks {
        encoder.key(key);
        encoder.lock(key);
    }
    encoder.manager_positions();
    encoder.model_positions();
    encoder.deferred();
    encoder.partial_work();
    encoder.grants_in_flight();
    encoder.probe_round(locks);
    if world.uses_turns {
        encoder.counts(locks);
    }
    encoder.rank_past();
    encoder.out
}

/// The values that are encoded as ranks, each list sorted.
#[derive(Default)]
struct Ranks {
    tokens: Vec<u64>,
    tickets: Vec<Ticket>,
    /// The arrivals of the positions of the lock manager, and of the model's own ones.
    manager_arrivals: Vec<u64>,
    model_arrivals: Vec<u64>,
    /// The order in which positions began to be kept, as the lock manager and the model have it.
    manager_kept: Vec<u64>,
    kept: Vec<u64>,
    /// The tickets of the positions of the lock manager, in queue order.
    positions: Vec<Ticket>,
}

impl Ranks {
    fn of(world: &World, locks: usize) -> Self {
        let mut ranks = Self::default();
        let manager = &world.manager;
        for key in 0..locks {
            ranks.tokens.extend(world.token(key));
            let id = manager.table().find(name(key));
            if let Some(lock) = id.and_then(|id| manager.table().get(id)) {
                ranks.tokens.extend(lock.hold.as_ref().and_then(|hold| hold.token()));
            }
            let positions = id.into_iter().flat_map(|id| manager.all_positions(id));
            ranks.positions.extend(positions.map(|(ticket, _)| ticket));
        }
        let arrival =
            |ticket: &Ticket| manager.queues().get(*ticket).map(|it| it.turn.arrival);
        ranks.positions.sort_by_key(arrival);
        ranks.positions.dedup();
        ranks.manager_arrivals.extend(ranks.positions.iter().filter_map(arrival));
        ranks.tickets.extend(&ranks.positions);
        ranks.tickets.extend(world.queue.positions().iter().filter_map(Position::ticket));
        for position in world.queue.positions() {
            ranks.model_arrivals.push(position.turn().arrival);
            if let PositionState::Kept { number, .. } = position.state {
                ranks.kept.push(number);
            }
        }
        let kept = |ticket: &Ticket| manager.kept_number(*ticket);
        ranks.manager_kept.extend(ranks.positions.iter().map(kept));
        ranks.kept.sort_unstable();
        ranks.manager_kept.sort_unstable();
        ranks.manager_kept.dedup();
        for in_flight in world.in_flight.iter().chain(&world.undelivered) {
            ranks.tokens.extend(in_flight.grants.iter().map(|grant| grant.token));
            ranks.manager_arrivals.push(in_flight.waiter.turn.arrival);
            ranks.model_arrivals.push(in_flight.position.turn().arrival);
        }
        for deferred in manager.deferred().work() {
            if let Deferred::Undelivered { token, lost, .. } = deferred {
                ranks.tokens.push(*token);
                ranks.manager_arrivals.push(lost.waiter.turn.arrival);
            }
        }
        ranks.tokens.sort_unstable();
        ranks.tokens.dedup();
        ranks.tickets.sort_unstable();
        ranks.tickets.dedup();
        ranks.manager_arrivals.sort_unstable();
        ranks.manager_arrivals.dedup();
        ranks.model_arrivals.sort_unstable();
        ranks.model_arrivals.dedup();
        ranks
    }
}

fn rank<T: Ord>(of: &[T], value: &T) -> u64 {
    of.binary_search(value).map_or(NONE, |at| at as u64)
}

/// Appends the words of a world to `out`.
struct Encoder<'w> {
    world: &'w World,
    locks: usize,
    out: Vec<u64>,
    /// Past times, each with the index of its word.
    past: Vec<(u64, usize)>,
    ranks: Ranks,
}

impl Encoder<'_> {
    fn word(&mut self, word: u64) {
        self.out.push(word);
    }

    fn flag(&mut self, flag: bool) {
        self.word(u64::from(flag));
    }

    fn time(&mut self, ms: u64) {
        let now_ms = self.world.now().ms();
        if ms < now_ms {
            self.past.push((ms, self.out.len()));
        }
        self.word(if ms == NO_END { NONE } else { NOW + ms.saturating_sub(now_ms) });
    }

    /// Encodes past times as ranks, the latest first.
    fn rank_past(&mut self) {
        self.past.sort_unstable_by(|one, other| other.cmp(one));
        let (mut rank, mut last) = (0, None);
        for (ms, at) in &self.past {
            rank += u64::from(last != Some(*ms));
            last = Some(*ms);
            self.out[*at] = NOW - rank;
        }
    }

    fn maybe_time(&mut self, ms: Option<u64>) {
        match ms {
            Some(ms) => self.time(ms),
            None => self.word(NONE),
        }
    }

    /// An owner, or another value.
    fn text(&mut self, text: &[u8]) {
        match OWNERS.iter().position(|owner| *owner == text) {
            Some(owner) => self.word(CLIENT_BIT | owner as u64),
            None => self.word(FixedState::with_seed(0).hash_one(text) >> 1),
        }
    }

    fn maybe_text(&mut self, text: Option<&[u8]>) {
        match text {
            Some(text) => self.text(text),
            None => self.word(NONE),
        }
    }

    fn connection(&mut self, connection: u64) {
        let client = connection % CLIENTS as u64;
        let now = self.world.connections[client as usize];
        self.word(CLIENT_BIT | client);
        self.word(now - connection / CLIENTS as u64);
    }

    fn maybe_connection(&mut self, connection: Option<u64>) {
        match connection {
            Some(connection) => self.connection(connection),
            None => self.word(NONE),
        }
    }

    fn id(&mut self, id: Id) {
        self.word(id.index() as u64);
    }

    fn breach(&mut self) {
        let law = self.world.breach().map(|breach| breach.law as u64);
        self.word(law.unwrap_or(NONE));
        for writes in [Writes::Paused, Writes::Refused, Writes::WithinCommand] {
            self.flag(self.world.writes() == writes);
        }
    }

    /// The value of a key, and the expected hold.
    fn key(&mut self, key: usize) {
        match self.world.keys.get(key) {
            None => self.word(0),
            Some(Value::Other) => self.word(1),
            Some(Value::Text(text, until_ms)) => {
                self.text(text);
                self.maybe_time(*until_ms);
            }
        }
        let keys = &self.world.keys;
        self.flag(keys.is_expired(key));
        self.flag(keys.get(key).is_some() && keys.is_ours(key));
        self.flag(self.world.known_free[key]);
        match &self.world.notices[key] {
            None => self.word(NONE),
            Some(notice) => {
                self.text(&notice.owner);
                self.time(notice.until_ms);
                self.flag(notice.is_changed);
                self.flag(notice.is_uncertain);
            }
        }
        match &self.world.holds[key] {
            None => self.word(NONE),
            Some(held) => self.held(held),
        }
    }

    fn held(&mut self, held: &Held) {
        self.text(&held.owner);
        self.word(held.token.map_or(NONE, |token| rank(&self.ranks.tokens, &token)));
        self.word(held.share.map_or(NONE, |share| share as u64));
        self.flag(held.renewed);
        self.flag(held.lost);
        self.flag(held.restored);
        self.flag(held.ended);
        self.flag(held.set_after_end);
        match held.session {
            SessionTie::None => self.word(0),
            SessionTie::Connected { connection, grace_ms } => {
                self.connection(connection);
                self.word(grace_ms);
            }
            SessionTie::Closed { closed_ms, until_ms } => {
                self.word(1);
                self.time(until_ms);
                self.flag(closed_ms == until_ms);
            }
        }
    }

    /// The lock manager's record of a lock.
    fn lock(&mut self, key: usize) {
        let table = self.world.manager.table();
        let id = table.find(name(key));
        let Some((id, lock)) = id.and_then(|id| Some((id, table.get(id)?))) else {
            self.word(NONE);
            return;
        };
        self.id(id);
        self.word(u64::from(lock.positions));
        self.word(u64::from(lock.connected));
        self.flag(lock.reserved);
        self.maybe_time(self.world.manager.alarm_ms(id));
        let Some(hold) = &lock.hold else {
            self.word(NONE);
            return;
        };
        self.text(&hold.owner);
        self.word(hold.token().map_or(NONE, |token| rank(&self.ranks.tokens, &token)));
        self.time(hold.until_ms);
        self.flag(hold.adopted);
        self.flag(hold.unique);
        self.flag(hold.renewed);
        let share = table.details(id).and_then(|details| details.share.as_ref());
        self.maybe_text(share.map(|share| &**share));
        let notice = table.details(id).and_then(|details| details.notice.as_ref());
        self.maybe_time(notice.map(|notice| notice.until_ms));
        self.flag(notice.is_some_and(|notice| notice.cut_deferred));
        match hold.session {
            Session::None => self.word(0),
            Session::Closed => self.word(1),
            Session::Tied { client, grace_ms } => {
                self.word(2);
                self.connection(client);
                self.word(grace_ms);
            }
            Session::Ending { client, grace_ms } => {
                self.word(3);
                self.connection(client);
                self.word(grace_ms);
            }
        }
    }

    /// The positions that the lock manager knows, in queue order.
    fn manager_positions(&mut self) {
        let queues = self.world.manager.queues();
        let tickets = std::mem::take(&mut self.ranks.positions);
        for ticket in &tickets {
            let Some(waiter) = queues.get(*ticket) else { continue };
            self.word(rank(&self.ranks.tickets, ticket));
            self.waiter(waiter);
            self.maybe_connection(waiter.client);
            self.maybe_time(waiter.deadline_ms);
            let missing = self.world.manager.missing(*ticket);
            self.word(missing.map_or(NONE, |missing| missing as u64));
            let kept = self.world.manager.kept_number(*ticket);
            self.word(rank(&self.ranks.manager_kept, &kept));
            self.groups(*ticket, waiter);
            let (left, recount_deferred) = self.world.manager.marks(*ticket);
            self.flag(recount_deferred);
            match left {
                Some(Some(until_ms)) => self.time(until_ms),
                Some(None) => self.word(NONE - 1),
                None => self.word(NONE),
            }
        }
        self.word(NONE);
    }

    /// What the lock manager keeps of a waiter after its call.
    fn waiter(&mut self, waiter: &Waiter) {
        self.word(rank(&self.ranks.manager_arrivals, &waiter.turn.arrival));
        if self.world.uses_turns {
            self.number(waiter.turn.number);
            self.maybe_text(waiter.share.as_deref());
            self.number(waiter.counted.cast_signed());
            for counted in waiter.counted_at_end.iter().flatten() {
                self.number(counted.cast_signed());
            }
            self.priority(waiter.priority);
            self.word(waiter.keep_ms.unwrap_or(NONE));
        }
        for id in &waiter.locks {
            self.id(*id);
        }
        self.word(NONE);
        self.word(waiter.wants as u64);
        for group in waiter.groups.iter().flat_map(|groups| &groups.groups) {
            self.word(group.locks.len() as u64);
        }
        self.word(waiter.groups.as_ref().map_or(NONE, |groups| groups.wanted as u64));
        self.flag(waiter.of_set);
        self.text(&waiter.owner);
        self.flag(waiter.unique);
        self.word(waiter.lease_ms);
        self.word(waiter.session_grace_ms.unwrap_or(NONE));
    }

    /// The groups of a waiter, and what is counted of them.
    fn groups(&mut self, ticket: Ticket, waiter: &Waiter) {
        let Some(groups) = &waiter.groups else { return };
        for group in &groups.groups {
            self.word(group.free as u64);
            self.word(group.held as u64);
            self.word(group.collected as u64);
        }
        let (of_locks, must_recount) = self.world.manager.group_marks(ticket);
        for (takes, is_free) in of_locks {
            self.flag(takes);
            self.flag(is_free);
        }
        self.flag(must_recount);
    }

    /// The expected positions.
    fn model_positions(&mut self) {
        let mut positions: Vec<&Position> = self.world.queue.positions().iter().collect();
        positions.sort_by_key(|position| position.turn().arrival);
        positions.into_iter().for_each(|position| self.position(position));
        self.word(NONE);
    }

    fn position(&mut self, position: &Position) {
        self.word(rank(&self.ranks.model_arrivals, &position.turn().arrival));
        if self.world.uses_turns {
            self.joined(position);
        }
        position.keys.iter().for_each(|key| self.word(*key as u64));
        self.word(position.wants as u64);
        for size in position.groups.iter().flat_map(|groups| &groups.sizes) {
            self.word(*size as u64);
        }
        self.word(position.groups.as_ref().map_or(NONE, |groups| groups.wanted as u64));
        self.flag(position.of_set);
        self.word(CLIENT_BIT | position.owner as u64);
        self.flag(position.unique);
        match position.state {
            PositionState::Kept { until_ms, number } => {
                self.time(until_ms);
                self.word(rank(&self.ranks.kept, &number));
            }
            PositionState::Connected { connection, ticket, deadline_ms } => {
                self.connection(connection);
                self.word(rank(&self.ranks.tickets, &ticket));
                self.maybe_time(deadline_ms);
            }
        }
    }

    /// How a position joined its queues, and what its bound depends on.
    fn joined(&mut self, position: &Position) {
        let joined = &position.joined;
        self.number(joined.turn.number);
        self.number(joined.counted.cast_signed());
        for counted in joined.counted_at_end {
            self.number(counted.cast_signed());
        }
        self.word(joined.places);
        self.word(position.share.map_or(NONE, |share| share as u64));
        self.priority(position.priority);
        self.word(position.keep_ms.unwrap_or(NONE));
        let bound = position.bound(self.world.queue.round, HIGHEST_PRIORITY);
        for since in joined.grants_since {
            self.word(since.min(bound.max(0).cast_unsigned()));
        }
        for arrival in &joined.behind {
            self.word(rank(&self.ranks.model_arrivals, arrival));
        }
        self.word(NONE);
        self.flag(joined.is_first);
    }

    fn priority(&mut self, priority: i64) {
        self.word(NOW.wrapping_add_signed(priority));
    }

    /// A number of the scale on which queues count their grants.
    fn number(&mut self, number: i64) {
        let zero = match self.locks {
            1 => self.world.queue.grants[0].cast_signed(),
            _ => 0,
        };
        self.word(NOW.wrapping_add_signed(number - zero));
    }

    /// The grants that the queues have counted.
    fn counts(&mut self, locks: usize) {
        for key in 0..locks {
            self.number(self.world.queue.grants[key].cast_signed());
            let id = self.world.manager.table().find(name(key));
            let counted = id.map_or(0, |id| self.world.manager.queues().counted(id));
            self.number(counted.cast_signed());
        }
    }

    fn deferred(&mut self) {
        for deferred in self.world.manager.deferred().work() {
            match deferred {
                Deferred::SessionEnd { lock, client, closed_ms } => {
                    self.word(0);
                    self.id(*lock);
                    self.closed(*client, *closed_ms);
                }
                Deferred::Session(session) => {
                    self.word(4);
                    self.closed(session.client, session.closed_ms);
                    self.word(session.at_once as u64);
                }
                Deferred::Undelivered { lock, token, lost } => {
                    self.word(1);
                    self.id(*lock);
                    self.word(rank(&self.ranks.tokens, token));
                    self.waiter(&lost.waiter);
                    self.names(&lost.set);
                }
                Deferred::HandOff { lock } => {
                    self.word(2);
                    self.id(*lock);
                }
                Deferred::CutToNotice { lock } => {
                    self.word(5);
                    self.id(*lock);
                }
                Deferred::Recount { ticket } => {
                    self.word(3);
                    self.word(rank(&self.ranks.tickets, ticket));
                }
            }
        }
        self.word(NONE);
    }

    /// Work that is limited by a budget, and the rest of the budget.
    fn partial_work(&mut self) {
        let deferred = self.world.manager.deferred();
        let sessions: Vec<_> = deferred.sessions().copied().collect();
        let mut closed_clients: Vec<_> = deferred.closed_clients().collect();
        closed_clients.sort_by_key(|connection| connection % CLIENTS as u64);
        for session in sessions {
            self.closed(session.client, session.closed_ms);
        }
        self.word(closed_clients.len() as u64);
        closed_clients.into_iter().for_each(|client| self.connection(client));
        if self.world.small_budgets {
            self.word(self.world.manager.budget_left(self.world.now()) as u64);
        }
    }

    /// A connection that closed, and the time since then.
    fn closed(&mut self, client: u64, closed_ms: u64) {
        self.connection(client);
        // No grace period is longer.
        let ago_ms = self.world.now().ms_since(closed_ms);
        self.word(ago_ms.min(PROBE_MS));
    }

    /// Grants that their clients have not received, and those that they never will.
    fn grants_in_flight(&mut self) {
        let world = self.world;
        for in_flight in world.in_flight.iter().chain(&world.undelivered) {
            self.in_flight(in_flight);
        }
        self.word(world.in_flight.len() as u64);
    }

    fn in_flight(&mut self, in_flight: &InFlight) {
        self.connection(in_flight.connection);
        self.position(&in_flight.position);
        for Grant { lock, key, token } in &in_flight.grants {
            self.id(*lock);
            self.text(key);
            self.word(rank(&self.ranks.tokens, token));
        }
        self.waiter(&in_flight.waiter);
        self.names(&in_flight.set);
    }

    fn names(&mut self, names: &[Bytes]) {
        names.iter().for_each(|name| self.text(name));
        self.word(NONE);
    }

    /// The next probe, and the identifiers of the next new locks.
    fn probe_round(&mut self, locks: usize) {
        let now_ms = self.world.now().ms();
        let round = self.world.manager.probe_round();
        let manager = &self.world.manager;
        let rests = u64::from(manager.is_listening()) + u64::from(manager.probes_rest());
        self.word(rests);
        self.word(
            u64::from(round.rounds.owed()) * 2 + u64::from(round.rounds.is_running()),
        );
        self.word(self.world.postponed_delete.map_or(NONE, |key| key as u64));
        self.word(round.last.map_or(NONE, |id| id.index() as u64));
        let armed_ms =
            self.world.armed_ms.map(|armed_ms| armed_ms.saturating_sub(now_ms));
        self.word(armed_ms.map_or(NONE, |ms| ms.min(PROBE_MS + 1)));
        self.word(round.next_ms.saturating_sub(now_ms).min(PROBE_MS + 1));
        self.word(now_ms.saturating_sub(round.checked_ms).min(2));
        for id in self.world.manager.table().next_ids(locks) {
            self.id(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;

    use super::*;
    use crate::action::Action;
    use crate::flaw::Flaw;
    use crate::scope::{SCOPES, Scope};

    /// The number of pairs to compare in each scope.
    const PAIRS: usize = 150;
    /// The number of steps to take from each pair.
    const STEPS: usize = 12;

    fn actions(scope: &Scope, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        scope.actions(world, &mut actions);
        actions
    }

    /// A random action, from a linear congruential generator.
    fn choose(actions: &[Action], seed: &mut u64) -> Action {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        actions[(*seed >> 33) as usize % actions.len()]
    }

    /// Takes the same random steps from both worlds, and compares the results.
    fn follow_both(scope: &Scope, mut one: World, mut other: World, seed: &mut u64) {
        for _ in 0..STEPS {
            let may = actions(scope, &one);
            assert_eq!(may, actions(scope, &other), "{}", scope.name);
            if may.is_empty() {
                return;
            }
            let action = choose(&may, seed);
            scope.take(&mut one, action);
            scope.take(&mut other, action);
            let (one, other) = (words(&one, scope.locks), words(&other, scope.locks));
            assert_eq!(one, other, "{}: {action:?}", scope.name);
        }
    }

    #[test]
    fn equivalent_worlds_stay_equivalent() {
        for scope in &SCOPES {
            let (mut visited, mut pairs, mut seed) = (HashMap::new(), 0, 7u64);
            while pairs < PAIRS {
                let mut world = scope.begin(Flaw::None);
                for _ in 0..STEPS {
                    let may = actions(scope, &world);
                    let action = choose(&may, &mut seed);
                    scope.take(&mut world, action);
                    match visited.entry(words(&world, scope.locks)) {
                        Entry::Vacant(new) => drop(new.insert(world.clone())),
                        Entry::Occupied(old) => {
                            pairs += 1;
                            let old = old.get().clone();
                            follow_both(scope, old, world.clone(), &mut seed);
                        }
                    }
                }
            }
        }
    }
}
