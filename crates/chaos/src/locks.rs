//! The locks of the load. The contended ones are used throughout a round, the others for a
//! moment only: a waiter of these that the server forgot would soon wait alone.

use crate::clock::{MS, now};
use crate::history::Lock;

/// Number of contended locks in each database.
pub const CONTENDED_LOCKS: u32 = 10;

/// First number of the locks that are used for a moment only, so that their histories are
/// small enough for `linearizable`.
pub const FIRST_SHORT_LIVED: u32 = 1_000;

/// How long a short-lived lock is in use, in ns.
const SHORT_LIFETIME: u64 = 3 * MS;

/// First number of the GPUs, which calls with GROUPS use. They form sets: each call names
/// GPUs of one set only.
pub const FIRST_GPU: u32 = 2_000_000_000;

/// Number of GPUs in a set.
pub const GPUS: u32 = 8;

/// How long a set is in use, in ns.
const SET_LIFETIME: u64 = 100 * MS;

/// Numbers of short-lived locks and of sets start again after this many.
const REUSED_AFTER: u64 = 200_000_000;

/// What a lock is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Used throughout the round.
    Contended,
    /// Used for a moment.
    ShortLived,
    /// Used for a moment, together with the others of its set.
    Gpu(GpuSet),
}

/// A set of GPUs: the number of its database, and its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GpuSet(u8, u32);

impl GpuSet {
    /// The set in use.
    pub(crate) fn current(db: u8) -> Self {
        Self(db, number_now(SET_LIFETIME))
    }

    /// Its locks.
    pub(crate) fn locks(self) -> Vec<Lock> {
        let first = FIRST_GPU + self.1 * GPUS;
        (first..first + GPUS).map(|number| Lock(self.0, number)).collect()
    }
}

impl Lock {
    /// What it is used for.
    pub fn kind(self) -> Kind {
        match self.1 {
            FIRST_GPU.. => Kind::Gpu(GpuSet(self.0, (self.1 - FIRST_GPU) / GPUS)),
            FIRST_SHORT_LIVED.. => Kind::ShortLived,
            _ => Kind::Contended,
        }
    }

    /// The short-lived lock in use.
    pub(crate) fn short_lived(db: u8) -> Self {
        Self(db, FIRST_SHORT_LIVED + number_now(SHORT_LIFETIME))
    }
}

/// The number of the current period.
fn number_now(lifetime: u64) -> u32 {
    u32::try_from(now() / lifetime % REUSED_AFTER).unwrap_or(0)
}
