//! The commands, one file each: parse the arguments, call the engine, reply. The rules of locking
//! are in `gpulock_core`.

mod acquire;
mod acquire_any;
mod extend;
mod force_release;
mod inspect;
mod list;
mod log;
mod metrics;
mod release;
mod reset_stats;
mod stats;
mod wait;

use crate::entry::dispatch::Dispatcher;
use crate::redis::command_spec::{Command, register};
use crate::redis::context::Context;

/// Registers all commands.
///
/// # Errors
/// When the server rejects one.
pub(crate) fn register_all(context: Context<'_>) -> Result<(), String> {
    fn add<C: Command>(context: Context<'_>) -> Result<(), String> {
        register::<C, Dispatcher>(context)
    }
    add::<acquire::Acquire>(context)?;
    add::<acquire_any::AcquireAny>(context)?;
    add::<release::Release>(context)?;
    add::<extend::Extend>(context)?;
    add::<force_release::ForceRelease>(context)?;
    add::<inspect::Inspect>(context)?;
    add::<list::List>(context)?;
    add::<stats::Stats>(context)?;
    add::<reset_stats::ResetStats>(context)?;
    add::<log::Log>(context)?;
    add::<metrics::Metrics>(context)
}
