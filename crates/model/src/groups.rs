//! GROUPS as the command reference defines them: when a call is complete, and which locks may be
//! reserved for a waiter. Only the locks that a waiter takes are read from the lock manager: among
//! groups that lack equally many locks, which ones it collects depends on what happened before. The
//! laws here check them.

use std::ops::Range;

use gpulock_core::request;

use crate::law::Law;
use crate::memory_keys::{KEYS, name};
use crate::queue::Position;
use crate::world::World;

/// `GROUPS wanted numgroups size [size …]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// The number of groups to acquire locks of.
    pub wanted: usize,
    /// The number of keys of each group.
    pub sizes: Vec<usize>,
}

impl Groups {
    /// The places of the keys of each group.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        self.sizes.iter().map(move |size| {
            end += size;
            end - size..end
        })
    }

    pub(crate) fn request(&self) -> request::Groups {
        let sizes = self.sizes.iter().map(|size| *size as u16).collect();
        request::Groups { wanted: self.wanted, sizes }
    }

    /// How many locks the groups lack that are large enough for `count` locks, the fewest first.
    fn lacking(&self, count: usize, has: &[bool]) -> Vec<usize> {
        let large = self.ranges().filter(|range| range.len() >= count);
        let mut lacking: Vec<usize> =
            large.map(|range| lacks(count, &has[range])).collect();
        lacking.sort_unstable();
        lacking
    }

    /// Whether enough groups have `count` locks.
    pub(crate) fn is_complete(&self, count: usize, has: &[bool]) -> bool {
        self.lacking(count, has).iter().filter(|lacks| **lacks == 0).count()
            >= self.wanted
    }
}

fn lacks(count: usize, has: &[bool]) -> usize {
    count.saturating_sub(has.iter().filter(|has| **has).count())
}

/// Whether enough of the keys are had; with groups, enough in enough of them.
pub(crate) fn is_complete(groups: Option<&Groups>, wants: usize, has: &[bool]) -> bool {
    match groups {
        Some(groups) => groups.is_complete(wants / groups.wanted, has),
        None => has.iter().filter(|has| **has).count() >= wants,
    }
}

impl Position {
    /// Whether these keys are what it wants: all of it, and nothing else.
    pub(crate) fn is_whole(&self, keys: &[usize]) -> bool {
        let got: Vec<bool> = self.keys.iter().map(|key| keys.contains(key)).collect();
        keys.len() == self.wants && is_complete(self.groups.as_ref(), self.wants, &got)
    }
}

impl World {
    /// Whether the lock manager reserves a lock for a waiter when it becomes free, or gives it to
    /// the waiter.
    pub(crate) fn takes(&self, position: &Position, key: usize) -> bool {
        if position.groups.is_none() {
            return position.keys.contains(&key);
        }
        let id = self.manager.table().find(name(key));
        id.zip(position.ticket()).is_some_and(|(id, it)| self.manager.takes(it, id))
    }

    /// The same, also when the current step began.
    pub(crate) fn has_taken(&self, position: &Position, key: usize) -> bool {
        let took = position.groups.is_none() || position.taken.contains(&key);
        took && self.takes(position, key)
    }

    /// Whether a waiter certainly took a lock throughout the current step. `known` says for each key
    /// whether the lock manager knew who held its lock.
    pub(crate) fn certainly_takes(
        &self,
        position: &Position,
        key: usize,
        known: &[bool; KEYS.len()],
    ) -> bool {
        position.groups.is_none()
            || position.taken.contains(&key)
                && position.taken.iter().all(|key| self.takes(position, *key))
                && position.keys.iter().all(|key| known[*key])
    }

    /// Whether a waiter may have taken a lock during the current step.
    pub(crate) fn may_take(
        &self,
        position: &Position,
        key: usize,
        known: &[bool; KEYS.len()],
    ) -> bool {
        position.groups.is_none()
            || position.taken.contains(&key)
            || self.takes(position, key)
            || !position.keys.iter().all(|key| known[*key])
    }

    /// For each key, whether the lock manager knows who holds its lock.
    pub(crate) fn known_states(&self) -> [bool; KEYS.len()] {
        std::array::from_fn(|key| self.is_state_known(key))
    }

    /// Records what each waiter takes, for the next step.
    pub(crate) fn record_taken(&mut self) {
        let taken: Vec<Vec<usize>> = self
            .queue
            .positions()
            .iter()
            .map(|it| it.keys.iter().copied().filter(|key| self.takes(it, *key)))
            .map(Iterator::collect)
            .collect();
        for (position, taken) in self.queue.positions_mut().zip(taken) {
            position.taken = taken;
        }
    }

    /// Whether a waiter before a position takes a lock.
    pub(crate) fn is_taken_before(&self, at: usize, key: usize) -> bool {
        self.queue.positions().iter().enumerate().any(|(other, it)| {
            it.is_connected()
                && it.keys.contains(&key)
                && self.comes_before(other, at)
                && self.takes(it, key)
        })
    }

    /// Whether a position comes before another. The order of the lock manager counts while its turns
    /// may differ, because waiters that have left are not removed yet.
    fn comes_before(&self, one: usize, other: usize) -> bool {
        let positions = self.queue.positions();
        let turn = |at: usize| {
            let ticket = positions[at].ticket()?;
            self.manager.queues().get(ticket).map(|waiter| waiter.turn)
        };
        match self.turns_are_uncertain {
            true => turn(one) < turn(other),
            false => one < other,
        }
    }

    /// Waiters take the locks of those groups only that lack the fewest, and no more than they want
    /// of a complete group.
    pub(crate) fn check_collected(&mut self) {
        for at in 0..self.queue.positions().len() {
            let position = &self.queue.positions()[at];
            let Some(groups) = position.groups.clone() else { continue };
            if !position.is_connected()
                || !position.keys.iter().all(|key| self.is_state_known(*key))
            {
                continue;
            }
            let count = position.wants / groups.wanted;
            let held = |key: &usize| self.is_held_for_set(*key, position);
            let free = |key: &usize| {
                self.keys.get(*key).is_none() && !self.is_taken_before(at, *key)
            };
            let has: Vec<bool> =
                position.keys.iter().map(|key| held(key) || free(key)).collect();
            let (mut collected, mut most, mut fewest) = (0, 0, usize::MAX);
            let mut is_exact = true;
            for range in groups.ranges() {
                let lacks = lacks(count, &has[range.clone()]);
                let keys = &position.keys[range];
                let takes = keys.iter().filter(|key| self.takes(position, **key)).count();
                let held = keys.iter().filter(|key| held(key)).count();
                let needs = count.saturating_sub(held);
                if keys.len() < count {
                    is_exact &= takes == 0;
                } else if takes > 0 || lacks == 0 && needs == 0 {
                    collected += usize::from(takes > 0);
                    most = most.max(lacks);
                    is_exact &= match lacks {
                        0 => takes <= needs,
                        _ => takes == keys.len(),
                    };
                } else {
                    fewest = fewest.min(lacks);
                }
            }
            self.require(
                Law::Reservation,
                is_exact && collected <= groups.wanted,
                "a waiter takes all locks of the groups that it collects, and no others",
            );
            self.require(
                Law::Reservation,
                most <= fewest,
                "no other group lacks fewer locks than one that is collected",
            );
        }
    }

    /// Whether the lock manager knows who holds a lock.
    fn is_state_known(&self, key: usize) -> bool {
        let id = self.manager.table().find(name(key));
        let lock = id.and_then(|id| self.manager.table().get(id));
        let hold = lock.and_then(|lock| lock.hold.as_ref());
        match (self.keys.get(key), self.keys.text(key)) {
            (None, _) => self.known_free[key] && hold.is_none(),
            (Some(_), Some(text)) => hold.is_some_and(|hold| &*hold.owner == text),
            (Some(_), None) => hold.is_none() && lock.is_none_or(|lock| !lock.reserved),
        }
    }
}
