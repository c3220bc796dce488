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
    /// Each queue is served in order.
    Order,
    /// No lock stays free while a waiter could have it.
    NoLostWakeUp,
    /// When all locks are released again and again, every waiter is served.
    NoStarvation,
    /// The number of holds begun, less those ended, is the number of held locks.
    CountersAddUp,
    /// A lock set is granted completely or not at all.
    AllOrNothing,
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
    pub const ALL: [Self; 11] = [
        Self::MutualExclusion,
        Self::IncreasingTokens,
        Self::Order,
        Self::NoLostWakeUp,
        Self::NoStarvation,
        Self::CountersAddUp,
        Self::AllOrNothing,
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
            Self::Order => "first come, first served",
            Self::NoLostWakeUp => "no lost wake-up",
            Self::NoStarvation => "no starvation",
            Self::CountersAddUp => "counters add up",
            Self::AllOrNothing => "all or nothing",
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
