//! `gpulock line`: who waits for a lock, in the order of their turn.

use std::process::ExitCode;

use anyhow::Result;

use crate::replies;
use crate::server::Address;
use crate::show::{out, waiters};
use crate::text::{self, Text};

/// The options of `gpulock line`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which lock
    #[arg(value_parser = text::argument())]
    key: Text,
    /// As JSON: an array of the first hundred
    #[arg(long)]
    json: bool,
}

/// Shows them.
///
/// # Errors
/// When the server does not answer, or refuses.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let lock = replies::inspect(&mut address.connect()?, &args.key.0)?;
    match lock {
        lock if args.json => {
            out::print_json(&lock.map(|lock| lock.waiters).unwrap_or_default())?;
        }
        Some(lock) if lock.waiting > 0 => out::print(&waiters::lines(&lock))?,
        _ => out::print(&format!("nobody waits for {}", args.key))?,
    }
    Ok(ExitCode::SUCCESS)
}
