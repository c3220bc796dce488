//! Rows with names at the left and bars at the right, the numbers written at the bars; the
//! servers' panels below each other: what most plots are made of. Which rows, and what they
//! say, is told by each plot.

use std::ops::Range;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::card::{
    Area, FAINT, GRID, INK, LABEL, MARGIN, NOTE, OURS, PEER, WIDTH, block, bold, card,
    line, plain, words,
};
use crate::cells::{least, most, server};
use crate::figures::Run;

/// Where the numbers of a row begin; their names end before it.
pub(crate) const LANES: i32 = 350;
/// Where they have to end.
pub(crate) const END: i32 = WIDTH as i32 - 2 * MARGIN;

/// Height of the server's name.
const HEADING: i32 = 56;
const ROW: i32 = 44;
const AXIS: i32 = 46;
/// Half of a bar's thickness.
const HALF: i32 = 15;

/// A number in a plot, and how it is written there.
pub(crate) struct Value {
    pub number: f64,
    pub said: String,
}

/// One row.
pub(crate) struct Row {
    /// Whose it is.
    pub name: String,
    /// Whether it is ours.
    pub ours: bool,
    /// What is shown of it; the first decides whether there is a row.
    pub values: Vec<Value>,
}

/// The rows of one server.
pub(crate) struct Panel {
    server: String,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// The panels of the servers on which something was measured.
pub(crate) fn panels(runs: &[Run], rows: impl Fn(&Run) -> Vec<Row>) -> Vec<Panel> {
    let measured = |row: &Row| row.values.iter().any(|value| value.number.is_finite());
    let panel = |run| Panel {
        server: server(run),
        rows: rows(run).into_iter().filter(measured).collect(),
    };
    runs.iter().map(panel).filter(|panel| !panel.rows.is_empty()).collect()
}

/// All numbers that stand at a place in the rows.
pub(crate) fn numbers(panels: &[Panel], place: usize) -> Vec<f64> {
    let rows = panels.iter().flat_map(|panel| &panel.rows);
    rows.map(|row| row.values[place].number).filter(|number| number.is_finite()).collect()
}

/// A card of panels below each other; their names are written, the rest is `paint`'s. None
/// without any panel.
pub(crate) fn stacked(
    title: &[String],
    note: &str,
    panels: &[Panel],
    paint: impl Fn(&Area<'_>, &[Row]) -> Result<()>,
) -> Result<Option<String>> {
    if panels.is_empty() {
        return Ok(None);
    }
    let height = |panel: &Panel| bottom(&panel.rows) + AXIS;
    let whole: i32 = panels.iter().map(height).sum();
    let drawn = card(title, note, u32::try_from(whole)?, |area| {
        let mut rest = area.clone();
        for panel in panels {
            let (upper, lower) = rest.split_vertically(height(panel));
            words(&upper, &panel.server, (0, HEADING / 2), bold(LABEL), INK, HPos::Left)?;
            names(&upper, &panel.rows)?;
            paint(&upper, &panel.rows)?;
            rest = lower;
        }
        Ok(())
    })?;
    Ok(Some(drawn))
}

fn names(area: &Area<'_>, rows: &[Row]) -> Result<()> {
    for (place, row) in rows.iter().enumerate() {
        let at = (LANES - 20, middle(place));
        words(area, &row.name, at, font(row), ink(row), HPos::Right)?;
    }
    Ok(())
}

/// What numbers mean in pixels.
pub(crate) enum Scale {
    /// From nothing to this.
    Linear(f64),
    /// From this to that, ten times as much being always as far.
    Log(f64, f64),
}

impl Scale {
    /// The decades around numbers.
    pub(crate) fn decades(numbers: &[f64]) -> Self {
        let decade = |number: f64| 10_f64.powf(number);
        Self::Log(
            decade(least(numbers).log10().floor()),
            decade(most(numbers).log10().ceil()),
        )
    }

    /// Where on a lane a number is.
    pub(crate) fn place(&self, number: f64, lane: &Range<i32>) -> i32 {
        let part = match *self {
            Self::Linear(most) => number / most,
            Self::Log(least, most) => (number / least).ln() / (most / least).ln(),
        };
        let width = f64::from(lane.end - lane.start);
        lane.start + (part.clamp(0.0, 1.0) * width).round() as i32
    }

    /// The numbers to draw lines at.
    fn marks(&self) -> Vec<f64> {
        match *self {
            Self::Linear(most) => vec![0.0, most],
            Self::Log(least, most) => {
                let decades = (most / least).log10().round() as i32;
                (0..=decades).map(|decade| least * 10_f64.powi(decade)).collect()
            }
        }
    }
}

/// The middle of a row.
pub(crate) const fn middle(place: usize) -> i32 {
    HEADING + ROW * place as i32 + ROW / 2
}

/// The end of the rows.
const fn bottom(rows: &[Row]) -> i32 {
    HEADING + ROW * rows.len() as i32
}

/// How the words of a row are written.
pub(crate) fn font(row: &Row) -> FontDesc<'static> {
    if row.ours { bold(LABEL) } else { plain(LABEL) }
}

/// In which colour.
pub(crate) const fn ink(row: &Row) -> RGBColor {
    if row.ours { OURS } else { INK }
}

/// The colour of what is drawn for a row.
pub(crate) const fn paint(row: &Row) -> RGBColor {
    if row.ours { OURS } else { PEER }
}

/// Writes above a lane what it measures.
pub(crate) fn caption(area: &Area<'_>, lane: &Range<i32>, text: &str) -> Result<()> {
    words(area, text, (lane.start, HEADING / 2), plain(NOTE), FAINT, HPos::Left)
}

/// Draws the rows' values of one place as bars on a lane, and their numbers.
pub(crate) fn bars(
    area: &Area<'_>,
    lane: &Range<i32>,
    scale: &Scale,
    rows: &[Row],
    place: usize,
) -> Result<()> {
    for (row, at) in rows.iter().zip((0..).map(middle)) {
        let value = &row.values[place];
        let mut end = lane.start;
        if value.number.is_finite() {
            // So much is to be seen of the shortest.
            end = scale.place(value.number, lane).max(lane.start + 3);
            block(area, (lane.start, at - HALF), (end, at + HALF), paint(row))?;
        }
        words(area, &value.said, (end + 12, at), font(row), ink(row), HPos::Left)?;
    }
    Ok(())
}

/// Draws an upright line through the rows, with its name below.
pub(crate) fn mark(area: &Area<'_>, x: i32, rows: &[Row], text: &str) -> Result<()> {
    line(area, (x, HEADING), (x, bottom(rows)), FAINT.stroke_width(2))?;
    words(area, text, (x, bottom(rows) + AXIS / 2), plain(NOTE), FAINT, HPos::Center)
}

/// Draws below the rows what their places mean.
pub(crate) fn axis(
    area: &Area<'_>,
    lane: &Range<i32>,
    scale: &Scale,
    rows: &[Row],
    text: fn(f64) -> String,
) -> Result<()> {
    let y = bottom(rows) + 6;
    line(area, (lane.start, y), (lane.end, y), GRID.stroke_width(3))?;
    for number in scale.marks() {
        let x = scale.place(number, lane);
        line(area, (x, y), (x, y + 9), GRID.stroke_width(3))?;
        words(area, &text(number), (x, y + 26), plain(NOTE), FAINT, HPos::Center)?;
    }
    Ok(())
}
