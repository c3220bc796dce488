//! What only some holds have: a share, a tag, or a notice. It is stored apart from the locks, because a
//! million holds must stay small.

use std::collections::BTreeMap;

use crate::state::arena::Id;
use crate::state::lock::Bytes;
use crate::state::log::Text;
use crate::state::tags::Tag;

/// What only some holds have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldDetails {
    /// The share under which the lock was acquired.
    pub share: Option<Bytes>,
    /// What it runs, as NEAR names it.
    pub tag: Option<Tag>,
    /// The notice that the holder was given.
    pub notice: Option<Notice>,
}

/// The end of a hold that FORCERELEASE has announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// When the hold ends, in ms since the epoch.
    pub until_ms: u64,
    /// Why, for the log and the event.
    pub reason: Text,
    /// The key shows a longer lease, and to cut it is deferred work.
    pub cut_deferred: bool,
    /// The end of the lease, in ms since the epoch, before which the lock was probed.
    pub(crate) probed_before_ms: u64,
}

impl HoldDetails {
    /// Whether there is nothing to store.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The details of all holds that have any. A hold that has some is marked with `has_details`, so that
/// the others cost nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllDetails {
    /// Boxed, so that the end of a hold without details does not move room for them.
    by_lock: BTreeMap<Id, Box<HoldDetails>>,
}

impl AllDetails {
    /// The details of the hold of a lock.
    pub(crate) fn get(&self, id: Id) -> Option<&HoldDetails> {
        self.by_lock.get(&id).map(|details| &**details)
    }

    /// Changes the details of the hold of a lock. Returns whether there are any afterwards.
    pub(crate) fn change(
        &mut self,
        id: Id,
        change: impl FnOnce(&mut HoldDetails),
    ) -> bool {
        let details = self.by_lock.entry(id).or_default();
        change(details);
        let is_empty = details.is_empty();
        if is_empty {
            self.by_lock.remove(&id);
        }
        !is_empty
    }

    /// Removes and returns the details of the hold of a lock.
    pub(crate) fn take(&mut self, id: Id) -> Option<Box<HoldDetails>> {
        self.by_lock.remove(&id)
    }
}
