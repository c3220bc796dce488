//! Half-open connections: a client is cut off, so that the server does not even see its
//! connection close. The client may come back or die; its holds end with their leases.

use super::{Fault, FaultContext};

pub(super) struct HalfOpen;

impl Fault for HalfOpen {
    fn name(&self) -> &'static str {
        "half-open"
    }

    fn weight(&self) -> u64 {
        4
    }

    fn requirements(&self, context: &FaultContext) -> Result<(), String> {
        context.environment.namespace.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let Ok(namespace) = &mut context.environment.namespace else { return Ok(false) };
        namespace.set_link("down")?;
        let dies = context.rng.bool();
        if dies {
            namespace.kill_all();
        }
        context.sleep_between(50, 1_200);
        let Ok(namespace) = &mut context.environment.namespace else { return Ok(false) };
        namespace.set_link("up")?;
        if dies {
            namespace.start_workers()?;
        }
        Ok(true)
    }
}
