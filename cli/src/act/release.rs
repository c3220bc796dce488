//! `gpulock release`: releases a lock on behalf of its owner, or a reservation.

use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use redis::cmd;
use serde_json::json;

use crate::act::release_reservation;
use crate::act::reservation::Reservation;
use crate::connection::Connection;
use crate::exit;
use crate::replies::query;
use crate::server::Address;
use crate::show::out;
use crate::text::{self, Text};

/// The options of `gpulock release`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Key of the lock [default: the locks that `gpulock reserve` has reserved for this shell]
    #[arg(value_parser = text::name(), requires = "owner")]
    key: Option<Text>,
    /// Owner of the lock
    #[arg(long, value_parser = text::name(), requires = "key")]
    owner: Option<Text>,
    /// Release the lock only if its hold has this fencing token
    #[arg(long, value_name = "N", requires = "key")]
    token: Option<u64>,
    /// Reason to publish in the event, up to 64 bytes
    #[arg(long, value_name = "TEXT", value_parser = text::argument())]
    reason: Option<Text>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Releases the lock or the reservation; fails if it is not held.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    if let (Some(key), Some(owner)) = (&args.key, &args.owner) {
        return release_lock(address, key, owner, args);
    }
    let reservation = Reservation::from_environment().unwrap_or_else(|error| {
        let why = format!("{}\n", exit::message(&error));
        clap::Error::raw(ErrorKind::MissingRequiredArgument, why).exit()
    });
    release_reservation::run(address, &reservation, args.reason.as_ref(), args.json)
}

/// Releases a lock. Returns whether the owner held it, with this token.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(super) fn release(
    connection: &mut Connection,
    key: &Text,
    owner: &Text,
    token: Option<u64>,
    reason: Option<&Text>,
) -> Result<bool> {
    let mut command = cmd("GPULOCK.RELEASE");
    command.arg(&key.0).arg(&owner.0);
    if let Some(token) = token {
        command.arg("TOKEN").arg(token);
    }
    if let Some(reason) = reason {
        command.arg("REASON").arg(&reason.0);
    }
    query(connection, &command)
}

fn release_lock(
    address: &Address,
    key: &Text,
    owner: &Text,
    args: &Args,
) -> Result<ExitCode> {
    let mut connection = address.for_key(&key.0).connect()?;
    let reason = args.reason.as_ref();
    let released = release(&mut connection, key, owner, args.token, reason)?;
    if args.json {
        out::print_json(&json!({ "key": key, "released": released }))?;
    } else if released {
        out::print(&format!("{key} released"))?;
    }
    Ok(if released { ExitCode::SUCCESS } else { not_released(key, owner, args.token) })
}

fn not_released(key: &Text, owner: &Text, token: Option<u64>) -> ExitCode {
    let token = token.map(|token| format!(" with token {token}"));
    let token = token.unwrap_or_default();
    exit::note(&format!("not released: {key} is not held by {owner}{token}"));
    ExitCode::FAILURE
}
