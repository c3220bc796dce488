//! `gpulock ls`: the locks that are held or waited for.

use std::process::ExitCode;

use anyhow::Result;

use crate::cards;
use crate::replies::{self, Listed};
use crate::server::Address;
use crate::show::exit_code::ExitCodeOption;
use crate::show::out;
use crate::text::{self, Text};
use crate::{exit, human};

/// The largest number of locks that the server accepts as a limit.
const MAX_LIMIT: usize = (1 << 53) - 1;

/// The options of `gpulock ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show only this lock
    #[arg(value_parser = text::name())]
    key: Option<Text>,
    /// Show only keys that match this glob-style pattern, as in KEYS
    #[arg(long = "match", value_name = "PATTERN", default_value = "*", conflicts_with = "key",
          value_parser = text::argument())]
    pattern: Text,
    /// Maximum number of locks
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    exit_code: ExitCodeOption,
    /// Show each slot of a GPU instead of the GPU
    #[arg(long)]
    slots: bool,
    /// Print a JSON array, with each slot of a GPU
    #[arg(long)]
    json: bool,
}

/// Prints the locks.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    args.exit_code.apply(|| {
        let locks = locks(address, args)?;
        let is_held = locks.iter().any(Listed::is_held);
        if args.json {
            out::print_json(&locks)?;
        } else if args.slots || args.key.is_some() {
            out::print(&table(&locks))?;
        } else {
            out::print(&table(&cards::merged(locks)))?;
        }
        Ok(is_held)
    })
}

fn locks(address: &Address, args: &Args) -> Result<Vec<Listed>> {
    if let Some(key) = &args.key {
        let lock = replies::inspect(&mut address.for_key(&key.0).connect()?, &key.0)?;
        return Ok(lock.map(|lock| lock.listed_as(key.clone())).into_iter().collect());
    }
    let mut connection = address.connect()?;
    let limit = args.limit.min(MAX_LIMIT - 1);
    let mut locks = replies::list(&mut connection, &args.pattern.0, limit + 1)?;
    if locks.len() > limit {
        locks.truncate(limit);
        exit::note(&format!(
            "there are more locks than these {limit}: use -n to show more"
        ));
    }
    Ok(locks)
}

/// The remaining lease, and whether the holder was given notice.
fn lease(lock: &Listed) -> String {
    let lease = human::lease(lock.lease_ms);
    if lock.revoked_ms.is_some() { format!("{lease} (notice)") } else { lease }
}

fn table(locks: &[Listed]) -> String {
    let mut table =
        out::table(&["KEY", "OWNER", "HELD FOR", "LEASE LEFT", "WAITING", "TOKEN"]);
    for lock in locks {
        table.add_row([
            lock.key.to_string(),
            human::or_unknown(lock.owner.as_ref()),
            human::span(lock.held_ms),
            lease(lock),
            lock.waiting.to_string(),
            human::or_unknown(lock.token),
        ]);
    }
    out::lines(table)
}
