//! What has to leave the module after a command or an event: replies to waiting clients, events to
//! publish, and the request for a client's `CLIENT LIST` line. Delivery belongs to the module.

use std::collections::VecDeque;

use crate::error::CommandError;
use crate::state::arena::Id;
use crate::state::event::Event;
use crate::state::lock::Bytes;
use crate::state::queue::pop;
use crate::state::wait_queue::{Ticket, Waiter};

/// The reply to a client that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitReply {
    /// The client holds the lock, or its lock set.
    Granted {
        /// The locks, in the order in which the client named them.
        grants: Vec<Grant>,
        /// The waiter, in case the grant has to be taken back.
        waiter: Box<Waiter>,
        /// All keys of its lock set, in case its position has to be restored: the locks that it
        /// did not get may be forgotten by then.
        set: Vec<Bytes>,
    },
    /// The client does not get the lock.
    Null,
    /// The wait ended with an error.
    Error(CommandError),
}

/// A lock that a waiting client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lock.
    pub lock: Id,
    /// Its key.
    pub key: Bytes,
    /// The fencing token.
    pub token: u64,
}

/// Everything that waits for delivery, each kind the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    replies: VecDeque<(Ticket, WaitReply)>,
    events: VecDeque<Event>,
    /// The client whose line the newest log entry lacks.
    unidentified: Option<u64>,
}

impl Outbox {
    /// Whether anything waits for delivery.
    pub fn has_any(&self) -> bool {
        !self.replies.is_empty() || !self.events.is_empty() || self.unidentified.is_some()
    }

    /// The number of events that wait for delivery.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Whether events wait for delivery.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn reply(&mut self, ticket: Ticket, reply: WaitReply) {
        self.replies.push_back((ticket, reply));
    }

    pub(crate) fn publish(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(crate) fn identify(&mut self, client: Option<u64>) {
        self.unidentified = client;
    }

    /// The oldest reply.
    pub fn take_reply(&mut self) -> Option<(Ticket, WaitReply)> {
        pop(&mut self.replies)
    }

    /// The oldest event.
    #[inline]
    pub fn take_event(&mut self) -> Option<Event> {
        pop(&mut self.events)
    }

    /// The client whose line [`crate::LockManager::identify`] needs. Returned once.
    pub fn take_unidentified(&mut self) -> Option<u64> {
        self.unidentified.take()
    }

    /// The number of replies.
    pub fn replies(&self) -> usize {
        self.replies.len()
    }
}
