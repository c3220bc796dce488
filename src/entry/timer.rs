//! The timer: armed while clients wait, a grace period runs, work is deferred, or a portion of larger
//! work is left. Each tick runs the engine.

use gpulock_core::engine::tick;

use crate::entry::delivery::deliver;
use crate::keyspace::{ServerKeys, was_refused};
use crate::manager::{now, with_manager};
use crate::redis::context::Context;
use crate::redis::timer;

/// How long to wait, in ms, before trying again after the server refused writes.
const TRY_AGAIN_MS: u64 = 5;

/// Arms the timer for the next tick, if one is needed.
pub(super) fn arm_timer(context: Context<'_>) {
    if timer::is_armed() || with_manager(|manager| manager.needs_timer()) {
        timer::arm(context, next_tick_ms(), now().ms(), fire);
    }
}

fn fire(context: Context<'_>) {
    tick::tick(&mut ServerKeys::in_background(context));
    deliver(context);
}

/// When the next tick is due, in ms since the epoch; none: it is not needed.
fn next_tick_ms() -> Option<u64> {
    let now = now();
    let wake_ms = with_manager(|manager| manager.next_wake_ms(now))?;
    let again_ms = now.ms().saturating_add(TRY_AGAIN_MS);
    Some(if was_refused() { wake_ms.max(again_ms) } else { wake_ms })
}
