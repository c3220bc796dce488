//! The commands, one file each: read the arguments, ask the rules, do what they say to
//! the key, answer. No rule of locking is in here.

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

use crate::server::commands::announce;
use crate::server::context::Context;

/// Makes all commands known to the server.
///
/// # Errors
/// When the server refuses one.
pub(crate) fn announce_all(context: Context<'_>) -> Result<(), String> {
    announce::<acquire::Acquire>(context)?;
    announce::<acquire_any::AcquireAny>(context)?;
    announce::<release::Release>(context)?;
    announce::<extend::Extend>(context)?;
    announce::<force_release::ForceRelease>(context)?;
    announce::<inspect::Inspect>(context)?;
    announce::<list::List>(context)?;
    announce::<stats::Stats>(context)?;
    announce::<reset_stats::ResetStats>(context)?;
    announce::<log::Log>(context)?;
    announce::<metrics::Metrics>(context)
}
