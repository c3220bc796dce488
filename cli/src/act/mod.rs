//! Commands that release a lock on behalf of its owner, or by force.

pub(crate) mod force;
pub(crate) mod forced_release;
pub(crate) mod release;
