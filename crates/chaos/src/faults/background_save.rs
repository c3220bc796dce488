//! The server forks to save its data during hand-offs.

use super::{Fault, FaultContext};

/// `BGREWRITEAOF`
pub(super) struct AofRewritten;

impl Fault for AofRewritten {
    fn name(&self) -> &'static str {
        "bgrewriteaof"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        // Fails if another save is running.
        Ok(!context.send("BGREWRITEAOF").is_err())
    }
}

/// `BGSAVE`
pub(super) struct SnapshotTaken;

impl Fault for SnapshotTaken {
    fn name(&self) -> &'static str {
        "bgsave"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        Ok(!context.send("BGSAVE").is_err())
    }
}
