//! Where the instructions of our pair go: the module's own code, each function of the
//! server that it calls, and the server's way to two commands and back. How many they are
//! in all, beside others, stands in `pair`.

use anyhow::Result;

use crate::callgrind::Profile;
use crate::counter::Counter;
use crate::figures::{Figure, Notebook};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::ways::{self, PIPELINE};

/// Pipelines that are counted: 10,000 pairs.
const COUNTED: usize = 200;

/// The server's part that no lock is in: reading, finding the command, answering.
const SERVER: &str = "the server's way to two commands and back";
/// Everything compiled into the module.
const MODULE: &str = "the module's own code";
/// Some of the C library's functions have no name even where the server's have.
const NAMELESS: &str = "functions without a name";

/// Measures the part; leaves it out where the server's functions have no names.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    progress.rounds(1);
    progress.doing("instructions");
    let mut counter = Counter::start(setup)?;
    let profile = counter.spent(&ways::ours().pipeline(), COUNTED)?.profile;
    progress.step();
    if called(&profile, has_name) < 0.9 * called(&profile, |_| true) {
        progress.say("calls: left out, since the server program has no symbols");
        return Ok(Vec::new());
    }
    Ok(figures(&profile))
}

/// Everything of one pair.
fn figures(profile: &Profile) -> Vec<Figure> {
    let pairs = (COUNTED * PIPELINE) as f64;
    let (named, nameless) =
        (called(profile, has_name), called(profile, |f| !has_name(f)));
    let server = profile.instructions - profile.own - named - nameless;
    let mut notebook = Notebook::new(names::CALLS);
    let mut note = |whose: &str, measure, sum| {
        notebook.note(names::EVENTS_OFF, whose, measure, sum / pairs);
    };
    note(SERVER, names::INSTRUCTIONS, server);
    note(MODULE, names::INSTRUCTIONS, profile.own);
    if nameless > 0.0 {
        note(NAMELESS, names::INSTRUCTIONS, nameless);
    }
    for (function, calls) in &profile.called {
        // What is called less than once a pair, the clock asked for.
        if has_name(function) && calls.times >= pairs {
            note(function, names::INSTRUCTIONS, calls.instructions);
            note(function, names::TIMES, calls.times);
        }
    }
    notebook.into_figures()
}

/// The instructions of the functions called by the module that are `wanted`.
fn called(profile: &Profile, wanted: impl Fn(&str) -> bool) -> f64 {
    let calls = profile.called.iter().filter(|(function, _)| wanted(function));
    calls.map(|(_, calls)| calls.instructions).sum()
}

/// Where there is no name, callgrind gives the address.
fn has_name(function: &str) -> bool {
    !function.starts_with("0x")
}
