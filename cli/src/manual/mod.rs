//! `gpulock completions` and `gpulock man`: generated from the command's own options, for
//! packages; and the help on exit statuses, environment variables and examples.

mod page;
pub(crate) mod sections;
pub(crate) mod texts;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, command_line};

/// The options of `gpulock completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Shell to print completions for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// The options of `gpulock man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Output directory; created if missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the completion script.
pub(crate) fn completions(args: &Completions) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gpulock", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for each command.
pub(crate) fn man(args: &Man) -> Result<ExitCode> {
    let at = || format!("failed to write the manual pages to {}", args.folder.display());
    fs::create_dir_all(&args.folder).with_context(at)?;
    let mut command = command_line::command().disable_help_subcommand(true);
    command.build();
    page::write(&command, &texts::GENERAL, &args.folder).with_context(at)?;
    for subcommand in command.get_subcommands() {
        let sections =
            texts::sections(subcommand.get_name()).expect("a command with sections");
        page::write(subcommand, &sections, &args.folder).with_context(at)?;
    }
    Ok(ExitCode::SUCCESS)
}
