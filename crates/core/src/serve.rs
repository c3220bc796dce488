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
//! lock, even when nobody has told it yet.

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::keeper::{Answer, Caller, Keeper, Terms};
use crate::lock::Bytes;
use crate::wait::Leaving;

/// The key is to be set to a waiter whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Who holds the lock now.
    pub owner: Bytes,
    /// When its lease is over, in ms since the epoch.
    pub until_ms: u64,
}

impl Keeper {
    /// Gives a free lock to the first client of its line; none when nobody waits.
    pub(crate) fn serve(&mut self, id: Id, now: Now) -> Option<Handed> {
        if self.table.get(id)?.present == 0 {
            return None;
        }
        while let Some(ticket) = self.lines.first_present(id) {
            let deadline_ms = self.lines.get(ticket)?.deadline_ms;
            if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now.ms()) {
                self.end_wait(ticket, Leaving::TimedOut, now);
                continue;
            }
            let waiter = self.take_place(ticket)?;
            let client = waiter.client;
            let session = waiter.session_grace_ms;
            let terms = Terms {
                owner: &waiter.owner,
                lease_ms: waiter.lease_ms,
                unique: waiter.unique,
                session: client.zip(session),
            };
            let (token, until_ms) = self.grant(id, &terms, now);
            self.count(Some(id), |counters| &mut counters.acquired_after_wait);
            let waited_ms = now.ms_since(waiter.since_ms);
            self.tally(Some(id), |counters| counters.wait_ms.record(waited_ms));
            let owner = waiter.owner.clone();
            let waiter = Box::new(waiter);
            self.answers.push_back((ticket, Answer::Granted { token, waiter }));
            return Some(Handed { owner, until_ms });
        }
        None
    }

    /// Ends a hold and gives the lock to the next waiter; none when there is none.
    pub(crate) fn end_and_serve(
        &mut self,
        id: Id,
        end: End,
        caller: Caller<'_>,
        now: Now,
    ) -> Option<Handed> {
        self.end(id, end, caller, now);
        self.serve(id, now)
    }
}
