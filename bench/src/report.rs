//! The subcommand `report`: renders runs as tables, on a page or on the terminal.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::series::Run;
use crate::{markdown, tables};

/// Print runs as tables, or update the tables of a page
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Runs written by `measure`, one for each server, oldest server first
    #[arg(required = true, value_name = "RUN.json")]
    runs: Vec<PathBuf>,
    /// Page whose blocks to update, instead of printing all tables
    #[arg(long, value_name = "PAGE.md")]
    into: Option<PathBuf>,
}

impl Report {
    /// Runs the subcommand.
    pub(crate) fn run(&self) -> Result<()> {
        let runs: Vec<Run> =
            self.runs.iter().map(|path| Run::read(path)).collect::<Result<_>>()?;
        match &self.into {
            Some(path) => update(path, &runs)?,
            None => print(&runs),
        }
        Ok(())
    }
}

/// Updates the blocks of a page. On an error the page stays unchanged.
fn update(path: &Path, runs: &[Run]) -> Result<()> {
    let page = fs::read_to_string(path)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let updated =
        markdown::fill_blocks(&page, |name| Ok((tables::block(name)?.render)(runs)))?;
    fs::write(path, updated)
        .with_context(|| format!("failed to write {}", path.display()))
}

/// Prints all tables, each under its heading.
fn print(runs: &[Run]) {
    for block in tables::BLOCKS {
        println!("{}\n\n{}", block.heading, (block.render)(runs));
    }
}
