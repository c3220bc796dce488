//! The plot of the pair: what taking a free lock and giving it back costs beside the native
//! pair, in instructions.

use anyhow::Result;

use super::bars::{END, LANES, Row, Scale, Value, bars, mark, numbers, panels, stacked};
use crate::cells::{most, number, ratio, span};
use crate::compared::to_native;
use crate::figures::{Run, median};
use crate::names::{self, EVENTS_OFF, EVENTS_ON, INSTRUCTIONS, PAIR};

/// What a row is called, whose it is, and under which circumstances.
const ROWS: [(&str, &str, &str); 7] = [
    ("GPULOCK, events off", names::OURS, EVENTS_OFF),
    ("GPULOCK, events on", names::OURS, EVENTS_ON),
    ("native: SET NX PX, DEL", names::NATIVE, EVENTS_OFF),
    (names::DELIFEQ, names::DELIFEQ, EVENTS_OFF),
    (names::SET_EVALSHA, names::SET_EVALSHA, EVENTS_OFF),
    ("Lua pair by FCALL", names::FCALL, EVENTS_OFF),
    ("Lua pair by EVALSHA", names::LUA, EVENTS_OFF),
];

/// Draws it.
pub(crate) fn draw(runs: &[Run]) -> Result<Option<String>> {
    let panels = panels(runs, |run| ROWS.map(|row| measured(run, row)).into());
    let times = |peer| {
        let medians = |run| median(&to_native(run, EVENTS_OFF, peer, INSTRUCTIONS));
        span(runs.iter().map(medians), ratio)
    };
    let title = [
        format!("Taking and giving back: GPULOCK costs {} times", times(names::OURS)),
        format!("the native pair, the Lua pair {}", times(names::LUA)),
    ];
    let note =
        "Instructions for both commands, times those of the native pair; less is better";
    let lane = LANES..END - 240;
    let scale = Scale::Linear(most(&numbers(&panels, 0)));
    stacked(&title, note, &panels, |area, rows| {
        bars(area, &lane, &scale, rows, 0)?;
        mark(area, scale.place(1.0, &lane), rows, "native")
    })
}

fn measured(run: &Run, (name, peer, case): (&str, &str, &str)) -> Row {
    let times = median(&to_native(run, case, peer, INSTRUCTIONS));
    let instructions = number(median(run.samples(PAIR, case, peer, INSTRUCTIONS)));
    let said = format!("{} × ({instructions})", ratio(times));
    Row {
        name: name.to_owned(),
        ours: peer == names::OURS,
        values: vec![Value { number: times, said }],
    }
}
