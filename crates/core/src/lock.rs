//! One lock: its name, and who holds it. How locks are found is in `table`.

use smallvec::SmallVec;

use crate::age::Links;
use crate::clock::Now;
use crate::counters::Counters;

/// A key or an owner. Up to 40 bytes, and so nearly always, it needs no memory of its own.
pub type Bytes = SmallVec<[u8; 40]>;

/// The end of a lease that has none.
pub const NO_END: u64 = u64::MAX;

/// A lock's name: a key of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<'a> {
    /// The number of the database.
    pub db: u32,
    /// The key.
    pub key: &'a [u8],
}

/// A hold: one owner's time with a lock, from the grant to its end.
///
/// A million of them must stay small, so times are plain milliseconds and flags stand
/// beside each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Who holds the lock. Kept, although the key shows it, because the end is told after
    /// the key is gone.
    pub owner: Bytes,
    /// The fencing token; 0: none yet (an adopted lock that was never renewed).
    token: u64,
    /// When the lock was granted or adopted, in ms since the epoch.
    pub since_ms: u64,
    /// When the lease is over, in ms since the epoch; [`NO_END`]: never.
    pub until_ms: u64,
    /// Granted by somebody else (a plain `SET`, or this module before a restart).
    pub adopted: bool,
    /// The owner declared that its name is one holder's.
    pub unique: bool,
    /// The log has been told that this hold is long.
    pub warned: bool,
    /// Its owner has renewed it, and so knows of it.
    pub renewed: bool,
    /// Whether it ends with a connection.
    pub session: Session,
}

/// Whether a hold ends with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// No: the lease alone holds.
    None,
    /// With this client's.
    Tied {
        /// The client's id.
        client: u64,
        /// How long, in ms, the lock outlives the connection.
        grace_ms: u64,
    },
    /// That connection closed, and what follows from it is owed.
    Ending {
        /// The client's id.
        client: u64,
        /// How long, in ms, the lock outlives the connection.
        grace_ms: u64,
    },
    /// It was closed, and what is left of the lease is the grace.
    Closed,
}

impl Hold {
    /// A hold that begins at `since_ms`; `token` is none for an adopted lock.
    pub fn new(owner: &[u8], token: Option<u64>, since_ms: u64, until_ms: u64) -> Self {
        Self {
            owner: Bytes::from_slice(owner),
            token: token.unwrap_or(0),
            since_ms,
            until_ms,
            adopted: token.is_none(),
            unique: false,
            warned: false,
            renewed: false,
            session: Session::None,
        }
    }

    /// The fencing token, if the hold has one.
    pub fn token(&self) -> Option<u64> {
        (self.token != 0).then_some(self.token)
    }

    /// Gives an adopted lock its first token.
    pub fn set_token(&mut self, token: u64) {
        self.token = token;
    }

    /// For how long the lock is held, in ms; none for an adopted lock, since nobody knows.
    pub fn held_ms(&self, now: Now) -> Option<u64> {
        (!self.adopted).then(|| now.ms_since(self.since_ms))
    }

    /// True when `asked`, if given, is this hold's token; a hold without a token matches
    /// any, since only its owner can be compared.
    pub fn matches(&self, asked: Option<u64>) -> bool {
        match (asked, self.token()) {
            (Some(asked), Some(token)) => asked == token,
            _ => true,
        }
    }

    /// True when the lease is over.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }
}

/// A tracked lock's counters, and its place in the order of last use.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The counters.
    pub counters: Counters,
    pub(crate) links: Links,
}

/// What is known of one lock: somebody holds it, or counters are kept for it, or both.
#[derive(Clone, Debug)]
pub struct Lock {
    /// The number of the database.
    pub db: u32,
    /// The key.
    pub key: Bytes,
    /// Who holds it; none: free, as far as is known.
    pub hold: Option<Hold>,
    /// The lock's own counters, if it is one of the tracked.
    pub own: Option<Box<Own>>,
    /// How many places its line has, kept ones included.
    pub places: u32,
    /// How many clients of its line wait now.
    pub present: u32,
    /// Free, but for the first of its line, who needs others as well: its key was absent
    /// when it was looked at last.
    pub set_aside: bool,
    /// When it is to be looked at, in ms since the epoch; 0: nobody waits for its end.
    pub(crate) alarm_ms: u64,
    /// Its place among the held locks.
    pub(crate) links: Links,
}

impl Lock {
    /// A free lock.
    pub(crate) fn new(name: Name<'_>) -> Self {
        Self {
            db: name.db,
            key: Bytes::from_slice(name.key),
            hold: None,
            own: None,
            places: 0,
            present: 0,
            set_aside: false,
            alarm_ms: 0,
            links: Links::default(),
        }
    }

    /// True when the lock is neither held nor waited for.
    pub fn is_idle(&self) -> bool {
        self.hold.is_none() && self.places == 0
    }

    /// The lock's own counters, if it is one of the tracked.
    pub fn counters(&self) -> Option<&Counters> {
        self.own.as_deref().map(|own| &own.counters)
    }

    /// Its name.
    pub fn name(&self) -> Name<'_> {
        Name { db: self.db, key: &self.key }
    }
}
