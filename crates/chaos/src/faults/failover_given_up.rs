//! `FAILOVER`, given up: the server hands over to a replica that has stopped, and so waits for
//! it, carrying out no writes, until it is told not to. The replica stays for the rest of the
//! round, so that all other faults also meet a server that is followed.

use gpulock_testkit::Server;

use super::{Fault, Site};

pub(super) struct FailoverGivenUp;

impl Fault for FailoverGivenUp {
    fn name(&self) -> &'static str {
        "failover"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn strike(&self, site: &mut Site) -> Result<bool, String> {
        let mut replica = match site.replica.take() {
            Some(replica) => replica,
            None => follow(site)?,
        };
        // After a restart or a snapshot that failed it has to catch up first.
        let is_up = replica.info("replication")["master_link_status"] == "up";
        let struck = is_up && hand_over_in_vain(site, &mut replica)?;
        site.replica = Some(replica);
        Ok(struck)
    }
}

fn follow(site: &mut Site) -> Result<Server, String> {
    site.must("CONFIG SET repl-diskless-sync-delay 0")?;
    let replica = site.server.flavour().server().named("replica");
    replica.module_path(&site.module).replica_of(&site.server).try_start()
}

fn hand_over_in_vain(site: &mut Site, replica: &mut Server) -> Result<bool, String> {
    replica.freeze();
    // What it can never say that it has: else it would be the primary at once.
    site.must("SET failover begins")?;
    let has_begun = site.say("FAILOVER") == "OK";
    if has_begun {
        site.last(10, 200);
        site.must("FAILOVER ABORT")?;
    }
    replica.thaw();
    Ok(has_begun)
}
