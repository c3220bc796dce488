//! Parses the command line, with help and tips that clap alone does not give.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Error, FromArgMatches, Parser};

use crate::manual::texts;
use crate::{Cli, Internal, completions, exit, run};

/// The subcommands of [`Internal`].
const INTERNAL: [&str; 3] =
    [run::child::HELPER, run::watchdog::HELPER, completions::candidates::HELPER];

/// The status of an invalid command line, as that of clap.
const USAGE: i32 = 2;

/// The command line of a process that `gpulock` started itself; None for that of a user. Ends the
/// process if it is invalid.
pub(crate) fn internal() -> Option<Internal> {
    let name = env::args_os().nth(1)?;
    INTERNAL.iter().any(|internal| name == **internal).then(Internal::parse)
}

/// The command line of a user. Ends the process after `--help` and `--version`, and if the command
/// line is invalid.
pub(crate) fn parse() -> Cli {
    let args: Vec<_> = env::args_os().collect();
    try_parse(&args).unwrap_or_else(|error| match error.kind() {
        ErrorKind::MissingSubcommand => exit_with_help(),
        _ => exit_with(&error),
    })
}

/// The command of clap that parses the command line, with the whole help.
pub(crate) fn command() -> clap::Command {
    let with_sections = |subcommand: clap::Command| {
        let sections = texts::sections(subcommand.get_name());
        match sections {
            Some(sections) => subcommand.after_long_help(sections.help()),
            None => subcommand,
        }
    };
    Cli::command().after_long_help(texts::GENERAL.help()).mut_subcommands(with_sections)
}

fn try_parse(args: &[OsString]) -> Result<Cli, Error> {
    // Without the text that only the help needs: to compose it takes as long as to parse.
    let matches = match Cli::command().try_get_matches_from(args) {
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            command().try_get_matches_from(args)?
        }
        Err(error) if error.kind() == ErrorKind::UnknownArgument => {
            return Err(with_tip(error, args));
        }
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            return Err(with_whole_usage(error, args));
        }
        matches => matches?,
    };
    Cli::from_arg_matches(&matches)
}

/// Replaces the usage, in which clap lists options that an environment variable sets as if they
/// were required.
fn with_whole_usage(mut error: Error, args: &[OsString]) -> Error {
    let mut command = command();
    command.build();
    let names = args.iter().skip(1);
    let name = names.into_iter().find(|name| command.find_subcommand(name).is_some());
    if let Some(subcommand) = name.and_then(|name| command.find_subcommand_mut(name)) {
        let usage = ContextValue::StyledStr(subcommand.render_usage());
        error.insert(ContextKind::Usage, usage);
    }
    error
}

/// Prints an error of clap, or the help or version that was asked for, and ends the process. clap
/// does not report that it could not write them.
fn exit_with(error: &Error) -> ! {
    let status = match error.print() {
        Err(why) if !error.use_stderr() && why.kind() != io::ErrorKind::BrokenPipe => {
            exit::note(&format!("failed to write the output: {why}"));
            1
        }
        _ => error.exit_code(),
    };
    process::exit(status)
}

/// Prints the help, and ends the process. clap prints it only if no environment variable sets an
/// option.
fn exit_with_help() -> ! {
    // Standard error may be closed.
    let _closed = write!(io::stderr(), "{}", command().render_help());
    process::exit(USAGE)
}

/// Replaces clap's tip if the arguments would be valid with a `--`.
fn with_tip(mut error: Error, args: &[OsString]) -> Error {
    let unexpected = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(unexpected)) => unexpected.clone(),
        _ => return error,
    };
    if let Some(command) = command_without_dashes(args, &unexpected) {
        let line: Vec<_> = command.iter().map(quoted).collect();
        let line = line.join(" ");
        // Without the options, which may contain a password.
        let tip = format!("put `--` before the command: gpulock run … -- {line}");
        let tip = StyledStr::from(tip);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// The arguments from the unexpected one on, which may also occur as a value earlier, if they are a
/// command that lacks a `--` before it. A mistyped option is none.
fn command_without_dashes<'a>(
    args: &'a [OsString],
    unexpected: &str,
) -> Option<&'a [OsString]> {
    if unexpected.starts_with('-') || args.iter().any(|arg| arg == "--") {
        return None;
    }
    let is_unexpected = |(_, arg): &(usize, &OsString)| *arg == unexpected;
    args.iter().enumerate().filter(is_unexpected).find_map(|(index, _)| {
        let mut with_dashes = args.to_vec();
        with_dashes.insert(index, "--".into());
        let matches = command().try_get_matches_from(&with_dashes).ok()?;
        let is_run = matches.subcommand_name() == Some("run");
        args.get(index..).filter(|_| is_run)
    })
}

/// The argument as it is typed in a shell.
fn quoted(argument: &OsString) -> String {
    let text = argument.to_string_lossy();
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "_-./:=@%+,".contains(it);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(line: &str) -> String {
        let args: Vec<_> = line.split(' ').map(OsString::from).collect();
        try_parse(&args).expect_err("the command line is invalid").to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_missing_separator_gets_a_tip_with_the_command() {
        #[rustfmt::skip]
        let cases = [
            ("gpulock run --key k sleep 5",      "sleep 5"),
            ("/bin/gpulock run --key k sleep 5", "sleep 5"),
            ("gpulock run --key sleep sleep 5",  "sleep 5"),
            ("gpulock run --key {h}:0 sh -c a;", "sh -c 'a;'"),
        ];
        for (line, expected) in cases {
            let error = error_of(line);
            let expected = format!(
                "tip: put `--` before the command: gpulock run … -- {expected}\n"
            );
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn other_unexpected_arguments_get_no_such_tip() {
        for line in [
            "gpulock ls --nothing",
            "gpulock run sleep 5",
            "gpulock top x",
            "gpulock run --key k --weit 5s -- sleep 5",
            "gpulock run --key k --weit",
            "gpulock run --key k sleep -- 5",
        ] {
            assert!(!error_of(line).contains("before the command"), "{line}");
        }
    }
}
