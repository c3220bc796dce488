//! The laws that a world must keep, and the breach of one. `check.rs` and the steps themselves
//! check them; `eventually.rs` checks what must follow later.

use std::fmt;

/// What must hold in every world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Law {
    /// A lock is granted only while it is free. A hold ends only by a release of its owner, by the
    /// end of its lease or session, by a forced release, or by another client's write to the key.
    MutualExclusion,
    /// Each grant has a larger token than all grants before it.
    IncreasingTokens,
    /// Each queue is served in the order of the turns.
    Order,
    /// Callers without PRIORITY and SHARE are served in the order of their arrival, whatever others
    /// do.
    PlainOrder,
    /// Once its queue has made as many further grants as its bound says, a waiting call is not passed
    /// by new ones.
    BoundedWait,
    /// No lock stays free while a waiter could have it.
    NoLostWakeUp,
    /// When all locks are released again and again, every waiter is served.
    NoStarvation,
    /// The number of holds begun, less those ended, is the number of held locks.
    CountersAddUp,
    /// A lock set is granted completely or not at all.
    AllOrNothing,
    /// Locks are reserved for a waiter with GROUPS only in the groups that lack the fewest, and other
    /// callers get the others.
    Reservation,
    /// A wait is refused for `max-waiters` only if as many clients wait. Kept positions give way.
    Room,
    /// After a notice, no lease reaches beyond its end, and the hold ends as if by force.
    Notice,
    /// A wait is refused as a deadlock exactly when it would close a cycle.
    Deadlocks,
    /// No key is written while the server refuses the writes of clients, nor in the middle of
    /// another client's command.
    WritePermission,
    /// A lock outlives the connection that it is tied to by its grace period at most.
    Sessions,
    /// The record is complete and has no leftovers: every position is known, every reply goes to a
    /// waiter, and a UNIQUE owner has one position in a queue.
    Bookkeeping,
}

impl Law {
    /// All laws.
    pub const ALL: [Self; 16] = [
        Self::MutualExclusion,
        Self::IncreasingTokens,
        Self::Order,
        Self::PlainOrder,
        Self::BoundedWait,
        Self::NoLostWakeUp,
        Self::NoStarvation,
        Self::CountersAddUp,
        Self::AllOrNothing,
        Self::Reservation,
        Self::Room,
        Self::Notice,
        Self::Deadlocks,
        Self::WritePermission,
        Self::Sessions,
        Self::Bookkeeping,
    ];

    /// The name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MutualExclusion => "mutual exclusion",
            Self::IncreasingTokens => "increasing tokens",
            Self::Order => "served in turn",
            Self::PlainOrder => "plain callers are served first come, first served",
            Self::BoundedWait => "not passed after the bound",
            Self::NoLostWakeUp => "no lost wake-up",
            Self::NoStarvation => "no starvation",
            Self::CountersAddUp => "counters add up",
            Self::AllOrNothing => "all or nothing",
            Self::Reservation => "reserved only in the groups that lack the fewest",
            Self::Room => "only waiting clients fill max-waiters",
            Self::Notice => "a hold ends by its notice",
            Self::Deadlocks => "exact deadlock detection",
            Self::WritePermission => "no write without permission",
            Self::Sessions => "sessions end with their connection",
            Self::Bookkeeping => "complete record without leftovers",
        }
    }
}

/// A broken law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Breach {
    /// The law.
    pub law: Law,
    /// What was expected.
    pub expected: &'static str,
}

impl fmt::Display for Breach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: expected that {}", self.law.name(), self.expected)
    }
}
