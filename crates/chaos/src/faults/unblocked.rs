//! `CLIENT UNBLOCK`: another client ends a wait, with a timeout or with an error.

use super::{Fault, FaultContext};
use crate::clock::now;
use crate::history::Event;

pub(super) struct Unblocked;

impl Fault for Unblocked {
    fn name(&self) -> &'static str {
        "client-unblock"
    }

    fn requirements(&self, context: &FaultContext) -> Result<(), String> {
        match context.server.flavour().can_unblock() {
            true => Ok(()),
            false => {
                Err("CLIENT UNBLOCK does not reach clients blocked by a module before Redis 7.4".to_owned())
            }
        }
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let mut clients = context.connections();
        clients.retain(|client| client.waits);
        let Some(victim) = context.rng.choice(&clients) else { return Ok(false) };
        let (id, connection) = (victim.id.clone(), victim.connection);
        // Some releases crash when they unblock a paused client (valkey#2111,
        // redis#14164). Ending the pause in the same write prevents that.
        let how = if context.rng.bool() { "TIMEOUT" } else { "ERROR" };
        let from = now();
        let (unpause, unblock) = (["CLIENT", "UNPAUSE"], ["CLIENT", "UNBLOCK", &id, how]);
        context.expect_error("UNBLOCKED ", |context| {
            context.send_pipeline(&[&unpause, &unblock])
        });
        context.record_event(Event::Unblocked { connection, from, to: now() });
        Ok(true)
    }
}
