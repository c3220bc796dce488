//! Eviction: the server is short of memory, and its policy lets it take keys, locks as well.

use super::{Fault, Site};

const POLICIES: [&str; 7] = [
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
];

pub(super) struct Evicted;

impl Fault for Evicted {
    fn name(&self) -> &'static str {
        "eviction"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let policy = *site.dice.pick(&POLICIES).ok_or("no policies")?;
        site.touch("eviction", None, |site| {
            site.refuse("OOM ", |site| {
                site.must(&format!("CONFIG SET maxmemory-policy {policy}"))?;
                let used = site.server.used_memory();
                let limit =
                    used - i64::try_from(site.dice.between(1, 20_000)).unwrap_or(0);
                site.must(&format!("CONFIG SET maxmemory {limit}"))?;
                site.last(2, 30);
                site.must("CONFIG SET maxmemory 0")?;
                site.must("CONFIG SET maxmemory-policy noeviction")
            })
        })?;
        Ok(true)
    }
}
