//! `CLIENT PAUSE`: for a moment the server executes no writes, or no commands at all.

use super::{Fault, FaultContext};
use crate::rng::chance;

pub(super) struct ClientPaused;

impl Fault for ClientPaused {
    fn name(&self) -> &'static str {
        "client-pause"
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let ms = context.rng.u64(10..=200);
        let what = if context.rng.bool() { "WRITE" } else { "ALL" };
        context.expect_ok(&format!("CLIENT PAUSE {ms} {what}"))?;
        if chance(&mut context.rng, 30) {
            context.expect_ok("CLIENT UNPAUSE")?;
        }
        Ok(true)
    }
}
