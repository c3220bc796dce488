//! What a run leaves behind: each call, who asked it and when, and what it heard and when;
//! and each fault, with what it excuses. Nothing is judged here.
//!
//! In a file it is one JSON object a line, so that a run can be checked again, cut down by
//! hand, or looked through with `grep`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;

/// A lock: the number of its database, and its own.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Lock(pub u8, pub u32);

impl Lock {
    /// Its key.
    pub fn key(self) -> String {
        format!("lock:{}", self.1)
    }

    /// The lock of a key.
    pub fn of_key(db: u8, key: &str) -> Option<Self> {
        Some(Self(db, key.strip_prefix("lock:")?.parse().ok()?))
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "lock:{} of database {}", self.1, self.0)
    }
}

/// An owner: the number of the client that uses the name, and how many it used before.
/// Client 0 is the faults themselves.
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
            .ok_or_else(|| format!("{text:?} is no owner of this load"))
    }
}

/// A connection: the number of its client, and how many that had before.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Connection(pub u32, pub u32);

/// As the server is told it, with `CLIENT SETNAME`.
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
            .ok_or_else(|| format!("{text:?} is no connection of this load"))
    }
}

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
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
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// `GPULOCK.ACQUIRE`
    Acquire {
        /// The lock.
        lock: Lock,
        /// For whom.
        owner: Owner,
        /// How.
        how: How,
    },
    /// `GPULOCK.ACQUIREANY`
    AcquireAny {
        /// The locks, the one liked best first.
        locks: Vec<Lock>,
        /// How many of them.
        count: usize,
        /// For whom.
        owner: Owner,
        /// How.
        how: How,
    },
    /// `GPULOCK.RELEASE`
    Release {
        /// The lock.
        lock: Lock,
        /// By whom.
        owner: Owner,
        /// `TOKEN`
        token: Option<u64>,
    },
    /// `GPULOCK.EXTEND`
    Extend {
        /// The lock.
        lock: Lock,
        /// By whom.
        owner: Owner,
        /// `PX`
        lease_ms: u64,
        /// `TOKEN`
        token: Option<u64>,
    },
    /// `GPULOCK.FORCERELEASE`
    Force {
        /// The lock.
        lock: Lock,
        /// `OWNER`
        owner: Option<Owner>,
        /// `TOKEN`
        token: Option<u64>,
    },
    /// `GPULOCK.INSPECT`
    Inspect {
        /// The lock.
        lock: Lock,
    },
}

impl Ask {
    /// The locks that it names.
    pub fn locks(&self) -> &[Lock] {
        match self {
            Self::AcquireAny { locks, .. } => locks,
            Self::Acquire { lock, .. }
            | Self::Release { lock, .. }
            | Self::Extend { lock, .. }
            | Self::Force { lock, .. }
            | Self::Inspect { lock } => std::slice::from_ref(lock),
        }
    }

    /// In whose name it is asked; none for those that look or force.
    pub fn owner(&self) -> Option<Owner> {
        match self {
            Self::Acquire { owner, .. }
            | Self::AcquireAny { owner, .. }
            | Self::Release { owner, .. }
            | Self::Extend { owner, .. } => Some(*owner),
            Self::Force { .. } | Self::Inspect { .. } => None,
        }
    }

    /// How a lock is asked for, if one is.
    pub fn how(&self) -> Option<How> {
        match self {
            Self::Acquire { how, .. } | Self::AcquireAny { how, .. } => Some(*how),
            _ => None,
        }
    }
}

/// What is heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A fencing token.
    Token(u64),
    /// Those of a set.
    Tokens(Vec<(Lock, u64)>),
    /// Null.
    Null,
    /// 1 or 0 to RELEASE.
    Released(bool),
    /// From whom FORCERELEASE took the lock.
    Taken(String),
    /// What INSPECT showed.
    Shown(Shown),
    /// An error.
    Refused(String),
    /// Nothing: the connection broke, or the client died. It may have been done or not.
    Lost,
    /// Nothing, on a connection that stood, for longer than anything may take.
    Silence,
}

impl Answer {
    /// Whether it is not known what was done.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Lost | Self::Silence)
    }
}

/// What INSPECT shows of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Who holds it; none: nobody, or nobody of this load.
    pub owner: Option<Owner>,
    /// Its token.
    pub token: Option<u64>,
    /// Who waits now, in line order, without the places of those who are away.
    pub line: Vec<Owner>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Over which connection.
    pub connection: Connection,
    /// When it was sent, at the earliest.
    pub asked: Nanos,
    /// When the answer was there, at the latest; or when nobody waited for it any more.
    pub heard: Nanos,
    /// What was asked.
    pub ask: Ask,
    /// What was heard.
    pub answer: Answer,
}

impl Call {
    /// The tokens that it heard, each with its lock.
    pub fn tokens(&self) -> Vec<(Lock, u64)> {
        match (&self.answer, &self.ask) {
            (Answer::Tokens(tokens), _) => tokens.clone(),
            (Answer::Token(token), ask) => {
                ask.locks().iter().map(|lock| (*lock, *token)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Something that happened, and so what it excuses or rules out. Nothing else is excused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A connection was closed, not before this: what is tied to it may end.
    Closed {
        /// Which.
        connection: Connection,
        /// When.
        at: Nanos,
    },
    /// A waiting client was let go in this time, in whichever call it then waited.
    Unblocked {
        /// Whose wait may end early.
        connection: Connection,
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
    /// Other commands changed the keys of locks in this time: whatever was held may have
    /// ended, changed its lease, or come back.
    Touched {
        /// What did it.
        by: String,
        /// Which locks; none: all.
        locks: Option<Vec<Lock>>,
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
    /// The server forgot all that the keys do not show: tokens, sessions, lines. The holds
    /// themselves stay.
    Forgot {
        /// What did it.
        by: String,
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
    /// The server's wall clock, by which it counts waits, was another one.
    Stepped {
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
    /// The server lost what it had not written to its files yet: any hold may have ended, or
    /// come back.
    Lost {
        /// A lock whose state was in the files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        but: Option<Lock>,
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
    /// Another client set the lease of a hold, while it lasted. The hold is still the same.
    Lengthened {
        /// The lock.
        lock: Lock,
        /// The holder.
        owner: Owner,
        /// The lease from then on; none: it has no end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_ms: Option<u64>,
        /// Not before this.
        from: Nanos,
        /// Not after this.
        to: Nanos,
    },
    /// The server refused the writes of all clients for all of this time. Nothing is granted.
    WritesRefused {
        /// The code of the refusal.
        by: String,
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
    /// The users of these connections had no right to acquire a lock for all of this time.
    Withdrawn {
        /// Which.
        connections: Vec<Connection>,
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
    /// A connection has subscriptions: the server may be unable to block it.
    Subscribed {
        /// Which.
        connection: Connection,
    },
    /// A script read the key of a lock at its begin and at its end.
    ReadTwice {
        /// The lock.
        lock: Lock,
        /// What it read first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<String>,
        /// What it read last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<String>,
        /// When the script was sent.
        from: Nanos,
        /// When its reply was there.
        to: Nanos,
    },
    /// Calls may be refused with these codes.
    Refuses {
        /// The first word of the error, or the whole of it.
        codes: Vec<String>,
        /// From when.
        from: Nanos,
        /// Until when.
        to: Nanos,
    },
}

/// What STATS said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// When.
    pub at: Nanos,
    /// Each counter.
    pub counters: BTreeMap<String, i64>,
    /// All was given up: nobody may hold or wait.
    pub at_the_end: bool,
}

/// A line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// What this is the history of.
    About(String),
    /// A call.
    Call(Call),
    /// A fault.
    Event(Event),
    /// The counters.
    Counted(Counted),
}

/// Who writes entries down.
pub trait Pen {
    /// A call is about to be sent. Only who may die before the answer needs to write.
    fn intend(&mut self, _call: &Call) {}

    /// Something happened.
    fn write(&mut self, entry: Entry);
}

/// Writes a history to a file.
///
/// # Errors
/// When it cannot be written.
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
/// When it cannot be read, or a line is no entry.
pub fn load(path: &Path) -> io::Result<Vec<Entry>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
