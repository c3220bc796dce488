//! Deferred work around commands and between them. Otherwise the timer carries it out.

use gpulock_core::engine::{Keyspace, deferred};

use crate::keyspace::ServerKeys;
use crate::manager::{now, with_manager};
use crate::redis::context::Context;
use crate::redis::detached_context;

/// Carries out the deferred work before and after a command, so that GPULOCK commands find it done.
/// Not within a script, a transaction or another module's command: the timer does it right after
/// them. In a cluster the timer does it as well, because a command may touch keys of its own slot
/// only. Returns false when the time is up: then the timer does the rest, so that one command does
/// not take twice as long.
pub(super) fn run_deferred_around_command(context: Context<'_>) -> bool {
    if with_manager(|manager| manager.deferred().has_work()) {
        let flags = context.flags();
        if !flags.denies_blocking() && !flags.in_cluster() && context.is_of_client() {
            return run_deferred_between_commands();
        }
    }
    true
}

/// Carries out the deferred work at once. Only where no command is running that could see its keys
/// change. Returns false when the time is up.
pub(super) fn run_deferred_between_commands() -> bool {
    let Some(context) = detached_context::get() else { return true };
    let mut keys = ServerKeys::in_background(context);
    !keys.may_start() || deferred::run(&mut keys, now())
}
