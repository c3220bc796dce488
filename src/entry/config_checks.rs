//! What an operator is warned of, at load and when the configuration changes: settings of
//! the server that put locks in danger.

use crate::manager::{now, with_manager};
use crate::redis::context::{Context, log_warning};
use crate::redis::server_events::subscribe_to_evictions;
use crate::redis::server_info::Info;

const EVICTS: &str = "the server's maxmemory-policy may evict locks: \
    set it to noeviction, or a lock can be lost while it is held";

const CLOSES_IDLE: &str = "the server's timeout is not 0: it closes the idle connection \
    of a holder that computes, and with it ends the locks taken with SESSION";

const NOTHING_KNOWN: &str = "the server has no command CONFIG, so that its timeout is not \
    known: unless it is 0, the server closes the idle connection of a holder that computes, \
    and with it ends the locks taken with SESSION";

/// Checks every setting, when the module loads.
pub(crate) fn check_all(context: Context<'_>) {
    check_memory(context);
    check_timeout(context);
}

/// Checks a setting that was changed. Asking for one that was not would leave a trace in the
/// server's slow log and command statistics for nothing.
pub(crate) fn setting_changed(context: Context<'_>, name: &[u8]) {
    match name {
        b"maxmemory" | b"maxmemory-policy" => check_memory(context),
        b"timeout" => check_timeout(context),
        _ => {}
    }
}

/// Takes note of whether the server's memory has a limit, and warns of evictions.
fn check_memory(context: Context<'_>) {
    let memory = Info::of(c"memory");
    let is_limited = memory.number(c"maxmemory") != Some(0);
    with_manager(|manager| manager.set_memory_limited(is_limited));
    let policy =
        memory.text(c"maxmemory_policy").filter(|policy| *policy != "noeviction");
    warn(EVICTS, policy.map(str::as_bytes));
    if policy.is_some() {
        subscribe_to_evictions(context);
    }
}

fn check_timeout(context: Context<'_>) {
    let timeout = context.server_setting("timeout");
    warn(NOTHING_KNOWN, timeout.is_none().then_some(b"CONFIG"));
    warn(CLOSES_IDLE, timeout.as_deref().filter(|timeout| *timeout != b"0"));
}

fn warn(what: &'static str, danger: Option<&[u8]>) {
    if with_manager(|manager| manager.warn(what, danger, now())) {
        log_warning(what);
    }
}
