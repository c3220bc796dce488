//! The server blocks for a while, or reloads its data. All holds, queues and tokens stay.

use super::context::Persistence;
use super::{Fault, FaultContext};

/// `DEBUG SLEEP`
pub(super) struct ServerStalled;

impl Fault for ServerStalled {
    fn name(&self) -> &'static str {
        "debug-sleep"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let ms = context.rng.u64(10..=300);
        context.expect_ok(&format!("DEBUG SLEEP 0.{ms:03}"))?;
        Ok(true)
    }
}

/// `DEBUG RELOAD`. Not used with an append-only file: the server writes the command to
/// the file and executes it when it loads the file, after which it accepts calls long
/// before loading is complete.
pub(super) struct DataReloaded;

impl Fault for DataReloaded {
    fn name(&self) -> &'static str {
        "debug-reload"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        if context.persistence != Persistence::Rdb {
            return Ok(false);
        }
        context.expect_ok("DEBUG RELOAD")?;
        Ok(true)
    }
}
