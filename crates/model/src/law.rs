//! The laws that a world must keep, by name, and the first breach of one. When a law is
//! looked at is said where it is: with each step, or in `after.rs`.

use std::fmt;

/// What must hold whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Law {
    /// A lock is granted when nobody holds it: the holder gave it back, or its lease was
    /// over, or somebody with the right to do so took it away. Nobody else ends a hold.
    MutualExclusion,
    /// Each grant has a larger token than all before.
    RisingTokens,
    /// First come, first served, on every lock.
    Order,
    /// A lock that is free is not left to lie while somebody waits who could have it.
    NoLostWakeUp,
    /// When everything is given up, everybody who waits is served.
    NoStarvation,
    /// What was taken, less what ended, is what is held.
    CountersAddUp,
    /// A set is granted whole or not at all.
    AllOrNone,
    /// A wait is refused as a circle exactly when it would close one.
    Deadlocks,
    /// No key is written while the server refuses the writes of clients, nor in the middle of
    /// somebody else's command.
    Permission,
    /// A lock outlives the connection that it is tied to by its grace and no more.
    Sessions,
    /// Nobody is forgotten and nothing is remembered for nothing: each place is known, each
    /// answer is for somebody who waits, an owner has one place in a line.
    Tidiness,
}

impl Law {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::MutualExclusion,
        Self::RisingTokens,
        Self::Order,
        Self::NoLostWakeUp,
        Self::NoStarvation,
        Self::CountersAddUp,
        Self::AllOrNone,
        Self::Deadlocks,
        Self::Permission,
        Self::Sessions,
        Self::Tidiness,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MutualExclusion => "mutual exclusion",
            Self::RisingTokens => "rising tokens",
            Self::Order => "first come, first served",
            Self::NoLostWakeUp => "no lost wake-up",
            Self::NoStarvation => "nobody starves",
            Self::CountersAddUp => "the counters add up",
            Self::AllOrNone => "all or none",
            Self::Deadlocks => "circles, and no false alarm",
            Self::Permission => "nothing is written that a client could not write",
            Self::Sessions => "sessions end with their connection",
            Self::Tidiness => "nobody forgotten, nothing left behind",
        }
    }
}

/// A law that was broken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Breach {
    /// Which.
    pub law: Law,
    /// What was expected.
    pub expected: &'static str,
}

impl fmt::Display for Breach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.law.name(), self.expected)
    }
}
