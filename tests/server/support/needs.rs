//! What tests need that not every server supports.

use crate::harness::Need;

/// Moves a slot as a whole, not key by key.
pub(crate) const MIGRATESLOTS: Need = Need {
    name: "CLUSTER MIGRATESLOTS",
    is_met: |server| server.is_valkey() && server.version() >= (9, 0, 0),
};
