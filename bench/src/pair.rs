//! Pair: acquiring and releasing a free lock. Instructions, server CPU time and wall-clock
//! time of all lock pairs, in turn on the same server.

use anyhow::Result;
use redis::cmd;

use crate::counter::Counter;
use crate::lock_pairs::{self, LockPair, PIPELINE};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::scenario::Scenario;
use crate::series::{Recorder, Series};

/// Server starts. Counts hardly differ between starts: two show that.
const STARTS: usize = 2;
/// Pipelines counted for each pair: 10,000 pairs.
const COUNTED: usize = 200;
/// Rounds in which all pairs have their turn.
const ROUNDS: usize = 9;

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let mut recorder = Recorder::new(names::PAIR);
    progress.set_rounds(STARTS + ROUNDS);
    for start in 1..=STARTS {
        progress.set_step(&format!("instructions, start {start} of {STARTS}"));
        count_all(setup, &mut recorder)?;
        progress.finish_round();
    }
    let mut scenarios = Scenario::all(setup)?;
    for round in 1..=ROUNDS {
        progress.set_step(&format!("CPU and wall-clock time, round {round} of {ROUNDS}"));
        for scenario in &mut scenarios {
            scenario.round(&mut recorder)?;
        }
        progress.finish_round();
    }
    Ok(recorder.into_series())
}

/// Counts the instructions of all pairs on one new server.
fn count_all(setup: &Setup, recorder: &mut Recorder) -> Result<()> {
    let mut counter = Counter::start(setup)?;
    let mut all = lock_pairs::lower_bounds(&mut counter.connection)?;
    all.extend(lock_pairs::locks(&mut counter.connection)?);
    for pair in &all {
        count(names::EVENTS_OFF, pair, &mut counter, recorder)?;
    }
    // Events affect the GPULOCK pair only. The native pair is counted again as the baseline
    // of this case.
    cmd("CONFIG")
        .arg(&["SET", "gpulock.events", "release"])
        .exec(&mut counter.connection)?;
    for pair in [lock_pairs::native(), lock_pairs::ours()] {
        count(names::EVENTS_ON, &pair, &mut counter, recorder)?;
    }
    Ok(())
}

fn count(
    case: &str,
    pair: &LockPair,
    counter: &mut Counter,
    recorder: &mut Recorder,
) -> Result<()> {
    let instructions = counter.count(&pair.pipeline(), COUNTED)? / PIPELINE as f64;
    recorder.record(case, pair.name, names::INSTRUCTIONS, instructions);
    Ok(())
}
