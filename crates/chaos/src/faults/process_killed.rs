//! A client's process is killed at any point: its connection closes, and the effect of
//! its last call is unknown.

use super::{Fault, FaultContext};

pub(super) struct ProcessKilled;

impl Fault for ProcessKilled {
    fn name(&self) -> &'static str {
        "process-kill"
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        context.workers.kill_one()
    }
}
