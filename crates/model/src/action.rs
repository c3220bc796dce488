//! The steps of a world, and those that may follow in a scope.

use gpulock_core::state::settings::{Events, Settings};

use crate::call::OWNERS;
use crate::flaw::Flaw;
use crate::holds::SessionTie;
use crate::memory_keys::{KEYS, Value, name};
use crate::scope::{Feature, KEEP_MS, LEASE_MS, PROBE_MS, Scope};
use crate::world::{World, Writes};

/// A value that is not one of the owners.
const FOREIGN_OWNER: &[u8] = b"stranger";

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see `Feature` and `CallTemplate`")]
pub enum Action {
    Call { client: usize, template: usize },
    Release { client: usize, key: usize },
    Extend { client: usize, key: usize },
    ForceRelease { key: usize },
    GiveNotice { key: usize },
    Disconnect { client: usize },
    Unblock { client: usize, with_error: bool },
    Delete { key: usize },
    PostponeDelete { key: usize },
    Set { key: usize },
    SetOwner { key: usize, client: usize },
    Persist { key: usize },
    Probe { key: usize },
    Tick,
    AdvanceClock,
    EndTurn,
    Writes(Writes),
    ResetStats,
}

impl Scope {
    /// The initial world.
    pub fn begin(&self, flaw: Flaw) -> World {
        let settings = Settings {
            default_lease: LEASE_MS,
            place_keep: KEEP_MS,
            round: 1,
            max_waiters: if self.has(Feature::TwoWaiters) { 2 } else { 10_000 },
            // Never read here, and costs time to copy.
            tracked_keys: 0,
            log_len: 0,
            events: Events::Off,
            ..Default::default()
        };
        let mut world = World::new(settings, flaw);
        world.defers_to_turn_end = self.has(Feature::DefersToTurnEnd);
        world.uses_turns = self.calls.iter().any(|template| !template.call(0).is_plain());
        if self.has(Feature::SmallBudgets) {
            world.use_small_budgets();
        }
        world
    }

    /// Takes a step.
    pub fn take(&self, world: &mut World, action: Action) {
        match action {
            Action::Call { client, template } => {
                world.acquire(&self.calls[template].call(client))
            }
            Action::Release { client, key } => world.release(key, client, None),
            Action::Extend { client, key } => world.extend(key, client, None),
            Action::ForceRelease { key } => world.force_release(key, None, None),
            Action::GiveNotice { key } => world.give_notice(key, None, None, PROBE_MS),
            Action::Disconnect { client } => world.drop_client(client),
            Action::Unblock { client, with_error } => world.unblock(client, with_error),
            Action::Delete { key } => world.delete(key),
            Action::PostponeDelete { key } => world.postpone_delete(key),
            Action::Set { key } => world.set(key, FOREIGN_OWNER, Some(LEASE_MS)),
            Action::SetOwner { key, client } => {
                world.set(key, OWNERS[client], Some(LEASE_MS));
            }
            Action::Persist { key } => world.expire(key, None),
            Action::Probe { key } => world.probe(key),
            Action::Tick => world.tick(),
            Action::AdvanceClock => world.advance_clock(PROBE_MS.cast_signed()),
            Action::EndTurn => world.end_turn(),
            Action::Writes(writes) => world.set_writes(writes),
            Action::ResetStats => world.reset_stats(),
        }
        if !self.has(Feature::LongTurns) && world.writes() != Writes::WithinCommand {
            world.end_turn();
        }
    }

    /// The steps that may follow.
    pub fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.breach().is_some() {
            return;
        }
        self.connections(world, actions);
        self.server(world, actions);
        if world.writes() == Writes::Accepted {
            self.commands(world, actions);
            self.keys(world, actions);
        } else if world.writes() == Writes::Paused && self.has(Feature::Delete) {
            self.postponed(world, actions);
        }
    }

    /// The commands that arrive during a pause. One is enough.
    fn postponed(&self, world: &World, actions: &mut Vec<Action>) {
        let exists = |key: &usize| world.keys.text(*key).is_some();
        if world.postponed_delete.is_none() {
            let keys = (0..self.locks).filter(exists);
            actions.extend(keys.map(|key| Action::PostponeDelete { key }));
        }
    }

    /// The commands of clients that do not wait.
    fn commands(&self, world: &World, actions: &mut Vec<Action>) {
        let idle = |client: &usize| !world.is_waiting(*client);
        for client in (0..self.clients).filter(idle) {
            let templates = 0..self.calls.len();
            actions.extend(templates.map(|template| Action::Call { client, template }));
            for key in (0..self.locks).filter(|key| holds(world, client, *key)) {
                if self.has(Feature::Release) {
                    actions.push(Action::Release { client, key });
                }
                if self.has(Feature::Extend) {
                    actions.push(Action::Extend { client, key });
                }
            }
        }
        if !self.has(Feature::ReleaseByAnother) {
            return;
        }
        for key in (0..self.locks).filter(|key| is_known(world, *key)) {
            // One client is enough: the command changes nothing but counters.
            let mut others = (0..self.clients).filter(idle);
            let other = others.find(|client| !holds(world, *client, key));
            actions.extend(other.map(|client| Action::Release { client, key }));
        }
    }

    /// Events of the connections of clients that wait or to which locks are tied.
    fn connections(&self, world: &World, actions: &mut Vec<Action>) {
        for client in 0..self.clients {
            let waits = world.queue.find_connection(world.connection(client)).is_some();
            if self.has(Feature::Disconnect)
                && (world.is_waiting(client) || has_session(world, client))
            {
                actions.push(Action::Disconnect { client });
            }
            if self.has(Feature::Unblock) && waits {
                actions.push(Action::Unblock { client, with_error: false });
            }
            if self.has(Feature::UnblockWithError) && waits {
                actions.push(Action::Unblock { client, with_error: true });
            }
        }
    }

    /// What operators and other clients do to keys.
    fn keys(&self, world: &World, actions: &mut Vec<Action>) {
        for key in 0..self.locks {
            let text = world.keys.text(key);
            if self.has(Feature::ForceRelease) && text.is_some() {
                actions.push(Action::ForceRelease { key });
            }
            if self.has(Feature::GiveNotice) && text.is_some() {
                actions.push(Action::GiveNotice { key });
            }
            if self.has(Feature::Delete) && text.is_some() {
                actions.push(Action::Delete { key });
            }
            if self.has(Feature::Persist) && world.keys.until_ms(key).is_some() {
                actions.push(Action::Persist { key });
            }
            if self.has(Feature::Set) {
                actions.push(Action::Set { key });
            }
            if self.has(Feature::SetOwner) {
                let owners = 0..self.clients;
                actions.extend(owners.map(|client| Action::SetOwner { key, client }));
            }
            if self.has(Feature::Probe) && is_known(world, key) {
                actions.push(Action::Probe { key });
            }
        }
    }

    /// Changes of whether the server accepts writes.
    fn write_changes(&self, world: &World, actions: &mut Vec<Action>) {
        if world.writes() != Writes::Accepted {
            actions.push(Action::Writes(Writes::Accepted));
            return;
        }
        let refusals = REFUSALS.iter().filter(|(feature, _)| self.has(*feature));
        actions.extend(refusals.map(|(_, writes)| Action::Writes(*writes)));
    }

    /// What the server does on its own.
    fn server(&self, world: &World, actions: &mut Vec<Action>) {
        self.write_changes(world, actions);
        if world.writes() == Writes::WithinCommand {
            return;
        }
        actions.push(Action::Tick);
        // The clock does not advance within a turn of the event loop.
        if world.in_flight.is_empty() && !world.manager.deferred().has_work() {
            if time_matters(world) {
                actions.push(Action::AdvanceClock);
            }
        } else {
            actions.push(Action::EndTurn);
        }
        if self.has(Feature::ResetStats) {
            actions.push(Action::ResetStats);
        }
    }
}

/// The ways in which the server refuses writes.
const REFUSALS: [(Feature, Writes); 3] = [
    (Feature::Pause, Writes::Paused),
    (Feature::RefuseWrites, Writes::Refused),
    (Feature::LongCommand, Writes::WithinCommand),
];

fn holds(world: &World, client: usize, key: usize) -> bool {
    world.keys.text(key) == Some(OWNERS[client])
}

fn is_known(world: &World, key: usize) -> bool {
    world.manager.table().find(name(key)).is_some()
}

fn has_session(world: &World, client: usize) -> bool {
    let connection = world.connection(client);
    world.holds.iter().flatten().any(|held| match held.session {
        SessionTie::Connected { connection: tied_to, .. } => tied_to == connection,
        SessionTie::None | SessionTie::Closed { .. } => false,
    })
}

/// Whether something ends with time or is probed again.
fn time_matters(world: &World) -> bool {
    let ends = |key: usize| matches!(world.keys.get(key), Some(Value::Text(_, Some(_))));
    (0..KEYS.len()).any(ends) || !world.queue.positions().is_empty()
}
