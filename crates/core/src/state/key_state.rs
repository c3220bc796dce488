//! What the key of a lock shows. The key is the only truth: every rule gets its state as an
//! argument and trusts it over its own record.

use crate::state::lock::NO_END;

/// The longest owner, in bytes.
pub const OWNER_MAX: usize = 1024;

/// What a key shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState<'a> {
    /// No key: the lock is free.
    Absent,
    /// No key, and this node of the cluster no longer serves it: another node may have the lock.
    Elsewhere,
    /// A string: the lock is held.
    String {
        /// The value: the owner, if it is a valid one.
        value: &'a [u8],
        /// When the key expires.
        expires: Expires,
    },
    /// A key of another type: not a lock.
    OtherType,
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// Not read: the value is the one that the caller compares with, and the rule ends the hold or
    /// leaves it as it is.
    Unread,
    /// Never.
    Never,
    /// At this time, in ms since the epoch.
    At(u64),
}

impl From<Option<u64>> for Expires {
    fn from(expires: Option<u64>) -> Self {
        expires.map_or(Self::Never, Self::At)
    }
}

impl Expires {
    /// The time as a hold stores it; none when it was not read.
    pub(crate) fn end(self) -> Option<u64> {
        match self {
            Self::Unread => None,
            Self::Never => Some(NO_END),
            Self::At(ms) => Some(ms),
        }
    }
}

/// What a key shows without its value, whose reading costs the server a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMeta {
    /// No key.
    Absent,
    /// A string.
    String {
        /// The length of the value, in bytes.
        len: usize,
        /// When the key expires, in ms since the epoch; none: never.
        expires: Option<u64>,
    },
    /// A key of another type.
    OtherType,
}

/// Whether a value can be an owner.
pub fn is_valid_owner(value: &[u8]) -> bool {
    (1..=OWNER_MAX).contains(&value.len())
}
