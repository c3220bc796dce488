//! `__complete`: prints candidates for the last word of a command line, for the scripts of the
//! shells.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Command, FromArgMatches};
use clap_complete::CompletionCandidate;
use clap_complete::engine::complete;

use super::keys;
use crate::command_line;
use crate::server::Address;
use crate::show::out;

/// Name of the hidden subcommand.
pub(crate) const HELPER: &str = "__complete";

/// The arguments of the hidden subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The words of the command line up to the cursor, unquoted, beginning with the program
    #[arg(last = true, required = true)]
    words: Vec<OsString>,
}

/// Prints a line for each candidate: the word, a tab, and its description. Without a server that
/// replies soon, it prints no keys.
///
/// # Errors
/// If the write fails, except with a closed pipe.
pub(crate) fn print(args: &Args) -> Result<ExitCode> {
    let Some((current, before)) = args.words.split_last() else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut command = command_line::command();
    if let Some(address) = address(&command, before) {
        command = keys::complete(command, &address);
    }
    let dir = env::current_dir().ok();
    let index = before.len();
    let found = complete(&mut command, args.words.clone(), index, dir.as_deref());
    let is_option = current.as_encoded_bytes().starts_with(b"-");
    let lines = found.into_iter().flatten().filter_map(|it| line(&it, is_option));
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        out::print(&lines.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The server that the words name.
fn address(command: &Command, before: &[OsString]) -> Option<Address> {
    let incomplete = command.clone().ignore_errors(true);
    let matches = incomplete.try_get_matches_from(before).ok()?;
    Address::from_arg_matches(&matches).ok()
}

/// A line for a candidate. None for hidden ones, for options where no option has been begun, and
/// for text that a shell may not be able to insert.
fn line(candidate: &CompletionCandidate, is_option: bool) -> Option<String> {
    let word = candidate.get_value().to_str()?;
    let is_wanted = is_option || !word.starts_with('-');
    if !is_wanted || candidate.is_hide_set() || word.contains(char::is_control) {
        return None;
    }
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    Some(format!("{word}\t{}", help.lines().next().unwrap_or_default()))
}
