//! `gpulock log`: the last log entries, as a table, a growing table or JSON.

use std::process::ExitCode;

use anyhow::Result;

use crate::fit::width;
use crate::human;
use crate::replies::{self, LogEntry};
use crate::server::Address;
use crate::show::follow::follow;
use crate::show::out;
use crate::text::Text;

/// The number of entries without and with `--follow`.
const COUNT: usize = 128;
const COUNT_BEFORE_FOLLOWING: usize = 10;

const NAMES: [&str; 10] = [
    "TIME", "KIND", "DB", "KEY", "HOLDER", "HELD FOR", "CALLER", "ADDRESS", "REASON",
    "COUNT",
];

/// The options of `gpulock log`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Maximum number of entries [default: 128; with --follow: 10]
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<usize>,
    /// Keep printing new entries as they are written, oldest first. A repeated entry is printed
    /// again, with its new count
    #[arg(short, long)]
    follow: bool,
    /// Print a JSON array; with --follow: a JSON object on each line
    #[arg(long)]
    json: bool,
}

/// Prints the entries, newest first.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    match (args.follow, args.json) {
        (true, true) => follow_as_json(address, args)?,
        (true, false) => follow_as_rows(address, args)?,
        (false, _) => print_once(address, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_once(address: &Address, args: &Args) -> Result<()> {
    let entries = replies::log(&mut address.connect()?, args.count.unwrap_or(COUNT))?;
    if args.json {
        return out::print_json(&entries);
    }
    let mut table = out::table(&NAMES);
    for entry in &entries {
        table.add_row(cells(entry));
    }
    out::print(&out::lines(table))
}

fn follow_as_json(address: &Address, args: &Args) -> Result<()> {
    let count = args.count.unwrap_or(COUNT_BEFORE_FOLLOWING);
    follow(address, count, |entries| {
        entries.iter().try_for_each(|entry| out::print(&serde_json::to_string(entry)?))
    })
}

fn follow_as_rows(address: &Address, args: &Args) -> Result<()> {
    let count = args.count.unwrap_or(COUNT_BEFORE_FOLLOWING);
    let mut rows = Rows::default();
    follow(address, count, |entries| {
        let cells: Vec<_> = entries.iter().map(cells).collect();
        rows.print(&cells)
    })
}

fn cells(entry: &LogEntry) -> [String; NAMES.len()] {
    [
        human::local_time(entry.unix_ms),
        entry.kind.clone(),
        human::or_unknown(entry.db),
        human::or_unknown(entry.key.as_ref()),
        human::or_unknown(entry.holder.as_ref()),
        human::span(entry.held_ms),
        human::or_unknown(entry.caller.as_ref()),
        human::or_unknown(entry.client.as_ref().and_then(address)),
        human::or_unknown(entry.reason.as_ref()),
        entry.count.to_string(),
    ]
}

/// A table that grows: its columns have the widths of the first rows, at least those of usual
/// values.
struct Rows {
    widths: [usize; NAMES.len()],
    has_header: bool,
}

impl Default for Rows {
    fn default() -> Self {
        Self { widths: [25, 19, 2, 16, 16, 8, 16, 21, 8, 5], has_header: false }
    }
}

impl Rows {
    fn print(&mut self, rows: &[[String; NAMES.len()]]) -> Result<()> {
        if !self.has_header {
            for cells in rows {
                for (cell, room) in cells.iter().zip(&mut self.widths) {
                    *room = width(cell).max(*room);
                }
            }
            self.has_header = true;
            out::print(&self.row(&NAMES.map(str::to_owned)))?;
        }
        rows.iter().try_for_each(|cells| out::print(&self.row(cells)))
    }

    fn row(&self, cells: &[String]) -> String {
        let padded = cells.iter().zip(self.widths).map(|(cell, room)| {
            let space = room.saturating_sub(width(cell));
            format!("{cell}{:space$}", "")
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// The address of a client, from its line of `CLIENT LIST`.
fn address(client: &Text) -> Option<Text> {
    let mut fields = client.0.split(|byte| *byte == b' ');
    fields.find_map(|field| field.strip_prefix(b"addr=")).map(|at| Text(at.to_vec()))
}
