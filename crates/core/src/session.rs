//! Sessions: a lock that ends with the connection that got it, and what is owed when it
//! could not be done at once, because the server may not be written just then.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::arena::Id;
use crate::clock::Now;
use crate::event::End;
use crate::keeper::{Caller, Grant, Keeper, pop};
use crate::line::{Locks, Ticket, Waiter};
use crate::lock::{Bytes, Name, Session};
use crate::seen::Seen;
use crate::serve::Next;
use crate::wait::Leaving;

/// Something that happened to a client, for which a lock's key is to be changed as soon as
/// the server may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owed {
    /// The connection closed that locks were tied to: an end for each of them, which
    /// [`Keeper::take_owed`] hands out one by one.
    Session(EndingSession),
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
        /// Who, and for what.
        lost: Arc<Lost>,
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

/// A session that has ended, while locks are tied to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndingSession {
    /// The client.
    pub client: u64,
    /// When its connection closed, in ms since the epoch.
    pub closed_ms: u64,
    /// How many more of its locks end at once.
    pub at_once: usize,
}

/// A waiter that never heard of its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Who.
    pub waiter: Waiter,
    /// The keys of its set.
    pub set: Vec<Bytes>,
}

impl Owed {
    /// The lock whose key is to be changed; none: those of a set.
    pub fn lock(&self) -> Option<Id> {
        match self {
            Self::SessionEnd { lock, .. }
            | Self::TakeBack { lock, .. }
            | Self::Turn { lock } => Some(*lock),
            Self::Session(_) | Self::Share { .. } => None,
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
            self.leave_soon(ticket, Leaving::Disconnected, &[], now);
        }
        if self.first_tied(client).is_some() {
            let (closed_ms, at_once) = (now.ms(), self.portion.of_session());
            self.gone.insert(client);
            self.owed.push_back(Owed::Session(EndingSession {
                client,
                closed_ms,
                at_once,
            }));
        }
    }

    fn first_tied(&self, client: u64) -> Option<Id> {
        let first = self.ties.range((client, Id::FIRST)..).next();
        first.filter(|(tied_to, _)| *tied_to == client).map(|(_, id)| *id)
    }

    /// The next lock of a session that is owed its end; none, and the session is forgotten,
    /// when no lock is tied to it any more.
    fn next_of_session(&mut self, session: EndingSession) -> Option<Owed> {
        let EndingSession { client, closed_ms, .. } = session;
        let Some(lock) = self.first_tied(client) else {
            self.gone.remove(&client);
            return None;
        };
        self.ties.remove(&(client, lock));
        if let Some(hold) = self.table.hold_mut(lock)
            && let Session::Tied { client, grace_ms } = hold.session
        {
            hold.session = Session::Ending { client, grace_ms };
        }
        Some(Owed::SessionEnd { lock, client, closed_ms })
    }

    /// Whether a hold with this session is owed an end because its connection closed.
    pub fn is_ending(&self, session: Session) -> bool {
        match session {
            Session::Ending { .. } => true,
            Session::Tied { client, .. } => self.gone.contains(&client),
            Session::None | Session::Closed => false,
        }
    }

    /// A waiter was gone before it heard of its grants.
    pub fn undelivered(&mut self, grants: &[Grant], waiter: &Waiter, set: &[Bytes]) {
        let lost = Arc::new(Lost { waiter: waiter.clone(), set: set.to_vec() });
        let take_back = |grant: &Grant| Owed::TakeBack {
            lock: grant.lock,
            token: grant.token,
            lost: Arc::clone(&lost),
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
        self.owes_at_once() || !self.sessions.is_empty()
    }

    /// True when something is owed that [`Keeper::take_owed`] hands out.
    pub fn owes_at_once(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The lock, or one of the locks, of what is handed out next; none when nothing is owed.
    /// What has become void meanwhile is dropped: otherwise it would stand for the item behind
    /// it when the server is asked whether that one's lock may be written.
    pub fn next_owed_lock(&mut self) -> Option<Id> {
        while let Some(owed) = self.owed.front() {
            let lock = match owed {
                Owed::Share { ticket } => self
                    .lines
                    .get(*ticket)
                    .and_then(|waiter| waiter.locks.first().copied()),
                Owed::Session(session) => self.first_tied(session.client),
                owed => owed.lock(),
            };
            if lock.is_some() {
                return lock;
            }
            if let Some(Owed::Session(session)) = pop(&mut self.owed) {
                self.gone.remove(&session.client);
            }
        }
        while let Some(session) = self.sessions.front() {
            let (client, lock) = (session.client, self.first_tied(session.client));
            if lock.is_some() {
                return lock;
            }
            pop(&mut self.sessions);
            self.gone.remove(&client);
        }
        None
    }

    /// The oldest of what is owed, to be made good with [`Keeper::make_good`]. Of a session these
    /// are the first locks alone, one after the other and others' turns between them; the rest
    /// is handed out by [`Keeper::take_owed_later`].
    pub fn take_owed(&mut self) -> Option<Owed> {
        loop {
            match pop(&mut self.owed)? {
                Owed::Session(mut session) => match session.at_once.checked_sub(1) {
                    None => self.sessions.push_back(session),
                    Some(at_once) => {
                        session.at_once = at_once;
                        if let Some(owed) = self.next_of_session(session) {
                            self.owed.push_back(Owed::Session(session));
                            return Some(owed);
                        }
                    }
                },
                Owed::Share { ticket } => {
                    if let Some(waiter) = self.lines.get_mut(ticket) {
                        waiter.is_count_owed = false;
                        return Some(Owed::Share { ticket });
                    }
                }
                owed => return Some(owed),
            }
        }
    }

    /// What is left of the sessions that ended, a lock of each in turn: for the timer, which
    /// takes as much as may be done in one go.
    pub fn take_owed_later(&mut self) -> Option<Owed> {
        loop {
            let session = pop(&mut self.sessions)?;
            if let Some(owed) = self.next_of_session(session) {
                self.sessions.push_back(session);
                return Some(owed);
            }
        }
    }

    /// Nothing is owed any more.
    pub(crate) fn forget_owed(&mut self) {
        self.owed = VecDeque::new();
        self.sessions = VecDeque::new();
        self.gone.clear();
    }

    /// Makes portions smaller, for a model in which everything is small.
    pub fn set_portion(&mut self, places: usize) {
        self.portion.set_size(places);
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
            (Owed::TakeBack { token, lost, .. }, _)
                if hold.token() == Some(token) && !hold.renewed =>
            {
                self.keep_place_again(id, &lost, now);
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
    fn keep_place_again(&mut self, id: Id, lost: &Lost, now: Now) {
        let Lost { waiter, set } = lost;
        let Some(db) = self.table.get(id).map(|lock| lock.db) else { return };
        if !waiter.unique || self.settings.place_keep == 0 {
            return;
        }
        let stands = |lock: &Id| self.lines.place_of(&waiter.owner, *lock).is_some();
        let find = |key: &Bytes| self.table.find(Name { db, key });
        // A set of which one lock was taken back already stands in the lines of all.
        let stands = set.iter().filter_map(find).any(|lock| stands(&lock))
            || set.is_empty() && waiter.locks.iter().any(stands);
        if stands {
            return;
        }
        let mut make = |key| self.table.find_or_make(Name { db, key });
        let locks: Locks = match set.as_slice() {
            [] => waiter.locks.clone(),
            set => set.iter().filter_map(|key| make(key.as_slice())).collect(),
        };
        self.keep_place(&Waiter { locks: locks.clone(), ..waiter.clone() }, now);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::keeper::Terms;
    use crate::seen::Expires;
    use crate::settings::Settings;

    const NOW: Now = Now::from_ms(1_000_000);

    /// A keeper of so many locks that are tied to each of these clients.
    fn keeper_of(locks: usize, clients: &[u64]) -> Keeper {
        let mut keeper = Keeper::new(Settings::default(), 1, NOW);
        for client in clients {
            for n in 0..locks {
                let key = format!("{client}:{n}");
                let name = Name { db: 0, key: key.as_bytes() };
                let id = keeper.table.find_or_make(name).unwrap();
                let session = Some((*client, 0));
                let terms =
                    Terms { owner: b"me", lease_ms: 1_000, unique: true, session };
                keeper.grant(id, &terms, NOW);
            }
        }
        keeper
    }

    fn make_good(keeper: &mut Keeper, owed: Owed) {
        let until = Expires::At(NOW.ms() + 1_000);
        let seen = Seen::Text { value: b"me", expires: until };
        let freed = keeper.make_good(owed, &seen, NOW);
        assert_eq!(freed, MadeGood::Freed(Next::Nobody));
    }

    #[test]
    fn of_a_large_session_a_portion_ends_at_once_and_nothing_is_lost() {
        let mut keeper = keeper_of(1_000, &[7]);
        keeper.client_gone(7, NOW);
        assert_eq!(keeper.owed.len(), 1, "a session is owed as one");
        let at_once = std::iter::from_fn(|| keeper.take_owed()).collect::<Vec<_>>();
        assert_eq!(at_once.len(), keeper.portion.of_session());
        assert!(keeper.owes() && !keeper.owes_at_once());
        at_once.into_iter().for_each(|owed| make_good(&mut keeper, owed));
        assert_eq!(keeper.next_wake_ms(NOW), Some(NOW.ms()));
        while let Some(owed) = keeper.take_owed_later() {
            make_good(&mut keeper, owed);
        }
        assert!(!keeper.owes() && keeper.gone.is_empty() && keeper.ties.is_empty());
        assert_eq!(keeper.counters.session_releases, 1_000);
        assert_eq!(keeper.table.held(), 0);
    }

    #[test]
    fn what_is_owed_for_others_comes_between() {
        let mut keeper = keeper_of(200, &[1, 2]);
        keeper.client_gone(1, NOW);
        keeper.client_gone(2, NOW);
        let mut clients = BTreeSet::new();
        for owed in std::iter::from_fn(|| keeper.take_owed()).take(2) {
            let Owed::SessionEnd { client, .. } = owed else { panic!("{owed:?}") };
            clients.insert(client);
        }
        assert_eq!(clients, BTreeSet::from([1, 2]));
    }

    #[test]
    fn locks_of_a_session_are_ending_from_the_moment_it_closes_unless_renewed() {
        let mut keeper = keeper_of(3, &[7]);
        let ids: Vec<Id> = keeper.table.by_age().collect();
        let session = |keeper: &Keeper, id: Id| {
            keeper.table.get(id).and_then(|lock| lock.hold.as_ref()).unwrap().session
        };
        keeper.client_gone(7, NOW);
        for id in &ids {
            assert!(keeper.is_ending(session(&keeper, *id)));
        }
        // EXTEND ties the lock to no connection, ACQUIRE UNIQUE SESSION to another.
        keeper.renew(ids[1], 500, NOW).unwrap();
        assert_eq!(session(&keeper, ids[1]), Session::None);
        keeper.tie(ids[2], 8, 0);
        assert!(!keeper.is_ending(session(&keeper, ids[2])));
        let ended: Vec<Owed> = std::iter::from_fn(|| keeper.take_owed()).collect();
        let of_7 = Owed::SessionEnd { lock: ids[0], client: 7, closed_ms: NOW.ms() };
        assert_eq!(ended, [of_7]);
    }

    #[test]
    fn queues_give_their_memory_back() {
        let mut keeper = keeper_of(50_000, &[7]);
        keeper.client_gone(7, NOW);
        while let Some(owed) = keeper.take_owed().or_else(|| keeper.take_owed_later()) {
            make_good(&mut keeper, owed);
        }
        while keeper.take_event().is_some() {}
        assert_eq!(keeper.events_capacity(), 0);
    }
}
