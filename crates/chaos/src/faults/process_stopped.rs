//! A client's process is stopped in its tracks for longer than any lease, and then goes on
//! as if nothing had been.

use super::{Fault, Site};
use crate::client::LONGEST_LEASE_MS;

pub(super) struct ProcessStopped;

impl Fault for ProcessStopped {
    fn name(&self) -> &'static str {
        "process-stop"
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let ms = LONGEST_LEASE_MS + site.dice.between(10, 400);
        Ok(site.crew.freeze_one(ms))
    }
}
