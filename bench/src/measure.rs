//! The subcommand `measure`: runs all or some parts of the benchmark on one server. Each
//! part has its own module and a line in [`PARTS`].

use std::path::{PathBuf, absolute};

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use gpulock_testkit::Flavour;

use crate::progress::Progress;
use crate::series::{Run, Series};
use crate::{
    breakdown, hand_off, held_locks, idle, load, machine, names, other_commands,
    outside_changes, pair, pools, queue, recovery, startup, waiters, worst_cases,
};

/// Run the benchmark on one server and write the results to a file
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Server program
    #[arg(long)]
    server: PathBuf,
    /// Module to load (libgpulock.so)
    #[arg(long)]
    module: PathBuf,
    /// Python interpreter with the packages of bench/requirements.txt
    #[arg(long)]
    python: PathBuf,
    /// JSON file to write
    #[arg(long)]
    out: PathBuf,
    /// Parts to measure [default: all]
    #[arg(value_parser = PossibleValuesParser::new(PARTS.map(|(name, _)| name)))]
    parts: Vec<String>,
}

/// The programs under test.
pub(crate) struct Setup {
    /// The server.
    pub flavour: Flavour,
    /// The module.
    pub module: PathBuf,
    /// The Python interpreter with the peers.
    pub python: PathBuf,
}

/// A name and a function that measures a part.
type Part = (&'static str, fn(&Setup, &Progress) -> Result<Vec<Series>>);

/// All parts, in execution order.
const PARTS: [Part; 14] = [
    (names::PAIR, pair::measure),
    (names::BREAKDOWN, breakdown::measure),
    (names::POOLS, pools::measure),
    (names::OTHER_COMMANDS, other_commands::measure),
    (names::LOAD, load::measure),
    (names::IDLE, idle::measure),
    (names::OUTSIDE_CHANGES, outside_changes::measure),
    (names::HAND_OFF, hand_off::measure),
    (names::QUEUE, queue::measure),
    (names::HELD, held_locks::measure),
    (names::WAITERS, waiters::measure),
    (names::WORST_CASES, worst_cases::measure),
    (names::RECOVERY, recovery::measure),
    (names::STARTUP, startup::measure),
];

/// Runs the subcommand.
pub(crate) fn run(options: &Measure) -> Result<()> {
    let parts = select(&options.parts);
    let module = &options.module;
    let module = module.canonicalize().with_context(|| module.display().to_string())?;
    // Not canonicalized: some server programs depend on the name they are called by.
    let flavour = Flavour::new(absolute(&options.server)?);
    let python = absolute(&options.python)?;
    let setup = Setup { flavour, module, python };
    let mut run = Run {
        server: setup.flavour.name().to_owned(),
        date: machine::date()?,
        machine: machine::machine()?,
        load: machine::load()?,
        versions: machine::versions(&setup)?,
        series: Vec::new(),
    };
    let progress = Progress::new(parts.len())?;
    for (number, (name, measure)) in parts.into_iter().enumerate() {
        progress.begin(number, name);
        run.series.extend(measure(&setup, &progress).context(name)?);
    }
    progress.end();
    run.write(&options.out)
}

fn select(names: &[String]) -> Vec<Part> {
    let is_selected =
        |(name, _): &Part| names.is_empty() || names.iter().any(|n| n == name);
    PARTS.into_iter().filter(is_selected).collect()
}
