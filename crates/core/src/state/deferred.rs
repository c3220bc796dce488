//! The queue of deferred work: what follows from an event and has to write keys, which an event
//! must not do. How an item is carried out is decided in `rules/session.rs`, `rules/notice.rs` and
//! `rules/lock_set.rs`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::lock::{Bytes, Session};
use crate::state::outbox::Grant;
use crate::state::queue::pop;
use crate::state::table::Table;
use crate::state::wait_queue::{Ticket, WaitQueues, Waiter};

/// Work on one lock, or on the lock set of one waiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deferred {
    /// A client's connection closed. [`DeferredQueue::take`] returns a `SessionEnd` for each lock
    /// tied to it.
    Session(EndingSession),
    /// The connection closed that this lock was tied to.
    SessionEnd {
        /// The lock.
        lock: Id,
        /// The client.
        client: u64,
        /// When the connection closed, in ms since the epoch.
        closed_ms: u64,
    },
    /// A waiter was granted a lock and was gone before it received the grant.
    Undelivered {
        /// The lock.
        lock: Id,
        /// The token of the grant.
        token: u64,
        /// The waiter.
        lost: Arc<Lost>,
    },
    /// Another client has set a lease beyond the notice that the holder of this lock was given.
    CutToNotice {
        /// The lock.
        lock: Id,
    },
    /// A free lock passes to the next waiter: the one it was reserved for is gone.
    HandOff {
        /// The lock.
        lock: Id,
    },
    /// The locks that a lock set could get are counted again.
    Recount {
        /// The waiter for the lock set.
        ticket: Ticket,
    },
}

/// A session that has ended while locks are tied to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndingSession {
    /// The client.
    pub client: u64,
    /// When its connection closed, in ms since the epoch.
    pub closed_ms: u64,
    /// The number of its locks that still end at once; the others end in portions.
    pub at_once: usize,
}

/// A waiter that was gone before it received its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The waiter.
    pub waiter: Waiter,
    /// The keys of its lock set.
    pub set: Vec<Bytes>,
}

impl Deferred {
    /// The lock whose key changes; none for the locks of a session or a set.
    pub fn lock(&self) -> Option<Id> {
        match self {
            Self::SessionEnd { lock, .. }
            | Self::Undelivered { lock, .. }
            | Self::CutToNotice { lock }
            | Self::HandOff { lock } => Some(*lock),
            Self::Session(_) | Self::Recount { .. } => None,
        }
    }
}

/// All deferred work.
#[derive(Clone, Debug, Default)]
pub struct DeferredQueue {
    /// Work that is due at once, the oldest first.
    work: VecDeque<Deferred>,
    /// Sessions with more locks than may end at once.
    sessions: VecDeque<EndingSession>,
    /// The clients whose session has ended while locks are tied to them.
    closed_clients: BTreeSet<u64>,
}

impl DeferredQueue {
    /// Whether there is any work.
    pub fn has_any(&self) -> bool {
        self.has_work() || !self.sessions.is_empty()
    }

    /// Whether there is work for [`DeferredQueue::take`].
    pub fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// A client's connection closed, and locks are tied to it. `at_once` of them end at once.
    pub(crate) fn end_session(&mut self, client: u64, at_once: usize, now: Now) {
        self.closed_clients.insert(client);
        let session = EndingSession { client, closed_ms: now.ms(), at_once };
        self.work.push_back(Deferred::Session(session));
    }

    /// A waiter was gone before it received these grants.
    pub(crate) fn take_back(&mut self, grants: &[Grant], waiter: Waiter, set: &[Bytes]) {
        let lost = Arc::new(Lost { waiter, set: set.to_vec() });
        let undelivered = |grant: &Grant| Deferred::Undelivered {
            lock: grant.lock,
            token: grant.token,
            lost: Arc::clone(&lost),
        };
        self.work.extend(grants.iter().map(undelivered));
    }

    /// The lease of a lock has to be cut to a notice.
    pub(crate) fn cut_to_notice(&mut self, lock: Id) {
        self.work.push_back(Deferred::CutToNotice { lock });
    }

    /// A free lock passes to the next waiter.
    pub(crate) fn hand_off(&mut self, lock: Id) {
        self.work.push_back(Deferred::HandOff { lock });
    }

    /// The locks that a lock set could get are counted again, once.
    pub(crate) fn recount(&mut self, ticket: Ticket, queues: &mut WaitQueues) {
        if let Some(waiter) = queues.get_mut(ticket) {
            waiter.missing = 0;
            if !std::mem::replace(&mut waiter.recount_deferred, true) {
                self.work.push_back(Deferred::Recount { ticket });
            }
        }
    }

    /// Whether a hold with this session is about to end because its connection closed.
    pub(crate) fn is_ending(&self, session: Session) -> bool {
        match session {
            Session::Ending { .. } => true,
            Session::Tied { client, .. } => self.closed_clients.contains(&client),
            Session::None | Session::Closed => false,
        }
    }

    /// The lock, or one of the locks, of the next item; none without work. Void items are dropped
    /// first: otherwise the permission for the lock of the next item would be used for the void
    /// item.
    pub(crate) fn next_lock(&mut self, table: &Table, queues: &WaitQueues) -> Option<Id> {
        while let Some(work) = self.work.front() {
            let lock = match work {
                Deferred::Recount { ticket } => {
                    queues.get(*ticket).and_then(|waiter| waiter.locks.first().copied())
                }
                Deferred::Session(session) => table.first_tied(session.client),
                work => work.lock(),
            };
            if lock.is_some() {
                return lock;
            }
            if let Some(Deferred::Session(session)) = pop(&mut self.work) {
                self.closed_clients.remove(&session.client);
            }
        }
        while let Some(session) = self.sessions.front() {
            let (client, lock) = (session.client, table.first_tied(session.client));
            if lock.is_some() {
                return lock;
            }
            pop(&mut self.sessions);
            self.closed_clients.remove(&client);
        }
        None
    }

    /// The oldest item that is due at once. Of a session it returns only the first locks, one for
    /// each call, alternating with other items.
    pub(crate) fn take(
        &mut self,
        table: &mut Table,
        queues: &mut WaitQueues,
    ) -> Option<Deferred> {
        loop {
            match pop(&mut self.work)? {
                Deferred::Session(mut session) => match session.at_once.checked_sub(1) {
                    None => self.sessions.push_back(session),
                    Some(at_once) => {
                        session.at_once = at_once;
                        if let Some(end) = self.next_of_session(session, table) {
                            self.work.push_back(Deferred::Session(session));
                            return Some(end);
                        }
                    }
                },
                Deferred::Recount { ticket } => {
                    if let Some(waiter) = queues.get_mut(ticket) {
                        waiter.recount_deferred = false;
                        return Some(Deferred::Recount { ticket });
                    }
                }
                work => return Some(work),
            }
        }
    }

    /// Puts an item back in front.
    pub(crate) fn put_back(&mut self, work: Deferred) {
        self.work.push_front(work);
    }

    /// The rest of the sessions that ended, one lock of each in turn.
    pub(crate) fn take_session_end(&mut self, table: &mut Table) -> Option<Deferred> {
        loop {
            let session = pop(&mut self.sessions)?;
            if let Some(end) = self.next_of_session(session, table) {
                self.sessions.push_back(session);
                return Some(end);
            }
        }
    }

    /// The next lock of a session. When no lock is tied to it any longer, the session is forgotten.
    fn next_of_session(
        &mut self,
        session: EndingSession,
        table: &mut Table,
    ) -> Option<Deferred> {
        let EndingSession { client, closed_ms, .. } = session;
        let Some(lock) = table.first_tied(client) else {
            self.closed_clients.remove(&client);
            return None;
        };
        if let Some(Session::Tied { client, grace_ms }) =
            table.hold(lock).map(|hold| hold.session)
        {
            table.set_session(lock, Session::Ending { client, grace_ms });
        }
        Some(Deferred::SessionEnd { lock, client, closed_ms })
    }

    /// Drops all work. Returns the free locks that do not pass on therefore.
    pub(crate) fn clear(&mut self) -> Vec<Id> {
        let hand_off = |work| match work {
            Deferred::HandOff { lock } => Some(lock),
            _ => None,
        };
        std::mem::take(self).work.into_iter().filter_map(hand_off).collect()
    }

    /// The work that is due at once, the oldest first.
    pub fn work(&self) -> impl Iterator<Item = &Deferred> {
        self.work.iter()
    }

    /// The sessions that end in portions, the next one first.
    pub fn sessions(&self) -> impl Iterator<Item = &EndingSession> {
        self.sessions.iter()
    }

    /// The clients whose session has ended while locks are tied to them.
    pub fn closed_clients(&self) -> impl Iterator<Item = u64> {
        self.closed_clients.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::lock::{Hold, Name};

    const NOW: Now = Now::from_ms(1_000_000);

    /// A table with this number of locks tied to each client.
    fn table_of(locks: usize, clients: &[u64]) -> Table {
        let mut table = Table::new(1);
        for client in clients {
            for n in 0..locks {
                let key = format!("{client}:{n}");
                let name = Name { db: 0, key: key.as_bytes() };
                let id = table.find_or_create(name).unwrap();
                table.begin_hold(id, Hold::new(b"me", Some(1), NOW.ms(), NOW.ms() + 9));
                let session = Session::Tied { client: *client, grace_ms: 0 };
                table.set_session(id, session);
            }
        }
        table
    }

    #[test]
    fn the_ends_of_two_sessions_alternate() {
        let mut table = table_of(200, &[1, 2]);
        let (mut queue, mut queues) = (DeferredQueue::default(), WaitQueues::default());
        queue.end_session(1, 128, NOW);
        queue.end_session(2, 128, NOW);
        let mut next = || match queue.take(&mut table, &mut queues) {
            Some(Deferred::SessionEnd { client, .. }) => client,
            other => panic!("{other:?}"),
        };
        assert_eq!([next(), next(), next()], [1, 2, 1]);
    }

    #[test]
    fn a_session_ends_in_two_parts_and_each_lock_once() {
        let mut table = table_of(300, &[7]);
        let (mut queue, mut queues) = (DeferredQueue::default(), WaitQueues::default());
        queue.end_session(7, 128, NOW);
        let at_once = std::iter::from_fn(|| queue.take(&mut table, &mut queues));
        assert_eq!(at_once.count(), 128);
        assert!(queue.has_any() && !queue.has_work());
        let rest = std::iter::from_fn(|| queue.take_session_end(&mut table));
        assert_eq!(rest.count(), 300 - 128);
        assert!(!queue.has_any() && queue.closed_clients.is_empty());
    }
}
