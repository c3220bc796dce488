//! `gpulock force`: releases a lock by force, at once or after a notice. It asks for
//! confirmation, and then releases exactly the hold that it showed.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::json;

use crate::act::forced_release::{Expected, force_release};
use crate::clock;
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
    /// Give notice: the hold ends after this time, and `gpulock run` terminates its command at
    /// once with TERM
    #[arg(long, value_name = "TIME", value_parser = notice)]
    after: Option<Duration>,
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

/// Releases the lock or gives notice; fails if there is no such hold.
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
        out::print_json(&args.json_result(outcome.as_ref().ok()))?;
    }
    match outcome {
        Ok(_) if args.json => Ok(ExitCode::SUCCESS),
        Ok(owner) => {
            out::print(&args.result(&owner))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            let not_done = args.after.map_or("not released", |_| "no notice given");
            exit::note(&format!("{not_done}: {why}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

impl Args {
    fn result(&self, owner: &Text) -> String {
        let key = &self.key;
        match self.after {
            None => format!("{key} released; it was held by {owner}"),
            Some(after) => format!(
                "{key}: notice given to {owner}; the hold ends in {} at the latest",
                humantime::format_duration(after)
            ),
        }
    }

    fn json_result(&self, owner: Option<&Text>) -> serde_json::Value {
        let key = &self.key;
        match self.after.map(clock::millis) {
            None => json!({ "key": key, "taken_from": owner }),
            Some(after) => json!({ "key": key, "notice_to": owner, "after_ms": after }),
        }
    }

    /// What happens to the holder, and the question.
    fn question(&self) -> String {
        match self.after {
            None => "The holder's job is not stopped. Release the lock?".to_owned(),
            Some(after) => format!(
                "A command of `gpulock run` gets TERM at once; other jobs are not stopped.\n\
                 End the hold in {}?",
                humantime::format_duration(after)
            ),
        }
    }
}

/// A notice of this length.
fn notice(text: &str) -> anyhow::Result<Duration> {
    const MIN: Duration = Duration::from_millis(1);
    let notice = humantime::parse_duration(text)?;
    ensure!(notice >= MIN, "must be at least 1ms");
    Ok(notice)
}

/// The owner, or why there was no effect.
type Outcome = Result<Text, String>;

fn attempt(connection: &mut Connection, args: &Args) -> anyhow::Result<Outcome> {
    let given = Expected { owner: args.owner.clone(), token: args.token };
    let expected =
        if args.yes { Ok(given) } else { confirmed(connection, args, &given)? };
    let expected = match expected {
        Ok(expected) => expected,
        Err(why) => return Ok(Err(why)),
    };
    let Args { key, after, reason, .. } = args;
    let owner = force_release(connection, key, &expected, *after, reason.as_ref())?;
    Ok(owner.ok_or_else(|| no_such_hold(&args.key)))
}

/// The hold that was shown and confirmed, or why there is none.
fn confirmed(
    connection: &mut Connection,
    args: &Args,
    given: &Expected,
) -> anyhow::Result<Result<Expected, String>> {
    let key = &args.key;
    let lock = replies::inspect(connection, &key.0)?;
    let held = lock.filter(|lock| lock.owner.is_some() && given.matches(lock));
    Ok(match held {
        None => Err(no_such_hold(key)),
        Some(lock) if confirm(args, &lock)? => Ok(Expected::exactly(&lock)),
        Some(_) => Err("not confirmed".to_owned()),
    })
}

fn no_such_hold(key: &Text) -> String {
    format!("{key} is not held, or no longer held, by this owner with this token")
}

/// Shows the hold, and asks for confirmation.
fn confirm(args: &Args, lock: &Inspected) -> anyhow::Result<bool> {
    let mut terminal = io::stderr().lock();
    write!(
        terminal,
        "{} is held by {}\nfor {}, token {}, lease left {}, {} waiting\n\
         {} [y/N] ",
        args.key,
        human::or_unknown(lock.owner.as_ref()),
        human::span(lock.held_ms),
        human::or_unknown(lock.token),
        human::lease(lock.lease_ms),
        lock.waiting,
        args.question(),
    )?;
    terminal.flush()?;
    let mut reply = String::new();
    io::stdin().read_line(&mut reply)?;
    Ok(matches!(reply.trim(), "y" | "Y" | "yes"))
}
