//! Eviction: the server is short of memory, and its policy allows it to evict keys,
//! including locks.

use super::{Fault, FaultContext};

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

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let policy = *context.rng.choice(&POLICIES).ok_or("no policies")?;
        context.modify("eviction", None, |context| {
            context.expect_error("OOM ", |context| {
                context.expect_ok(&format!("CONFIG SET maxmemory-policy {policy}"))?;
                let used = context.server.used_memory();
                let limit =
                    used - i64::try_from(context.rng.u64(1..=20_000)).unwrap_or(0);
                context.expect_ok(&format!("CONFIG SET maxmemory {limit}"))?;
                context.sleep_between(2, 30);
                context.expect_ok("CONFIG SET maxmemory 0")?;
                context.expect_ok("CONFIG SET maxmemory-policy noeviction")
            })
        })?;
        Ok(true)
    }
}
