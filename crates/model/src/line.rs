//! The line as the contract has it: one list of all who wait, in the order in which they
//! came. It knows nothing of the keeper's maps, and is what they are compared with.

use gpulock_core::Now;
use gpulock_core::line::Ticket;

use crate::ask::Ask;

/// A place in the line of one lock, or of several.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Smaller is earlier.
    pub(crate) turn: u64,
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

impl Place {
    pub(crate) fn is_present(&self) -> bool {
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
    pub(crate) fn ask_again(&self) -> Ask {
        Ask {
            client: 0,
            keys: self.keys.clone(),
            count: self.of_set.then_some(self.wants),
            owner: self.owner,
            lease_ms: None,
            unique: self.unique,
            block_ms: Some(0),
            session_grace_ms: None,
            room: true,
        }
    }

    /// It is that owner's who asks, and stands in one of the lines that are asked about.
    pub(crate) fn is_own(&self, ask: &Ask) -> bool {
        ask.unique
            && self.unique
            && self.owner == ask.owner
            && self.keys.iter().any(|key| ask.keys.contains(key))
    }

    /// It waits for just what is asked for now.
    pub(crate) fn is_same(&self, ask: &Ask) -> bool {
        let is_asked = |key: &usize| ask.keys.contains(key);
        self.wants == ask.wants()
            && self.keys.len() == ask.keys.len()
            && self.keys.iter().all(is_asked)
    }
}

/// All who wait, and the places that are kept, the earliest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    places: Vec<Place>,
    turns: u64,
}

impl Line {
    /// The places.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// A place.
    pub(crate) fn place(&mut self, at: usize) -> &mut Place {
        &mut self.places[at]
    }

    /// A turn later than all before.
    pub(crate) fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Puts a place where its turn is.
    pub(crate) fn insert(&mut self, place: Place) {
        let at = self.places.partition_point(|other| other.turn < place.turn);
        self.places.insert(at, place);
    }

    pub(crate) fn remove(&mut self, at: usize) -> Place {
        self.places.remove(at)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&Place) -> bool) {
        self.places.retain(keep);
    }

    /// Who waits, and is there.
    pub(crate) fn present(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.is_present())
    }

    /// Where the place of this call is.
    pub(crate) fn find(&self, ticket: Ticket) -> Option<usize> {
        self.places.iter().position(|place| place.ticket() == Some(ticket))
    }

    /// Where the client of this connection waits.
    pub(crate) fn find_connection(&self, connection: u64) -> Option<usize> {
        self.places.iter().position(|place| place.connection() == Some(connection))
    }

    /// The first in the line of a key who is there.
    pub(crate) fn first(&self, key: usize) -> Option<usize> {
        self.first_but(key, |_| false)
    }

    /// The first in the line of a key who is there, those left out but for.
    pub(crate) fn first_but(
        &self,
        key: usize,
        but: impl Fn(&Place) -> bool,
    ) -> Option<usize> {
        let is_it = |place: &Place| {
            place.is_present() && place.keys.contains(&key) && !but(place)
        };
        self.places.iter().position(is_it)
    }

    /// A new call's place: that of the call that it repeats, if there is no other of its
    /// owner's in these lines, else a new one at the end.
    pub(crate) fn begin(&mut self, ask: &Ask, waits: Waits) {
        let own = self.places.iter().filter(|place| place.is_own(ask));
        let own: Vec<(u64, bool)> = own.map(|p| (p.turn, p.is_same(ask))).collect();
        let turn = match own[..] {
            [(turn, true)] => turn,
            _ => self.next_turn(),
        };
        self.places.retain(|place| !place.is_own(ask));
        self.insert(Place {
            turn,
            keys: ask.keys.clone(),
            wants: ask.wants(),
            of_set: ask.count.is_some(),
            owner: ask.owner,
            unique: ask.unique,
            waits,
        });
    }
}
