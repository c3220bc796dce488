//! One lock: its name, its hold, and what its wait queue counts. How locks are found is in
//! `table`.

use smallvec::SmallVec;

use crate::state::age_list::Links;
use crate::state::clock::Now;
use crate::state::counters::Counters;
use crate::state::hold_order::Place;

/// A key or an owner. Up to 40 bytes are stored in place, without an allocation.
pub type Bytes = SmallVec<[u8; 40]>;

/// The end of a lease that never expires.
pub const NO_END: u64 = u64::MAX;

/// The name of a lock: a key of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<'a> {
    /// The number of the database.
    pub db: u32,
    /// The key.
    pub key: &'a [u8],
}

/// The period in which one owner holds one lock.
///
/// A million holds must stay small, so times are plain milliseconds and the flags are adjacent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The owner. Stored although the key shows it, because the end of the hold is published
    /// after the key is gone.
    pub owner: Bytes,
    /// The fencing token; 0: none yet (an adopted hold that was never renewed).
    token: u64,
    /// When the lock was granted or adopted, in ms since the epoch.
    pub since_ms: u64,
    /// When the lease expires, in ms since the epoch; [`NO_END`]: never.
    pub until_ms: u64,
    /// Not granted by this module: by a plain `SET`, or by the module before a restart.
    pub adopted: bool,
    /// The owner's name identifies exactly one holder.
    pub unique: bool,
    /// A log entry for its length exists.
    pub warned: bool,
    /// The owner has renewed it, so the grant was received.
    pub renewed: bool,
    /// The table has details of it ([`Table::details`]).
    ///
    /// [`Table::details`]: crate::state::table::Table::details
    pub(crate) has_details: bool,
    /// Whether it ends with a connection.
    pub session: Session,
}

/// Whether a hold ends with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It does not: only the lease ends it.
    None,
    /// It ends with the connection of this client.
    Tied {
        /// The client's id.
        client: u64,
        /// How long the hold outlives the connection, in ms.
        grace_ms: u64,
    },
    /// The connection is closed, and the end of the hold is deferred work.
    Ending {
        /// The client's id.
        client: u64,
        /// How long the hold outlives the connection, in ms.
        grace_ms: u64,
    },
    /// The connection is closed, and the rest of the lease is the grace period.
    Closed,
}

impl Hold {
    /// A hold that begins at `since_ms`. An adopted hold has no token.
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
            has_details: false,
            session: Session::None,
        }
    }

    /// The fencing token, if the hold has one.
    pub fn token(&self) -> Option<u64> {
        (self.token != 0).then_some(self.token)
    }

    /// Gives an adopted hold its first token.
    pub fn set_token(&mut self, token: u64) {
        self.token = token;
    }

    /// How long the lock is held, in ms; none for an adopted hold, whose beginning is unknown.
    pub fn held_ms(&self, now: Now) -> Option<u64> {
        (!self.adopted).then(|| now.ms_since(self.since_ms))
    }

    /// Whether `token`, if given, is the token of this hold. A hold without a token matches any,
    /// because only its owner can be compared.
    pub fn matches(&self, token: Option<u64>) -> bool {
        match (token, self.token()) {
            (Some(token), Some(own)) => token == own,
            _ => true,
        }
    }

    /// Whether the lease has expired.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }
}

/// The counters of a tracked lock, and its places in the orders of tracked locks.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The counters.
    pub counters: Counters,
    /// Its number in the order in which locks got counters of their own.
    pub(crate) number: u64,
    pub(crate) links: Links,
}

/// What the manager knows of one lock.
#[derive(Clone, Debug)]
pub struct Lock {
    /// The number of the database.
    pub db: u32,
    /// The key.
    pub key: Bytes,
    /// The current hold; none: free, as far as is known.
    pub hold: Option<Hold>,
    /// The lock's own counters, if it is tracked.
    pub own: Option<Box<Own>>,
    /// The number of positions in its queue, kept positions included.
    pub positions: u32,
    /// The number of connected waiters in its queue.
    pub connected: u32,
    /// The lock is free, and its key was absent at the last probe, but no waiter takes it alone: it is
    /// kept for the first waiter that takes it with others, if there is one.
    pub reserved: bool,
    /// When its lease end has to be noticed, in ms since the epoch; 0: not at a certain time.
    pub(crate) alarm_ms: u64,
    /// Its place among the held locks, if it is held.
    pub(crate) place: Place,
}

impl Lock {
    /// A free lock.
    pub(crate) fn new(name: Name<'_>) -> Self {
        Self {
            db: name.db,
            key: Bytes::from_slice(name.key),
            hold: None,
            own: None,
            positions: 0,
            connected: 0,
            reserved: false,
            alarm_ms: 0,
            place: Place::default(),
        }
    }

    /// Whether the lock is neither held nor waited for.
    pub fn is_idle(&self) -> bool {
        self.hold.is_none() && self.positions == 0
    }

    /// The lock's own counters, if it is tracked.
    pub fn counters(&self) -> Option<&Counters> {
        self.own.as_deref().map(|own| &own.counters)
    }

    /// Its name.
    pub fn name(&self) -> Name<'_> {
        Name { db: self.db, key: &self.key }
    }
}
