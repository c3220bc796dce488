//! The line as the contract has it: one list of all who wait, in the order in which they
//! came. It knows nothing of the keeper's maps, and is what they are compared with.

use gpulock_core::Now;
use gpulock_core::state::wait_queue::Ticket;

use crate::call::Call;

/// A place in the line of one lock, or of several.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    /// Smaller is earlier.
    pub(crate) seq: u64,
    pub(crate) keys: Vec<usize>,
    pub(crate) wants: usize,
    pub(crate) of_set: bool,
    pub(crate) owner: usize,
    pub(crate) unique: bool,
    pub(crate) waits: Waits,
}

/// Who stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// A client, by this connection, in this call.
    Client { connection: u64, ticket: Ticket, deadline_ms: Option<u64> },
    /// Nobody: the place is kept until then.
    Kept { until_ms: u64 },
}

impl Position {
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.waits, Waits::Client { .. })
    }

    /// Its place was kept long enough.
    pub(crate) fn is_over(&self, now: Now) -> bool {
        matches!(self.waits, Waits::Kept { until_ms } if until_ms <= now.ms())
    }

    pub(crate) fn ticket(&self) -> Option<Ticket> {
        match self.waits {
            Waits::Client { ticket, .. } => Some(ticket),
            Waits::Kept { .. } => None,
        }
    }

    pub(crate) fn connection(&self) -> Option<u64> {
        match self.waits {
            Waits::Client { connection, .. } => Some(connection),
            Waits::Kept { .. } => None,
        }
    }

    /// What its client asked for.
    pub(crate) fn call_again(&self) -> Call {
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

    /// It is that owner's who asks, and stands in one of the lines that are asked about.
    pub(crate) fn is_own(&self, request: &Call) -> bool {
        request.unique
            && self.unique
            && self.owner == request.owner
            && self.keys.iter().any(|key| request.keys.contains(key))
    }

    /// It waits for just what is asked for now.
    pub(crate) fn is_same(&self, request: &Call) -> bool {
        let is_asked = |key: &usize| request.keys.contains(key);
        self.wants == request.wants()
            && self.keys.len() == request.keys.len()
            && self.keys.iter().all(is_asked)
    }
}

/// All who wait, and the places that are kept, the earliest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    positions: Vec<Position>,
    turns: u64,
}

impl Queue {
    /// The places.
    pub(crate) fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// A place.
    pub(crate) fn position(&mut self, at: usize) -> &mut Position {
        &mut self.positions[at]
    }

    /// A turn later than all before.
    pub(crate) fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Puts a place where its turn is.
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

    /// Who waits, and is there.
    pub(crate) fn connected(&self) -> impl Iterator<Item = &Position> {
        self.positions.iter().filter(|position| position.is_connected())
    }

    /// Where the place of this call is.
    pub(crate) fn find(&self, ticket: Ticket) -> Option<usize> {
        self.positions.iter().position(|position| position.ticket() == Some(ticket))
    }

    /// Where the client of this connection waits.
    pub(crate) fn find_connection(&self, connection: u64) -> Option<usize> {
        self.positions
            .iter()
            .position(|position| position.connection() == Some(connection))
    }

    /// The first in the line of a key who is there.
    pub(crate) fn first(&self, key: usize) -> Option<usize> {
        self.first_but(key, |_| false)
    }

    /// The first in the line of a key who is there, those left out but for.
    pub(crate) fn first_but(
        &self,
        key: usize,
        but: impl Fn(&Position) -> bool,
    ) -> Option<usize> {
        let is_it = |position: &Position| {
            position.is_connected() && position.keys.contains(&key) && !but(position)
        };
        self.positions.iter().position(is_it)
    }

    /// A new call's place: that of the call that it repeats, if there is no other of its
    /// owner's in these lines, else a new one at the end.
    pub(crate) fn begin(&mut self, request: &Call, waits: Waits) {
        let own = self.positions.iter().filter(|position| position.is_own(request));
        let own: Vec<(u64, bool)> = own.map(|p| (p.seq, p.is_same(request))).collect();
        let seq = match own[..] {
            [(seq, true)] => seq,
            _ => self.next_turn(),
        };
        self.positions.retain(|position| !position.is_own(request));
        self.insert(Position {
            seq,
            keys: request.keys.clone(),
            wants: request.wants(),
            of_set: request.count.is_some(),
            owner: request.owner,
            unique: request.unique,
            waits,
        });
    }
}
