//! Commands that release a lock in its owner's name or by force.

pub(crate) mod force;
pub(crate) mod forced_release;
pub(crate) mod release;
