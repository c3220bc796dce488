//! Turns as the command reference defines them: what orders a queue. They are computed here from
//! the grants and the positions that the model knows of, independently of the lock manager.

use crate::call::Call;
use crate::memory_keys::KEYS;
use crate::queue::{Position, Queue};

/// The turn of a position. The lowest is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) number: i64,
    /// The order of arrival.
    pub(crate) arrival: u64,
}

/// The grants of each queue, counted while it is not empty.
pub(crate) type Grants = [u64; KEYS.len()];

/// How a call joins its queues: its turn, and what the bound on its wait depends on.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    pub(crate) turn: Turn,
    /// The grants that were counted then, in the queue with the highest count.
    pub(crate) counted: u64,
    /// The counts of its queues when it was granted its locks. If it comes back, they do not count
    /// less.
    pub(crate) counted_at_end: Grants,
    /// The places and holds that its share had then.
    pub(crate) places: u64,
    /// The grants of each of its queues since then.
    pub(crate) grants_since: Grants,
    /// The arrivals of the positions that the call may not pass: it joined after their bounds.
    pub(crate) behind: Vec<u64>,
    /// Whether it came back as if it was the first to join: it passes those that joined before.
    pub(crate) is_first: bool,
}

impl Queue {
    /// Counts a grant of a lock for its queue, unless that is empty.
    pub(crate) fn count_grant(&mut self, key: usize) {
        let mut is_empty = true;
        for position in self.positions_mut().filter(|it| it.keys.contains(&key)) {
            position.joined.grants_since[key] += 1;
            is_empty = false;
        }
        if !is_empty {
            self.grants[key] += 1;
        }
    }

    /// Forgets the grants of empty queues.
    pub(crate) fn forget_grants_of_empty(&mut self) {
        for key in 0..KEYS.len() {
            if !self.positions().iter().any(|position| position.keys.contains(&key)) {
                self.grants[key] = 0;
            }
        }
    }

    /// How a call joins its queues; `holds` is the number of locks among them that are held under
    /// its share. The counts of its queues are raised to the highest one.
    pub(crate) fn join(&mut self, call: &Call, holds: usize) -> Joined {
        let number = self.number(call, holds);
        let (grants, places) = (self.highest_count(call), self.places(call, holds));
        call.keys.iter().for_each(|key| self.grants[*key] = grants);
        let is_bound = |position: &&Position| {
            let bound = position.bound(self.round, call.priority);
            let mut shared = call.keys.iter().filter(|key| position.keys.contains(key));
            let is_over =
                |key: &usize| position.joined.grants_since[*key].cast_signed() >= bound;
            shared.any(is_over)
        };
        let behind = self.positions().iter().filter(is_bound);
        let behind = behind.map(|position| position.joined.turn.arrival).collect();
        let turn = Turn { number, arrival: self.next_arrival() };
        let grants_since = Grants::default();
        Joined {
            turn,
            counted: grants,
            counted_at_end: Grants::default(),
            places,
            grants_since,
            behind,
            is_first: false,
        }
    }

    /// Inserts the position of a grant that was not delivered. If one of its queues was empty
    /// meanwhile, and counts from 0 again, it comes back as if it was the first to join. Otherwise
    /// the counts are not below its own.
    pub(crate) fn restore(&mut self, mut position: Position) {
        let joined = &mut position.joined;
        // It waits again, after a grant of its own.
        joined.grants_since = Grants::default();
        let counts_again = |key: &usize| {
            let mut positions = self.positions().iter();
            positions.any(|position| position.keys.contains(key))
                && self.grants[*key] < joined.counted
        };
        if position.keys.iter().any(counts_again) {
            joined.turn.number -= joined.counted.cast_signed();
            joined.counted = 0;
            joined.is_first = true;
            joined.behind = Vec::new();
            joined.counted_at_end = Grants::default();
        }
        for key in &position.keys {
            let counted = joined.counted.max(joined.counted_at_end[*key]);
            self.grants[*key] = self.grants[*key].max(counted);
        }
        self.insert(position);
    }

    /// Notes the counts of the queues of a position whose call has been granted these locks. The
    /// grants themselves do not count.
    pub(crate) fn note_counts_at_end(&mut self, at: usize, granted: &[usize]) {
        let keys = self.positions()[at].keys.iter();
        let mut counted = Grants::default();
        for key in keys {
            counted[*key] = self.grants[*key] - u64::from(granted.contains(key));
        }
        self.position(at).joined.counted_at_end = counted;
    }

    /// The number of the turn of a new call.
    pub(crate) fn number(&self, call: &Call, holds: usize) -> i64 {
        let moved = self.places(call, holds).cast_signed() - call.priority;
        self.highest_count(call).cast_signed() + self.round.cast_signed() * moved
    }

    fn highest_count(&self, call: &Call) -> u64 {
        call.keys.iter().map(|key| self.grants[*key]).max().unwrap_or(0)
    }

    /// The places and holds of the share of a call.
    fn places(&self, call: &Call, holds: usize) -> u64 {
        let waiting = call.keys.iter().map(|key| self.places_before(*key, call)).max();
        (holds + waiting.unwrap_or(0)) as u64
    }

    /// The calls of the same share that wait for a lock with at least the priority of a call.
    fn places_before(&self, key: usize, call: &Call) -> usize {
        let counts = |position: &&Position| {
            call.share.is_some()
                && position.share == call.share
                && position.priority >= call.priority
                && position.keys.contains(&key)
                && !position.is_superseded_by(call)
        };
        self.positions().iter().filter(counts).count()
    }
}

impl Position {
    /// The number of further grants of its queue after which no new call with this priority, or a
    /// lower one, passes it.
    pub(crate) fn bound(&self, round: u64, priority: i64) -> i64 {
        let places = self.joined.places.cast_signed();
        round.cast_signed() * (priority - self.priority + places)
    }

    /// Whether nothing moves it from the place of its arrival.
    pub(crate) fn is_plain(&self) -> bool {
        self.priority == 0 && self.share.is_none() && !self.joined.is_first
    }
}
