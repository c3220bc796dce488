//! Holds as the command reference defines them: a hold begins with a grant and ends by its owner,
//! by its lease, or by a client that may end it. The lock manager's record is compared with them
//! and never copied into them.

use gpulock_core::state::lock::Bytes;

use crate::memory_keys::KEYS;

/// The hold of a granted lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) owner: Bytes,
    /// None until the owner receives the grant.
    pub(crate) token: Option<u64>,
    /// The owner has called ACQUIRE again or EXTEND, and so knows that it holds the lock.
    pub(crate) renewed: bool,
    pub(crate) session: SessionTie,
    /// The share under which the lock was acquired.
    pub(crate) share: Option<usize>,
    /// The client was gone before it received the grant, so the module may revoke it.
    pub(crate) lost: bool,
    /// The position of the client that was gone is restored.
    pub(crate) restored: bool,
    /// The lease is over, or another client wrote or deleted the key: the lock is free by the
    /// rules. The hold is kept until the lock manager notices.
    pub(crate) ended: bool,
    /// The key was set again after the lease had ended.
    pub(crate) set_after_end: bool,
}

/// What a call says of the hold that it gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldParams {
    pub(crate) session: SessionTie,
    pub(crate) share: Option<usize>,
}

impl HoldParams {
    /// Those of a command that says nothing.
    pub(crate) const NONE: Self = Self { session: SessionTie::None, share: None };
}

/// The connection that a hold is tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionTie {
    None,
    /// The connection is open.
    Connected {
        connection: u64,
        grace_ms: u64,
    },
    /// The connection has closed, and the hold ends with the grace period.
    Closed {
        closed_ms: u64,
        until_ms: u64,
    },
}

/// The hold of each key.
pub(crate) type Holds = [Option<Held>; KEYS.len()];

impl Held {
    pub(crate) fn new(owner: &[u8]) -> Self {
        Self {
            owner: Bytes::from_slice(owner),
            token: None,
            renewed: false,
            session: SessionTie::None,
            share: None,
            lost: false,
            restored: false,
            ended: false,
            set_after_end: false,
        }
    }

    /// The token of a grant that is taken back, unless the position of its waiter is restored.
    pub(crate) fn lost_token(&self) -> Option<u64> {
        self.token.filter(|_| self.lost && !self.renewed && !self.restored)
    }

    /// The owner renews the hold, or another client changes the expiry of its key: a closed session
    /// no longer ends it.
    pub(crate) fn forget_closed_session(&mut self) {
        if matches!(self.session, SessionTie::Closed { .. }) {
            self.session = SessionTie::None;
        }
    }
}
