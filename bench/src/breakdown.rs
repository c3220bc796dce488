//! Breakdown: how many instructions of the GPULOCK pair are spent in the module's own code,
//! in each server function that it calls, and in the rest of the server.

use anyhow::Result;

use crate::callgrind::Profile;
use crate::counter::Counter;
use crate::lock_pairs::{self, PIPELINE};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::series::{Recorder, Series};

/// Pipelines counted: 10,000 pairs.
const COUNTED: usize = 200;

/// The server's part outside the module.
const SERVER: &str = "server: reading, dispatching and replying";
/// Everything compiled into the module.
const MODULE: &str = "module code";
/// Some functions of the C library are unnamed even if the server has symbols.
const UNNAMED: &str = "unnamed functions";

/// Measures the part. It is left out if the server program has no symbols.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    progress.set_rounds(1);
    progress.set_step("instructions");
    let mut counter = Counter::start(setup)?;
    let profile = counter.cost_of(&lock_pairs::ours().pipeline(), COUNTED)?.profile;
    progress.finish_round();
    if called(&profile, has_name) < 0.9 * called(&profile, |_| true) {
        progress.log("breakdown: skipped, since the server program has no symbols");
        return Ok(Vec::new());
    }
    Ok(series(&profile))
}

/// The instructions of one pair, by function.
fn series(profile: &Profile) -> Vec<Series> {
    let pairs = (COUNTED * PIPELINE) as f64;
    let (named, unnamed) = (called(profile, has_name), called(profile, |f| !has_name(f)));
    let server = profile.instructions - profile.module_code - named - unnamed;
    let mut recorder = Recorder::new(names::BREAKDOWN);
    let mut record = |code: &str, measure, sum| {
        recorder.record(names::EVENTS_OFF, code, measure, sum / pairs);
    };
    record(SERVER, names::INSTRUCTIONS, server);
    record(MODULE, names::INSTRUCTIONS, profile.module_code);
    if unnamed > 0.0 {
        record(UNNAMED, names::INSTRUCTIONS, unnamed);
    }
    for (function, calls) in &profile.calls_out {
        // Functions called less than once per pair are called by timers.
        if has_name(function) && calls.times >= pairs {
            record(function, names::INSTRUCTIONS, calls.instructions);
            record(function, names::TIMES, calls.times);
        }
    }
    recorder.into_series()
}

/// The instructions of the functions called by the module that match the filter.
fn called(profile: &Profile, filter: impl Fn(&str) -> bool) -> f64 {
    let calls = profile.calls_out.iter().filter(|(function, _)| filter(function));
    calls.map(|(_, calls)| calls.instructions).sum()
}

/// Callgrind gives the address of functions without a name.
fn has_name(function: &str) -> bool {
    !function.starts_with("0x")
}
