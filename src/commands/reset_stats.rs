//! `GPULOCK.RESETSTATS`: zeroes the counters.

use gpulock_core::{Fault, Keeper};

use crate::server::call::Call;
use crate::server::commands::{Command, Keys, Spec};
use crate::server::state::with_keeper;

pub(crate) struct ResetStats;

impl Command for ResetStats {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.RESETSTATS",
        flags: c"fast allow-loading allow-stale",
        acl: c"dangerous",
        arity: 1,
        keys: Keys::None,
        summary: c"Zeroes all counters; locks held now count as adopted.",
        complexity: c"O(N) with N the locks that have counters of their own",
        tips: Some(c"request_policy:all_nodes\nresponse_policy:all_succeeded"),
        arguments: &[],
    };

    fn run(call: Call<'_>) -> Result<(), Fault> {
        with_keeper(Keeper::reset_stats);
        call.reply().ok();
        Ok(())
    }
}
