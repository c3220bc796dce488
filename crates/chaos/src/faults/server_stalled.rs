//! The server does nothing for a while, or loads its own data anew. All holds, lines and
//! tokens stay as they are.

use super::site::Persistence;
use super::{Fault, Site};

/// `DEBUG SLEEP`
pub(super) struct ServerStalled;

impl Fault for ServerStalled {
    fn name(&self) -> &'static str {
        "debug-sleep"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let ms = site.dice.between(10, 300);
        site.must(&format!("DEBUG SLEEP 0.{ms:03}"))?;
        Ok(true)
    }
}

/// `DEBUG RELOAD`. Never with an append-only file: the server writes it there, and carries it
/// out when it reads the file again; from then on it takes calls, long before it is done.
pub(super) struct DataReloaded;

impl Fault for DataReloaded {
    fn name(&self) -> &'static str {
        "debug-reload"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        if site.persistence != Persistence::Rdb {
            return Ok(false);
        }
        site.must("DEBUG RELOAD")?;
        Ok(true)
    }
}
