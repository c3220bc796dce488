//! Whether as many replicas listen as the operator demands (`min-replicas-to-write`). The
//! server asks that before it carries out a write command; what is written without a
//! command has to ask here.

use std::cell::Cell;

use super::context::Context;
use super::passing_on::Info;

struct MainThread(Cell<u64>);

// SAFETY: the module runs on the server's main thread alone (`super`, 1).
unsafe impl Sync for MainThread {}

/// How many are demanded.
static DEMANDED: MainThread = MainThread(Cell::new(0));

/// Takes note of how many are demanded: at load, and when the configuration changes.
pub(crate) fn note_demand(context: Context<'_>) {
    let setting = |name| {
        let value = context.server_setting(name);
        std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let is_on = setting("min-replicas-max-lag") > 0;
    DEMANDED.0.set(if is_on { setting("min-replicas-to-write") } else { 0 });
}

/// True when enough listen. The server tells how many do only while some are demanded.
pub(crate) fn are_enough() -> bool {
    let demanded = DEMANDED.0.get();
    demanded == 0
        || Info::of(c"replication")
            .number(c"min_slaves_good_slaves")
            .is_none_or(|listening| listening >= demanded)
}
