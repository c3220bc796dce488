//! The hand-off: a lock that nobody holds any more is the first waiter's, in one step, so
//! that its key passes from owner to owner and is never absent in between.
//!
//! ```text
//!   line of gpu:0      holder a            then                       then
//!   ┌───┬───┬───┐      RELEASE gpu:0 a     SET gpu:0 b PXAT …         b hears its token
//!   │ b │ c │ d │      ───────────────►    (no DEL in between)        the line is c, d
//!   └───┴───┴───┘
//! ```
//!
//! A kept place is passed over, and stays; a waiter whose time is over gets null, not the
//! lock, even when nobody has told it yet. When there are too many of these the lock is the next
//! one's as soon as they are removed. For one that needs several locks it is set
//! aside until they are complete ([`crate::share`]).

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::keeper::{Caller, Keeper};
use crate::line::Ticket;
use crate::lock::Bytes;
use crate::wait::Leaving;

/// Who is next, and so what is to be done to the key of a lock that nobody holds any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nobody waits: the key goes.
    Nobody,
    /// The first in line needs others as well: the key goes, the lock waits for it.
    SetAside,
    /// The first in line: set the key to it.
    One(Handed),
    /// The first in line needs others as well, and they seem to be there: see
    /// [`Keeper::unseen_of`].
    Set {
        /// Who.
        ticket: Ticket,
        /// The lock; its key shows what it did until it is known who gets it.
        lock: Id,
    },
}

/// The key is to be set to a waiter whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Who holds the lock now.
    pub owner: Bytes,
    /// When its lease is over, in ms since the epoch.
    pub until_ms: u64,
}

impl Keeper {
    /// Gives a free lock to the first client of its line.
    pub(crate) fn serve(&mut self, id: Id, now: Now) -> Next {
        while let Some(ticket) = self.first_client(id) {
            let Some(waiter) = self.lines.get(ticket) else { break };
            if waiter.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now.ms()) {
                if !self.portion.take(waiter.locks.len(), now) {
                    // The lock is passed on when the place is removed.
                    self.mark_left(ticket, Leaving::TimedOut, now);
                    self.keep_aside(id);
                    return Next::SetAside;
                }
                self.end_wait(ticket, Leaving::TimedOut, &[id], now);
                continue;
            }
            if waiter.wants > 1 {
                return self.set_aside(id, ticket);
            }
            return self.hand_off(id, ticket, now).map_or(Next::Nobody, Next::One);
        }
        Next::Nobody
    }

    fn keep_aside(&mut self, id: Id) {
        if let Some(lock) = self.table.get_mut(id) {
            lock.set_aside = true;
        }
    }

    fn first_client(&self, id: Id) -> Option<Ticket> {
        let waits = self.table.get(id).is_some_and(|lock| lock.present > 0);
        waits.then(|| self.lines.first_present(id)).flatten()
    }

    fn hand_off(&mut self, id: Id, ticket: Ticket, now: Now) -> Option<Handed> {
        let part = self.serve_waiter(ticket, &[(id, false)], now)?.pop()?;
        Some(Handed { owner: part.owner, until_ms: part.until_ms })
    }

    /// Ends a hold and gives the lock to the next waiter.
    pub(crate) fn end_and_serve(
        &mut self,
        id: Id,
        end: End,
        caller: Caller<'_>,
        now: Now,
    ) -> Next {
        self.end(id, end, caller, now);
        self.serve(id, now)
    }
}
