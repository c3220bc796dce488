//! `gpulock log`: what went wrong lately.

use std::process::ExitCode;

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use crate::human;
use crate::replies::{self, Incident};
use crate::server::Address;
use crate::show::out;
use crate::text::Text;

/// The options of `gpulock log`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// At most so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    count: usize,
    /// As JSON: an array
    #[arg(long)]
    json: bool,
}

/// Shows it, the newest first.
///
/// # Errors
/// When the server does not answer, or refuses.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let incidents = replies::log(&mut address.connect()?, args.count)?;
    if args.json {
        out::print_json(&incidents)?;
    } else {
        out::print(&table(&incidents))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(incidents: &[Incident]) -> String {
    let mut table = out::table(&[
        "TIME", "KIND", "DB", "KEY", "HOLDER", "HELD FOR", "CALLER", "FROM", "REASON",
        "TIMES",
    ]);
    for incident in incidents {
        table.add_row([
            time(incident.unix_ms),
            incident.kind.clone(),
            human::or_unknown(incident.db),
            human::or_unknown(incident.key.as_ref()),
            human::or_unknown(incident.holder.as_ref()),
            human::span(incident.held_ms),
            human::or_unknown(incident.caller.as_ref()),
            human::or_unknown(incident.client.as_ref().and_then(address)),
            human::or_unknown(incident.reason.as_ref()),
            incident.count.to_string(),
        ]);
    }
    out::lines(table)
}

/// Where a client is, out of its line as in `CLIENT LIST`.
fn address(client: &Text) -> Option<Text> {
    let mut fields = client.0.split(|byte| *byte == b' ');
    fields.find_map(|field| field.strip_prefix(b"addr=")).map(|at| Text(at.to_vec()))
}

/// The local time as in RFC 3339, to the second.
fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok();
    let time = time.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    human::or_unknown(time.map(|time| {
        let local = ZonedDateTime::new(time, TimeZone::system());
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }))
}
