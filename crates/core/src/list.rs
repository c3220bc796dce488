//! Looking at many locks: the held ones in the order of their age. Each is looked at
//! before it is shown, so that a list never shows what its key does not.

use crate::arena::Id;
use crate::clock::Now;
use crate::fault::Fault;
use crate::glob;
use crate::keeper::Keeper;
use crate::lease::Left;
use crate::lock::{Bytes, Hold, Lock, NO_END};
use crate::seen::Seen;

/// The work that one call may do for locks that it does not show, in steps of about a
/// nanosecond: a million locks with MATCH, fewer when their names are long or the pattern
/// needs many comparisons.
const STEPS_MAX: u64 = 1 << 25;

/// Steps for each held lock of another database, or that does not match.
const STEPS_OF_LOCK: u64 = 24;

/// Steps for each lock that is waited for.
const STEPS_OF_LINE: u64 = 128;

/// Steps for each lock that the caller may not read; another for each 16 bytes of its key.
const STEPS_OF_DENIED: u64 = 48;

/// Steps for looking at the key of a lock that is not shown after all.
const STEPS_OF_LOOK: u64 = 1024;

/// A walk over the locks of a database, the one held longest first.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    db: u32,
    pattern: Option<&'a [u8]>,
    /// The next of the held locks.
    held: Option<Id>,
    /// The locks that are only waited for, once all held ones are done with.
    waited_for: Option<std::vec::IntoIter<Id>>,
    steps_left: u64,
}

impl Walk<'_> {
    fn pay(&mut self, steps: u64) -> Result<(), Fault> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(Fault::ListWork)?;
        Ok(())
    }

    /// Pays for a lock that the caller may not read.
    ///
    /// # Errors
    /// When the work of the call is used up.
    pub fn pay_for_denied(&mut self, key: &[u8]) -> Result<(), Fault> {
        let bytes = u64::try_from(key.len()).unwrap_or(u64::MAX);
        self.pay(STEPS_OF_DENIED.saturating_add(bytes / 16))
    }

    /// Pays for looking at a lock that is not shown.
    ///
    /// # Errors
    /// When the work of the call is used up.
    pub fn pay_for_look(&mut self) -> Result<(), Fault> {
        self.pay(STEPS_OF_LOOK)
    }
}

/// What LIST tells of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The lock.
    pub key: Bytes,
    /// Who holds it; none: somebody who can be no owner, or nobody.
    pub owner: Option<Bytes>,
    /// The fencing token.
    pub token: Option<u64>,
    /// What is left of the lease.
    pub lease: Left,
    /// For how long it is held, in ms.
    pub held_ms: Option<u64>,
    /// How many places its line has.
    pub waiting: u64,
}

/// What became of a lock that is being listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is to be shown.
    Row(Row),
    /// It is neither held nor waited for any more.
    Gone,
    /// What holds it now was adopted just then, so that it stands last in the order.
    Adopted,
}

impl Keeper {
    /// Begins a walk over the locks of a database whose keys match the pattern.
    pub fn walk<'a>(&self, db: u32, pattern: Option<&'a [u8]>) -> Walk<'a> {
        let held = self.table.oldest();
        Walk { db, pattern, held, waited_for: None, steps_left: STEPS_MAX }
    }

    /// The next lock of a walk, with its key: first the held ones, then those that are only
    /// waited for. The one found may be changed before the walk goes on.
    ///
    /// # Errors
    /// When the work of the call is used up.
    pub fn walk_on(&self, walk: &mut Walk<'_>) -> Result<Option<(Id, Bytes)>, Fault> {
        while let Some(id) = walk.held {
            walk.held = self.table.after(id);
            if let Some(key) = self.fits(walk, id)? {
                return Ok(Some((id, key)));
            }
            walk.pay(STEPS_OF_LOCK)?;
        }
        let mut rest = match walk.waited_for.take() {
            Some(rest) => rest,
            None => self.only_waited_for(walk)?.into_iter(),
        };
        let mut found = None;
        while found.is_none()
            && let Some(id) = rest.next()
        {
            found = self.fits(walk, id)?.map(|key| (id, key));
        }
        walk.waited_for = Some(rest);
        Ok(found)
    }

    /// A lock of a walk was adopted when it was looked at, and is the last of the held ones
    /// now: it must not be missed when it was the last of those granted.
    pub fn walk_to_adopted(&self, walk: &mut Walk<'_>) {
        if walk.held.is_none() && walk.waited_for.is_none() {
            walk.held = self.table.oldest_adopted();
        }
    }

    /// The key of a lock that a walk is about.
    fn fits(&self, walk: &mut Walk<'_>, id: Id) -> Result<Option<Bytes>, Fault> {
        let Some(lock) = self.table.get(id).filter(|lock| lock.db == walk.db) else {
            return Ok(None);
        };
        let fits = match walk.pattern {
            None => true,
            Some(pattern) => {
                let matches = glob::matches(pattern, &lock.key, &mut walk.steps_left);
                matches.ok_or(Fault::ListWork)?
            }
        };
        Ok(fits.then(|| lock.key.clone()))
    }

    /// The locks that have a line although nobody is known to hold them: what stands under
    /// their key can be no owner.
    fn only_waited_for(&self, walk: &mut Walk<'_>) -> Result<Vec<Id>, Fault> {
        let mut ids = Vec::new();
        for id in self.lines.locks() {
            walk.pay(STEPS_OF_LINE)?;
            if self.table.get(id).is_some_and(|lock| lock.hold.is_none()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Looks at a lock that is being listed.
    pub fn list_row(&mut self, id: Id, seen: &Seen<'_>, now: Now) -> Listed {
        let adopted = |lock: &Lock| lock.hold.as_ref().map(|hold| hold.adopted);
        let before = self.table.get(id).and_then(adopted);
        self.settle(id, seen, now);
        self.table.forget_if_idle(id);
        let Some(lock) = self.table.get(id) else { return Listed::Gone };
        if before == Some(false) && adopted(lock) == Some(true) {
            return Listed::Adopted;
        }
        if let Some(hold) = &lock.hold {
            return Listed::Row(row(lock, hold, now));
        }
        // One whose hold ended just now comes again, among those that are only waited for.
        if lock.places == 0 || before.is_some() {
            return Listed::Gone;
        }
        let lease = match seen {
            Seen::Text { expires, .. } => {
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
            waiting: u64::from(lock.places),
        })
    }
}

fn row(lock: &Lock, hold: &Hold, now: Now) -> Row {
    Row {
        key: lock.key.clone(),
        owner: Some(hold.owner.clone()),
        token: hold.token(),
        lease: Left::of(hold.until_ms, now.ms()),
        held_ms: hold.held_ms(now),
        waiting: u64::from(lock.places),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Name;
    use crate::settings::Settings;

    const NOW: Now = Now::from_ms(1_000_000);

    fn keeper_with(keys: &[(u32, &[u8])]) -> Keeper {
        let mut keeper = Keeper::new(Settings::default(), 1, NOW);
        for (db, key) in keys {
            let id = keeper.table.find_or_make(Name { db: *db, key }).unwrap();
            keeper.table.begin_hold(id, Hold::new(b"me", Some(1), 0, NO_END));
        }
        keeper
    }

    fn found(keeper: &Keeper, walk: &mut Walk<'_>) -> Result<Vec<Bytes>, Fault> {
        let mut keys = Vec::new();
        while let Some((_, key)) = keeper.walk_on(walk)? {
            keys.push(key);
        }
        Ok(keys)
    }

    #[test]
    fn a_walk_finds_the_locks_of_its_database_that_match() {
        let keeper = keeper_with(&[(0, b"a:1"), (1, b"a:2"), (0, b"b:1"), (0, b"a:3")]);
        let keys = |db, pattern| found(&keeper, &mut keeper.walk(db, pattern)).unwrap();
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
    fn a_walk_stops_with_an_error_when_its_work_is_used_up() {
        let long = b"a".repeat(1_000);
        let keeper = keeper_with(&[(0, b"a:1"), (1, b"a:2"), (0, &long)]);
        for (pattern, steps) in [
            (None, STEPS_OF_LOCK),
            // A step for the star, and one for each four bytes that it takes.
            (Some(&b"*b"[..]), 3 * STEPS_OF_LOCK + 1 + 1 + 250),
        ] {
            let mut walk = keeper.walk(0, pattern);
            walk.steps_left = steps;
            assert!(found(&keeper, &mut walk).is_ok(), "{pattern:?}");
            assert_eq!(walk.steps_left, 0, "{pattern:?}");
            let mut walk = keeper.walk(0, pattern);
            walk.steps_left = steps - 1;
            assert_eq!(found(&keeper, &mut walk), Err(Fault::ListWork), "{pattern:?}");
        }
        let mut walk = keeper.walk(0, None);
        walk.steps_left = STEPS_OF_DENIED + 62;
        assert!(walk.pay_for_denied(&long).is_ok());
        assert_eq!(walk.pay_for_denied(b""), Err(Fault::ListWork));
    }
}
