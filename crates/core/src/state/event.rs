//! How holds end, and the events that are published about locks. The module defines the message
//! format.

use std::borrow::Cow;

use crate::state::clock::Now;
use crate::state::counters::Counters;
use crate::state::lock::Bytes;
use crate::state::log::{Kind, Text};

/// How a hold ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its owner released it, for this reason.
    Released(Text),
    /// FORCERELEASE released it, for this reason.
    Forced(Text),
    /// The lease expired.
    Expired,
    /// Another command deleted or overwrote the key.
    Removed,
    /// The server evicted the key.
    Evicted,
    /// The key moved to another node with its cluster slot.
    Moved,
    /// The connection of its session closed.
    SessionClosed,
    /// The waiter disconnected before it received the grant.
    Undelivered,
}

impl End {
    /// The counter of this kind of end.
    pub(crate) fn counter<'c>(&self, counters: &'c mut Counters) -> &'c mut u64 {
        match self {
            End::Released(_) => &mut counters.releases,
            End::Forced(_) => &mut counters.emergency_releases,
            End::Expired => &mut counters.expired,
            End::Removed => &mut counters.removed,
            End::Evicted => &mut counters.evicted,
            End::Moved => &mut counters.moved,
            End::SessionClosed => &mut counters.session_releases,
            End::Undelivered => &mut counters.undelivered,
        }
    }

    /// The kind of its log entry; none when it is not logged.
    pub(crate) fn log_kind(&self) -> Option<Kind> {
        match self {
            End::Released(_) | End::Moved | End::Undelivered => None,
            End::SessionClosed => Some(Kind::Disconnected),
            End::Forced(_) => Some(Kind::Forced),
            End::Expired => Some(Kind::Expired),
            End::Removed | End::Evicted => Some(Kind::Removed),
        }
    }

    /// The `release_reason` of the event.
    pub(crate) fn reason(self) -> Text {
        match self {
            End::Released(reason) | End::Forced(reason) => reason,
            End::Expired => Cow::Borrowed(b"timeout"),
            End::Removed => Cow::Borrowed(b"removed"),
            End::Evicted => Cow::Borrowed(b"evicted"),
            End::Moved => Cow::Borrowed(b"moved"),
            End::SessionClosed | End::Undelivered => Cow::Borrowed(b"disconnect"),
        }
    }
}

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the database.
    pub db: u32,
    /// The lock.
    pub key: Bytes,
    /// The owner.
    pub owner: Bytes,
    /// The fencing token, if the hold has one.
    pub token: Option<u64>,
    /// The time.
    pub at: Now,
    /// What happened.
    pub what: What,
}

/// What an event reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The hold began.
    Acquired,
    /// The hold ended.
    Released {
        /// Why.
        reason: Text,
    },
    /// The holder was given notice.
    Revoked {
        /// Why.
        reason: Text,
        /// When the hold ends, in ms since the epoch.
        deadline_ms: u64,
    },
}
