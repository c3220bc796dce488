//! A client's process is stopped for longer than any lease, and then continues.

use super::{Fault, FaultContext};
use crate::client::LONGEST_LEASE_MS;

pub(super) struct ProcessStopped;

impl Fault for ProcessStopped {
    fn name(&self) -> &'static str {
        "process-stop"
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let ms = LONGEST_LEASE_MS + context.rng.u64(10..=400);
        Ok(context.workers.freeze_one(ms))
    }
}
