//! `gpulock log`: the last log entries.

use std::process::ExitCode;

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use crate::human;
use crate::replies::{self, LogEntry};
use crate::server::Address;
use crate::show::out;
use crate::text::Text;

/// The options of `gpulock log`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Maximum number of entries
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    count: usize,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Prints the entries, newest first.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let entries = replies::log(&mut address.connect()?, args.count)?;
    if args.json {
        out::print_json(&entries)?;
    } else {
        out::print(&table(&entries))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: &[LogEntry]) -> String {
    let mut table = out::table(&[
        "TIME", "KIND", "DB", "KEY", "HOLDER", "HELD FOR", "CALLER", "ADDRESS", "REASON",
        "COUNT",
    ]);
    for entry in entries {
        table.add_row([
            time(entry.unix_ms),
            entry.kind.clone(),
            human::or_unknown(entry.db),
            human::or_unknown(entry.key.as_ref()),
            human::or_unknown(entry.holder.as_ref()),
            human::span(entry.held_ms),
            human::or_unknown(entry.caller.as_ref()),
            human::or_unknown(entry.client.as_ref().and_then(address)),
            human::or_unknown(entry.reason.as_ref()),
            entry.count.to_string(),
        ]);
    }
    out::lines(table)
}

/// The address of a client, from its line of `CLIENT LIST`.
fn address(client: &Text) -> Option<Text> {
    let mut fields = client.0.split(|byte| *byte == b' ');
    fields.find_map(|field| field.strip_prefix(b"addr=")).map(|at| Text(at.to_vec()))
}

/// The local time in RFC 3339 format, to the second.
fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok();
    let time = time.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    human::or_unknown(time.map(|time| {
        let local = ZonedDateTime::new(time, TimeZone::system());
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }))
}
