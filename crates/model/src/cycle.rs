//! Deadlocks as the command reference defines them, found from what the keys show. The refusals of
//! the lock manager are compared with them.

use std::collections::BTreeSet;

use crate::call::{Call, OWNERS};
use crate::memory_keys::name;
use crate::queue::{Position, PositionState};
use crate::world::World;

impl World {
    /// Whether the owner of a call would wait for itself.
    pub(crate) fn closes_cycle(&self, call: &Call) -> bool {
        let is_other = |position: &Position| {
            !position.keys.iter().any(|key| call.keys.contains(key))
        };
        if call.wants() < call.keys.len() || self.unique_waits(call.owner).any(is_other) {
            return false;
        }
        let mut reached: BTreeSet<usize> = call.keys.iter().copied().collect();
        if call.keys.len() > 1 {
            reached.retain(|key| self.known_holder(*key) != Some(call.owner));
        }
        loop {
            let before = reached.clone();
            for key in &before {
                let Some(holder) = self.known_holder(*key) else { continue };
                if holder == call.owner {
                    return true;
                }
                reached.extend(self.missing_locks(holder));
            }
            if reached == before {
                return false;
            }
        }
    }

    /// The positions at which a UNIQUE owner waits.
    fn unique_waits(&self, owner: usize) -> impl Iterator<Item = &Position> {
        self.queue
            .connected()
            .filter(move |position| position.unique && position.owner == owner)
    }

    /// The locks that an owner lacks; none unless it waits in a single call, for all its locks.
    fn missing_locks(&self, owner: usize) -> Vec<usize> {
        let mut waits = self.unique_waits(owner);
        let (Some(wait), None) = (waits.next(), waits.next()) else { return Vec::new() };
        let is_over = matches!(wait.state, PositionState::Connected { deadline_ms: Some(ms), .. }
            if ms <= self.now().ms());
        if wait.wants < wait.keys.len() || is_over {
            return Vec::new();
        }
        let keys = wait.keys.iter().copied();
        keys.filter(|key| self.known_holder(*key) != Some(owner)).collect()
    }

    /// The UNIQUE owner to which the lock manager granted a lock, unless the hold's session is
    /// ending.
    fn known_holder(&self, key: usize) -> Option<usize> {
        let value = self.keys.text(key)?;
        let id = self.manager.table().find(name(key))?;
        let hold = self.manager.table().get(id)?.hold.as_ref()?;
        let is_ending = self.manager.is_ending(hold.session);
        let is_certain =
            !hold.adopted && hold.unique && !is_ending && *hold.owner == *value;
        is_certain.then(|| OWNERS.iter().position(|owner| *owner == value)).flatten()
    }
}
