//! `GPULOCK.RESETSTATS`: resets the counters.

use gpulock_core::{CommandError, LockManager};

use crate::manager::with_manager;
use crate::redis::call::Call;
use crate::redis::command_spec::{Command, Keys, Spec};
use crate::redis::panic_boundary::reset_internal_errors;

pub(crate) struct ResetStats;

impl Command for ResetStats {
    const SPEC: Spec = Spec {
        name: c"GPULOCK.RESETSTATS",
        flags: c"fast allow-loading allow-stale",
        acl: c"dangerous",
        arity: 1,
        keys: Keys::None,
        summary: c"Resets all counters. Locks that are held count as adopted.",
        complexity: c"O(1)",
        tips: Some(c"request_policy:all_nodes\nresponse_policy:all_succeeded"),
        arguments: &[],
    };

    fn run(call: Call<'_>) -> Result<(), CommandError> {
        with_manager(LockManager::reset_stats);
        reset_internal_errors();
        call.reply().ok();
        Ok(())
    }
}
