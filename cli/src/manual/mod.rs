//! `gpulock man`: manual pages, generated from the command's own options; and the help on exit
//! statuses, environment variables and examples.

mod page;
pub(crate) mod sections;
pub(crate) mod texts;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::command_line;

/// The options of `gpulock man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Output directory; created if missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
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
