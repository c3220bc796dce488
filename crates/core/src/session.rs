//! Sessions: a lock that ends with the connection that got it, and what is owed when it
//! could not be done at once, because the server may not be written just then.

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::keeper::{Caller, Keeper};
use crate::line::Waiter;
use crate::lock::Session;
use crate::seen::Seen;
use crate::serve::Handed;
use crate::wait::Leaving;

/// Something that happened to a client, for which a lock's key is to be changed as soon as
/// the server may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The lock.
    pub lock: Id,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// This client's connection closed then, in ms since the epoch.
    SessionEnd { client: u64, closed_ms: u64 },
    /// This waiter was granted this token, and never heard of it.
    TakeBack { token: u64, waiter: Box<Waiter> },
}

/// What is to be done to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadeGood {
    /// Nothing: the lock is somebody else's meanwhile.
    Nothing,
    /// Delete it.
    Freed,
    /// Set it to the next waiter.
    HandedOver(Handed),
    /// Let it live until then.
    Cut {
        /// The end of the grace, in ms since the epoch.
        until_ms: u64,
    },
}

impl Keeper {
    /// Ties a hold to a client's connection.
    pub(crate) fn tie(&mut self, id: Id, client: u64, grace_ms: u64) {
        self.untie(id);
        if let Some(hold) = self.table.hold_mut(id) {
            hold.session = Session::Tied { client, grace_ms };
            self.ties.insert((client, id));
        }
    }

    /// Ties a hold to no connection.
    pub(crate) fn untie(&mut self, id: Id) {
        let Some(hold) = self.table.hold_mut(id) else { return };
        let session = std::mem::replace(&mut hold.session, Session::None);
        if let Session::Tied { client, .. } = session {
            self.ties.remove(&(client, id));
        }
    }

    /// A client's connection closed: it waits no longer, and its locks are owed an end.
    pub fn client_gone(&mut self, client: u64, now: Now) {
        if let Some(ticket) = self.lines.of_client(client) {
            self.leave(ticket, Leaving::Disconnected, now);
        }
        let ties = self.ties.range((client, Id::FIRST)..);
        let tied = ties.take_while(|(tied_to, _)| *tied_to == client).map(|(_, id)| *id);
        for lock in tied.collect::<Vec<_>>() {
            self.ties.remove(&(client, lock));
            if let Some(hold) = self.table.hold_mut(lock)
                && let Session::Tied { client, grace_ms } = hold.session
            {
                hold.session = Session::Ending { client, grace_ms };
                let what = What::SessionEnd { client, closed_ms: now.ms() };
                self.owed.push_back(Owed { lock, what });
            }
        }
    }

    /// A waiter was gone before it heard of its grant.
    pub fn undelivered(&mut self, token: u64, waiter: Box<Waiter>) {
        let lock = waiter.lock;
        self.owed.push_back(Owed { lock, what: What::TakeBack { token, waiter } });
    }

    /// True when something is owed.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The oldest of what is owed, to be made good with [`Keeper::make_good`].
    pub fn take_owed(&mut self) -> Option<Owed> {
        self.owed.pop_front()
    }

    /// Makes good what is owed, if the lock is still the one that it is owed for.
    pub fn make_good(&mut self, owed: Owed, seen: &Seen<'_>, now: Now) -> MadeGood {
        let id = owed.lock;
        self.settle(id, seen, now);
        let made_good = self.make_good_settled(owed, now);
        self.rearm(id);
        self.table.forget_if_idle(id);
        made_good
    }

    fn make_good_settled(&mut self, owed: Owed, now: Now) -> MadeGood {
        let id = owed.lock;
        let Some(hold) = self.table.hold_mut(id) else { return MadeGood::Nothing };
        let end = match (owed.what, hold.session) {
            // Unless its owner asked again in the same turn, and was told that way.
            (What::TakeBack { token, waiter }, _)
                if hold.token() == Some(token) && !hold.renewed =>
            {
                self.keep_place(&waiter, now);
                End::Undelivered
            }
            (
                What::SessionEnd { client, closed_ms },
                Session::Ending { client: tied_to, grace_ms },
            ) if client == tied_to => {
                let until_ms = closed_ms.saturating_add(grace_ms);
                if until_ms > now.ms() {
                    return self.cut_to_grace(id, until_ms);
                }
                End::SessionClosed
            }
            _ => return MadeGood::Nothing,
        };
        match self.end_and_serve(id, end, Caller::default(), now) {
            Some(handed) => MadeGood::HandedOver(handed),
            None => MadeGood::Freed,
        }
    }

    /// Leaves a lock whose connection closed to its grace, or to its lease if that is
    /// shorter.
    fn cut_to_grace(&mut self, id: Id, until_ms: u64) -> MadeGood {
        self.untie(id);
        match self.table.hold_mut(id) {
            Some(hold) if hold.until_ms > until_ms => {
                hold.until_ms = until_ms;
                hold.session = Session::Closed;
                MadeGood::Cut { until_ms }
            }
            _ => MadeGood::Nothing,
        }
    }
}
