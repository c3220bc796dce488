//! What the module does before each command of the server while it listens in silence: it arms the
//! timer, so that keys are probed after the command.

use gpulock_core::LockManager;

use crate::entry::timer::arm_timer;
use crate::manager::with_manager;
use crate::redis::detached_context;

/// A command is about to run. It may be `MODULE UNLOAD`, which the server refuses while a timer is
/// armed; so none is armed unless clients wait, and then the server refuses it anyway.
pub(super) fn before_command() {
    if with_manager(LockManager::command_seen)
        && let Some(context) = detached_context::get()
    {
        arm_timer(context);
    }
}
