//! `gpulock force`: takes a lock away from its holder. It asks first; what it then takes
//! is the very hold that it showed.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use crate::act::take::{Guard, take};
use crate::connection::Connection;
use crate::human;
use crate::replies::{self, Inspected};
use crate::server::Address;
use crate::show::out;
use crate::text::{self, Text};

/// The options of `gpulock force`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("guard").required(true).multiple(true))]
pub(crate) struct Args {
    /// Which lock
    #[arg(value_parser = text::argument())]
    key: Text,
    /// Only from this owner
    #[arg(long, group = "guard", value_parser = text::argument())]
    owner: Option<Text>,
    /// Only the hold with this fencing token
    #[arg(long, value_name = "N", group = "guard")]
    token: Option<u64>,
    /// From whoever holds it
    #[arg(long, group = "guard", conflicts_with_all = ["owner", "token"])]
    any: bool,
    /// Told in the event and the log, at most 64 bytes
    #[arg(long, value_name = "TEXT", value_parser = text::argument())]
    reason: Option<Text>,
    /// Does not ask
    #[arg(short, long)]
    yes: bool,
    /// Answers as JSON: an object
    #[arg(long)]
    json: bool,
}

/// Takes it; fails when nothing was taken.
///
/// # Errors
/// When there is nobody to ask, or the server does not answer, or refuses.
pub(crate) fn run(address: &Address, args: &Args) -> anyhow::Result<ExitCode> {
    if !args.yes && !io::stdin().is_terminal() {
        bail!("force asks first, and there is no terminal to ask on: say --yes");
    }
    let mut connection = address.connect()?;
    let outcome = attempt(&mut connection, args)?;
    if args.json {
        let owner = outcome.as_ref().ok();
        out::print_json(&json!({ "key": args.key, "taken_from": owner }))?;
    }
    match outcome {
        Ok(_) if args.json => Ok(ExitCode::SUCCESS),
        Ok(owner) => {
            out::print(&format!("{} taken from {owner}", args.key))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            eprintln!("gpulock: nothing taken: {why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// From whom it was taken, or why from nobody.
type Outcome = Result<Text, String>;

fn attempt(connection: &mut Connection, args: &Args) -> anyhow::Result<Outcome> {
    let given = Guard { owner: args.owner.clone(), token: args.token };
    let guard = if args.yes { Ok(given) } else { ask(connection, &args.key, &given)? };
    let guard = match guard {
        Ok(guard) => guard,
        Err(why) => return Ok(Err(why)),
    };
    let taken = take(connection, &args.key, &guard, args.reason.as_ref())?;
    Ok(taken.ok_or_else(|| not_so(&args.key)))
}

/// The very hold that was shown and agreed to, or why there is none.
fn ask(
    connection: &mut Connection,
    key: &Text,
    given: &Guard,
) -> anyhow::Result<Result<Guard, String>> {
    let lock = replies::inspect(connection, &key.0)?;
    let held = lock.filter(|lock| lock.owner.is_some() && given.admits(lock));
    Ok(match held {
        None => Err(not_so(key)),
        Some(lock) if agreed(key, &lock)? => Ok(Guard::of(&lock)),
        Some(_) => Err("not agreed to".to_owned()),
    })
}

fn not_so(key: &Text) -> String {
    format!("{key} is not, or no longer, held so")
}

/// Shows who would lose the lock, and asks.
fn agreed(key: &Text, lock: &Inspected) -> anyhow::Result<bool> {
    let mut terminal = io::stderr().lock();
    write!(
        terminal,
        "{key} is held by {}\nfor {}, token {}, lease left {}, {} waiting\n\
         Its job is not stopped. Take the lock away? [y/N] ",
        human::or_unknown(lock.owner.as_ref()),
        human::span(lock.held_ms),
        human::or_unknown(lock.token),
        human::lease(lock.lease_ms),
        lock.waiting,
    )?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
