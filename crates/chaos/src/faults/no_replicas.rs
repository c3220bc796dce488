//! `NOREPLICAS`: `min-replicas-to-write` requires more replicas than there are, so the
//! server refuses the writes of all clients.

use super::{Fault, FaultContext, write_refusal};

pub(super) struct NoReplicas;

impl Fault for NoReplicas {
    fn name(&self) -> &'static str {
        "no-replicas"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let set = |context: &mut FaultContext, count: u32| {
            context.expect_ok(&format!("CONFIG SET min-replicas-to-write {count}"))
        };
        write_refusal::run(
            context,
            "NOREPLICAS ",
            |context| set(context, 9),
            |context| set(context, 0),
        )?;
        Ok(true)
    }
}
