//! What an operator is warned of, at load and whenever the configuration changes: settings
//! of the server that put locks in danger.

use crate::server::context::{Context, log_warning};
use crate::server::state::{now, with_keeper};

const EVICTS: &str = "the server's maxmemory-policy may evict locks: \
    set it to noeviction, or a lock can be lost while it is held";

/// Warns in the server's log and in GPULOCK.LOG.
pub(crate) fn check(context: Context<'_>) {
    let policy = context.server_setting(c"maxmemory-policy");
    if !policy.is_empty() && policy != b"noeviction" {
        log_warning(EVICTS);
        with_keeper(|keeper| keeper.warn(EVICTS, now()));
    }
}
