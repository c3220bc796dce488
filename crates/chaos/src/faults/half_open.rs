//! Half-open connections: a client is cut off, so that not even the end of its connection
//! reaches the server. It may come back, or die out there; its holds end with their leases.

use super::{Fault, Site};

pub(super) struct HalfOpen;

impl Fault for HalfOpen {
    fn name(&self) -> &'static str {
        "half-open"
    }

    fn weight(&self) -> u64 {
        4
    }

    fn needs(&self, site: &Site) -> Result<(), String> {
        site.ground.island.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let Ok(island) = &mut site.ground.island else { return Ok(false) };
        island.set_bridge("down")?;
        let dies_out_there = site.dice.percent(50);
        if dies_out_there {
            island.kill_all();
        }
        site.last(50, 1_200);
        let Ok(island) = &mut site.ground.island else { return Ok(false) };
        island.set_bridge("up")?;
        if dies_out_there {
            island.settle()?;
        }
        Ok(true)
    }
}
