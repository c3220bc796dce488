//! One step of a world: what somebody does, or what happens.

use gpulock_core::state::settings::{Events, Settings};

use crate::call::OWNERS;
use crate::flaw::Flaw;
use crate::holds::Tie;
use crate::keyspace::{KEYS, Value, name};
use crate::scope::{KEEP_MS, LEASE_MS, LOOK_MS, Offer, Scope};
use crate::world::{World, Writes};

/// The value of an outsider who knows nothing of owners.
const STRANGER: &[u8] = b"stranger";

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is; `Offer` and `How` tell more")]
pub enum Action {
    Call { client: usize, how: usize },
    Release { client: usize, key: usize },
    Extend { client: usize, key: usize },
    Force { key: usize },
    Disconnect { client: usize },
    Unblock { client: usize, with_error: bool },
    Delete { key: usize },
    Set { key: usize },
    SetOwner { key: usize, client: usize },
    Persist { key: usize },
    Look { key: usize },
    Tick,
    Pass,
    EndTurn,
    Writes(Writes),
    ResetStats,
}

impl Scope {
    /// The world in which it begins.
    pub fn begin(&self, flaw: Flaw) -> World {
        let settings = Settings {
            default_lease: LEASE_MS,
            place_keep: KEEP_MS,
            // What nobody looks at here would only be copied.
            tracked_keys: 0,
            log_len: 0,
            events: Events::Off,
            ..Default::default()
        };
        let mut world = World::new(settings, flaw);
        world.defers_longer = self.has(Offer::DefersLonger);
        if self.has(Offer::SmallBudgets) {
            world.use_small_budgets();
        }
        world
    }

    /// Takes a step.
    pub fn take(&self, world: &mut World, action: Action) {
        match action {
            Action::Call { client, how } => {
                world.acquire(&self.asks[how].request(client))
            }
            Action::Release { client, key } => world.release(key, client, None),
            Action::Extend { client, key } => world.extend(key, client, None),
            Action::Force { key } => world.force(key, None, None),
            Action::Disconnect { client } => world.drop_client(client),
            Action::Unblock { client, with_error } => world.unblock(client, with_error),
            Action::Delete { key } => world.delete(key),
            Action::Set { key } => world.set(key, STRANGER, Some(LEASE_MS)),
            Action::SetOwner { key, client } => {
                world.set(key, OWNERS[client], Some(LEASE_MS));
            }
            Action::Persist { key } => world.expire(key, None),
            Action::Look { key } => world.probe(key),
            Action::Tick => world.tick(),
            Action::Pass => world.pass(LOOK_MS.cast_signed()),
            Action::EndTurn => world.end_turn(),
            Action::Writes(writes) => world.set_writes(writes),
            Action::ResetStats => world.reset_stats(),
        }
        if !self.has(Offer::LongTurns) && world.writes() != Writes::WithinCommand {
            world.end_turn();
        }
    }

    /// What may happen next.
    pub fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.breach().is_some() {
            return;
        }
        self.connections(world, actions);
        self.server(world, actions);
        if world.writes() == Writes::Accepted {
            self.commands(world, actions);
            self.keys(world, actions);
        }
    }

    /// What clients ask, each while it does not wait.
    fn commands(&self, world: &World, actions: &mut Vec<Action>) {
        let idle = |client: &usize| !world.is_waiting(*client);
        for client in (0..self.clients).filter(idle) {
            let asks = 0..self.asks.len();
            actions.extend(asks.map(|how| Action::Call { client, how }));
            for key in (0..self.locks).filter(|key| holds(world, client, *key)) {
                if self.has(Offer::Release) {
                    actions.push(Action::Release { client, key });
                }
                if self.has(Offer::Extend) {
                    actions.push(Action::Extend { client, key });
                }
            }
        }
        if !self.has(Offer::WrongRelease) {
            return;
        }
        for key in (0..self.locks).filter(|key| is_known(world, *key)) {
            // One of them stands for all: it changes nothing but counters.
            let mut others = (0..self.clients).filter(idle);
            let other = others.find(|client| !holds(world, *client, key));
            actions.extend(other.map(|client| Action::Release { client, key }));
        }
    }

    /// What happens to connections, of which something waits or is tied to them.
    fn connections(&self, world: &World, actions: &mut Vec<Action>) {
        for client in 0..self.clients {
            let waits = world.queue.find_connection(world.connection(client)).is_some();
            if self.has(Offer::Disconnect)
                && (world.is_waiting(client) || has_tie(world, client))
            {
                actions.push(Action::Disconnect { client });
            }
            if self.has(Offer::Unblock) && waits {
                actions.push(Action::Unblock { client, with_error: false });
            }
            if self.has(Offer::UnblockWithError) && waits {
                actions.push(Action::Unblock { client, with_error: true });
            }
        }
    }

    /// What operators and outsiders do to keys.
    fn keys(&self, world: &World, actions: &mut Vec<Action>) {
        for key in 0..self.locks {
            let text = world.keys.text(key);
            if self.has(Offer::Force) && text.is_some() {
                actions.push(Action::Force { key });
            }
            if self.has(Offer::Delete) && text.is_some() {
                actions.push(Action::Delete { key });
            }
            if self.has(Offer::Persist) && world.keys.until_ms(key).is_some() {
                actions.push(Action::Persist { key });
            }
            if self.has(Offer::Set) {
                actions.push(Action::Set { key });
            }
            if self.has(Offer::SetOwner) {
                let owners = 0..self.clients;
                actions.extend(owners.map(|client| Action::SetOwner { key, client }));
            }
            if self.has(Offer::Look) && is_known(world, key) {
                actions.push(Action::Look { key });
            }
        }
    }

    /// Writes are accepted no longer, or again.
    fn changes_of_writes(&self, world: &World, actions: &mut Vec<Action>) {
        if world.writes() != Writes::Accepted {
            actions.push(Action::Writes(Writes::Accepted));
            return;
        }
        let offered = REFUSALS.iter().filter(|(offer, _)| self.has(*offer));
        actions.extend(offered.map(|(_, writes)| Action::Writes(*writes)));
    }

    /// What the server does by itself.
    fn server(&self, world: &World, actions: &mut Vec<Action>) {
        self.changes_of_writes(world, actions);
        if world.writes() == Writes::WithinCommand {
            return;
        }
        actions.push(Action::Tick);
        // Nobody's time is over within a turn of the loop.
        if world.in_flight.is_empty() && !world.manager.deferred().has_work() {
            if time_matters(world) {
                actions.push(Action::Pass);
            }
        } else {
            actions.push(Action::EndTurn);
        }
        if self.has(Offer::ResetStats) {
            actions.push(Action::ResetStats);
        }
    }
}

/// How the server may come to refuse writes.
const REFUSALS: [(Offer, Writes); 3] = [
    (Offer::Pause, Writes::Paused),
    (Offer::Refuse, Writes::Refused),
    (Offer::LongCommand, Writes::WithinCommand),
];

fn holds(world: &World, client: usize, key: usize) -> bool {
    world.keys.text(key) == Some(OWNERS[client])
}

fn is_known(world: &World, key: usize) -> bool {
    world.manager.table().find(name(key)).is_some()
}

fn has_tie(world: &World, client: usize) -> bool {
    let connection = world.connection(client);
    world.holds.iter().flatten().any(
        |held| matches!(held.session, Tie::To { connection: to, .. } if to == connection),
    )
}

/// Something ends by itself, or is looked at again.
fn time_matters(world: &World) -> bool {
    let ends = |key: usize| matches!(world.keys.get(key), Some(Value::Text(_, Some(_))));
    (0..KEYS.len()).any(ends) || !world.queue.positions().is_empty()
}
