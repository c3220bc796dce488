//! Commands that change a lock in somebody's name: giving it back, and taking it away.

pub(crate) mod force;
pub(crate) mod release;
pub(crate) mod take;
