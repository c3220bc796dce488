//! `gpulock inspect`: the details of one lock.

use std::process::ExitCode;

use anyhow::Result;

use crate::human;
use crate::replies::{self, Inspected};
use crate::server::Address;
use crate::show::exit_code::ExitCodeOption;
use crate::show::{out, waiters};
use crate::text::{self, Text};

/// The options of `gpulock inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Key of the lock
    #[arg(value_parser = text::name())]
    key: Text,
    #[command(flatten)]
    exit_code: ExitCodeOption,
    /// Print a JSON object, or null if the lock is neither held nor waited for
    #[arg(long)]
    json: bool,
}

/// Prints the lock.
///
/// # Errors
/// If the server does not reply, or replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> Result<ExitCode> {
    args.exit_code.apply(|| {
        let lock =
            replies::inspect(&mut address.for_key(&args.key.0).connect()?, &args.key.0)?;
        match &lock {
            lock if args.json => out::print_json(lock)?,
            Some(lock) => out::print(&sheet(&args.key, lock))?,
            None => out::print(&format!("{} is free and has no waiters", args.key))?,
        }
        Ok(lock.is_some_and(|lock| lock.is_held()))
    })
}

fn sheet(key: &Text, lock: &Inspected) -> String {
    let mut table = out::bare();
    table.add_row(["key".to_owned(), key.to_string()]);
    table.add_row(["owner".to_owned(), owner(lock)]);
    table.add_row(["token".to_owned(), human::or_unknown(lock.token)]);
    table.add_row(["held for".to_owned(), human::span(lock.held_ms)]);
    table.add_row(["lease left".to_owned(), human::lease(lock.lease_ms)]);
    table.add_row(["session".to_owned(), session(lock)]);
    table.add_row(["adopted".to_owned(), adopted(lock)]);
    if let Some(ms) = lock.revoked_ms {
        table.add_row(["notice".to_owned(), notice(ms, lock)]);
    }
    if let Some(share) = &lock.share {
        table.add_row(["share".to_owned(), share.to_string()]);
    }
    table.add_row(["waiting".to_owned(), lock.waiting.to_string()]);
    let sheet = out::lines(table);
    match lock.waiters.is_empty() {
        true => sheet,
        false => format!("{sheet}\n\n{}", waiters::table(lock)),
    }
}

/// When the hold ends, and why.
fn notice(ms: u64, lock: &Inspected) -> String {
    let reason =
        lock.revoked_reason.as_ref().map_or(String::new(), |it| format!(" ({it})"));
    format!("ends in {}{reason}", human::Span(ms))
}

fn owner(lock: &Inspected) -> String {
    match (&lock.owner, &lock.reserved_for, lock.adopted) {
        (Some(owner), ..) => owner.to_string(),
        (None, Some(next), _) => format!("- (free, reserved for {next})"),
        (None, None, None) => "- (free)".to_owned(),
        (None, None, Some(_)) => "- (the key's value is not an owner)".to_owned(),
    }
}

fn session(lock: &Inspected) -> String {
    match (lock.session, lock.grace_ms) {
        (Some(client), _) => format!("client {client}"),
        (None, Some(grace)) => {
            format!("closed, grace period left {}", human::Span(grace))
        }
        (None, None) => human::or_unknown(None::<u64>),
    }
}

fn adopted(lock: &Inspected) -> String {
    human::or_unknown(lock.adopted.map(|adopted| if adopted { "yes" } else { "no" }))
}
