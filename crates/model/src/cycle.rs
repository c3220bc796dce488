//! Circles as the contract has them, followed through what the keys show: what the keeper
//! refuses is compared with this.

use std::collections::BTreeSet;

use crate::call::{Call, OWNERS};
use crate::keyspace::name;
use crate::queue::{Position, Waits};
use crate::world::World;

impl World {
    /// Whether the owner, if it waits for all of these, waits for itself.
    pub(crate) fn is_cycle(&self, request: &Call) -> bool {
        let is_other =
            |call: &&Position| !call.keys.iter().any(|key| request.keys.contains(key));
        if request.wants() < request.keys.len()
            || self.calls_of(request.owner).any(|it| is_other(&it))
        {
            return false;
        }
        let mut reached: BTreeSet<usize> = request.keys.iter().copied().collect();
        if request.keys.len() > 1 {
            reached.retain(|key| self.certain_holder(*key) != Some(request.owner));
        }
        loop {
            let before = reached.clone();
            for key in &before {
                let Some(holder) = self.certain_holder(*key) else { continue };
                if holder == request.owner {
                    return true;
                }
                reached.extend(self.needs(holder));
            }
            if reached == before {
                return false;
            }
        }
    }

    fn calls_of(&self, owner: usize) -> impl Iterator<Item = &Position> {
        self.queue
            .connected()
            .filter(move |position| position.unique && position.owner == owner)
    }

    /// The locks that an owner lacks, if it waits in one call alone, for all of its locks.
    fn needs(&self, owner: usize) -> Vec<usize> {
        let mut calls = self.calls_of(owner);
        let (Some(call), None) = (calls.next(), calls.next()) else { return Vec::new() };
        let is_over = matches!(call.waits, Waits::Client { deadline_ms: Some(ms), .. }
            if ms <= self.now().ms());
        if call.wants < call.keys.len() || is_over {
            return Vec::new();
        }
        let keys = call.keys.iter().copied();
        keys.filter(|key| self.certain_holder(*key) != Some(owner)).collect()
    }

    /// Who holds a lock that the keeper granted to a UNIQUE owner, and that is not owed an end.
    fn certain_holder(&self, key: usize) -> Option<usize> {
        let value = self.keys.text(key)?;
        let id = self.manager.table().find(name(key))?;
        let hold = self.manager.table().get(id)?.hold.as_ref()?;
        let is_ending = self.manager.is_ending(hold.session);
        let is_sure = !hold.adopted && hold.unique && !is_ending && *hold.owner == *value;
        is_sure.then(|| OWNERS.iter().position(|owner| *owner == value)).flatten()
    }
}
