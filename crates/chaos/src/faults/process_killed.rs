//! A client's process is killed, wherever it is: its connection closes, and nobody knows what
//! became of its last call.

use super::{Fault, Site};

pub(super) struct ProcessKilled;

impl Fault for ProcessKilled {
    fn name(&self) -> &'static str {
        "process-kill"
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        site.crew.kill_one()
    }
}
