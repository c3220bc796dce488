//! The record of a run: each call with its reply and their times, and each fault with its
//! exemptions.
//!
//! A file has one JSON object per line, so a run can be checked again, reduced by hand,
//! or searched with `grep`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;

/// A lock: the number of its database, and its own number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Lock(pub u8, pub u32);

impl Lock {
    /// Its key.
    pub fn key(self) -> String {
        format!("lock:{}", self.1)
    }

    /// The lock with this key.
    pub fn of_key(db: u8, key: &str) -> Option<Self> {
        Some(Self(db, key.strip_prefix("lock:")?.parse().ok()?))
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "lock:{} of database {}", self.1, self.0)
    }
}

/// An owner: the number of its client, and a sequence number. Client 0 stands for the
/// faults.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Owner(pub u32, pub u32);

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "c{}.{}", self.0, self.1)
    }
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix('c').and_then(|rest| rest.split_once('.'));
        parts
            .and_then(|(client, nth)| Some(Self(client.parse().ok()?, nth.parse().ok()?)))
            .ok_or_else(|| format!("{text:?} is not an owner of this load"))
    }
}

/// A connection: the number of its client, and a sequence number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Connection(pub u32, pub u32);

/// The name set with `CLIENT SETNAME`.
impl fmt::Display for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.0, self.1)
    }
}

impl FromStr for Connection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-');
        parts
            .and_then(|(client, nth)| Some(Self(client.parse().ok()?, nth.parse().ok()?)))
            .ok_or_else(|| format!("{text:?} is not a connection of this load"))
    }
}

/// The options of an acquire call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireOptions {
    /// `PX`
    pub lease_ms: u64,
    /// `BLOCK`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_ms: Option<u64>,
    /// `UNIQUE`
    pub unique: bool,
    /// `SESSION GRACE`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// `KEEP`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// `PRIORITY`
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i64,
    /// `SHARE`: the number of the share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u32>,
}

impl AcquireOptions {
    /// No options but a lease.
    pub const fn with_lease(lease_ms: u64) -> Self {
        Self {
            lease_ms,
            block_ms: None,
            unique: false,
            grace_ms: None,
            keep_ms: None,
            priority: 0,
            share: None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(priority: &i64) -> bool {
    *priority == 0
}

/// `GROUPS`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The number of groups to acquire locks of.
    pub wanted: usize,
    /// The number of locks of each group.
    pub sizes: Vec<usize>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// `GPULOCK.ACQUIRE`
    Acquire {
        /// The lock.
        lock: Lock,
        /// The owner.
        owner: Owner,
        /// The options.
        options: AcquireOptions,
    },
    /// `GPULOCK.ACQUIREANY`
    AcquireAny {
        /// The locks, in order of preference.
        locks: Vec<Lock>,
        /// `COUNT`
        count: usize,
        /// `GROUPS`
        #[serde(default, skip_serializing_if = "Option::is_none")]
        groups: Option<Groups>,
        /// `NEAR`: the number of the tag.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        near: Option<u32>,
        /// The owner.
        owner: Owner,
        /// The options.
        options: AcquireOptions,
    },
    /// `GPULOCK.RELEASE`
    Release {
        /// The lock.
        lock: Lock,
        /// The owner.
        owner: Owner,
        /// `TOKEN`
        token: Option<u64>,
    },
    /// `GPULOCK.EXTEND`
    Extend {
        /// The lock.
        lock: Lock,
        /// The owner.
        owner: Owner,
        /// `PX`
        lease_ms: u64,
        /// `TOKEN`
        token: Option<u64>,
    },
    /// `GPULOCK.FORCERELEASE`
    ForceRelease {
        /// The lock.
        lock: Lock,
        /// `OWNER`
        owner: Option<Owner>,
        /// `TOKEN`
        token: Option<u64>,
        /// `AFTER`
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },
    /// `GPULOCK.INSPECT`
    Inspect {
        /// The lock.
        lock: Lock,
    },
}

impl Request {
    /// The locks that it names.
    pub fn locks(&self) -> &[Lock] {
        match self {
            Self::AcquireAny { locks, .. } => locks,
            Self::Acquire { lock, .. }
            | Self::Release { lock, .. }
            | Self::Extend { lock, .. }
            | Self::ForceRelease { lock, .. }
            | Self::Inspect { lock } => std::slice::from_ref(lock),
        }
    }

    /// The owner that sends it; none for FORCERELEASE and INSPECT.
    pub fn owner(&self) -> Option<Owner> {
        match self {
            Self::Acquire { owner, .. }
            | Self::AcquireAny { owner, .. }
            | Self::Release { owner, .. }
            | Self::Extend { owner, .. } => Some(*owner),
            Self::ForceRelease { .. } | Self::Inspect { .. } => None,
        }
    }

    /// Whether it is a call with GROUPS.
    pub fn has_groups(&self) -> bool {
        matches!(self, Self::AcquireAny { groups: Some(_), .. })
    }

    /// The options of an acquire call.
    pub fn options(&self) -> Option<AcquireOptions> {
        match self {
            Self::Acquire { options, .. } | Self::AcquireAny { options, .. } => {
                Some(*options)
            }
            _ => None,
        }
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A fencing token.
    Token(u64),
    /// The tokens of ACQUIREANY.
    Tokens(Vec<(Lock, u64)>),
    /// Null.
    Null,
    /// 1 or 0 to RELEASE.
    Released(bool),
    /// The previous owner, from FORCERELEASE.
    ForceReleased(String),
    /// The reply of INSPECT.
    Inspection(Inspection),
    /// An error.
    Error(String),
    /// None: the connection broke, or the client died. The call may have taken effect.
    Lost,
    /// None within the maximum time, on a working connection.
    Timeout,
}

impl Reply {
    /// Whether the effect of the call is unknown.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Lost | Self::Timeout)
    }
}

/// The reply of INSPECT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The holder; none if the lock is free or its holder is not an owner of this load.
    pub owner: Option<Owner>,
    /// Its token.
    pub token: Option<u64>,
    /// How much is left to a holder that was given notice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<u64>,
    /// The connected waiters in queue order, without kept positions.
    pub queue: Vec<Owner>,
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The connection.
    pub connection: Connection,
    /// The earliest time when it was sent.
    pub sent: Nanos,
    /// The latest time when the reply arrived, or when the client stopped waiting for it.
    pub received: Nanos,
    /// The request.
    pub request: Request,
    /// The reply.
    pub reply: Reply,
}

impl Call {
    /// The received tokens with their locks.
    pub fn tokens(&self) -> Vec<(Lock, u64)> {
        match (&self.reply, &self.request) {
            (Reply::Tokens(tokens), _) => tokens.clone(),
            (Reply::Token(token), request) => {
                request.locks().iter().map(|lock| (*lock, *token)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// An event, which exempts calls from a rule or adds a restriction. Nothing else is
/// exempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The number of grants in a round of the queues, for the whole history.
    QueueRound {
        /// `gpulock.round`
        grants: u64,
    },
    /// A connection was closed, at or after this time: holds tied to it may end.
    Closed {
        /// The connection.
        connection: Connection,
        /// The time.
        at: Nanos,
    },
    /// A waiting client was unblocked in this period, in whichever call it waited.
    Unblocked {
        /// Its connection.
        connection: Connection,
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// Other commands modified the keys of locks in this period: any hold may have ended,
    /// changed its lease, or come back.
    KeysModified {
        /// The command or the fault.
        by: String,
        /// The locks; none means all.
        locks: Option<Vec<Lock>>,
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// The server lost all state but the keys: tokens, sessions, queues. The holds stay.
    StateLost {
        /// The fault.
        by: String,
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// The server's wall clock, which times the waits, was stepped.
    ClockStepped {
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// The server lost data that was not on disk: any hold may have ended or come back.
    DataLost {
        /// A lock whose state was on disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        but: Option<Lock>,
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// Another client changed the lease of a hold. The hold continues.
    LeaseChanged {
        /// The lock.
        lock: Lock,
        /// The holder.
        owner: Owner,
        /// The new lease; none means that it has no end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_ms: Option<u64>,
        /// Earliest time.
        from: Nanos,
        /// Latest time.
        to: Nanos,
    },
    /// The server refused the writes of all clients during this whole period. Nothing is
    /// granted.
    WritesRefused {
        /// The error code.
        by: String,
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// The users of these connections had no permission to acquire a lock during this
    /// whole period.
    PermissionRevoked {
        /// The connections.
        connections: Vec<Connection>,
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
    /// A connection has subscriptions, so the server may be unable to block it.
    Subscribed {
        /// The connection.
        connection: Connection,
    },
    /// A script read the key of a lock at its start and at its end.
    ScriptReads {
        /// The lock.
        lock: Lock,
        /// The first value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<String>,
        /// The last value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<String>,
        /// When the script was sent.
        from: Nanos,
        /// When its reply arrived.
        to: Nanos,
    },
    /// Calls may fail with these error codes.
    ErrorsExpected {
        /// The first word of the error, or a longer prefix.
        codes: Vec<String>,
        /// Start.
        from: Nanos,
        /// End.
        to: Nanos,
    },
}

/// A reply of STATS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsSample {
    /// When the reply arrived.
    pub at: Nanos,
    /// The counters.
    pub counters: BTreeMap<String, i64>,
    /// The sample was taken after the cleanup: no lock may be held and no client may
    /// wait.
    pub is_final: bool,
}

/// A line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// Description of the round.
    Description(String),
    /// A call.
    Call(Call),
    /// An event.
    Event(Event),
    /// A sample of the counters.
    Stats(StatsSample),
}

/// Records entries.
pub trait EntryWriter {
    /// A call is about to be sent. Only needed by clients that may be killed before the
    /// reply.
    fn begin_call(&mut self, _call: &Call) {}

    /// Records an entry.
    fn write(&mut self, entry: Entry);
}

/// Writes a history to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn save(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for entry in entries {
        serde_json::to_writer(&mut file, entry)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads a history from a file.
///
/// # Errors
/// If the file cannot be read, or a line is not an entry.
pub fn load(path: &Path) -> io::Result<Vec<Entry>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
