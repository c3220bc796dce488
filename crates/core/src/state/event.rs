//! What happened to a lock, as it is told to others: how holds end and what is published.
//! The wire format is not in here.

use std::borrow::Cow;

use crate::state::clock::Now;
use crate::state::counters::Counters;
use crate::state::lock::Bytes;
use crate::state::log::Kind;

/// Words that a client gave, or one of our own.
pub type Text = Cow<'static, [u8]>;

/// How a hold ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its owner gave it back, for this reason.
    Released(Text),
    /// FORCERELEASE took it, for this reason.
    Forced(Text),
    /// The lease was over.
    Expired,
    /// Another command deleted or overwrote the key.
    Removed,
    /// The server evicted the key.
    Evicted,
    /// The key left with its cluster slot.
    Moved,
    /// The connection that it was tied to closed.
    SessionClosed,
    /// The waiter was gone before it heard of the grant.
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

    /// As the log files it; none when nothing went wrong.
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

/// Something to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the database.
    pub db: u32,
    /// The lock.
    pub key: Bytes,
    /// Who held it, or holds it now.
    pub owner: Bytes,
    /// The fencing token, if the hold has one.
    pub token: Option<u64>,
    /// When.
    pub at: Now,
    /// Why the hold ended; none: it began.
    pub ended: Option<Text>,
}
