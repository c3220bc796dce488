//! What is explored: how many clients and locks, what clients may ask for, and what else may
//! happen. Each scope is small enough to be gone through, and together they have everything.

use self::Offer::{
    DefersLonger, Delete, Disconnect, Extend, Force, LongCommand, LongTurns, Look, Pause,
    Persist, Refuse, Release, ResetStats, Set, SetOwner, SmallBudgets, Unblock,
    UnblockWithError, WrongRelease,
};
use crate::call::Call;

/// The time between two looks of the module, in ms. The clock goes on by so much at a time,
/// and all other times are multiples of it: so the very instant in which something ends is
/// met, and the one after it.
pub const LOOK_MS: u64 = 5;

/// The lease of all grants, in ms: a key lives through its end, and is gone a look later.
pub const LEASE_MS: u64 = 2 * LOOK_MS;

/// How long the places of UNIQUE owners are kept, in ms.
pub const KEEP_MS: u64 = 2 * LOOK_MS;

/// `BLOCK` without an end.
const FOR_EVER: Option<u64> = Some(0);

/// `BLOCK` with one.
const A_WHILE: Option<u64> = Some(2 * LOOK_MS);

/// A way to ask.
#[derive(Clone, Copy, Debug)]
pub struct How {
    keys: &'static [usize],
    count: Option<usize>,
    unique: bool,
    block_ms: Option<u64>,
    session_grace_ms: Option<u64>,
}

impl How {
    const fn one(keys: &'static [usize]) -> Self {
        let (unique, block_ms, session_grace_ms) = (false, None, None);
        Self { keys, count: None, unique, block_ms, session_grace_ms }
    }

    const fn some(count: usize, keys: &'static [usize]) -> Self {
        Self { count: Some(count), ..Self::one(keys) }
    }

    const fn unique(self) -> Self {
        Self { unique: true, ..self }
    }

    const fn block(self, block_ms: Option<u64>) -> Self {
        Self { block_ms, ..self }
    }

    const fn session(self, grace_ms: u64) -> Self {
        Self { session_grace_ms: Some(grace_ms), ..self }
    }

    /// A client asks this way. Each is its own owner.
    pub(crate) fn request(&self, client: usize) -> Call {
        Call {
            client,
            keys: self.keys.to_vec(),
            count: self.count,
            owner: client,
            lease_ms: None,
            unique: self.unique,
            block_ms: self.block_ms,
            session_grace_ms: self.session_grace_ms,
            has_memory: true,
        }
    }
}

/// What may happen beside asking, the timer's tick and the clock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// RELEASE by the holder.
    Release,
    /// RELEASE by somebody else.
    WrongRelease,
    /// EXTEND by the holder.
    Extend,
    /// FORCERELEASE.
    Force,
    /// A connection closes that waits or that a lock is tied to.
    Disconnect,
    /// CLIENT UNBLOCK.
    Unblock,
    /// CLIENT UNBLOCK ERROR.
    UnblockWithError,
    /// DEL by an outsider.
    Delete,
    /// SET by an outsider.
    Set,
    /// SET by an outsider, with the name of one of the owners.
    SetOwner,
    /// PERSIST by an outsider.
    Persist,
    /// A look at one lock, in any order.
    Look,
    /// The server is paused for a time.
    Pause,
    /// The server refuses writes for a time.
    Refuse,
    /// A command takes long, and the server processes events meanwhile.
    LongCommand,
    /// Who is granted a lock is told later, and may be gone by then.
    LongTurns,
    /// What is owed is made good at the end of the turn.
    DefersLonger,
    /// RESETSTATS.
    ResetStats,
    /// Of what a client can make as large as it likes, one place or lock at a time is done.
    SmallBudgets,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// What it is called in tables.
    pub name: &'static str,
    /// How many clients.
    pub clients: usize,
    /// How many locks.
    pub locks: usize,
    /// What each client may ask for.
    pub asks: &'static [How],
    /// What else may happen.
    pub offers: &'static [Offer],
}

impl Scope {
    pub(crate) fn has(&self, offer: Offer) -> bool {
        self.offers.contains(&offer)
    }
}

/// What is asked for where keys may not be written at times: sessions end meanwhile.
const WITH_SESSIONS: [How; 3] = [
    How::one(&[0]).block(FOR_EVER).session(0),
    How::one(&[1]).block(A_WHILE).unique().session(LOOK_MS),
    How::some(2, &[0, 1]).block(FOR_EVER).session(0),
];

/// All scopes.
pub const SCOPES: [Scope; 15] = [
    Scope {
        name: "one lock, to the end",
        clients: 2,
        locks: 1,
        asks: &[
            How::one(&[0]).block(FOR_EVER),
            How::one(&[0]).block(A_WHILE).unique().session(LOOK_MS),
        ],
        offers: &[Release, WrongRelease, Force, Disconnect, Unblock, Delete],
    },
    Scope {
        name: "a gang, to the end",
        clients: 2,
        locks: 2,
        asks: &[How::one(&[0]).block(FOR_EVER), How::some(2, &[0, 1]).block(FOR_EVER)],
        offers: &[Release, Force, Disconnect, Delete],
    },
    Scope {
        name: "a circle, to the end",
        clients: 2,
        locks: 2,
        asks: &[
            How::one(&[0]).block(FOR_EVER).unique(),
            How::one(&[1]).block(FOR_EVER).unique(),
        ],
        offers: &[Release, Delete],
    },
    Scope {
        name: "one lock, everything",
        clients: 2,
        locks: 1,
        asks: &[
            How::one(&[0]),
            How::one(&[0]).block(FOR_EVER),
            How::one(&[0]).block(A_WHILE).unique(),
            How::one(&[0]).block(FOR_EVER).session(0),
            How::one(&[0]).block(A_WHILE).unique().session(LOOK_MS),
        ],
        offers: &[
            Release,
            WrongRelease,
            Extend,
            Force,
            Disconnect,
            Unblock,
            UnblockWithError,
            Delete,
            Set,
            SetOwner,
            Persist,
            Look,
            ResetStats,
        ],
    },
    Scope {
        name: "one lock, a line of three",
        clients: 3,
        locks: 1,
        asks: &[
            How::one(&[0]),
            How::one(&[0]).block(FOR_EVER),
            How::one(&[0]).block(A_WHILE).unique(),
            How::one(&[0]).block(FOR_EVER).session(0),
        ],
        offers: &[Release, Force, Disconnect, Unblock, Delete, Look],
    },
    Scope {
        name: "pools and gangs of two",
        clients: 3,
        locks: 2,
        asks: &[
            How::one(&[0]).block(FOR_EVER),
            How::one(&[1]),
            How::some(1, &[0, 1]).block(FOR_EVER),
            How::some(2, &[0, 1]).block(FOR_EVER),
            How::some(2, &[1, 0]).block(A_WHILE),
        ],
        offers: &[Release, Force, Disconnect, Delete, Set, Look],
    },
    Scope {
        name: "gangs of UNIQUE owners",
        clients: 2,
        locks: 2,
        asks: &[
            How::one(&[0]).block(FOR_EVER).unique(),
            How::one(&[1]).unique().session(0),
            How::some(1, &[1, 0]).block(A_WHILE).unique(),
            How::some(2, &[0, 1]).block(A_WHILE).unique().session(LOOK_MS),
            How::some(2, &[0, 1]).block(FOR_EVER).unique(),
        ],
        offers: &[
            Release,
            Force,
            Disconnect,
            Unblock,
            UnblockWithError,
            Delete,
            Set,
            SetOwner,
            Look,
        ],
    },
    Scope {
        name: "gone before it was told",
        clients: 3,
        locks: 2,
        asks: &[
            How::one(&[0]).block(FOR_EVER),
            How::one(&[1]).block(FOR_EVER).unique(),
            How::some(1, &[0, 1]).block(FOR_EVER).unique(),
            How::some(2, &[0, 1]).block(FOR_EVER).unique().session(LOOK_MS),
        ],
        offers: &[Release, Force, Disconnect, Delete, LongTurns, DefersLonger],
    },
    Scope {
        name: "while it may not be written",
        clients: 3,
        locks: 2,
        asks: &WITH_SESSIONS,
        offers: &[Release, Disconnect, Unblock, Delete, Pause],
    },
    Scope {
        name: "while writes are refused",
        clients: 3,
        locks: 2,
        asks: &WITH_SESSIONS,
        offers: &[Release, Disconnect, Delete, Look, Refuse],
    },
    Scope {
        name: "within somebody else's command",
        clients: 3,
        locks: 2,
        asks: &WITH_SESSIONS,
        offers: &[Release, Disconnect, Unblock, Delete, LongCommand, LongTurns],
    },
    Scope {
        name: "waits in portions",
        clients: 3,
        locks: 2,
        asks: &[
            How::one(&[0]).block(A_WHILE),
            How::one(&[1]).block(FOR_EVER).unique(),
            How::some(2, &[0, 1]).block(A_WHILE).unique(),
            How::some(1, &[1, 0]).block(FOR_EVER).unique(),
        ],
        offers: &[Release, Disconnect, Unblock, Delete, SmallBudgets],
    },
    Scope {
        name: "sessions in portions",
        clients: 3,
        locks: 3,
        asks: &[
            How::some(3, &[0, 1, 2]).session(0),
            How::some(2, &[0, 1]).unique().session(LOOK_MS),
            How::some(2, &[1, 2]).unique(),
            How::one(&[2]).block(FOR_EVER),
        ],
        offers: &[Release, Extend, Disconnect, Delete, Pause, SmallBudgets],
    },
    Scope {
        name: "circles",
        clients: 3,
        locks: 3,
        asks: &[
            How::one(&[0]).block(FOR_EVER).unique(),
            How::one(&[1]).block(FOR_EVER).unique(),
            How::one(&[2]).block(FOR_EVER).unique(),
            How::some(2, &[0, 1]).block(FOR_EVER).unique(),
        ],
        offers: &[Release, Force, Disconnect, Delete],
    },
    Scope {
        name: "four clients, three locks",
        clients: 4,
        locks: 3,
        asks: &[
            How::one(&[0]).block(FOR_EVER),
            How::some(1, &[0, 1, 2]).block(FOR_EVER),
            How::some(2, &[0, 1, 2]).block(FOR_EVER),
            How::some(3, &[2, 1, 0]).block(FOR_EVER),
        ],
        offers: &[Release, Disconnect, Delete],
    },
];
