//! A call of ACQUIRE or ACQUIREANY.

use gpulock_core::request::Acquire;
use gpulock_core::rules::acquire::CallerContext;

use crate::groups::Groups;
use crate::memory_keys::KEYS;

/// The owners.
pub const OWNERS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

/// The shares.
pub const SHARES: [&[u8]; 2] = [b"x", b"y"];

/// A call of ACQUIRE or ACQUIREANY.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The client that calls. It has one connection at a time.
    pub client: usize,
    /// The key of ACQUIRE, or the lock set of ACQUIREANY in order of preference: indexes into
    /// [`KEYS`].
    pub keys: Vec<usize>,
    /// `COUNT` of ACQUIREANY; none for ACQUIRE.
    pub count: Option<usize>,
    /// `GROUPS`
    pub groups: Option<Groups>,
    /// The owner: an index into [`OWNERS`].
    pub owner: usize,
    /// `PX`
    pub lease_ms: Option<u64>,
    /// `UNIQUE`
    pub unique: bool,
    /// `KEEP`
    pub keep_ms: Option<u64>,
    /// `BLOCK`
    pub block_ms: Option<u64>,
    /// `SESSION GRACE`
    pub session_grace_ms: Option<u64>,
    /// `PRIORITY`
    pub priority: i64,
    /// `SHARE`: an index into [`SHARES`].
    pub share: Option<usize>,
    /// Whether the server has memory left.
    pub has_memory: bool,
}

impl Call {
    /// The number of locks to acquire.
    pub(crate) fn wants(&self) -> usize {
        let groups = self.groups.as_ref().map_or(1, |groups| groups.wanted);
        self.count.unwrap_or(1) * groups
    }

    /// The groups, if they matter: a call for one lock may have it of any group.
    pub(crate) fn effective_groups(&self) -> Option<&Groups> {
        self.groups.as_ref().filter(|_| self.wants() > 1)
    }

    /// Whether neither PRIORITY nor SHARE moves it.
    pub(crate) fn is_plain(&self) -> bool {
        self.priority == 0 && self.share.is_none()
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
            keep_ms: self.keep_ms,
            block_ms: self.block_ms,
            session_grace_ms: self.session_grace_ms,
            priority: self.priority,
            share: self.share.map(|share| SHARES[share]),
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
