//! `gpulock completions`: the scripts for shells. Those for bash, zsh and fish call a hidden
//! subcommand, [`candidates`], which also knows the keys of the server's locks ([`keys`]).

pub(crate) mod candidates;
mod keys;

use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;

use crate::command_line;
use crate::show::out;

/// The options of `gpulock completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shell to print completions for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the completion script.
///
/// # Errors
/// If the write fails, except with a closed pipe.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let script = match args.shell {
        Shell::Bash => include_str!("gpulock.bash").to_owned(),
        Shell::Zsh => include_str!("gpulock.zsh").to_owned(),
        Shell::Fish => include_str!("gpulock.fish").to_owned(),
        other => without_keys(other)?,
    };
    out::print(script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// A script that knows commands and options only.
fn without_keys(shell: Shell) -> Result<String> {
    let without_aliases = |command: clap::Command| command.alias(None);
    let mut command = command_line::command().mut_subcommands(without_aliases);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "gpulock", &mut script);
    Ok(String::from_utf8(script)?)
}
