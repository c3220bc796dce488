//! Checks of the server's settings, at load and when they change. The operator is warned of
//! settings that put locks at risk.

use crate::manager::{now, with_manager};
use crate::redis::context::{Context, log_warning};
use crate::redis::server_events::subscribe_to_evictions;
use crate::redis::server_info::Info;

const EVICTS: &str = "maxmemory-policy allows the server to evict locks while they are held: \
    set it to noeviction";

const CLOSES_IDLE: &str = "timeout is not 0: the server closes idle connections, which \
    releases the locks acquired with SESSION on them. Set it to 0";

const TIMEOUT_UNKNOWN: &str = "cannot check the setting timeout, because the command CONFIG is \
    renamed or disabled. If it is not 0, the server closes idle connections, which releases the \
    locks acquired with SESSION on them";

/// Checks all settings when the module loads.
pub(crate) fn check_all(context: Context<'_>) {
    check_memory(context);
    check_timeout(context);
}

/// Checks a setting that has changed. Others are not checked, because each check may appear in the
/// server's slow log and command statistics.
pub(crate) fn setting_changed(context: Context<'_>, name: &[u8]) {
    match name {
        b"maxmemory" | b"maxmemory-policy" => check_memory(context),
        b"timeout" => check_timeout(context),
        _ => {}
    }
}

/// Records whether the server's memory is limited, and warns of evictions.
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
    warn(TIMEOUT_UNKNOWN, timeout.is_none().then_some(b"CONFIG"));
    warn(CLOSES_IDLE, timeout.as_deref().filter(|timeout| *timeout != b"0"));
}

fn warn(message: &'static str, risk: Option<&[u8]>) {
    if with_manager(|manager| manager.warn(message, risk, now())) {
        log_warning(message);
    }
}
