//! `gpulock release`: releases a lock on behalf of its owner.

use std::process::ExitCode;

use anyhow::Result;
use redis::cmd;
use serde_json::json;

use crate::exit;
use crate::replies::query;
use crate::server::Address;
use crate::show::out;
use crate::text::{self, Text};

/// The options of `gpulock release`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Key of the lock
    #[arg(value_parser = text::name())]
    key: Text,
    /// Owner of the lock
    #[arg(long, value_parser = text::name())]
    owner: Text,
    /// Release the lock only if its hold has this fencing token
    #[arg(long, value_name = "N")]
    token: Option<u64>,
    /// Reason to publish in the event, up to 64 bytes
    #[arg(long, value_name = "TEXT", value_parser = text::argument())]
    reason: Option<Text>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Releases the lock; fails if the owner does not hold it.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    let mut command = cmd("GPULOCK.RELEASE");
    command.arg(&args.key.0).arg(&args.owner.0);
    if let Some(token) = args.token {
        command.arg("TOKEN").arg(token);
    }
    if let Some(reason) = &args.reason {
        command.arg("REASON").arg(&reason.0);
    }
    let released = query(&mut address.for_key(&args.key.0).connect()?, &command)?;
    if args.json {
        out::print_json(&json!({ "key": args.key, "released": released }))?;
    } else if released {
        out::print(&format!("{} released", args.key))?;
    }
    Ok(if released { ExitCode::SUCCESS } else { not_released(args) })
}

fn not_released(args: &Args) -> ExitCode {
    let token = args.token.map(|token| format!(" with token {token}"));
    let token = token.unwrap_or_default();
    let Args { key, owner, .. } = args;
    exit::note(&format!("not released: {key} is not held by {owner}{token}"));
    ExitCode::FAILURE
}
