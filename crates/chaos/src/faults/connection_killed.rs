//! `CLIENT KILL`: the server closes the connection of a waiter or of a holder.

use super::{Fault, FaultContext};
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

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let waiting = context.rng.bool();
        let mut clients = context.connections();
        clients.retain(|client| client.waits == waiting);
        let Some(victim) = context.rng.choice(&clients) else { return Ok(false) };
        let kill = format!("CLIENT KILL ID {}", victim.id);
        context.record_event(Event::Closed { connection: victim.connection, at: now() });
        // Replies 0 if the connection is already closed.
        context.send(&kill);
        Ok(true)
    }
}
