//! The server forks to write its data in the middle of hand-offs.

use super::{Fault, Site};

/// `BGREWRITEAOF`
pub(super) struct AofRewritten;

impl Fault for AofRewritten {
    fn name(&self) -> &'static str {
        "bgrewriteaof"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        // Refused while another runs.
        Ok(!site.say("BGREWRITEAOF").is_err())
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

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        Ok(!site.say("BGSAVE").is_err())
    }
}
