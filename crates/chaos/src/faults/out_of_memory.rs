//! Out of memory without eviction: only new grants are refused.

use super::{Fault, FaultContext};

pub(super) struct OutOfMemory;

impl Fault for OutOfMemory {
    fn name(&self) -> &'static str {
        "oom"
    }

    fn weight(&self) -> u64 {
        5
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        context.expect_error("OOM ", |context| {
            context.expect_ok("CONFIG SET maxmemory 1")?;
            context.sleep_between(5, 80);
            context.expect_ok("CONFIG SET maxmemory 0")
        })?;
        Ok(true)
    }
}
