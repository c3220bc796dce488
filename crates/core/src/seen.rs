//! What a lock's key shows at this moment. The key is the only truth: every rule is told
//! what was seen there, and believes it over what it remembers.

use crate::lock::{Bytes, NO_END};

/// The longest owner, in bytes.
pub const OWNER_MAX: usize = 1024;

/// What stands under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// Nothing: the lock is free.
    Absent,
    /// Nothing, and this node of the cluster no longer serves the key: it may be held
    /// elsewhere.
    Elsewhere,
    /// A string: the lock is held.
    Text {
        /// The value: the owner, if it can be one.
        value: &'a [u8],
        /// When the key's time to live is over.
        expires: Expires,
    },
    /// A key of another type: no lock.
    Other,
}

/// What stood under a key when it was looked at: [`Seen`], for a rule that decides over
/// several keys, which are not open at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Absent,
    /// A string.
    Text {
        /// The value.
        value: Bytes,
        /// When the key's time to live is over.
        expires: Expires,
    },
    /// A key of another type.
    Other,
}

impl From<Seen<'_>> for Shown {
    fn from(seen: Seen<'_>) -> Self {
        match seen {
            Seen::Absent | Seen::Elsewhere => Self::Absent,
            Seen::Text { value, expires } => {
                Self::Text { value: Bytes::from_slice(value), expires }
            }
            Seen::Other => Self::Other,
        }
    }
}

impl Shown {
    /// As the other rules are told it.
    pub fn seen(&self) -> Seen<'_> {
        match self {
            Self::Absent => Seen::Absent,
            Self::Text { value, expires } => Seen::Text { value, expires: *expires },
            Self::Other => Seen::Other,
        }
    }
}

/// When a key's time to live is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// It was not asked for: the value is the one that the caller looks for, and the rule
    /// ends the hold or leaves it as it is.
    Unread,
    /// Never.
    Never,
    /// Then, in ms since the epoch.
    At(u64),
}

impl From<Option<u64>> for Expires {
    fn from(expires: Option<u64>) -> Self {
        expires.map_or(Self::Never, Self::At)
    }
}

impl Expires {
    /// As a hold keeps it; none when it is not known.
    pub(crate) fn end(self) -> Option<u64> {
        match self {
            Self::Unread => None,
            Self::Never => Some(NO_END),
            Self::At(ms) => Some(ms),
        }
    }
}

/// What can be seen of a key without reading its value, which costs the server a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glimpse {
    /// No key.
    Absent,
    /// A string of this length that ends then.
    Text {
        /// Length of the value in bytes.
        len: usize,
        /// When its time to live is over, in ms since the epoch; none: never.
        expires: Option<u64>,
    },
    /// A key of another type.
    Other,
}

/// True when `value` can be an owner.
pub fn can_own(value: &[u8]) -> bool {
    (1..=OWNER_MAX).contains(&value.len())
}
