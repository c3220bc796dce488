//! What a client asks for, and how.

use gpulock_core::request::Acquire;
use gpulock_core::rules::acquire::CallerContext;

use crate::keyspace::KEYS;

/// The owners' names.
pub const OWNERS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

/// Who asks for what, and how.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks: a client has one connection at a time.
    pub client: usize,
    /// One lock, or those of a set, the one liked best first: places in [`KEYS`].
    pub keys: Vec<usize>,
    /// How many of the set; none: it is one lock alone that is asked for.
    pub count: Option<usize>,
    /// For whom: a place in [`OWNERS`].
    pub owner: usize,
    /// `PX`
    pub lease_ms: Option<u64>,
    /// `UNIQUE`
    pub unique: bool,
    /// `BLOCK`
    pub block_ms: Option<u64>,
    /// `SESSION GRACE`
    pub session_grace_ms: Option<u64>,
    /// The server is not out of memory.
    pub has_memory: bool,
}

impl Call {
    /// How many locks it wants.
    pub(crate) fn wants(&self) -> usize {
        self.count.unwrap_or(1)
    }

    /// The names of its keys.
    pub(crate) fn names(&self) -> Vec<&'static [u8]> {
        self.keys.iter().map(|key| KEYS[*key]).collect()
    }

    pub(crate) fn request(&self) -> Acquire<'static> {
        Acquire {
            owner: OWNERS[self.owner],
            lease_ms: self.lease_ms,
            unique: self.unique,
            block_ms: self.block_ms,
            session_grace_ms: self.session_grace_ms,
        }
    }

    pub(crate) fn caller(&self, connection: u64) -> CallerContext {
        CallerContext {
            client: Some(connection),
            may_wait: true,
            has_memory: self.has_memory,
        }
    }
}
