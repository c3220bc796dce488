//! The rule of taking any of a set: the first so many free locks in the order in which they
//! are named, all at once, or none. What a UNIQUE owner holds of them counts first.

use crate::acquire::Asker;
use crate::arena::Id;
use crate::clock::Now;
use crate::fault::Fault;
use crate::keeper::{Grant, Keeper, Terms};
use crate::lease;
use crate::line::Locks;
use crate::lock::Name;
use crate::request::AcquireAny;
use crate::seen::{Seen, Shown, can_own};
use crate::session::Owed;
use crate::share::{Have, Part, share};

/// What became of a call, and so what is to be done to the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquiredAny {
    /// Set, or renew, these.
    Granted {
        /// What is to be done to the keys, in the order in which they were named.
        parts: Vec<Part>,
        /// What the caller is told, in the same order.
        grants: Vec<Grant>,
    },
    /// Fewer than wanted could be had.
    Contested {
        /// Places among the keys of those that could.
        free: Vec<usize>,
    },
}

/// A lock that was asked for.
struct Asked {
    /// None: free, and nothing is known of it.
    id: Option<Id>,
    is_held_by_asker: bool,
    /// Free, and nobody's before the asker.
    is_free: bool,
}

impl Keeper {
    /// Asks for any of some locks. `shown` is what the key of each shows, in the order of
    /// `ask.keys`. A call that may wait and is contested goes on with [`Keeper::wait`].
    ///
    /// # Errors
    /// When a key is no lock, the lease too long, new holds would need memory, or there is
    /// no connection to tie the locks to. Then nothing is changed, but that whose time is
    /// over leaves.
    pub fn acquire_any(
        &mut self,
        db: u32,
        ask: &AcquireAny<'_>,
        shown: &[Shown],
        asker: Asker,
        now: Now,
    ) -> Result<AcquiredAny, Fault> {
        self.end_waits(now);
        self.acquire_any_asked(db, &ask.keys);
        if shown.iter().any(|shown| matches!(shown, Shown::Other)) {
            return Err(Fault::WrongType);
        }
        if ask.how.session_grace_ms.is_some() && asker.client.is_none() {
            return Err(Fault::SessionInScript);
        }
        let lease_ms = lease::asked(ask.how.lease_ms, &self.settings)?;
        let asked = self.look_over(db, ask, shown, now);
        let places: Vec<usize> = (0..asked.len()).collect();
        let have = |place: &usize| match asked.get(*place) {
            Some(Asked { is_held_by_asker: true, .. }) => Have::Held,
            Some(Asked { is_free: true, .. }) => Have::Free,
            _ => Have::Not,
        };
        let share = share(&places, ask.count, have);
        let is_complete = share.len() == ask.count;
        let has_new = share.iter().any(|(_, held)| !held);
        if is_complete && !asker.room && has_new {
            self.forget_asked(&asked);
            return Err(Fault::OutOfMemory);
        }
        if !is_complete {
            if ask.how.block_ms.is_none() || !asker.may_wait {
                let known = self.counted_alone(db, &ask.keys);
                self.count(known, |counters| &mut counters.refused);
            }
            self.forget_asked(&asked);
            let free = |(place, asked): (usize, &Asked)| asked.is_free.then_some(place);
            let free = asked.iter().enumerate().filter_map(free).collect();
            return Ok(AcquiredAny::Contested { free });
        }
        let taken = self.known_of(db, &ask.keys, &asked, &share)?;
        let known: Locks = asked.iter().filter_map(|asked| asked.id).collect();
        if has_new {
            self.give_up_places(&known, &ask.how, now);
        }
        let session = asker.client.zip(ask.how.session_grace_ms);
        let terms =
            Terms { owner: ask.how.owner, lease_ms, unique: ask.how.unique, session };
        let (parts, grants) = self.take_parts(&taken, &terms, false, now);
        self.forget_idle(&known);
        Ok(AcquiredAny::Granted { parts, grants })
    }

    /// Counts a call, also one that is answered with an error.
    pub fn acquire_any_asked(&mut self, db: u32, keys: &[&[u8]]) {
        let known = self.counted_alone(db, keys);
        self.count(known, |counters| &mut counters.acquire_requests);
    }

    fn counted_alone(&self, db: u32, keys: &[&[u8]]) -> Option<Id> {
        match keys {
            [key] => self.table.find(Name { db, key }),
            _ => None,
        }
    }

    /// Brings each lock in line with what its key shows, and says what it is to the asker.
    /// A free one that others wait for is owed to them.
    fn look_over(
        &mut self,
        db: u32,
        ask: &AcquireAny<'_>,
        shown: &[Shown],
        now: Now,
    ) -> Vec<Asked> {
        let mut asked = Vec::new();
        for (key, shown) in ask.keys.iter().zip(shown) {
            let name = Name { db, key };
            let mut id = self.table.find(name);
            let seen = shown.seen();
            if let Some(id) = id {
                self.settle(id, &seen, now);
            }
            if let Seen::Text { value, expires } = seen
                && can_own(value)
            {
                id = id.or_else(|| self.table.find_or_make(name));
                if let Some(id) = id {
                    self.adopt_unless_known(id, value, expires, now);
                }
            }
            let holds = |id| self.holds(id, ask.how.owner);
            let is_held_by_asker = ask.how.unique && id.is_some_and(holds);
            asked.push(Asked { id, is_held_by_asker, is_free: false });
        }
        let known: Locks = asked.iter().filter_map(|asked| asked.id).collect();
        let own = self.own_places(&known, &ask.how);
        let is_whole = known.len() == ask.keys.len();
        let same = self.same_call(&own, &known, ask.count, now).filter(|_| is_whole);
        for (asked, shown) in asked.iter_mut().zip(shown) {
            let is_turn = asked.id.is_none_or(|id| {
                let place = self.lines.place_of(ask.how.owner, id);
                let place = place.filter(|place| own.contains(place));
                self.is_turn_of(id, place, same)
            });
            asked.is_free = matches!(shown, Shown::Absent) && is_turn;
            if let Some(lock) = asked.id
                && matches!(shown, Shown::Absent)
                && !is_turn
                && self.table.get(lock).is_some_and(|lock| !lock.set_aside)
            {
                self.owed.push_back(Owed::Turn { lock });
            }
        }
        asked
    }

    /// The locks of a share, known of from now on, each with whether it is held already.
    fn known_of(
        &mut self,
        db: u32,
        keys: &[&[u8]],
        asked: &[Asked],
        share: &[(usize, bool)],
    ) -> Result<Vec<(Id, bool)>, Fault> {
        let mut known = Vec::new();
        for (place, held) in share {
            let (Some(key), Some(asked)) = (keys.get(*place), asked.get(*place)) else {
                return Err(Fault::Internal);
            };
            let made = || self.table.find_or_make(Name { db, key });
            let id = asked.id.or_else(made).ok_or(Fault::OutOfMemory)?;
            known.push((id, *held));
        }
        Ok(known)
    }

    fn forget_asked(&mut self, asked: &[Asked]) {
        for id in asked.iter().filter_map(|asked| asked.id) {
            self.table.forget_if_idle(id);
        }
    }
}
