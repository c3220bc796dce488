//! The command `report`: from files of runs to tables, on a page or a terminal, and plots.
//! What stands in them is made elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::figures::Run;
use crate::{page, plots, tables};

/// Shows runs: a page's blocks filled anew, or tables on the terminal; and plots.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Runs that `measure` wrote, one for each server, the oldest server first.
    #[arg(required = true, value_name = "RUN.json")]
    runs: Vec<PathBuf>,
    /// The page whose blocks to fill; without it, all tables go to the terminal.
    #[arg(long, value_name = "PAGE.md")]
    into: Option<PathBuf>,
    /// The folder to draw the plots in.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
}

impl Report {
    /// Does it.
    pub(crate) fn make(&self) -> Result<()> {
        let runs: Vec<Run> =
            self.runs.iter().map(|path| Run::read(path)).collect::<Result<_>>()?;
        match &self.into {
            Some(path) => fill(path, &runs)?,
            None => print(&runs),
        }
        self.plots.as_ref().map_or(Ok(()), |folder| plots::draw(&runs, folder))
    }
}

/// Fills the blocks of a page; an error leaves the page as it was.
fn fill(path: &Path, runs: &[Run]) -> Result<()> {
    let page = fs::read_to_string(path)
        .with_context(|| format!("reading {}", path.display()))?;
    let filled = page::fill(&page, |name| Ok((tables::block(name)?.made)(runs)))?;
    fs::write(path, filled).with_context(|| format!("writing {}", path.display()))
}

/// All tables, each below its heading.
fn print(runs: &[Run]) {
    for block in tables::BLOCKS {
        println!("{}\n\n{}", block.heading, (block.made)(runs));
    }
}
