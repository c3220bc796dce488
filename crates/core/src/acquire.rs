//! The rule of taking: free, the lock is granted, to those who wait first; held by the same
//! UNIQUE owner, it is renewed; held by anyone else, it is contested.

use crate::arena::Id;
use crate::clock::Now;
use crate::fault::Fault;
use crate::keeper::{Keeper, Terms};
use crate::lease;
use crate::line::Ticket;
use crate::lock::{Name, Session};
use crate::request::Acquire;
use crate::seen::{Seen, can_own};
use crate::serve::Next;
use crate::wait::Leaving;

/// What became of a call, and so what is to be done to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Set the key to the owner, until then.
    Granted {
        /// The fencing token.
        token: u64,
        /// When the lease is over, in ms since the epoch.
        until_ms: u64,
    },
    /// Let the key live until then.
    Renewed {
        /// The fencing token, the same as before.
        token: u64,
        /// When the lease is over, in ms since the epoch.
        until_ms: u64,
    },
    /// The lock is somebody else's.
    Contested {
        /// The lock was free, but others waited for it: the key is the next one's.
        next: Next,
    },
}

/// Who asks, and how the server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// The client that asks, if it has a connection of its own.
    pub client: Option<u64>,
    /// It may be made to wait.
    pub may_wait: bool,
    /// The server is not out of memory.
    pub room: bool,
}

impl Keeper {
    /// Asks for a lock. A call that may wait and is contested goes on with
    /// [`Keeper::wait`]. Whose time is over leaves first: a free lock is not kept from
    /// the asker by somebody who is not served any more.
    ///
    /// # Errors
    /// When the key is no lock, the lease too long, a new hold would need memory, or there
    /// is no connection to tie the lock to.
    pub fn acquire(
        &mut self,
        name: Name<'_>,
        ask: &Acquire<'_>,
        seen: &Seen<'_>,
        asker: Asker,
        now: Now,
    ) -> Result<Acquired, Fault> {
        self.end_waits(now);
        let lease_ms = match self.acceptable(ask, seen, asker) {
            Ok(lease_ms) => lease_ms,
            Err(fault) => {
                let known = self.acquire_failed(name);
                if let Some(id) = known {
                    self.settle(id, seen, now);
                    self.table.forget_if_idle(id);
                }
                return Err(fault);
            }
        };
        let id = self.table.find_or_make(name).ok_or(Fault::OutOfMemory)?;
        self.count(Some(id), |counters| &mut counters.acquire_requests);
        self.settle(id, seen, now);
        let session = asker.client.zip(ask.session_grace_ms);
        let next = match *seen {
            Seen::Text { value, expires } => {
                if can_own(value) {
                    self.adopt_unless_known(id, value, expires, now);
                }
                if ask.unique && value == ask.owner {
                    let terms =
                        Terms { owner: ask.owner, lease_ms, unique: true, session };
                    let (token, until_ms) = self.renew_held(id, &terms, now)?;
                    return Ok(Acquired::Renewed { token, until_ms });
                }
                Next::Nobody
            }
            _ if self.is_own_turn(id, ask, now) => Next::Nobody,
            _ => self.serve(id, now),
        };
        // Nobody was there to be served when the time of all who waited was over.
        if !matches!(seen, Seen::Text { .. }) && next == Next::Nobody {
            self.give_up_places(&[id], ask, now);
            let terms = Terms { owner: ask.owner, lease_ms, unique: ask.unique, session };
            let (token, until_ms) = self.grant(id, &terms, now);
            return Ok(Acquired::Granted { token, until_ms });
        }
        if ask.block_ms.is_none() || !asker.may_wait {
            self.count(Some(id), |counters| &mut counters.refused);
        }
        self.table.forget_if_idle(id);
        Ok(Acquired::Contested { next })
    }

    /// Whether a free lock is the asker's, who asks for it alone.
    fn is_own_turn(&self, id: Id, ask: &Acquire<'_>, now: Now) -> bool {
        if self.table.get(id).is_none_or(|lock| lock.present == 0) {
            return true;
        }
        let own = self.own_places(&[id], ask);
        let same = self.same_call(&own, &[id], 1, now);
        self.is_turn_of(id, own.first().copied(), same)
    }

    /// Whether a free lock is the asker's: nobody stands before it who is there. `own` is
    /// its place in the line, `same` the one whose turn it takes over.
    pub(crate) fn is_turn_of(
        &self,
        id: Id,
        own: Option<Ticket>,
        same: Option<Ticket>,
    ) -> bool {
        let turn = |ticket| self.lines.get(ticket).map(|waiter| waiter.turn);
        match (self.lines.first_other(id, own).and_then(turn), same.and_then(turn)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(first), Some(own)) => own <= first,
        }
    }

    /// A UNIQUE owner that takes locks gives up the places that it has in their lines.
    pub(crate) fn give_up_places(&mut self, locks: &[Id], ask: &Acquire<'_>, now: Now) {
        for ticket in self.own_places(locks, ask) {
            self.leave_soon(ticket, Leaving::TakenOver, locks, now);
        }
    }

    /// Renews what a UNIQUE owner holds, and answers its token and its end.
    pub(crate) fn renew_held(
        &mut self,
        id: Id,
        terms: &Terms<'_>,
        now: Now,
    ) -> Result<(u64, u64), Fault> {
        let (token, until_ms) = self.renew(id, terms.lease_ms, now)?;
        if let Some(hold) = self.table.hold_mut(id) {
            hold.unique = true;
        }
        if let Some((client, grace_ms)) = terms.session {
            self.tie(id, client, grace_ms);
        }
        self.count(Some(id), |counters| &mut counters.renewed);
        Ok((token, until_ms))
    }

    /// Counts a call that is answered with an error.
    pub fn acquire_failed(&mut self, name: Name<'_>) -> Option<Id> {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.acquire_requests);
        known
    }

    /// The lease in ms of a call that is not refused out of hand.
    fn acceptable(
        &self,
        ask: &Acquire<'_>,
        seen: &Seen<'_>,
        asker: Asker,
    ) -> Result<u64, Fault> {
        match seen {
            Seen::Other => Err(Fault::WrongType),
            Seen::Absent if !asker.room => Err(Fault::OutOfMemory),
            _ if ask.session_grace_ms.is_some() && asker.client.is_none() => {
                Err(Fault::SessionInScript)
            }
            _ => lease::asked(ask.lease_ms, &self.settings),
        }
    }

    /// Sets the lease of a known hold anew, and answers its token and its end. An adopted
    /// lock gets its token here; one whose connection closed is tied to none from now on.
    pub(crate) fn renew(
        &mut self,
        id: Id,
        lease_ms: u64,
        now: Now,
    ) -> Result<(u64, u64), Fault> {
        let session = self.table.hold_mut(id).ok_or(Fault::Internal)?.session;
        if self.is_ending(session) || session == Session::Closed {
            self.untie(id);
        }
        let Self { table, tokens, settings, .. } = self;
        let hold = table.hold_mut(id).ok_or(Fault::Internal)?;
        let token = hold.token().unwrap_or_else(|| tokens.next(now));
        hold.set_token(token);
        let until_ms = lease::end(lease_ms, hold.since_ms, now.ms(), settings);
        hold.until_ms = until_ms;
        hold.renewed = true;
        self.rearm(id);
        Ok((token, until_ms))
    }
}
