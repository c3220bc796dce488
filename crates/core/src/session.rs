//! Sessions: a lock that ends with the connection that got it, and what is owed when it
//! could not be done at once, because the server may not be written just then.

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::keeper::{Caller, Grant, Keeper};
use crate::line::{Locks, Ticket, Waiter};
use crate::lock::{Bytes, Name, Session};
use crate::seen::Seen;
use crate::serve::Next;
use crate::wait::Leaving;

/// Something that happened to a client, for which a lock's key is to be changed as soon as
/// the server may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// The connection that a lock was tied to closed.
    SessionEnd {
        /// The lock.
        lock: Id,
        /// The client.
        client: u64,
        /// When, in ms since the epoch.
        closed_ms: u64,
    },
    /// A waiter was granted a lock, and never heard of it.
    TakeBack {
        /// The lock.
        lock: Id,
        /// The token of the grant.
        token: u64,
        /// Who.
        waiter: Box<Waiter>,
        /// The keys of its set.
        set: Vec<Bytes>,
    },
    /// A free lock is the next one's: whom it was set aside for has left.
    Turn {
        /// The lock.
        lock: Id,
    },
    /// What a set has is to be counted: somebody before it has left.
    Share {
        /// Who waits for the set.
        ticket: Ticket,
    },
}

impl Owed {
    /// The lock whose key is to be changed; none: those of a set.
    pub fn lock(&self) -> Option<Id> {
        match self {
            Self::SessionEnd { lock, .. }
            | Self::TakeBack { lock, .. }
            | Self::Turn { lock } => Some(*lock),
            Self::Share { .. } => None,
        }
    }
}

/// What is to be done to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadeGood {
    /// Nothing: the lock is somebody else's meanwhile.
    Nothing,
    /// The hold is over: it is the next one's.
    Freed(Next),
    /// There was no hold and no key: it is the next one's.
    Served(Next),
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
                let closed_ms = now.ms();
                self.owed.push_back(Owed::SessionEnd { lock, client, closed_ms });
            }
        }
    }

    /// A waiter was gone before it heard of its grants.
    pub fn undelivered(&mut self, grants: &[Grant], waiter: &Waiter, set: &[Bytes]) {
        let take_back = |grant: &Grant| Owed::TakeBack {
            lock: grant.lock,
            token: grant.token,
            waiter: Box::new(waiter.clone()),
            set: set.to_vec(),
        };
        self.owed.extend(grants.iter().map(take_back));
    }

    /// A waiter was refused its grants, because its user has lost the right to them. They are
    /// taken back as if it had gone, but no place is kept.
    pub fn not_permitted(&mut self, grants: &[Grant], waiter: &Waiter) {
        self.undelivered(grants, &Waiter { unique: false, ..waiter.clone() }, &[]);
    }

    /// True when something is owed.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The lock, or one of the locks, of the oldest of what is owed.
    pub fn next_owed_lock(&self) -> Option<Id> {
        match self.owed.front()? {
            Owed::Share { ticket } => self.lines.get(*ticket)?.locks.first().copied(),
            owed => owed.lock(),
        }
    }

    /// The oldest of what is owed, to be made good with [`Keeper::make_good`].
    pub fn take_owed(&mut self) -> Option<Owed> {
        self.owed.pop_front()
    }

    /// Makes good what is owed, if the lock is still the one that it is owed for. A set's
    /// share is counted by [`Keeper::unseen_of`] instead.
    pub fn make_good(&mut self, owed: Owed, seen: &Seen<'_>, now: Now) -> MadeGood {
        let Some(id) = owed.lock() else { return MadeGood::Nothing };
        self.settle(id, seen, now);
        let made_good = match owed {
            Owed::Turn { .. } if matches!(seen, Seen::Absent) => {
                MadeGood::Served(self.serve(id, now))
            }
            _ => self.make_good_settled(id, owed, now),
        };
        self.rearm(id);
        self.table.forget_if_idle(id);
        made_good
    }

    fn make_good_settled(&mut self, id: Id, owed: Owed, now: Now) -> MadeGood {
        let Some(hold) = self.table.hold_mut(id) else { return MadeGood::Nothing };
        let end = match (owed, hold.session) {
            // Unless its owner asked again in the same turn, and was told that way.
            (Owed::TakeBack { token, waiter, set, .. }, _)
                if hold.token() == Some(token) && !hold.renewed =>
            {
                self.keep_place_again(id, *waiter, &set, now);
                End::Undelivered
            }
            (
                Owed::SessionEnd { client, closed_ms, .. },
                Session::Ending { client: tied_to, grace_ms },
            ) if client == tied_to => {
                let until_ms = closed_ms.saturating_add(grace_ms);
                // Without a grace it ends now, also when the clock was stepped back since.
                if grace_ms > 0 && until_ms > now.ms() {
                    return self.cut_to_grace(id, until_ms);
                }
                End::SessionClosed
            }
            _ => return MadeGood::Nothing,
        };
        MadeGood::Freed(self.end_and_serve(id, end, Caller::default(), now))
    }

    /// Keeps the place of a waiter whose grant is taken back, unless that was done for
    /// another lock of its set, or its owner stands in one of these lines anew.
    fn keep_place_again(&mut self, id: Id, waiter: Waiter, set: &[Bytes], now: Now) {
        let Some(db) = self.table.get(id).map(|lock| lock.db) else { return };
        let mut make = |key| self.table.find_or_make(Name { db, key });
        let locks: Locks = match set {
            [] => waiter.locks.clone(),
            set => set.iter().filter_map(|key| make(key.as_slice())).collect(),
        };
        let stands = |lock: &Id| self.lines.place_of(&waiter.owner, *lock).is_some();
        if !locks.iter().any(stands) {
            self.keep_place(&Waiter { locks: locks.clone(), ..waiter }, now);
        }
        self.forget_idle(&locks);
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
