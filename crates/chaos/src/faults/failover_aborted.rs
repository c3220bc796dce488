//! An aborted `FAILOVER`: the server hands over to a stopped replica, so it waits and
//! executes no writes until the failover is aborted. The replica stays for the rest of
//! the round, so other faults also meet a server with a replica.

use gpulock_testkit::Server;

use super::{Fault, FaultContext};

pub(super) struct FailoverAborted;

impl Fault for FailoverAborted {
    fn name(&self) -> &'static str {
        "failover"
    }

    fn weight(&self) -> u64 {
        3
    }

    fn inject(&self, context: &mut FaultContext) -> Result<bool, String> {
        let mut replica = match context.replica.take() {
            Some(replica) => replica,
            None => follow(context)?,
        };
        // After a restart or a failed snapshot, the replica has to catch up first.
        let is_up = replica.info("replication")["master_link_status"] == "up";
        let injected = is_up && fail_over_and_abort(context, &mut replica)?;
        context.replica = Some(replica);
        Ok(injected)
    }
}

fn follow(context: &mut FaultContext) -> Result<Server, String> {
    context.expect_ok("CONFIG SET repl-diskless-sync-delay 0")?;
    let replica = context.server.flavour().server().named("replica");
    replica.module_path(&context.module).replica_of(&context.server).try_start()
}

fn fail_over_and_abort(
    context: &mut FaultContext,
    replica: &mut Server,
) -> Result<bool, String> {
    replica.freeze();
    // A write that the stopped replica cannot acknowledge; otherwise it would become the
    // primary immediately.
    context.expect_ok("SET failover begins")?;
    let has_begun = context.send("FAILOVER") == "OK";
    if has_begun {
        context.sleep_between(10, 200);
        context.expect_ok("FAILOVER ABORT")?;
    }
    replica.thaw();
    Ok(has_begun)
}
