//! The rule of taking: free, the lock is granted, to those who wait first; held by the same
//! UNIQUE owner, it is renewed; held by anyone else, it is contested.

use crate::arena::Id;
use crate::clock::Now;
use crate::fault::Fault;
use crate::keeper::{Keeper, Terms};
use crate::lease;
use crate::lock::{Name, Session};
use crate::request::Acquire;
use crate::seen::{Seen, can_own};
use crate::serve::Handed;
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
        /// The lock was free, but others waited for it: set the key to the first of them.
        served: Option<Handed>,
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
    /// [`Keeper::wait`].
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
        let limit = self.tracked_limit();
        let id = self.table.find_or_make(name, limit).ok_or(Fault::OutOfMemory)?;
        self.count(Some(id), |counters| &mut counters.acquire_requests);
        self.settle(id, seen, now);
        let session = asker.client.zip(ask.session_grace_ms);
        let served = match *seen {
            Seen::Text { value, expires } => {
                if can_own(value) {
                    self.adopt_unless_known(id, value, expires, now);
                }
                if ask.unique && value == ask.owner {
                    let renewed = self.renew_unique(id, lease_ms, session, now)?;
                    return Ok(renewed);
                }
                None
            }
            _ if self.is_turn_of(id, ask) => None,
            _ => self.serve(id, now),
        };
        // Nobody was there to be served when the time of all who waited was over.
        if !matches!(seen, Seen::Text { .. }) && served.is_none() {
            self.give_up_place(id, ask, now);
            let terms = Terms { owner: ask.owner, lease_ms, unique: ask.unique, session };
            let (token, until_ms) = self.grant(id, &terms, now);
            return Ok(Acquired::Granted { token, until_ms });
        }
        if ask.block_ms.is_none() || !asker.may_wait {
            self.count(Some(id), |counters| &mut counters.refused);
        }
        self.table.forget_if_idle(id);
        Ok(Acquired::Contested { served })
    }

    /// Whether a free lock is the asker's: nobody stands before it who is there.
    fn is_turn_of(&self, id: Id, ask: &Acquire<'_>) -> bool {
        if self.table.get(id).is_none_or(|lock| lock.present == 0) {
            return true;
        }
        let own = ask.unique.then(|| self.lines.place_of(ask.owner, id)).flatten();
        let turn = |ticket| self.lines.get(ticket).map(|waiter| waiter.turn);
        match (self.lines.first_present(id).and_then(turn), own.and_then(turn)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(first), Some(own)) => own <= first,
        }
    }

    /// A UNIQUE owner that takes the lock gives up the place that it has in the line.
    fn give_up_place(&mut self, id: Id, ask: &Acquire<'_>, now: Now) {
        let has_line = self.table.get(id).is_some_and(|lock| lock.places > 0);
        if has_line
            && ask.unique
            && let Some(ticket) = self.lines.place_of(ask.owner, id)
        {
            self.end_wait(ticket, Leaving::TakenOver, now);
        }
    }

    fn renew_unique(
        &mut self,
        id: Id,
        lease_ms: u64,
        session: Option<(u64, u64)>,
        now: Now,
    ) -> Result<Acquired, Fault> {
        let (token, until_ms) = self.renew(id, lease_ms, now)?;
        if let Some(hold) = self.table.hold_mut(id) {
            hold.unique = true;
        }
        if let Some((client, grace_ms)) = session {
            self.tie(id, client, grace_ms);
        }
        self.count(Some(id), |counters| &mut counters.renewed);
        Ok(Acquired::Renewed { token, until_ms })
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
        let Self { table, tokens, settings, .. } = self;
        let hold = table.hold_mut(id).ok_or(Fault::Internal)?;
        let token = hold.token().unwrap_or_else(|| tokens.next(now));
        hold.set_token(token);
        let until_ms = lease::end(lease_ms, hold.since_ms, now.ms(), settings);
        hold.until_ms = until_ms;
        hold.renewed = true;
        if matches!(hold.session, Session::Ending { .. } | Session::Closed) {
            hold.session = Session::None;
        }
        self.rearm(id);
        Ok((token, until_ms))
    }
}
