//! Work without a command: the timer, and deferred work around commands and between them.

use gpulock_core::engine::{Keyspace, deferred, tick};

use crate::entry::flush::flush;
use crate::keyspace::{ServerKeys, was_refused};
use crate::manager::{now, with_manager};
use crate::redis::context::Context;
use crate::redis::{detached_context, timer};

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
    flush(context);
}

/// When the next tick is due, in ms since the epoch; none: it is not needed.
fn next_tick_ms() -> Option<u64> {
    let now = now();
    let wake_ms = with_manager(|manager| manager.next_wake_ms(now))?;
    let again_ms = now.ms().saturating_add(TRY_AGAIN_MS);
    Some(if was_refused() { wake_ms.max(again_ms) } else { wake_ms })
}

/// Carries out the deferred work before and after a command, so that GPULOCK commands find it done.
/// Not within a script, a transaction or another module's command: the timer does it right after
/// them. In a cluster the timer does it as well, because a command may touch keys of its own slot
/// only.
pub(super) fn run_deferred_around_command(context: Context<'_>) {
    if with_manager(|manager| manager.deferred().has_work()) {
        let flags = context.flags();
        if !flags.denies_blocking() && !flags.in_cluster() && context.is_of_client() {
            run_deferred_between_commands();
        }
    }
}

/// Carries out the deferred work at once. Only where no command is being executed.
pub(super) fn run_deferred_between_commands() {
    let Some(context) = detached_context::get() else { return };
    let mut keys = ServerKeys::in_background(context);
    if keys.may_start() {
        let began = now();
        deferred::run(&mut keys, began);
    }
}
