//! `gpulock force`: releases a lock by force, after a confirmation. It then releases exactly
//! the hold that it showed.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use crate::act::forced_release::{Expected, force_release};
use crate::connection::Connection;
use crate::replies::{self, Inspected};
use crate::server::Address;
use crate::show::out;
use crate::text::{self, Text};
use crate::{exit, human};

/// The options of `gpulock force`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("expected").required(true).multiple(true))]
pub(crate) struct Args {
    /// Key of the lock
    #[arg(value_parser = text::name())]
    key: Text,
    /// Release the lock only if this owner holds it
    #[arg(long, group = "expected", value_parser = text::name())]
    owner: Option<Text>,
    /// Release the lock only if its hold has this fencing token
    #[arg(long, value_name = "N", group = "expected")]
    token: Option<u64>,
    /// Release the lock regardless of its owner and token
    #[arg(long, group = "expected", conflicts_with_all = ["owner", "token"])]
    any: bool,
    /// Reason to publish in the event and write to the log, up to 64 bytes
    #[arg(long, value_name = "TEXT", value_parser = text::argument())]
    reason: Option<Text>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Releases the lock; fails if nothing was released.
///
/// # Errors
/// If a confirmation is required and there is no terminal, or the server does not reply or
/// replies with an error.
pub(crate) fn run(address: &Address, args: &Args) -> anyhow::Result<ExitCode> {
    if !args.yes && !io::stdin().is_terminal() {
        bail!("cannot ask for confirmation without a terminal: use --yes");
    }
    let mut connection = address.for_key(&args.key.0).connect()?;
    let outcome = attempt(&mut connection, args)?;
    if args.json {
        let owner = outcome.as_ref().ok();
        out::print_json(&json!({ "key": args.key, "taken_from": owner }))?;
    }
    match outcome {
        Ok(_) if args.json => Ok(ExitCode::SUCCESS),
        Ok(owner) => {
            out::print(&format!("{} released; it was held by {owner}", args.key))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            exit::note(&format!("not released: {why}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The former owner, or why nothing was released.
type Outcome = Result<Text, String>;

fn attempt(connection: &mut Connection, args: &Args) -> anyhow::Result<Outcome> {
    let given = Expected { owner: args.owner.clone(), token: args.token };
    let expected =
        if args.yes { Ok(given) } else { confirmed(connection, &args.key, &given)? };
    let expected = match expected {
        Ok(expected) => expected,
        Err(why) => return Ok(Err(why)),
    };
    let former = force_release(connection, &args.key, &expected, args.reason.as_ref())?;
    Ok(former.ok_or_else(|| no_such_hold(&args.key)))
}

/// The hold that was shown and confirmed, or why there is none.
fn confirmed(
    connection: &mut Connection,
    key: &Text,
    given: &Expected,
) -> anyhow::Result<Result<Expected, String>> {
    let lock = replies::inspect(connection, &key.0)?;
    let held = lock.filter(|lock| lock.owner.is_some() && given.matches(lock));
    Ok(match held {
        None => Err(no_such_hold(key)),
        Some(lock) if confirm(key, &lock)? => Ok(Expected::exactly(&lock)),
        Some(_) => Err("not confirmed".to_owned()),
    })
}

fn no_such_hold(key: &Text) -> String {
    format!("{key} is not held, or no longer held, by this owner with this token")
}

/// Shows the hold, and asks for confirmation.
fn confirm(key: &Text, lock: &Inspected) -> anyhow::Result<bool> {
    let mut terminal = io::stderr().lock();
    write!(
        terminal,
        "{key} is held by {}\nfor {}, token {}, lease left {}, {} waiting\n\
         The holder's job is not stopped. Release the lock? [y/N] ",
        human::or_unknown(lock.owner.as_ref()),
        human::span(lock.held_ms),
        human::or_unknown(lock.token),
        human::lease(lock.lease_ms),
        lock.waiting,
    )?;
    terminal.flush()?;
    let mut reply = String::new();
    io::stdin().read_line(&mut reply)?;
    Ok(matches!(reply.trim(), "y" | "Y" | "yes"))
}
