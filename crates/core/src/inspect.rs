//! Looking at one lock. What its key shows is told as it is; nothing is adopted by being
//! looked at.

use crate::arena::Id;
use crate::clock::Now;
use crate::fault::Fault;
use crate::keeper::Keeper;
use crate::lease::Left;
use crate::line::{Ticket, Waiter};
use crate::lock::{Bytes, Hold, NO_END, Name, Session};
use crate::seen::{Seen, can_own};

/// What INSPECT tells of a lock that is held or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Who holds it; none when the value can be no owner.
    pub owner: Option<Box<[u8]>>,
    /// The fencing token.
    pub token: Option<u64>,
    /// What is left of the lease.
    pub lease: Left,
    /// For how long it is held, in ms.
    pub held_ms: Option<u64>,
    /// The client that it is tied to.
    pub session: Option<u64>,
    /// What is left of the grace, in ms, after that client's connection closed.
    pub grace_ms: Option<u64>,
    /// The module did not grant it; none: it is not held.
    pub adopted: Option<bool>,
    /// For whom it is set aside: free, and this owner's turn.
    pub reserved_for: Option<Bytes>,
    /// How many places the line has.
    pub waiting: u64,
    /// The first of them, in line order.
    pub waiters: Vec<Place>,
}

/// What INSPECT tells of a place in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who waits.
    pub owner: Bytes,
    /// The client; none: it is away, and the place is kept.
    pub client: Option<u64>,
    /// For how long, in ms.
    pub waited_ms: u64,
    /// How many locks it wants.
    pub wants: usize,
    /// Of how many.
    pub of: usize,
    /// The keys of those that are set aside for it.
    pub set_aside: Vec<Bytes>,
}

/// How many places are told.
const TOLD: usize = 100;

impl Keeper {
    /// Looks at a lock; none when it is free and nobody waits.
    ///
    /// # Errors
    /// When the key is no lock.
    pub fn inspect(
        &mut self,
        name: Name<'_>,
        seen: &Seen<'_>,
        now: Now,
    ) -> Result<Option<Inspection>, Fault> {
        let known = self.table.find(name);
        if let Some(id) = known {
            self.settle(id, seen, now);
        }
        let outcome = match seen {
            Seen::Other => Err(Fault::WrongType),
            _ => Ok(self.inspection(known, seen, now)),
        };
        if let Some(id) = known {
            self.table.forget_if_idle(id);
        }
        outcome
    }
    fn inspection(
        &self,
        known: Option<Id>,
        seen: &Seen<'_>,
        now: Now,
    ) -> Option<Inspection> {
        let lock = known.and_then(|id| self.table.get(id));
        let hold = lock.and_then(|lock| lock.hold.as_ref());
        let waiting = lock.map_or(0, |lock| u64::from(lock.places));
        let (value, lease) = match *seen {
            Seen::Text { value, expires } => {
                let until_ms = expires.end().unwrap_or(NO_END);
                (Some(value), Left::of(until_ms, now.ms()))
            }
            _ if waiting == 0 => return None,
            _ => (None, Left::NotHeld),
        };
        let session = hold.map_or(Session::None, |hold| hold.session);
        let places = known.into_iter().flat_map(|id| self.lines.places(id)).take(TOLD);
        Some(Inspection {
            owner: value.filter(|value| can_own(value)).map(Into::into),
            token: hold.and_then(Hold::token),
            lease,
            held_ms: hold.and_then(|hold| hold.held_ms(now)),
            session: match session {
                Session::Tied { client, .. } if !self.is_ending(session) => Some(client),
                _ => None,
            },
            grace_ms: hold
                .filter(|_| session == Session::Closed)
                .map(|hold| hold.until_ms.saturating_sub(now.ms())),
            adopted: value.map(|_| hold.is_none_or(|hold| hold.adopted)),
            reserved_for: known
                .filter(|_| value.is_none())
                .and_then(|id| self.reserved_for(id)),
            waiting,
            waiters: places
                .map(|(ticket, waiter)| self.place(ticket, waiter, now))
                .collect(),
        })
    }

    fn place(&self, ticket: Ticket, waiter: &Waiter, now: Now) -> Place {
        let aside = waiter.locks.iter().filter(|id| self.is_aside_for(**id, ticket));
        let key = |id: &Id| self.table.get(*id).map(|lock| lock.key.clone());
        Place {
            owner: waiter.owner.clone(),
            client: waiter.client,
            waited_ms: now.ms_since(waiter.since_ms),
            wants: waiter.wants,
            of: waiter.locks.len(),
            set_aside: aside.filter_map(key).collect(),
        }
    }

    /// Whose turn it is at a lock that is free.
    fn reserved_for(&self, id: Id) -> Option<Bytes> {
        let first = self.lines.first_present(id)?;
        self.lines.get(first).map(|waiter| waiter.owner.clone())
    }
}
