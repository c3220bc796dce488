//! The plot of fairness: for how many hand-offs somebody got nothing, and how evenly the lock
//! was shared.

use anyhow::Result;

use super::bars::{
    END, LANES, Row, Scale, Value, bars, caption, numbers, panels, stacked,
};
use crate::cells::{count, fixed, most};
use crate::figures::{Run, median};
use crate::names::{HAND_OFF, HAND_OFF_PEERS, JAIN, OURS, SAT_OUT, WORKERS, workers};

/// Draws it.
pub(crate) fn draw(runs: &[Run]) -> Result<Option<String>> {
    let panels =
        panels(runs, |run| HAND_OFF_PEERS.map(|peer| measured(run, peer)).into());
    let longest = |ours: bool| {
        let rows = panels.iter().flat_map(|panel| &panel.rows);
        let of = rows.filter(|row| row.ours == ours).map(|row| row.values[0].number);
        count(most(&of.collect::<Vec<_>>()))
    };
    let title = [
        format!("Of eight workers none sits out more than {} hand-offs", longest(true)),
        format!("with GPULOCK; with the others one sits out up to {}", longest(false)),
    ];
    let note = "The longest that one of them got nothing in any round, and how evenly all were served";
    let sat_out = LANES..LANES + 330;
    let jain = LANES + 470..END - 90;
    let scale = Scale::Linear(most(&numbers(&panels, 0)));
    stacked(&title, note, &panels, |area, rows| {
        caption(area, &sat_out, "hand-offs sat out (less is better)")?;
        bars(area, &sat_out, &scale, rows, 0)?;
        caption(area, &jain, "Jain's index (1: all alike)")?;
        bars(area, &jain, &Scale::Linear(1.0), rows, 1)
    })
}

fn measured(run: &Run, peer: &str) -> Row {
    let of = |measure| run.samples(HAND_OFF, &workers(WORKERS), peer, measure);
    let (sat_out, jain) = (most(of(SAT_OUT)), median(of(JAIN)));
    Row {
        name: peer.to_owned(),
        ours: peer == OURS,
        values: vec![
            Value { number: sat_out, said: count(sat_out) },
            Value { number: jain, said: fixed(jain, 3) },
        ],
    }
}
