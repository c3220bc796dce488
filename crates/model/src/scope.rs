//! The scopes to explore: the number of clients and locks, the calls of clients, and what else may
//! happen. Each is small enough to explore; together they cover all features.

use self::Feature::{
    DefersToTurnEnd, Delete, Disconnect, Extend, ForceRelease, GiveNotice, LongCommand,
    LongTurns, Pause, Persist, Probe, RefuseWrites, Release, ReleaseByAnother,
    ResetStats, Set, SetOwner, SmallBudgets, TwoWaiters, Unblock, UnblockWithError,
};
use crate::call::Call;
use crate::groups::Groups;

/// The time between two probes of a lock, in ms. The clock advances in steps of this length. All
/// other times are multiples of it, so that the time at which something ends and the one after it
/// are both explored.
pub const PROBE_MS: u64 = 5;

/// The lease of every grant, in ms. A key is still present when it expires, and is absent one step
/// later.
pub const LEASE_MS: u64 = 2 * PROBE_MS;

/// How long the positions of disconnected UNIQUE owners are kept, in ms.
pub const KEEP_MS: u64 = 2 * PROBE_MS;

/// The highest `PRIORITY` of any call.
pub(crate) const HIGHEST_PRIORITY: i64 = 1;

/// `BLOCK 0`
const NO_TIMEOUT: Option<u64> = Some(0);

/// `BLOCK` with a timeout.
const SHORT_TIMEOUT: Option<u64> = Some(2 * PROBE_MS);

/// A call that each client of a scope may make.
#[derive(Clone, Copy, Debug)]
pub struct CallTemplate {
    keys: &'static [usize],
    count: Option<usize>,
    /// The wanted number, and the size of each.
    groups: Option<(usize, &'static [usize])>,
    unique: bool,
    block_ms: Option<u64>,
    session_grace_ms: Option<u64>,
    keep_ms: Option<u64>,
    priority: i64,
    share: Option<usize>,
}

impl CallTemplate {
    const fn acquire(keys: &'static [usize]) -> Self {
        let (count, unique, block_ms, session_grace_ms) = (None, false, None, None);
        let (keep_ms, priority, share) = (None, 0, None);
        Self {
            keys,
            count,
            groups: None,
            unique,
            block_ms,
            session_grace_ms,
            keep_ms,
            priority,
            share,
        }
    }

    const fn acquire_any(count: usize, keys: &'static [usize]) -> Self {
        Self { count: Some(count), ..Self::acquire(keys) }
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

    const fn keep(self, keep_ms: u64) -> Self {
        Self { keep_ms: Some(keep_ms), ..self }
    }

    const fn groups(self, wanted: usize, sizes: &'static [usize]) -> Self {
        Self { groups: Some((wanted, sizes)), ..self }
    }

    const fn priority(self, priority: i64) -> Self {
        Self { priority, ..self }
    }

    const fn share(self, share: usize) -> Self {
        Self { share: Some(share), ..self }
    }

    /// The call of a client. Each client is its own owner.
    pub(crate) fn call(&self, client: usize) -> Call {
        Call {
            client,
            keys: self.keys.to_vec(),
            count: self.count,
            groups: self.groups.map(|(wanted, sizes)| {
                let sizes = sizes.to_vec();
                Groups { wanted, sizes }
            }),
            owner: client,
            lease_ms: None,
            unique: self.unique,
            keep_ms: self.keep_ms,
            block_ms: self.block_ms,
            session_grace_ms: self.session_grace_ms,
            priority: self.priority,
            share: self.share,
            has_memory: true,
        }
    }
}

/// What may happen besides calls, ticks of the timer and steps of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// RELEASE by the holder.
    Release,
    /// RELEASE by another client.
    ReleaseByAnother,
    /// EXTEND by the holder.
    Extend,
    /// FORCERELEASE.
    ForceRelease,
    /// FORCERELEASE AFTER half a lease.
    GiveNotice,
    /// A connection closes while its client waits or a lock is tied to it.
    Disconnect,
    /// CLIENT UNBLOCK.
    Unblock,
    /// CLIENT UNBLOCK ERROR.
    UnblockWithError,
    /// DEL by another client.
    Delete,
    /// SET by another client.
    Set,
    /// SET by another client, with one of the owners as the value.
    SetOwner,
    /// PERSIST by another client.
    Persist,
    /// A probe of one lock, in any order.
    Probe,
    /// The server is paused for a time.
    Pause,
    /// The server refuses writes for a time.
    RefuseWrites,
    /// A command takes long, and the server processes events meanwhile.
    LongCommand,
    /// Waiters receive their grants at the end of a turn, and may be gone by then.
    LongTurns,
    /// Deferred work is done at the end of the turn.
    DefersToTurnEnd,
    /// RESETSTATS.
    ResetStats,
    /// `max-waiters` is 2.
    TwoWaiters,
    /// Work that a client can make large is done one position or lock at a time.
    SmallBudgets,
}

/// A scope.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The name, as in reports.
    pub name: &'static str,
    /// The number of clients.
    pub clients: usize,
    /// The number of locks.
    pub locks: usize,
    /// The calls that each client may make.
    pub calls: &'static [CallTemplate],
    /// What else may happen.
    pub features: &'static [Feature],
}

impl Scope {
    pub(crate) fn has(&self, offer: Feature) -> bool {
        self.features.contains(&offer)
    }
}

/// The calls of the scopes in which keys cannot be written at times. Sessions end meanwhile.
const WITH_SESSIONS: [CallTemplate; 3] = [
    CallTemplate::acquire(&[0]).block(NO_TIMEOUT).session(0),
    CallTemplate::acquire(&[1]).block(SHORT_TIMEOUT).unique().session(PROBE_MS),
    CallTemplate::acquire_any(2, &[0, 1]).block(NO_TIMEOUT).session(0),
];

/// All scopes.
pub const SCOPES: [Scope; 21] = [
    Scope {
        name: "one lock, exhaustive",
        clients: 2,
        locks: 1,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[0]).block(SHORT_TIMEOUT).unique().session(PROBE_MS),
        ],
        features: &[Release, ReleaseByAnother, ForceRelease, Disconnect, Unblock, Delete],
    },
    Scope {
        name: "a lock set, exhaustive",
        clients: 2,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire_any(2, &[0, 1]).block(NO_TIMEOUT),
        ],
        features: &[Release, ForceRelease, Disconnect, Delete],
    },
    Scope {
        name: "a cycle, exhaustive",
        clients: 2,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire(&[1]).block(NO_TIMEOUT).unique(),
        ],
        features: &[Release, Delete],
    },
    Scope {
        name: "one lock, all features",
        clients: 2,
        locks: 1,
        calls: &[
            CallTemplate::acquire(&[0]),
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[0]).block(SHORT_TIMEOUT).unique(),
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).session(0),
            CallTemplate::acquire(&[0]).block(SHORT_TIMEOUT).unique().session(PROBE_MS),
        ],
        features: &[
            Release,
            ReleaseByAnother,
            Extend,
            ForceRelease,
            Disconnect,
            Unblock,
            UnblockWithError,
            Delete,
            Set,
            SetOwner,
            Persist,
            Probe,
            ResetStats,
        ],
    },
    Scope {
        name: "one lock, three clients",
        clients: 3,
        locks: 1,
        calls: &[
            CallTemplate::acquire(&[0]),
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[0]).block(SHORT_TIMEOUT).unique(),
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).session(0),
        ],
        features: &[Release, ForceRelease, Disconnect, Unblock, Delete, Probe],
    },
    Scope {
        name: "lock sets of two keys",
        clients: 3,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[1]),
            CallTemplate::acquire_any(1, &[0, 1]).block(NO_TIMEOUT),
            CallTemplate::acquire_any(2, &[0, 1]).block(NO_TIMEOUT),
            CallTemplate::acquire_any(2, &[1, 0]).block(SHORT_TIMEOUT),
        ],
        features: &[Release, ForceRelease, Disconnect, Delete, Set, Probe],
    },
    Scope {
        name: "lock sets of UNIQUE owners",
        clients: 2,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire(&[1]).unique().session(0),
            CallTemplate::acquire_any(1, &[1, 0]).block(SHORT_TIMEOUT).unique(),
            CallTemplate::acquire_any(2, &[0, 1])
                .block(SHORT_TIMEOUT)
                .unique()
                .session(PROBE_MS),
            CallTemplate::acquire_any(2, &[0, 1]).block(NO_TIMEOUT).unique(),
        ],
        features: &[
            Release,
            ForceRelease,
            Disconnect,
            Unblock,
            UnblockWithError,
            Delete,
            Set,
            SetOwner,
            Probe,
        ],
    },
    Scope {
        name: "disconnect before the reply",
        clients: 3,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[1]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire_any(1, &[0, 1]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire_any(2, &[0, 1])
                .block(NO_TIMEOUT)
                .unique()
                .session(PROBE_MS),
        ],
        features: &[
            Release,
            ForceRelease,
            Disconnect,
            Delete,
            LongTurns,
            DefersToTurnEnd,
        ],
    },
    Scope {
        name: "while the server is paused",
        clients: 3,
        locks: 2,
        calls: &WITH_SESSIONS,
        features: &[Release, Disconnect, Unblock, Delete, Pause],
    },
    Scope {
        name: "while writes are refused",
        clients: 3,
        locks: 2,
        calls: &WITH_SESSIONS,
        features: &[Release, Disconnect, Delete, Probe, RefuseWrites],
    },
    Scope {
        name: "within another client's command",
        clients: 3,
        locks: 2,
        calls: &WITH_SESSIONS,
        features: &[Release, Disconnect, Unblock, Delete, LongCommand, LongTurns],
    },
    Scope {
        name: "waits in small budgets",
        clients: 3,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(SHORT_TIMEOUT),
            CallTemplate::acquire(&[1]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire_any(2, &[0, 1]).block(SHORT_TIMEOUT).unique(),
            CallTemplate::acquire_any(1, &[1, 0]).block(NO_TIMEOUT).unique(),
        ],
        features: &[Release, Disconnect, Unblock, Delete, SmallBudgets],
    },
    Scope {
        name: "sessions in small budgets",
        clients: 3,
        locks: 3,
        calls: &[
            CallTemplate::acquire_any(3, &[0, 1, 2]).session(0),
            CallTemplate::acquire_any(2, &[0, 1]).unique().session(PROBE_MS),
            CallTemplate::acquire_any(2, &[1, 2]).unique(),
            CallTemplate::acquire(&[2]).block(NO_TIMEOUT),
        ],
        features: &[Release, Extend, Disconnect, Delete, Pause, SmallBudgets],
    },
    Scope {
        name: "turns of one lock",
        clients: 3,
        locks: 1,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).priority(1),
            CallTemplate::acquire(&[0]).block(SHORT_TIMEOUT).unique().share(0),
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).share(0).priority(1),
        ],
        features: &[Release, Disconnect, Delete, LongTurns],
    },
    Scope {
        name: "turns of lock sets",
        clients: 3,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).priority(1),
            CallTemplate::acquire_any(1, &[1, 0]).block(NO_TIMEOUT).unique().share(0),
            CallTemplate::acquire_any(2, &[0, 1]).block(NO_TIMEOUT),
            CallTemplate::acquire_any(2, &[0, 1]).block(NO_TIMEOUT).share(0).priority(-1),
            CallTemplate::acquire(&[1]).priority(1),
        ],
        features: &[Release, ForceRelease, Disconnect, Delete],
    },
    Scope {
        name: "notice",
        clients: 2,
        locks: 1,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire(&[0]).session(PROBE_MS),
        ],
        features: &[
            Release, Extend, GiveNotice, Disconnect, Delete, SetOwner, Persist, Probe,
        ],
    },
    Scope {
        name: "kept positions give way",
        clients: 3,
        locks: 2,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[0]).block(SHORT_TIMEOUT).unique(),
            CallTemplate::acquire(&[1]).block(NO_TIMEOUT).unique().keep(0),
            CallTemplate::acquire_any(2, &[0, 1])
                .block(NO_TIMEOUT)
                .unique()
                .keep(PROBE_MS),
        ],
        features: &[Release, Disconnect, Unblock, Delete, TwoWaiters],
    },
    Scope {
        name: "two groups of two",
        clients: 3,
        locks: 4,
        calls: &[
            CallTemplate::acquire_any(2, &[0, 1, 2, 3])
                .block(NO_TIMEOUT)
                .groups(1, &[2, 2]),
            CallTemplate::acquire_any(2, &[0, 1]),
            CallTemplate::acquire_any(2, &[1, 2]).block(NO_TIMEOUT),
            CallTemplate::acquire(&[3]).block(NO_TIMEOUT),
        ],
        features: &[Release, Disconnect, Delete],
    },
    Scope {
        name: "groups of UNIQUE owners",
        clients: 3,
        locks: 3,
        calls: &[
            CallTemplate::acquire_any(1, &[0, 1, 2])
                .block(NO_TIMEOUT)
                .unique()
                .groups(2, &[1, 1, 1]),
            CallTemplate::acquire_any(2, &[0, 1, 2])
                .block(SHORT_TIMEOUT)
                .unique()
                .groups(1, &[1, 2]),
            CallTemplate::acquire(&[1]).unique(),
            CallTemplate::acquire_any(1, &[2, 0]).block(NO_TIMEOUT),
        ],
        features: &[Release, ForceRelease, Disconnect, Set, Probe],
    },
    Scope {
        name: "cycles",
        clients: 3,
        locks: 3,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire(&[1]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire(&[2]).block(NO_TIMEOUT).unique(),
            CallTemplate::acquire_any(2, &[0, 1]).block(NO_TIMEOUT).unique(),
        ],
        features: &[Release, ForceRelease, Disconnect, Delete],
    },
    Scope {
        name: "four clients, three locks",
        clients: 4,
        locks: 3,
        calls: &[
            CallTemplate::acquire(&[0]).block(NO_TIMEOUT),
            CallTemplate::acquire_any(1, &[0, 1, 2]).block(NO_TIMEOUT),
            CallTemplate::acquire_any(2, &[0, 1, 2]).block(NO_TIMEOUT),
            CallTemplate::acquire_any(3, &[2, 1, 0]).block(NO_TIMEOUT),
        ],
        features: &[Release, Disconnect, Delete],
    },
];
