//! The plot of the hand-off: how long nobody has the lock when it passes from worker to
//! worker, mostly and at worst.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::bars::{
    END, LANES, Row, Scale, Value, axis, font, ink, middle, numbers, paint, panels,
    stacked,
};
use super::card::{Area, line, words};
use crate::cells::{bare, number, span};
use crate::figures::{Run, median};
use crate::names::{HAND_OFF, HAND_OFF_PEERS, OURS, P50_MS, P99_MS, WORKERS, workers};

const RADIUS: i32 = 10;

/// Draws it.
pub(crate) fn draw(runs: &[Run]) -> Result<Option<String>> {
    let panels =
        panels(runs, |run| HAND_OFF_PEERS.map(|peer| measured(run, peer)).into());
    let gaps = |ours: bool| {
        let rows = panels.iter().flat_map(|panel| &panel.rows);
        let of = rows.filter(move |row| row.ours == ours);
        span(of.map(|row| row.values[0].number), number)
    };
    let title = [
        format!("Passing a lock on takes {} ms with GPULOCK,", gaps(true)),
        format!("{} ms with the others", gaps(false)),
    ];
    let note = "From giving up to the next holder, ms: full dot median, ring 99 of 100; left is better";
    let lane = LANES + 90..END - 110;
    let scale = Scale::decades(&[numbers(&panels, 0), numbers(&panels, 1)].concat());
    stacked(&title, note, &panels, |area, rows| {
        axis(area, &lane, &scale, rows, bare)?;
        for (place, row) in rows.iter().enumerate() {
            let at = |value: &Value| scale.place(value.number, &lane);
            dots(area, row, at(&row.values[0]), at(&row.values[1]), middle(place))?;
        }
        Ok(())
    })
}

fn measured(run: &Run, peer: &str) -> Row {
    let value = |measure| {
        let number_ms = median(run.samples(HAND_OFF, &workers(WORKERS), peer, measure));
        Value { number: number_ms, said: number(number_ms) }
    };
    Row {
        name: peer.to_owned(),
        ours: peer == OURS,
        values: vec![value(P50_MS), value(P99_MS)],
    }
}

/// The two times of a row, the way between them, and their numbers outside.
fn dots(area: &Area<'_>, row: &Row, median: i32, worst: i32, y: i32) -> Result<()> {
    let color = paint(row);
    line(area, (median, y), (worst, y), color.stroke_width(6))?;
    area.draw(&Circle::new((worst, y), RADIUS, WHITE.filled()))?;
    area.draw(&Circle::new((worst, y), RADIUS, color.stroke_width(4)))?;
    area.draw(&Circle::new((median, y), RADIUS, color.filled()))?;
    let [typical, rare] = [&row.values[0].said, &row.values[1].said];
    words(area, typical, (median - RADIUS - 10, y), font(row), ink(row), HPos::Right)?;
    words(area, rare, (worst + RADIUS + 10, y), font(row), ink(row), HPos::Left)
}
