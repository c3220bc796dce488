//! Who holds what as the contract has it: a hold begins with a grant and ends by its owner,
//! by its time, or by somebody who may end it. What the keeper says is compared with it, and
//! never copied into it.

use gpulock_core::state::lock::Bytes;

use crate::keyspace::KEYS;

/// A lock that was granted, and that nobody with the right to do so has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) owner: Bytes,
    /// None: the grant was not heard of yet.
    pub(crate) token: Option<u64>,
    /// Its owner asked again or extended, and so knows of it.
    pub(crate) renewed: bool,
    pub(crate) session: Tie,
    /// The grant never reached its client, and may be taken back.
    pub(crate) lost: bool,
    /// Its time was over, or somebody else wrote or deleted its key: the lock is nobody's by
    /// right. Kept while the keeper may not have noticed.
    pub(crate) ended: bool,
    /// Its time was over, and its key was set anew since.
    pub(crate) over: bool,
}

/// Whether a hold ends with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    No,
    /// With this one, by so much grace.
    To {
        connection: u64,
        grace_ms: u64,
    },
    /// That one closed, and the hold is over then.
    Closed {
        closed_ms: u64,
        until_ms: u64,
    },
}

/// What is held under each key.
pub(crate) type Holds = [Option<Held>; KEYS.len()];

impl Held {
    pub(crate) fn new(owner: &[u8]) -> Self {
        Self {
            owner: Bytes::from_slice(owner),
            token: None,
            renewed: false,
            session: Tie::No,
            lost: false,
            ended: false,
            over: false,
        }
    }

    /// Its owner renews it, or somebody gives its key another end: a closed session is
    /// forgotten.
    pub(crate) fn forget_closed_session(&mut self) {
        if matches!(self.session, Tie::Closed { .. }) {
            self.session = Tie::No;
        }
    }
}
