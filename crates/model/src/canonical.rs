//! When two worlds are the same: everything that can influence what happens from now on, and
//! nothing else, in words. Worlds with equal words go on alike, so one of them is explored.
//!
//! What is changed or left out, and why that is sound:
//!
//! - **Times** count from now: the rules compare and add times, and nothing else. Of times
//!   that are past only the order counts: nothing is added to them.
//! - **Tokens, tickets, turns** count by rank: they are compared, and the next one is larger
//!   than all there are.
//! - **Names** of clients, who are owners too: worlds that differ only in who is who are the
//!   same, since all may do the same. Of all ways to name them the one with the smallest
//!   hash stands for all. Locks are not renamed: sets like them in an order.
//! - **Connections** that are closed count by their age: a number never comes back.
//! - **Counters, log, histograms, events**, and since when something is held or waited for,
//!   are told and not asked, while `max-hold` and `warn-hold` are 0, as they are here. The
//!   law of the counters is looked at after each step, before worlds are compared.
//! - **The walk through all locks** (`LockManager::due`) is never asked: looks come in any order.
//! - **Indexes** (by name, owner, client, deadline, age) say nothing that is not in what they
//!   point at; that none is missing or left over is a law of its own.
//!
//! The test below goes on from pairs of worlds that are the same, and compares.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
use gpulock_core::state::arena::Id;
use gpulock_core::state::deferred::Deferred;
use gpulock_core::state::lock::{Bytes, NO_END, Session};
use gpulock_core::state::outbox::Grant;
use gpulock_core::state::wait_queue::{Ticket, Waiter};

use crate::call::OWNERS;
use crate::holds::{Held, Tie};
use crate::keyspace::{Value, name};
use crate::queue::{Position, Waits};
use crate::scope::LOOK_MS;
use crate::world::{CLIENTS, InFlight, World, Writes};

/// Words at least this large name clients and owners.
const NAMES: u64 = 1 << 63;

/// What is said where there is nothing.
const NONE: u64 = u64::MAX >> 1;

/// The word for now; past times are below it, future ones above.
const NOW: u64 = 1 << 40;

/// The number that stands for a world and all that are the same.
pub(crate) fn fingerprint(world: &World, clients: usize, locks: usize) -> u64 {
    let words = words(world, locks);
    let ways = permutations(clients);
    ways.iter().map(|way| hash(&words, way)).min().unwrap_or_default()
}

fn hash(words: &[u64], way: &[u64]) -> u64 {
    let mut hasher = FixedState::with_seed(0).build_hasher();
    for word in words {
        hasher.write_u64(match usize::try_from(word ^ NAMES) {
            Ok(at) if at < way.len() => NAMES | way[at],
            _ => *word,
        });
    }
    hasher.finish()
}

/// All ways to name so many.
fn permutations(count: usize) -> Vec<Vec<u64>> {
    let mut all = vec![Vec::new()];
    for new in 0..count {
        let longer = |way: Vec<u64>| {
            (0..=way.len()).map(move |at| {
                let mut way = way.clone();
                way.insert(at, new as u64);
                way
            })
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// A world in words.
pub(crate) fn words(world: &World, locks: usize) -> Vec<u64> {
    let (out, past, ranks) =
        (Vec::with_capacity(256), Vec::new(), Ranks::of(world, locks));
    let mut view = View { world, out, past, ranks };
    view.breach();
    for key in 0..locks {
        view.key(key);
        view.lock(key);
    }
    view.positions();
    view.line();
    view.deferred();
    view.portions();
    view.on_their_way();
    view.looks(locks);
    view.rank_past();
    view.out
}

/// Numbers of which only the order counts, in order.
#[derive(Default)]
struct Ranks {
    tokens: Vec<u64>,
    tickets: Vec<Ticket>,
    /// Turns of the keeper's places, and of our own.
    turns: Vec<u64>,
    own_turns: Vec<u64>,
    /// The tickets of the keeper's places, the earliest place first.
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
        let seq = |ticket: &Ticket| manager.queues().get(*ticket).map(|it| it.seq);
        ranks.positions.sort_by_key(seq);
        ranks.positions.dedup();
        ranks.turns.extend(ranks.positions.iter().filter_map(seq));
        ranks.tickets.extend(&ranks.positions);
        ranks.tickets.extend(world.queue.positions().iter().filter_map(Position::ticket));
        ranks
            .own_turns
            .extend(world.queue.positions().iter().map(|position| position.seq));
        for in_flight in world.in_flight.iter().chain(&world.undelivered) {
            ranks.tokens.extend(in_flight.grants.iter().map(|grant| grant.token));
            ranks.turns.push(in_flight.waiter.seq);
            ranks.own_turns.push(in_flight.position.seq);
        }
        for deferred in manager.deferred().work() {
            if let Deferred::Undelivered { token, lost, .. } = deferred {
                ranks.tokens.push(*token);
                ranks.turns.push(lost.waiter.seq);
            }
        }
        ranks.tokens.sort_unstable();
        ranks.tokens.dedup();
        ranks.tickets.sort_unstable();
        ranks.tickets.dedup();
        ranks.turns.sort_unstable();
        ranks.turns.dedup();
        ranks.own_turns.sort_unstable();
        ranks.own_turns.dedup();
        ranks
    }
}

fn rank<T: Ord>(of: &[T], value: &T) -> u64 {
    of.binary_search(value).map_or(NONE, |at| at as u64)
}

struct View<'w> {
    world: &'w World,
    out: Vec<u64>,
    /// Past times, each with the place of its word.
    past: Vec<(u64, usize)>,
    ranks: Ranks,
}

impl View<'_> {
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

    /// Puts past times in their order, the last one first.
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

    /// An owner, or a value that is none's.
    fn text(&mut self, text: &[u8]) {
        match OWNERS.iter().position(|owner| *owner == text) {
            Some(owner) => self.word(NAMES | owner as u64),
            None => self.word(FixedState::with_seed(0).hash_one(text) >> 1),
        }
    }

    fn connection(&mut self, connection: u64) {
        let client = connection % CLIENTS as u64;
        let now = self.world.connections[client as usize];
        self.word(NAMES | client);
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

    /// What a key shows, and who holds it by right.
    fn key(&mut self, key: usize) {
        match self.world.keys.get(key) {
            None => self.word(0),
            Some(Value::Other) => self.word(1),
            Some(Value::Text(text, until_ms)) => {
                self.text(text);
                self.maybe_time(*until_ms);
            }
        }
        self.flag(self.world.shown_free[key]);
        match &self.world.holds[key] {
            None => self.word(NONE),
            Some(held) => self.held(held),
        }
    }

    fn held(&mut self, held: &Held) {
        self.text(&held.owner);
        self.word(held.token.map_or(NONE, |token| rank(&self.ranks.tokens, &token)));
        self.flag(held.renewed);
        self.flag(held.lost);
        self.flag(held.ended);
        match held.session {
            Tie::No => self.word(0),
            Tie::To { connection, grace_ms } => {
                self.connection(connection);
                self.word(grace_ms);
            }
            Tie::Closed { closed_ms, until_ms } => {
                self.word(1);
                self.time(until_ms);
                self.flag(closed_ms == until_ms);
            }
        }
    }

    /// What the keeper knows of a lock.
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

    /// The places that the keeper knows, the earliest first.
    fn positions(&mut self) {
        let lines = self.world.manager.queues();
        let tickets = std::mem::take(&mut self.ranks.positions);
        for ticket in &tickets {
            let Some(waiter) = lines.get(*ticket) else { continue };
            self.word(rank(&self.ranks.tickets, ticket));
            self.waiter(waiter);
            self.maybe_connection(waiter.client);
            self.maybe_time(waiter.deadline_ms);
            let missing = self.world.manager.missing(*ticket);
            self.word(missing.map_or(NONE, |missing| missing as u64));
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

    /// What of a waiter lasts longer than its call.
    fn waiter(&mut self, waiter: &Waiter) {
        self.word(rank(&self.ranks.turns, &waiter.seq));
        for id in &waiter.locks {
            self.id(*id);
        }
        self.word(NONE);
        self.word(waiter.wants as u64);
        self.flag(waiter.of_set);
        self.text(&waiter.owner);
        self.flag(waiter.unique);
        self.word(waiter.lease_ms);
        self.word(waiter.session_grace_ms.unwrap_or(NONE));
    }

    /// The places as they must be.
    fn line(&mut self) {
        for position in self.world.queue.positions() {
            self.position(position);
        }
        self.word(NONE);
    }

    fn position(&mut self, position: &Position) {
        self.word(rank(&self.ranks.own_turns, &position.seq));
        position.keys.iter().for_each(|key| self.word(*key as u64));
        self.word(position.wants as u64);
        self.flag(position.of_set);
        self.word(NAMES | position.owner as u64);
        self.flag(position.unique);
        match position.waits {
            Waits::Kept { until_ms } => self.time(until_ms),
            Waits::Client { connection, ticket, deadline_ms } => {
                self.connection(connection);
                self.word(rank(&self.ranks.tickets, &ticket));
                self.maybe_time(deadline_ms);
            }
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
                Deferred::Recount { ticket } => {
                    self.word(3);
                    self.word(rank(&self.ranks.tickets, ticket));
                }
            }
        }
        self.word(NONE);
    }

    /// What is done in portions.
    fn portions(&mut self) {
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

    /// A connection that closed, and when.
    fn closed(&mut self, client: u64, closed_ms: u64) {
        self.connection(client);
        // No grace is longer.
        let ago_ms = self.world.now().ms_since(closed_ms);
        self.word(ago_ms.min(LOOK_MS));
    }

    /// Grants of which nobody was told yet, or ever will be.
    fn on_their_way(&mut self) {
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

    /// Where the keeper looks next, and where it keeps what it hears of next.
    fn looks(&mut self, locks: usize) {
        let now_ms = self.world.now().ms();
        let looks = self.world.manager.probe_round();
        self.word(looks.last.map_or(NONE, |id| id.index() as u64));
        self.word(looks.next_ms.saturating_sub(now_ms).min(LOOK_MS + 1));
        self.word(now_ms.saturating_sub(looks.checked_ms).min(2));
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

    /// How many pairs of a scope to compare, and how far to go on from each.
    const PAIRS: usize = 150;
    const STEPS: usize = 12;

    fn actions(scope: &Scope, world: &World) -> Vec<Action> {
        let mut actions = Vec::new();
        scope.actions(world, &mut actions);
        actions
    }

    /// Goes on from both in the same way, and compares what follows.
    fn go_on_alike(scope: &Scope, mut one: World, mut other: World, dice: &mut u64) {
        for _ in 0..STEPS {
            let may = actions(scope, &one);
            assert_eq!(may, actions(scope, &other), "{}", scope.name);
            if may.is_empty() {
                return;
            }
            *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let action = may[(*dice >> 33) as usize % may.len()];
            scope.take(&mut one, action);
            scope.take(&mut other, action);
            let (one, other) = (words(&one, scope.locks), words(&other, scope.locks));
            assert_eq!(one, other, "{}: {action:?}", scope.name);
        }
    }

    #[test]
    fn worlds_that_are_the_same_go_on_alike() {
        for scope in &SCOPES {
            let (mut met, mut pairs, mut dice) = (HashMap::new(), 0, 7u64);
            while pairs < PAIRS {
                let mut world = scope.begin(Flaw::None);
                for _ in 0..STEPS {
                    let may = actions(scope, &world);
                    dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let action = may[(dice >> 33) as usize % may.len()];
                    scope.take(&mut world, action);
                    match met.entry(words(&world, scope.locks)) {
                        Entry::Vacant(new) => drop(new.insert(world.clone())),
                        Entry::Occupied(old) => {
                            pairs += 1;
                            let old = old.get().clone();
                            go_on_alike(scope, old, world.clone(), &mut dice);
                        }
                    }
                }
            }
        }
    }
}
