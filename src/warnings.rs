//! What an operator is warned of, at load and when the configuration changes: settings of
//! the server that put locks in danger.

use crate::server::context::{Context, log_warning};
use crate::server::events::listen_to_evictions;
use crate::server::replicas;
use crate::server::state::{now, with_keeper};

const EVICTS: &str = "the server's maxmemory-policy may evict locks: \
    set it to noeviction, or a lock can be lost while it is held";

const CLOSES_IDLE: &str = "the server's timeout is not 0: it closes the idle connection \
    of a holder that computes, and with it ends the locks taken with SESSION";

/// Warns of what is new, in the server's log and in GPULOCK.LOG; and takes note of whether
/// the server's memory has a limit, and of how many replicas must listen.
pub(crate) fn check(context: Context<'_>) {
    let limit = context.server_setting("maxmemory");
    with_keeper(|keeper| keeper.set_memory_limited(limit != b"0"));
    replicas::note_demand(context);
    let policy = context.server_setting("maxmemory-policy");
    let evicts = Some(&*policy).filter(|policy| *policy != b"noeviction");
    warn(EVICTS, evicts);
    if evicts.is_some() {
        listen_to_evictions(context);
    }
    let timeout = context.server_setting("timeout");
    warn(CLOSES_IDLE, Some(&*timeout).filter(|timeout| *timeout != b"0"));
}

fn warn(what: &'static str, danger: Option<&[u8]>) {
    let danger = danger.filter(|setting| !setting.is_empty());
    if with_keeper(|keeper| keeper.warn(what, danger, now())) {
        log_warning(what);
    }
}
