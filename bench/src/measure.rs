//! One run: all parts of the bench, or some, on one server. What a part measures, and how,
//! stands in its own file; a new part is one line in the table here.

use std::path::{PathBuf, absolute};

use anyhow::{Context, Result, bail};
use clap::Args;
use gpulock_testkit::Flavour;

use crate::figures::{Figure, Run};
use crate::progress::Progress;
use crate::{
    bystanders, calls, hand_off, held, in_line, machine, names, pair, pools, recovery,
    start, waiters,
};

/// Measures on one server and writes what it found to a file.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// The server's program.
    #[arg(long)]
    server: PathBuf,
    /// The module, libgpulock.so.
    #[arg(long)]
    module: PathBuf,
    /// The Python that has the peers.
    #[arg(long)]
    python: PathBuf,
    /// The file to write, in JSON.
    #[arg(long)]
    out: PathBuf,
    /// The parts to measure: all when none is named.
    parts: Vec<String>,
}

/// What is measured with.
pub(crate) struct Setup {
    /// The server.
    pub flavour: Flavour,
    /// The module.
    pub module: PathBuf,
    /// The Python that has the peers.
    pub python: PathBuf,
}

/// A part of the bench.
type Part = (&'static str, fn(&Setup, &Progress) -> Result<Vec<Figure>>);

/// All of them, in the order in which they run.
const PARTS: [Part; 10] = [
    (names::PAIR, pair::measure),
    (names::CALLS, calls::measure),
    (names::POOLS, pools::measure),
    (names::BYSTANDERS, bystanders::measure),
    (names::HAND_OFF, hand_off::measure),
    (names::IN_LINE, in_line::measure),
    (names::HELD, held::measure),
    (names::WAITERS, waiters::measure),
    (names::RECOVERY, recovery::measure),
    (names::START, start::measure),
];

/// Measures what is asked for, and writes the run.
pub(crate) fn run(asked: &Measure) -> Result<()> {
    let parts = chosen(&asked.parts)?;
    let module = &asked.module;
    let module = module.canonicalize().with_context(|| module.display().to_string())?;
    // The server's folder is another; its name stays, since some programs go by it.
    let flavour = Flavour::new(absolute(&asked.server)?);
    let python = absolute(&asked.python)?;
    let setup = Setup { flavour, module, python };
    let mut run = Run {
        server: setup.flavour.name().to_owned(),
        date: machine::date()?,
        machine: machine::machine()?,
        load: machine::load()?,
        versions: machine::versions(&setup)?,
        figures: Vec::new(),
    };
    let progress = Progress::new(parts.len())?;
    for (number, (name, measure)) in parts.into_iter().enumerate() {
        progress.begin(number, name);
        run.figures.extend(measure(&setup, &progress).context(name)?);
    }
    progress.end();
    run.write(&asked.out)
}

fn chosen(wanted: &[String]) -> Result<Vec<Part>> {
    let known = PARTS.map(|(name, _)| name);
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        bail!(
            "no part of the bench is named {unknown:?}: there are {}",
            known.join(", ")
        );
    }
    let is_chosen =
        |(name, _): &Part| wanted.is_empty() || wanted.iter().any(|w| w == name);
    Ok(PARTS.into_iter().filter(is_chosen).collect())
}
