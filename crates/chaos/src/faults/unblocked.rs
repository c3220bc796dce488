//! `CLIENT UNBLOCK`: a wait is ended from outside, as if its time were over, or with an error.

use super::{Fault, Site};
use crate::clock::now;
use crate::history::Event;

pub(super) struct Unblocked;

impl Fault for Unblocked {
    fn name(&self) -> &'static str {
        "client-unblock"
    }

    fn needs(&self, site: &Site) -> Result<(), String> {
        match site.server.flavour().can_unblock() {
            true => Ok(()),
            false => {
                Err("a module's waiters cannot be reached before Redis 7.4".to_owned())
            }
        }
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let mut seen = site.connections();
        seen.retain(|seen| seen.waits);
        let Some(victim) = site.dice.pick(&seen) else { return Ok(false) };
        let (id, connection) = (victim.id.clone(), victim.connection);
        // Some releases crash when they are to unblock a client that is paused (valkey#2111,
        // redis#14164). In one write with the end of the pause, nobody is.
        let how = if site.dice.percent(50) { "TIMEOUT" } else { "ERROR" };
        let from = now();
        let (unpause, unblock) = (["CLIENT", "UNPAUSE"], ["CLIENT", "UNBLOCK", &id, how]);
        site.refuse("UNBLOCKED ", |site| site.say_at_once(&[&unpause, &unblock]));
        site.excuse(Event::Unblocked { connection, from, to: now() });
        Ok(true)
    }
}
