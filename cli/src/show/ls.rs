//! `gpulock ls`: the locks that are held or waited for.

use std::process::ExitCode;

use anyhow::Result;

use crate::human;
use crate::replies::{self, Listed};
use crate::server::Address;
use crate::show::out;
use crate::text::{self, Text};

/// The options of `gpulock ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show only keys that match this glob-style pattern, as in KEYS
    #[arg(long = "match", value_name = "PATTERN", default_value = "*",
          value_parser = text::argument())]
    pattern: Text,
    /// Maximum number of locks
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Prints the locks.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let locks = replies::list(&mut address.connect()?, &args.pattern.0, args.limit)?;
    if args.json {
        out::print_json(&locks)?;
    } else {
        out::print(&table(&locks))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(locks: &[Listed]) -> String {
    let mut table =
        out::table(&["KEY", "OWNER", "HELD FOR", "LEASE LEFT", "WAITING", "TOKEN"]);
    for lock in locks {
        table.add_row([
            lock.key.to_string(),
            human::or_unknown(lock.owner.as_ref()),
            human::span(lock.held_ms),
            human::lease(lock.lease_ms),
            lock.waiting.to_string(),
            human::or_unknown(lock.token),
        ]);
    }
    out::lines(table)
}
