//! `gpulock stats`: the counters of the server, or of one lock.

use std::process::ExitCode;

use anyhow::Result;

use crate::human;
use crate::server::Address;
use crate::show::out;
use crate::stats::{self, Histogram, Stats};
use crate::text::{self, Text};

/// The options of `gpulock stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show only the counters of this lock
    #[arg(value_parser = text::name())]
    key: Option<Text>,
    /// Print a JSON object, or null if the server keeps no counters for the lock
    #[arg(long)]
    json: bool,
}

/// Prints the counters.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let key = args.key.as_ref();
    let mut connection = match key {
        Some(key) => address.for_key(&key.0).connect()?,
        None => address.connect()?,
    };
    let stats = stats::stats(&mut connection, key.map(|key| &*key.0))?;
    match stats {
        stats if args.json => out::print_json(&stats)?,
        Some(stats) => out::print(&sheet(&stats))?,
        None => {
            let key = human::or_unknown(key);
            out::print(&format!("the server keeps no counters for {key}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn sheet(stats: &Stats) -> String {
    let mut counters = out::bare();
    for (name, value) in &stats.counters {
        counters.add_row([name.clone(), value.to_string()]);
    }
    let mut times = out::table(&["", "COUNT", "MEAN", "P50", "P90", "P99"]);
    times.add_row(row("waits before a grant", &stats.wait_ms));
    times.add_row(row("holds", &stats.hold_ms));
    format!("{}\n\n{}", out::lines(counters), out::lines(times))
}

fn row(name: &str, histogram: &Histogram) -> [String; 6] {
    let percentile = |percent| human::or_unknown(histogram.percentile(percent));
    [
        name.to_owned(),
        histogram.count.to_string(),
        human::span(histogram.mean_ms()),
        percentile(50),
        percentile(90),
        percentile(99),
    ]
}
