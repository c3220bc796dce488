//! LIST: reports many locks, the held ones by age. The key of each lock is read before its row is
//! reported, so that the list never contradicts the keys.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::report::glob;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::KeyState;
use crate::state::lease::Left;
use crate::state::lock::{Bytes, Hold, Lock, NO_END};

/// The maximum work of one call, in steps of about a nanosecond.
const STEPS_MAX: u64 = 2_000_000;

/// The steps for a held lock of another database, or one that does not match.
const STEPS_OF_LOCK: u64 = 48;

/// The steps for a lock that has a queue.
const STEPS_OF_QUEUE: u64 = 128;

/// The steps for a lock that is reported; one more for each byte of its names.
const STEPS_OF_ROW: u64 = 1_650;

/// The steps for a lock that the caller may not read; one more for each byte of its key.
const STEPS_OF_DENIED: u64 = 300;

/// The steps for reading the key of a lock that is then not reported.
const STEPS_OF_PROBE: u64 = 1_000;

/// The work that is left for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps(u64);

impl Default for Steps {
    fn default() -> Self {
        Self(STEPS_MAX)
    }
}

impl Steps {
    /// The work of a portion: less than that of a list, which needs it for 1,000 locks.
    pub(crate) fn of_portion() -> Self {
        Self(STEPS_MAX / 4 * 3)
    }

    pub(crate) fn are_used_up(self) -> bool {
        self.0 == 0
    }

    /// Leaves fewer steps, for a test.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, steps: u64) {
        self.0 = steps;
    }

    fn pay(&mut self, steps: u64) -> Result<(), CommandError> {
        self.0 = self.0.checked_sub(steps).ok_or(CommandError::ListWork)?;
        Ok(())
    }

    pub(crate) fn pay_as_far_as_possible(&mut self, steps: u64) {
        self.0 = self.0.saturating_sub(steps);
    }

    /// Pays for a lock that is reported.
    pub fn pay_for_row(&mut self, row: &Row) {
        let owner = row.owner.as_ref().map_or(0, |owner| owner.len());
        let bytes = row.key.len().saturating_add(owner);
        self.pay_as_far_as_possible(STEPS_OF_ROW.saturating_add(steps_of(bytes)));
    }

    /// Pays for a lock that the caller may not read.
    pub fn pay_for_denied(&mut self, key: &[u8]) {
        self.pay_as_far_as_possible(STEPS_OF_DENIED.saturating_add(steps_of(key.len())));
    }

    /// Pays for reading the key of a lock that is not reported.
    pub fn pay_for_probe(&mut self) {
        self.pay_as_far_as_possible(STEPS_OF_PROBE);
    }
}

fn steps_of(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The locks to list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter<'a> {
    pub(crate) db: u32,
    pub(crate) pattern: Option<&'a [u8]>,
}

impl Filter<'_> {
    /// Whether a lock is in the database and matches the pattern. None when there are too few
    /// steps; then none are left.
    pub(crate) fn is_match(self, lock: &Lock, steps: &mut Steps) -> Option<bool> {
        if lock.db != self.db {
            return Some(false);
        }
        let Some(pattern) = self.pattern else { return Some(true) };
        let is_match = glob::matches(pattern, &lock.key, &mut steps.0);
        if is_match.is_none() {
            steps.0 = 0;
        }
        is_match
    }
}

/// A walk over the locks of a database, the lock held longest first.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    filter: Filter<'a>,
    /// The work that is left for this call.
    pub steps: Steps,
    /// The next held lock.
    held: Option<Id>,
    /// The locks that have a queue but no hold; none until all held locks have been visited.
    only_queued: Option<std::vec::IntoIter<Id>>,
}

/// What LIST reports about a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The lock.
    pub key: Bytes,
    /// The owner; none: the value is not a valid owner, or the lock is free.
    pub owner: Option<Bytes>,
    /// The fencing token.
    pub token: Option<u64>,
    /// The rest of the lease.
    pub lease: Left,
    /// How long it has been held, in ms.
    pub held_ms: Option<u64>,
    /// The number of clients that wait for it, also those that have just left.
    pub waiting: u64,
    /// The rest of the notice that the holder was given, in ms.
    pub revoked_ms: Option<u64>,
}

/// The outcome of listing a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Report it.
    Row(Row),
    /// It is no longer held and has no queue.
    Gone,
    /// Its hold has just been adopted, so it comes last.
    Adopted,
}

impl LockManager {
    /// Begins a walk over the locks of a database whose keys match the pattern.
    pub fn walk<'a>(&self, db: u32, pattern: Option<&'a [u8]>) -> Walk<'a> {
        let held = self.table.oldest();
        let (filter, steps) = (Filter { db, pattern }, Steps::default());
        Walk { filter, steps, held, only_queued: None }
    }

    /// The next lock of a walk, with its key: first the held locks, then those that only have a
    /// queue. The lock may change before the walk goes on.
    ///
    /// # Errors
    /// When the call has used up its steps.
    pub fn walk_on(
        &self,
        walk: &mut Walk<'_>,
    ) -> Result<Option<(Id, Bytes)>, CommandError> {
        while let Some(id) = walk.held {
            if walk.steps.are_used_up() {
                return Err(CommandError::ListWork);
            }
            walk.held = self.table.after(id);
            if let Some(key) = self.matching_key(walk, id)? {
                return Ok(Some((id, key)));
            }
            walk.steps.pay(STEPS_OF_LOCK)?;
        }
        let mut rest = match walk.only_queued.take() {
            Some(rest) => rest,
            None => self.only_queued(walk)?.into_iter(),
        };
        let mut found = None;
        while found.is_none()
            && let Some(id) = rest.next()
        {
            walk.steps.pay(STEPS_OF_LOCK)?;
            found = self.matching_key(walk, id)?.map(|key| (id, key));
        }
        walk.only_queued = Some(rest);
        Ok(found)
    }

    /// Continues a walk after the hold of a lock was adopted when its key was read. The lock is now
    /// the last held one, and the walk must not miss it if it was the last granted one.
    pub fn walk_to_adopted(&self, walk: &mut Walk<'_>) {
        if walk.held.is_none() && walk.only_queued.is_none() {
            walk.held = self.table.oldest_adopted();
        }
    }

    /// The key of a lock, if it is in the database of the walk and matches its pattern.
    fn matching_key(
        &self,
        walk: &mut Walk<'_>,
        id: Id,
    ) -> Result<Option<Bytes>, CommandError> {
        let Some(lock) = self.table.get(id) else { return Ok(None) };
        let is_match = walk.filter.is_match(lock, &mut walk.steps);
        match is_match.ok_or(CommandError::ListWork)? {
            true => Ok(Some(lock.key.clone())),
            false => Ok(None),
        }
    }

    /// The locks that have a queue but no recorded hold: the value of the key is not a valid owner.
    fn only_queued(&self, walk: &mut Walk<'_>) -> Result<Vec<Id>, CommandError> {
        let mut ids = Vec::new();
        for id in self.queues.locks() {
            walk.steps.pay(STEPS_OF_QUEUE)?;
            if self.table.get(id).is_some_and(|lock| lock.hold.is_none()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The row of a lock whose key has just been read.
    pub fn list_row(&mut self, id: Id, state: &KeyState<'_>, now: Now) -> Listed {
        let adopted = |lock: &Lock| lock.hold.as_ref().map(|hold| hold.adopted);
        let before = self.table.get(id).and_then(adopted);
        self.reconcile(id, state, now);
        self.end_old_hold(id, now);
        let Some(lock) = self.table.get(id) else { return Listed::Gone };
        if before == Some(false) && adopted(lock) == Some(true) {
            return Listed::Adopted;
        }
        if let Some(hold) = &lock.hold {
            let revoked_ms = self.revoked(id, now).map(|(left_ms, _)| left_ms);
            return Listed::Row(row(lock, hold, revoked_ms, now));
        }
        // A lock whose hold has just ended follows later, among those that only have a queue.
        if lock.positions == 0 || before.is_some() {
            return Listed::Gone;
        }
        let lease = match state {
            KeyState::String { expires, .. } => {
                Left::of(expires.end().unwrap_or(NO_END), now.ms())
            }
            _ => Left::NotHeld,
        };
        Listed::Row(Row {
            key: lock.key.clone(),
            owner: None,
            token: None,
            lease,
            held_ms: None,
            waiting: u64::from(lock.connected),
            revoked_ms: None,
        })
    }
}

fn row(lock: &Lock, hold: &Hold, revoked_ms: Option<u64>, now: Now) -> Row {
    Row {
        key: lock.key.clone(),
        owner: Some(hold.owner.clone()),
        token: hold.token(),
        lease: Left::of(hold.until_ms, now.ms()),
        held_ms: hold.held_ms(now),
        waiting: u64::from(lock.connected),
        revoked_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::lock::Name;
    use crate::state::settings::Settings;

    const NOW: Now = Now::from_ms(1_000_000);

    fn manager_with(keys: &[(u32, &[u8])]) -> LockManager {
        let mut manager = LockManager::new(Settings::default(), 1, NOW);
        for (db, key) in keys {
            let id = manager.table.find_or_create(Name { db: *db, key }).unwrap();
            manager.table.begin_hold(id, Hold::new(b"me", Some(1), 0, NO_END));
        }
        manager
    }

    fn keys_of_walk(
        manager: &LockManager,
        walk: &mut Walk<'_>,
    ) -> Result<Vec<Bytes>, CommandError> {
        let mut keys = Vec::new();
        while let Some((_, key)) = manager.walk_on(walk)? {
            keys.push(key);
        }
        Ok(keys)
    }

    #[test]
    fn a_walk_returns_the_matching_locks_of_its_database() {
        let manager = manager_with(&[(0, b"a:1"), (1, b"a:2"), (0, b"b:1"), (0, b"a:3")]);
        let keys =
            |db, pattern| keys_of_walk(&manager, &mut manager.walk(db, pattern)).unwrap();
        assert_eq!(
            keys(0, None),
            [b"a:1", b"b:1", b"a:3"].map(|key| Bytes::from_slice(key))
        );
        assert_eq!(
            keys(0, Some(b"a*")),
            [b"a:1", b"a:3"].map(|key| Bytes::from_slice(key))
        );
        assert_eq!(keys(2, None), [] as [Bytes; 0]);
    }

    #[test]
    fn a_walk_fails_when_its_steps_are_used_up() {
        let long = b"a".repeat(1_000);
        let manager = manager_with(&[(0, b"a:1"), (1, b"a:2"), (0, &long)]);
        for (pattern, steps) in [
            (None, STEPS_OF_LOCK),
            // Three steps for the star, and one for each four bytes that it takes.
            (Some(&b"*b"[..]), 3 * STEPS_OF_LOCK + 3 + 3 + 250),
        ] {
            let mut walk = manager.walk(0, pattern);
            walk.steps = Steps(steps + 1);
            assert!(keys_of_walk(&manager, &mut walk).is_ok(), "{pattern:?}");
            assert_eq!(walk.steps, Steps(1), "{pattern:?}");
            let mut walk = manager.walk(0, pattern);
            walk.steps = Steps(steps - 1);
            assert_eq!(
                keys_of_walk(&manager, &mut walk),
                Err(CommandError::ListWork),
                "{pattern:?}"
            );
        }
    }

    #[test]
    fn a_walk_fails_after_rows_only_if_there_are_more_locks() {
        let manager = manager_with(&[(0, b"a"), (0, b"b")]);
        let key = Bytes::from_slice(b"a");
        let (owner, token, held_ms) = (Some(Bytes::from_slice(b"me")), None, None);
        let lease = Left::Forever;
        let row = Row { key, owner, token, lease, held_ms, waiting: 0, revoked_ms: None };
        let mut walk = manager.walk(0, None);
        walk.steps = Steps(STEPS_OF_ROW + 3);
        assert!(manager.walk_on(&mut walk).unwrap().is_some());
        walk.steps.pay_for_row(&row);
        assert_eq!(manager.walk_on(&mut walk), Err(CommandError::ListWork));
        let mut walk = manager.walk(0, None);
        assert!(manager.walk_on(&mut walk).unwrap().is_some());
        assert!(manager.walk_on(&mut walk).unwrap().is_some());
        walk.steps = Steps(1);
        walk.steps.pay_for_denied(b"b");
        assert_eq!(manager.walk_on(&mut walk), Ok(None));
    }
}
