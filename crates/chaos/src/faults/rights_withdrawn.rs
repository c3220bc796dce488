//! `ACL SETUSER`: the user of some clients loses its rights while they wait, and gets them back.
//! Where the server checks the rights of its own blocked clients, they are granted nothing
//! meanwhile: the lock goes on to the next.

use super::{Fault, Site};
use crate::client::WORKER;
use crate::clock::now;
use crate::history::Event;

pub(super) struct RightsWithdrawn;

/// The rights that the user has otherwise. Nothing is left of what was withdrawn: while a rule
/// names a command of the module, the module cannot be unloaded.
pub(crate) const ALL_RIGHTS: &str = "on nopass ~* &* +@all";

const WITHDRAWN: [&str; 2] = ["-gpulock.acquire -gpulock.acquireany", "resetkeys"];

impl Fault for RightsWithdrawn {
    fn name(&self) -> &'static str {
        "acl"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let rules = *site.dice.pick(&WITHDRAWN).ok_or("no rules")?;
        let flavour = site.server.flavour();
        let is_checked = flavour.is_valkey() || flavour.version() >= (7, 2, 0);
        site.refuse("NOPERM ", |site| {
            site.must(&format!("ACL SETUSER {WORKER} {rules}"))?;
            let from = now();
            let seen = site.connections();
            let workers = seen.into_iter().filter(|seen| seen.user == WORKER);
            let connections = workers.map(|seen| seen.connection).collect();
            site.last(10, 100);
            if is_checked {
                site.excuse(Event::Withdrawn { connections, from, to: now() });
            }
            site.must(&format!("ACL SETUSER {WORKER} reset {ALL_RIGHTS}"))
        })?;
        Ok(true)
    }
}
