//! `gpulock release`: gives a lock back in its owner's name.

use std::process::ExitCode;

use anyhow::Result;
use redis::cmd;
use serde_json::json;

use crate::replies::ask;
use crate::server::Address;
use crate::show::out;
use crate::text::{self, Text};

/// The options of `gpulock release`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which lock
    #[arg(value_parser = text::argument())]
    key: Text,
    /// Who holds it
    #[arg(long, value_parser = text::argument())]
    owner: Text,
    /// Only the hold with this fencing token
    #[arg(long, value_name = "N")]
    token: Option<u64>,
    /// Told in the event, at most 64 bytes
    #[arg(long, value_name = "TEXT", value_parser = text::argument())]
    reason: Option<Text>,
    /// Answers as JSON: an object
    #[arg(long)]
    json: bool,
}

/// Gives it back; fails when the owner does not hold it.
///
/// # Errors
/// When the server does not answer, or refuses.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let mut command = cmd("GPULOCK.RELEASE");
    command.arg(&args.key.0).arg(&args.owner.0);
    if let Some(token) = args.token {
        command.arg("TOKEN").arg(token);
    }
    if let Some(reason) = &args.reason {
        command.arg("REASON").arg(&reason.0);
    }
    let released = ask(&mut address.connect()?, &command)?;
    if args.json {
        out::print_json(&json!({ "key": args.key, "released": released }))?;
    } else if released {
        out::print(&format!("{} released", args.key))?;
    }
    Ok(if released { ExitCode::SUCCESS } else { refused(args) })
}

fn refused(args: &Args) -> ExitCode {
    let token = args.token.map(|token| format!(" with token {token}"));
    let token = token.unwrap_or_default();
    let Args { key, owner, .. } = args;
    eprintln!("gpulock: {key} is not held by {owner}{token}: nothing changed");
    ExitCode::FAILURE
}
