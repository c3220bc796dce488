//! The wait queues as the command reference defines them: one list of all positions, in the order of
//! their turns. It is independent of the lock manager's data structures, which are compared with it.

use gpulock_core::Now;
use gpulock_core::state::wait_queue::Ticket;

use crate::call::Call;
use crate::groups::Groups;
use crate::turn::{Grants, Joined, Turn};

/// A position in the queue of one lock, or in the queues of a lock set.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) joined: Joined,
    pub(crate) keys: Vec<usize>,
    pub(crate) wants: usize,
    pub(crate) groups: Option<Groups>,
    /// The keys of the locks that it took when the step began.
    pub(crate) taken: Vec<usize>,
    pub(crate) of_set: bool,
    pub(crate) owner: usize,
    pub(crate) unique: bool,
    pub(crate) priority: i64,
    pub(crate) share: Option<usize>,
    pub(crate) keep_ms: Option<u64>,
    pub(crate) state: PositionState,
}

/// Whether a client waits at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionState {
    /// A client waits, on this connection and in the call with this ticket.
    Connected { connection: u64, ticket: Ticket, deadline_ms: Option<u64> },
    /// No client waits; the position is kept until then.
    Kept {
        until_ms: u64,
        /// The order in which positions began to be kept.
        number: u64,
    },
}

impl Position {
    /// What orders it in its queues.
    pub(crate) fn turn(&self) -> Turn {
        self.joined.turn
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.state, PositionState::Connected { .. })
    }

    /// Whether it is a kept position whose time is over.
    pub(crate) fn is_over(&self, now: Now) -> bool {
        matches!(self.state, PositionState::Kept { until_ms, .. } if until_ms <= now.ms())
    }

    pub(crate) fn ticket(&self) -> Option<Ticket> {
        match self.state {
            PositionState::Connected { ticket, .. } => Some(ticket),
            PositionState::Kept { .. } => None,
        }
    }

    pub(crate) fn connection(&self) -> Option<u64> {
        match self.state {
            PositionState::Connected { connection, .. } => Some(connection),
            PositionState::Kept { .. } => None,
        }
    }

    /// A call for the same locks, without a timeout.
    pub(crate) fn to_call(&self) -> Call {
        Call {
            client: 0,
            keys: self.keys.clone(),
            count: self.of_set.then_some(self.count()),
            groups: self.groups.clone(),
            owner: self.owner,
            unique: self.unique,
            block_ms: Some(0),
            priority: self.priority,
            share: self.share,
            has_memory: true,
            ..Call::default()
        }
    }

    /// The number of locks of each of the wanted groups; without groups, of all.
    pub(crate) fn count(&self) -> usize {
        self.wants / self.groups.as_ref().map_or(1, |groups| groups.wanted)
    }

    /// Whether a call replaces this position: both are of the same UNIQUE owner and share a queue.
    pub(crate) fn is_superseded_by(&self, call: &Call) -> bool {
        call.unique
            && self.unique
            && self.owner == call.owner
            && self.keys.iter().any(|key| call.keys.contains(key))
    }

    /// When its wait ends, or its position is no longer kept.
    pub(crate) fn ends_ms(&self) -> Option<u64> {
        match self.state {
            PositionState::Connected { deadline_ms, .. } => deadline_ms,
            PositionState::Kept { until_ms, .. } => Some(until_ms),
        }
    }

    /// Whether a call asks for the same locks, with the same claim to a turn.
    pub(crate) fn is_repeated_by(&self, call: &Call) -> bool {
        self.wants == call.wants()
            && self.priority == call.priority
            && self.share == call.share
            && self.groups.as_ref() == call.effective_groups()
            && (self.groups.is_none() || self.keys == call.keys)
            && self.keys.len() == call.keys.len()
            && self.keys.iter().all(|key| call.keys.contains(key))
    }
}

/// All positions, in the order of their turns, and the grants of each queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    positions: Vec<Position>,
    last_arrival: u64,
    last_kept: u64,
    pub(crate) grants: Grants,
    /// The number of grants in a round.
    pub(crate) round: u64,
}

impl Queue {
    /// Empty queues.
    pub(crate) fn new(round: u64) -> Self {
        let (positions, grants) = (Vec::new(), Grants::default());
        Self { positions, last_arrival: 0, last_kept: 0, grants, round }
    }

    pub(crate) fn positions(&self) -> &[Position] {
        &self.positions
    }

    pub(crate) fn positions_mut(&mut self) -> impl Iterator<Item = &mut Position> {
        self.positions.iter_mut()
    }

    pub(crate) fn position(&mut self, at: usize) -> &mut Position {
        &mut self.positions[at]
    }

    /// An arrival after all others.
    pub(crate) fn next_arrival(&mut self) -> u64 {
        self.last_arrival += 1;
        self.last_arrival
    }

    /// The state of a position that is kept from now on.
    pub(crate) fn new_kept(&mut self, until_ms: u64) -> PositionState {
        self.last_kept += 1;
        PositionState::Kept { until_ms, number: self.last_kept }
    }

    /// Removes the position kept longest if there are more positions than the limit. Returns
    /// whether it did.
    pub(crate) fn make_room(&mut self, limit: u64) -> bool {
        let kept = self.positions.iter().enumerate();
        let kept = kept.filter_map(|(at, position)| match position.state {
            PositionState::Kept { number, .. } => Some((number, at)),
            PositionState::Connected { .. } => None,
        });
        match kept.min() {
            Some((_, at)) if self.positions.len() as u64 > limit => {
                self.remove(at);
                true
            }
            _ => false,
        }
    }

    /// The positions of the owner of a call that it takes over or gives up, and whether it repeats
    /// them.
    pub(crate) fn own(&self, call: &Call) -> Vec<(Joined, bool)> {
        let own = self.positions.iter().filter(|it| it.is_superseded_by(call));
        own.map(|it| (it.joined.clone(), it.is_repeated_by(call))).collect()
    }

    /// Inserts a position where its turn belongs.
    pub(crate) fn insert(&mut self, position: Position) {
        let at = self.positions.partition_point(|other| other.turn() < position.turn());
        self.positions.insert(at, position);
    }

    pub(crate) fn remove(&mut self, at: usize) -> Position {
        let position = self.positions.remove(at);
        self.forget_grants_of_empty();
        position
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Position) -> bool) {
        self.positions.retain(keep);
        self.forget_grants_of_empty();
    }

    /// The connected waiters.
    pub(crate) fn connected(&self) -> impl Iterator<Item = &Position> {
        self.positions.iter().filter(|position| position.is_connected())
    }

    /// The index of the position that expires first, if it has expired.
    pub(crate) fn first_expired(&self, now: Now) -> Option<usize> {
        let ends = self.positions.iter().enumerate();
        let ends = ends
            .filter_map(|(at, it)| Some(((it.ends_ms()?, it.is_connected()), at)))
            .filter(|((ms, _), _)| *ms <= now.ms());
        ends.min().map(|(_, at)| at)
    }

    /// Removes the positions that were kept until then, or not so long.
    pub(crate) fn end_kept_until(&mut self, until_ms: Option<u64>) {
        self.retain(|position| position.is_connected() || position.ends_ms() > until_ms);
    }

    /// The index of the position of a call.
    pub(crate) fn find(&self, ticket: Ticket) -> Option<usize> {
        self.positions.iter().position(|position| position.ticket() == Some(ticket))
    }

    /// The index of the position at which the client of a connection waits.
    pub(crate) fn find_connection(&self, connection: u64) -> Option<usize> {
        self.positions
            .iter()
            .position(|position| position.connection() == Some(connection))
    }

    /// Queues a call. It takes over `same`, the position that it repeats; without one it joins as a
    /// new call. `holds` is the number of its locks that are held under its share.
    pub(crate) fn begin(
        &mut self,
        call: &Call,
        same: Option<Joined>,
        holds: usize,
        state: PositionState,
    ) {
        let joined = match same {
            Some(joined) => {
                self.positions.retain(|it| !it.is_superseded_by(call));
                joined
            }
            None => {
                self.retain(|it| !it.is_superseded_by(call));
                self.join(call, holds)
            }
        };
        self.insert(Position {
            joined,
            keys: call.keys.clone(),
            wants: call.wants(),
            groups: call.effective_groups().cloned(),
            taken: Vec::new(),
            of_set: call.count.is_some(),
            owner: call.owner,
            unique: call.unique,
            priority: call.priority,
            share: call.share,
            keep_ms: call.keep_ms,
            state,
        });
    }
}
