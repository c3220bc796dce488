//! `CLIENT PAUSE`: for a moment the server carries out no writes, or no commands at all.

use super::{Fault, Site};

pub(super) struct ClientPaused;

impl Fault for ClientPaused {
    fn name(&self) -> &'static str {
        "client-pause"
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let ms = site.dice.between(10, 200);
        let what = if site.dice.percent(50) { "WRITE" } else { "ALL" };
        site.must(&format!("CLIENT PAUSE {ms} {what}"))?;
        if site.dice.percent(30) {
            site.must("CLIENT UNPAUSE")?;
        }
        Ok(true)
    }
}
