//! The rule of sets: who wants several locks at once gets all of them or none. What comes
//! free for it is set aside, free in the keyspace but for nobody else, until its share is
//! complete. Whose a free lock is is never stored: it is the first client's of its line. So
//! a lock changes hands by itself when somebody leaves or comes back, and because every set
//! has one turn in all its lines, the earliest waiter of all is first in each of them: it
//! is always served, and after it the next.
//!
//! ```text
//!              line of gpu:0   gpu:1   gpu:2      gpu:0 comes free: set aside for G
//!   first      G (2 of 3)      G       G          gpu:2 comes free: G has both, and
//!   then       a               b       a          leaves; gpu:1 is b's now
//! ```

use std::collections::BTreeSet;

use crate::arena::Id;
use crate::clock::Now;
use crate::keeper::{Answer, Grant, Keeper, Terms};
use crate::line::{Ticket, Waiter};
use crate::lock::Bytes;
use crate::seen::{Seen, can_own};
use crate::serve::Next;
use crate::session::Owed;
use crate::wait::Leaving;

/// A lock of a share, and what is to be done to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The lock.
    pub lock: Id,
    /// Who holds it now.
    pub owner: Bytes,
    /// When its lease is over, in ms since the epoch.
    pub until_ms: u64,
    /// Its owner held it already: the key gets another end, not another value.
    pub renewed: bool,
}

impl Keeper {
    /// Sets a free lock aside for the first of its line.
    pub(crate) fn set_aside(&mut self, id: Id, ticket: Ticket) -> Next {
        let Some(lock) = self.table.get_mut(id) else { return Next::Nobody };
        let is_new = !std::mem::replace(&mut lock.set_aside, true);
        let Some(waiter) = self.lines.get_mut(ticket) else { return Next::Nobody };
        waiter.lacks = waiter.lacks.saturating_sub(usize::from(is_new));
        if waiter.lacks == 0 && self.complete_share(ticket).is_some() {
            return Next::Set { ticket, lock: id };
        }
        Next::SetAside
    }

    /// The locks that a set gets, each with whether its owner holds it already; none when
    /// some are missing, and then it is noted how many.
    pub(crate) fn complete_share(&mut self, ticket: Ticket) -> Option<Vec<(Id, bool)>> {
        let waiter = self.lines.get(ticket).filter(|waiter| waits(waiter))?;
        let have = |id: &Id| {
            if waiter.unique && self.holds(*id, &waiter.owner) {
                Have::Held
            } else if self.is_aside_for(*id, ticket) {
                Have::Free
            } else {
                Have::Not
            }
        };
        let share = share(&waiter.locks, waiter.wants, have);
        let missing = waiter.wants.saturating_sub(share.len());
        self.lines.get_mut(ticket)?.lacks = missing;
        (missing == 0).then_some(share)
    }

    /// Whether an owner is known to hold a lock.
    pub(crate) fn holds(&self, id: Id, owner: &[u8]) -> bool {
        let hold = self.table.get(id).and_then(|lock| lock.hold.as_ref());
        hold.is_some_and(|hold| *hold.owner == *owner)
    }

    /// Whether a lock is set aside for this waiter.
    pub(crate) fn is_aside_for(&self, id: Id, ticket: Ticket) -> bool {
        self.table.get(id).is_some_and(|lock| lock.set_aside && lock.hold.is_none())
            && self.lines.first_present(id) == Some(ticket)
    }

    /// The locks of a set that seems complete which are to be looked at before it is served,
    /// each with [`Keeper::looked_at_for_set`]: those not `seen` yet. What a look finds may
    /// put others in their place; so ask again, until there are none.
    pub fn unseen_of(&mut self, ticket: Ticket, seen: &BTreeSet<Id>) -> Vec<Id> {
        let share = self.complete_share(ticket).unwrap_or_default().into_iter();
        share.map(|(id, _)| id).filter(|id| !seen.contains(id)).collect()
    }

    /// A lock of a set was looked at.
    pub fn looked_at_for_set(&mut self, id: Id, seen: &Seen<'_>, now: Now) {
        let was_held = self.table.get(id).is_some_and(|lock| lock.hold.is_some());
        self.settle(id, seen, now);
        match *seen {
            Seen::Text { value, expires } if can_own(value) => {
                self.adopt_unless_known(id, value, expires, now);
            }
            Seen::Absent if was_held => self.owed.push_back(Owed::Turn { lock: id }),
            _ => {}
        }
    }

    /// Gives a set its share, now that all of it was looked at; none when something is missing
    /// after all. What is to be done to the keys, in the order of the set.
    pub fn serve_set(&mut self, ticket: Ticket, now: Now) -> Option<Vec<Part>> {
        let waiter = self.lines.get(ticket).filter(|waiter| waits(waiter))?;
        if waiter.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now.ms()) {
            self.leave(ticket, Leaving::TimedOut, now);
            return None;
        }
        let share = self.complete_share(ticket)?;
        self.serve_waiter(ticket, &share, now)
    }

    /// Gives a waiter these locks, each with whether it holds it already.
    pub(crate) fn serve_waiter(
        &mut self,
        ticket: Ticket,
        share: &[(Id, bool)],
        now: Now,
    ) -> Option<Vec<Part>> {
        // What is taken is not passed on.
        for (id, _) in share {
            self.no_longer_aside(*id);
        }
        let waiter = self.take_place(ticket)?;
        let terms = Terms {
            owner: &waiter.owner,
            lease_ms: waiter.lease_ms,
            unique: waiter.unique,
            session: waiter.client.zip(waiter.session_grace_ms),
        };
        let (parts, grants) = self.take_parts(share, &terms, true, now);
        let waited_ms = now.ms_since(waiter.since_ms);
        let counted = counted_for(&waiter.locks);
        self.tally(counted, |counters| counters.wait_ms.record(waited_ms));
        self.answer_granted(ticket, grants, waiter);
        Some(parts)
    }

    /// Tells a waiter what it got.
    fn answer_granted(&mut self, ticket: Ticket, grants: Vec<Grant>, waiter: Waiter) {
        let key = |id: &Id| self.table.get(*id).map(|lock| lock.key.clone());
        let keeps_place = waiter.of_set && waiter.unique;
        let locks = waiter.locks.iter().filter(|_| keeps_place);
        let set = locks.filter_map(key).collect();
        self.forget_idle(&waiter.locks);
        let waiter = Box::new(waiter);
        self.answers.push_back((ticket, Answer::Granted { grants, waiter, set }));
    }

    /// Grants or renews the locks of a complete share.
    pub(crate) fn take_parts(
        &mut self,
        parts: &[(Id, bool)],
        terms: &Terms<'_>,
        waited: bool,
        now: Now,
    ) -> (Vec<Part>, Vec<Grant>) {
        let (mut taken, mut grants) = (Vec::new(), Vec::new());
        for (id, held) in parts {
            let renewed = held.then(|| self.renew_held(*id, terms, now).ok()).flatten();
            let (token, until_ms) = match renewed {
                Some(renewed) => renewed,
                None => {
                    let granted = self.grant(*id, terms, now);
                    if waited {
                        self.count(Some(*id), |counters| {
                            &mut counters.acquired_after_wait
                        });
                    }
                    granted
                }
            };
            let key = self.table.get(*id).map(|lock| lock.key.clone());
            let owner = Bytes::from_slice(terms.owner);
            taken.push(Part { lock: *id, owner, until_ms, renewed: *held });
            grants.push(Grant { lock: *id, key: key.unwrap_or_default(), token });
        }
        (taken, grants)
    }

    /// Somebody leaves the line of a lock in which it was the first: what was set aside for
    /// it is the next one's.
    pub(crate) fn pass_on(&mut self, id: Id) {
        match self.lines.first_present(id) {
            None => self.no_longer_aside(id),
            Some(next) if self.lines.get(next).is_some_and(|next| next.wants > 1) => {
                self.count_anew(next);
            }
            Some(_) => self.owed.push_back(Owed::Turn { lock: id }),
        }
    }

    /// Leaves a set that seems complete to the work that is deferred, because no other key may
    /// be written in the middle of a script or a transaction.
    pub fn serve_set_later(&mut self, ticket: Ticket) {
        self.count_anew(ticket);
    }

    /// Sees to it that what a set has is counted, as soon as the server may be written.
    pub(crate) fn count_anew(&mut self, ticket: Ticket) {
        if let Some(waiter) = self.lines.get_mut(ticket) {
            waiter.lacks = 0;
            if !std::mem::replace(&mut waiter.is_count_owed, true) {
                self.owed.push_back(Owed::Share { ticket });
            }
        }
    }

    /// What a UNIQUE owner holds counts for the set that it waits for.
    pub(crate) fn count_held(&mut self, id: Id, owner: &[u8]) {
        let waited_for = self.table.get(id).is_some_and(|lock| lock.places > 0);
        if waited_for
            && let Some(own) = self.lines.place_of(owner, id)
            && self.lines.get(own).is_some_and(|waiter| waiter.of_set)
        {
            self.count_anew(own);
        }
    }

    fn no_longer_aside(&mut self, id: Id) {
        if let Some(lock) = self.table.get_mut(id) {
            lock.set_aside = false;
        }
    }

    /// Forgets those of some locks that nothing needs to be known of.
    pub(crate) fn forget_idle(&mut self, locks: &[Id]) {
        for id in locks {
            self.table.forget_if_idle(*id);
        }
    }
}

/// Whether the client of a place waits there still.
fn waits(waiter: &Waiter) -> bool {
    waiter.client.is_some() && waiter.left.is_none()
}

/// What a set has of a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Have {
    /// Its owner holds it.
    Held,
    /// It is free, and the set's to take.
    Free,
    /// Nothing.
    Not,
}

/// Which of some locks a set gets: those that its owner holds first, then free ones, at most
/// as many as it wants, in the order in which it likes them. Each with whether it is held.
pub(crate) fn share<T: Copy>(
    of: &[T],
    wants: usize,
    have: impl Fn(&T) -> Have,
) -> Vec<(T, bool)> {
    let have: Vec<Have> = of.iter().map(have).collect();
    let held = have.iter().filter(|it| **it == Have::Held).count().min(wants);
    let (mut held_left, mut free_left) = (held, wants.saturating_sub(held));
    let mut share = Vec::new();
    for (it, have) in of.iter().zip(have) {
        let (left, is_held) = match have {
            Have::Held => (&mut held_left, true),
            Have::Free => (&mut free_left, false),
            Have::Not => continue,
        };
        if *left > 0 {
            *left = left.saturating_sub(1);
            share.push((*it, is_held));
        }
    }
    share
}

/// The lock whose own counters tell of a call: one for several is the server's alone.
pub(crate) fn counted_for(locks: &[Id]) -> Option<Id> {
    match locks {
        [only] => Some(*only),
        _ => None,
    }
}
