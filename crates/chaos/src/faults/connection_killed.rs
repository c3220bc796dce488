//! `CLIENT KILL`: the server closes a connection, of one who waits or of one who holds.

use super::{Fault, Site};
use crate::clock::now;
use crate::history::Event;

pub(super) struct ConnectionKilled;

impl Fault for ConnectionKilled {
    fn name(&self) -> &'static str {
        "client-kill"
    }

    fn weight(&self) -> u64 {
        20
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let waiting = site.dice.percent(50);
        let mut seen = site.connections();
        seen.retain(|seen| seen.waits == waiting);
        let Some(victim) = site.dice.pick(&seen) else { return Ok(false) };
        let kill = format!("CLIENT KILL ID {}", victim.id);
        site.excuse(Event::Closed { connection: victim.connection, at: now() });
        // 0: it was gone before.
        site.say(&kill);
        Ok(true)
    }
}
