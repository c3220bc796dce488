//! The wait queues as the command reference defines them: one list of all positions, in queue
//! order. It is independent of the lock manager's data structures, which are compared with it.

use gpulock_core::Now;
use gpulock_core::state::wait_queue::Ticket;

use crate::call::Call;

/// A position in the queue of one lock, or in the queues of a lock set.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    /// The order in the queues, the smallest first.
    pub(crate) seq: u64,
    pub(crate) keys: Vec<usize>,
    pub(crate) wants: usize,
    pub(crate) of_set: bool,
    pub(crate) owner: usize,
    pub(crate) unique: bool,
    pub(crate) state: PositionState,
}

/// Whether a client waits at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionState {
    /// A client waits, on this connection and in the call with this ticket.
    Connected { connection: u64, ticket: Ticket, deadline_ms: Option<u64> },
    /// No client waits; the position is kept until then.
    Kept { until_ms: u64 },
}

impl Position {
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.state, PositionState::Connected { .. })
    }

    /// Whether it is a kept position whose time is over.
    pub(crate) fn is_over(&self, now: Now) -> bool {
        matches!(self.state, PositionState::Kept { until_ms } if until_ms <= now.ms())
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
            count: self.of_set.then_some(self.wants),
            owner: self.owner,
            lease_ms: None,
            unique: self.unique,
            block_ms: Some(0),
            session_grace_ms: None,
            has_memory: true,
        }
    }

    /// Whether a call replaces this position: both are of the same UNIQUE owner and share a queue.
    pub(crate) fn is_superseded_by(&self, call: &Call) -> bool {
        call.unique
            && self.unique
            && self.owner == call.owner
            && self.keys.iter().any(|key| call.keys.contains(key))
    }

    /// Whether a call asks for the same locks.
    pub(crate) fn is_repeated_by(&self, call: &Call) -> bool {
        self.wants == call.wants()
            && self.keys.len() == call.keys.len()
            && self.keys.iter().all(|key| call.keys.contains(key))
    }
}

/// All positions, in queue order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    positions: Vec<Position>,
    last_seq: u64,
}

impl Queue {
    pub(crate) fn positions(&self) -> &[Position] {
        &self.positions
    }

    pub(crate) fn position(&mut self, at: usize) -> &mut Position {
        &mut self.positions[at]
    }

    /// A sequence number after all others.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// Inserts a position where its sequence number belongs.
    pub(crate) fn insert(&mut self, position: Position) {
        let at = self.positions.partition_point(|other| other.seq < position.seq);
        self.positions.insert(at, position);
    }

    pub(crate) fn remove(&mut self, at: usize) -> Position {
        self.positions.remove(at)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Position) -> bool) {
        self.positions.retain(keep);
    }

    /// The connected waiters.
    pub(crate) fn connected(&self) -> impl Iterator<Item = &Position> {
        self.positions.iter().filter(|position| position.is_connected())
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

    /// The index of the first connected waiter in the queue of a key.
    pub(crate) fn first(&self, key: usize) -> Option<usize> {
        self.first_except(key, |_| false)
    }

    /// The index of the first connected waiter in the queue of a key that is not `ignored`.
    pub(crate) fn first_except(
        &self,
        key: usize,
        ignored: impl Fn(&Position) -> bool,
    ) -> Option<usize> {
        let is_it = |position: &Position| {
            position.is_connected() && position.keys.contains(&key) && !ignored(position)
        };
        self.positions.iter().position(is_it)
    }

    /// Queues a call. It takes over the position that it repeats if it supersedes no other one;
    /// else its position is at the end.
    pub(crate) fn begin(&mut self, call: &Call, state: PositionState) {
        let own = self.positions.iter().filter(|it| it.is_superseded_by(call));
        let own: Vec<(u64, bool)> =
            own.map(|it| (it.seq, it.is_repeated_by(call))).collect();
        let seq = match own[..] {
            [(seq, true)] => seq,
            _ => self.next_seq(),
        };
        self.positions.retain(|it| !it.is_superseded_by(call));
        self.insert(Position {
            seq,
            keys: call.keys.clone(),
            wants: call.wants(),
            of_set: call.count.is_some(),
            owner: call.owner,
            unique: call.unique,
            state,
        });
    }
}
