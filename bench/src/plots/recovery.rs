//! The plot of recovery: how long nobody has the lock after its holder was killed.

use anyhow::Result;

use super::bars::{END, LANES, Row, Scale, Value, axis, bars, numbers, panels, stacked};
use crate::cells::{bare, number, span};
use crate::compared::cases;
use crate::figures::{Run, median};
use crate::names::{OURS, P50_MS, P99_MS, RECOVERY, SESSION};

/// The lease of the replaced system. Nobody waited for it: after a kill it holds the lock
/// for what is left of it.
const REPLACED_LEASE_MS: f64 = 600_000.0;

/// Draws it.
pub(crate) fn draw(runs: &[Run]) -> Result<Option<String>> {
    let mut panels = panels(runs, |run| {
        cases(run, RECOVERY).into_iter().map(|case| measured(run, case)).collect()
    });
    for panel in &mut panels {
        panel.rows.push(replaced());
    }
    let p99 = |run: &Run| median(run.samples(RECOVERY, SESSION, OURS, P99_MS));
    let title = [
        "A holder is killed: with SESSION the next one has the lock".to_owned(),
        format!("within {} ms, 99 times of 100", span(runs.iter().map(p99), number)),
    ];
    let note =
        "From the kill to the next holder; that of the replaced system is not measured";
    let lane = LANES..END - 230;
    let scale = Scale::decades(&numbers(&panels, 0));
    stacked(&title, note, &panels, |area, rows| {
        axis(area, &lane, &scale, rows, |ms| time(ms, bare))?;
        bars(area, &lane, &scale, rows, 0)
    })
}

fn measured(run: &Run, case: &str) -> Row {
    let of = |measure| median(run.samples(RECOVERY, case, OURS, measure));
    Row {
        name: format!("GPULOCK, {case}"),
        ours: true,
        values: vec![Value {
            number: of(P50_MS),
            said: format!(
                "{} (p99 {})",
                time(of(P50_MS), number),
                time(of(P99_MS), number)
            ),
        }],
    }
}

fn replaced() -> Row {
    Row {
        name: "the replaced system".to_owned(),
        ours: false,
        values: vec![Value {
            number: REPLACED_LEASE_MS,
            said: format!("up to {}, its lease", time(REPLACED_LEASE_MS, bare)),
        }],
    }
}

/// Milliseconds in the unit that people would use.
fn time(ms: f64, text: fn(f64) -> String) -> String {
    if ms < 1000.0 {
        format!("{} ms", text(ms))
    } else {
        format!("{} s", text(ms / 1000.0))
    }
}
