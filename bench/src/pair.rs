//! Taking a free lock and giving it back, which nobody else wants: instructions, the
//! server's CPU time and the time by the clock, for all ways to do it, in turn on the same
//! server. What the ways are stands in `ways`, how a server is set up for a case in
//! `stage`.

use anyhow::Result;
use redis::cmd;

use crate::counter::Counter;
use crate::figures::{Figure, Notebook};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::stage::Stage;
use crate::ways::{self, PIPELINE, Way};

/// Counts hardly differ from one start of the server to the next: two show that.
const STARTS: usize = 2;
/// Pipelines that are counted for each way: 10,000 pairs.
const COUNTED: usize = 200;
/// Rounds in which all have their turn.
const ROUNDS: usize = 9;

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    let mut notebook = Notebook::new(names::PAIR);
    progress.rounds(STARTS + ROUNDS);
    for start in 1..=STARTS {
        progress.doing(&format!("instructions, start {start} of {STARTS}"));
        count_all(setup, &mut notebook)?;
        progress.step();
    }
    let mut stages = Stage::all(setup)?;
    for round in 1..=ROUNDS {
        progress.doing(&format!("CPU time and clock, round {round} of {ROUNDS}"));
        for stage in &mut stages {
            stage.round(&mut notebook)?;
        }
        progress.step();
    }
    Ok(notebook.into_figures())
}

/// Counts every way on one new server.
fn count_all(setup: &Setup, notebook: &mut Notebook) -> Result<()> {
    let mut counter = Counter::start(setup)?;
    let mut all = ways::limits(&mut counter.link)?;
    all.extend(ways::locks(&mut counter.link)?);
    for way in &all {
        note(names::EVENTS_OFF, way, &mut counter, notebook)?;
    }
    // Events change our own pair only. The native one is counted once more, so that each
    // case has what it is compared with.
    cmd("CONFIG").arg(&["SET", "gpulock.events", "release"]).exec(&mut counter.link)?;
    for way in [ways::native(), ways::ours()] {
        note(names::EVENTS_ON, &way, &mut counter, notebook)?;
    }
    Ok(())
}

fn note(
    case: &str,
    way: &Way,
    counter: &mut Counter,
    notebook: &mut Notebook,
) -> Result<()> {
    let instructions = counter.count(&way.pipeline(), COUNTED)? / PIPELINE as f64;
    notebook.note(case, way.name, names::INSTRUCTIONS, instructions);
    Ok(())
}
