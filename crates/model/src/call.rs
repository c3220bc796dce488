//! A call of ACQUIRE or ACQUIREANY.

use gpulock_core::request::Acquire;
use gpulock_core::rules::acquire::CallerContext;

use crate::memory_keys::KEYS;

/// The owners.
pub const OWNERS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

/// A call of ACQUIRE or ACQUIREANY.
#[derive(Clone, Debug)]
pub struct Call {
    /// The client that calls. It has one connection at a time.
    pub client: usize,
    /// The key of ACQUIRE, or the lock set of ACQUIREANY in order of preference: indexes into
    /// [`KEYS`].
    pub keys: Vec<usize>,
    /// `COUNT` of ACQUIREANY; none for ACQUIRE.
    pub count: Option<usize>,
    /// The owner: an index into [`OWNERS`].
    pub owner: usize,
    /// `PX`
    pub lease_ms: Option<u64>,
    /// `UNIQUE`
    pub unique: bool,
    /// `BLOCK`
    pub block_ms: Option<u64>,
    /// `SESSION GRACE`
    pub session_grace_ms: Option<u64>,
    /// Whether the server has memory left.
    pub has_memory: bool,
}

impl Call {
    /// The number of locks to acquire.
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
            ..Acquire::default()
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
