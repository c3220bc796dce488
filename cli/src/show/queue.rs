//! `gpulock queue`: the wait queue of a lock.

use std::process::ExitCode;

use anyhow::Result;

use crate::replies;
use crate::server::Address;
use crate::show::{out, waiters};
use crate::text::{self, Text};

/// The options of `gpulock queue`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Key of the lock
    #[arg(value_parser = text::name())]
    key: Text,
    /// Print a JSON array of the first 100 positions
    #[arg(long)]
    json: bool,
}

/// Prints the queue.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let lock =
        replies::inspect(&mut address.for_key(&args.key.0).connect()?, &args.key.0)?;
    match lock {
        lock if args.json => {
            out::print_json(&lock.map(|lock| lock.waiters).unwrap_or_default())?;
        }
        Some(lock) if !lock.waiters.is_empty() => out::print(&waiters::table(&lock))?,
        _ => out::print(&format!("{} has no waiters", args.key))?,
    }
    Ok(ExitCode::SUCCESS)
}
