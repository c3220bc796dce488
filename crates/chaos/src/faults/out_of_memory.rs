//! Out of memory, and nothing may be evicted: new grants are refused, and nothing else.

use super::{Fault, Site};

pub(super) struct OutOfMemory;

impl Fault for OutOfMemory {
    fn name(&self) -> &'static str {
        "oom"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        site.refuse("OOM ", |site| {
            site.must("CONFIG SET maxmemory 1")?;
            site.last(5, 80);
            site.must("CONFIG SET maxmemory 0")
        })?;
        Ok(true)
    }
}
