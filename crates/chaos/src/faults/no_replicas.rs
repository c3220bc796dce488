//! `NOREPLICAS`: `min-replicas-to-write` asks for more replicas than there are, and the server
//! refuses the writes of all clients.

use super::{Fault, Site, refusal};

pub(super) struct NoReplicas;

impl Fault for NoReplicas {
    fn name(&self) -> &'static str {
        "no-replicas"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let set = |site: &mut Site, count: u32| {
            site.must(&format!("CONFIG SET min-replicas-to-write {count}"))
        };
        refusal::play(site, "NOREPLICAS ", |site| set(site, 9), |site| set(site, 0))?;
        Ok(true)
    }
}
