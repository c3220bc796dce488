//! `ACL SETUSER`: the user of some clients loses its permissions while they wait, and
//! gets them back. Where the server checks the permissions of its blocked clients, they
//! are granted nothing in that period, and the lock is handed off to the next waiter.

use super::{Fault, FaultContext};
use crate::client::WORKER;
use crate::clock::now;
use crate::history::Event;

pub(super) struct PermissionsRevoked;

/// The normal permissions of the user. They leave no trace of a revocation, because a
/// module cannot be unloaded while an ACL rule names one of its commands.
pub(crate) const ALL_PERMISSIONS: &str = "on nopass ~* &* +@all";

const REVOKED: [&str; 2] = ["-gpulock.acquire -gpulock.acquireany", "resetkeys"];

impl Fault for PermissionsRevoked {
    fn name(&self) -> &'static str {
        "acl"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let rules = *context.rng.choice(&REVOKED).ok_or("no rules")?;
        let flavour = context.server.flavour();
        let is_checked = flavour.is_valkey() || flavour.version() >= (7, 2, 0);
        context.expect_error("NOPERM ", |context| {
            context.expect_ok(&format!("ACL SETUSER {WORKER} {rules}"))?;
            let from = now();
            let clients = context.connections();
            let workers = clients.into_iter().filter(|client| client.user == WORKER);
            let connections = workers.map(|client| client.connection).collect();
            context.sleep_between(10, 100);
            if is_checked {
                context.record_event(Event::PermissionRevoked {
                    connections,
                    from,
                    to: now(),
                });
            }
            context.expect_ok(&format!("ACL SETUSER {WORKER} reset {ALL_PERMISSIONS}"))
        })?;
        Ok(true)
    }
}
