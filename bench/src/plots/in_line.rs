//! The plot of the line: what a hand-off costs the server with few and with many waiting.

use anyhow::Result;
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::card::{
    Area, FAINT, GRID, INK, LABEL, NOTE, OTHER_PEER, OURS, PEER, bold, card, plain, words,
};
use crate::cells::{bare, most, number, ratio, server, span};
use crate::compared::{growth, in_line};
use crate::figures::{Run, median};
use crate::names::{self, BLOCKS, NATIVE, WAITING};

/// Height of one row of servers.
const PANEL: i32 = 430;
/// Height of the row that says which line is whose.
const LEGEND: i32 = 50;
/// Height of a server's name.
const HEADING: i32 = 70;

/// Whose lines there are, what the legend calls them and where.
const LINES: [(&str, &str, RGBColor, i32); 3] = [
    (names::OURS, "GPULOCK", OURS, 0),
    (NATIVE, "SET NX PX, DEL (no lock, no line)", PEER, 180),
    (BLOCKS, "a module that only blocks and wakes", OTHER_PEER, 640),
];

/// One peer's line, from few to many.
struct Line {
    ours: bool,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws it.
pub(crate) fn draw(runs: &[Run]) -> Result<Option<String>> {
    let panels: Vec<(String, Vec<Line>)> =
        runs.iter().map(|run| (server(run), lines(run))).collect();
    let points = panels.iter().flat_map(|(_, lines)| lines).flat_map(|line| &line.points);
    let highest = most(&points.map(|(_, cpu)| *cpu).collect::<Vec<_>>());
    if highest.is_nan() {
        return Ok(None);
    }
    let times = |peer| span(runs.iter().map(|run| median(&growth(run, peer))), ratio);
    let title = [
        format!("With 10,000 in line a hand-off costs {} times", times(names::OURS)),
        format!("what it costs with 10; commands without a lock {}", times(NATIVE)),
    ];
    let note = "CPU time of the server for a hand-off, us, by how many are in line; less is better";
    let rows = panels.len().div_ceil(2);
    let height = LEGEND + PANEL * i32::try_from(rows)?;
    let drawn = card(&title, note, u32::try_from(height)?, |area| {
        let (upper, lower) = area.split_vertically(LEGEND);
        legend(&upper)?;
        let places = lower.split_evenly((rows, panels.len().min(2)));
        let mut pairs = panels.iter().zip(&places);
        pairs
            .try_for_each(|((server, lines), place)| paint(place, server, lines, highest))
    })?;
    Ok(Some(drawn))
}

fn lines(run: &Run) -> Vec<Line> {
    let line = |(peer, _, color, _): (&str, &str, RGBColor, i32)| Line {
        ours: peer == names::OURS,
        color,
        points: points(run, peer),
    };
    LINES.into_iter().map(line).collect()
}

fn points(run: &Run, peer: &str) -> Vec<(f64, f64)> {
    let cpu = |waiting| median(in_line(run, waiting, peer));
    let points = WAITING.map(|waiting| (waiting as f64, cpu(waiting)));
    points.into_iter().filter(|(_, cpu)| cpu.is_finite()).collect()
}

/// Says which line is whose.
fn legend(area: &Area<'_>) -> Result<()> {
    let y = LEGEND / 2;
    for (_, name, color, x) in LINES {
        area.draw(&Circle::new((x + 10, y), 9, color.filled()))?;
        words(area, name, (x + 30, y), plain(NOTE), INK, HPos::Left)?;
    }
    Ok(())
}

/// One server.
fn paint(area: &Area<'_>, server: &str, lines: &[Line], highest: f64) -> Result<()> {
    words(area, server, (0, HEADING / 2), bold(LABEL), INK, HPos::Left)?;
    let [fewest, .., largest] = WAITING;
    let waiting = fewest as f64..largest as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_top(HEADING)
        .margin_right(80)
        .set_label_area_size(LabelAreaPosition::Left, 50)
        .set_label_area_size(LabelAreaPosition::Bottom, 44)
        .build_cartesian_2d(waiting.log_scale(), 0.0..highest * 1.15)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(2))
        .axis_style(GRID.stroke_width(2))
        .x_labels(WAITING.len())
        .y_labels(5)
        .x_label_formatter(&|waiting| bare(*waiting))
        .y_label_formatter(&|cpu| bare(*cpu))
        .label_style(plain(NOTE).color(&FAINT))
        .draw()?;
    for line in lines {
        let points = || line.points.iter().copied();
        chart.draw_series(LineSeries::new(points(), line.color.stroke_width(6)))?;
        chart.draw_series(points().map(|at| Circle::new(at, 9, line.color.filled())))?;
        // Ours above each point, the others' below where their lines end.
        let (from, font, side, y) = if line.ours {
            (0, bold(NOTE).color(&OURS), VPos::Bottom, -16)
        } else {
            let last = line.points.len().saturating_sub(1);
            (last, plain(NOTE).color(&INK), VPos::Top, 16)
        };
        let style = font.pos(Pos::new(HPos::Center, side));
        let number_at = |at: (f64, f64)| {
            EmptyElement::at(at) + Text::new(number(at.1), (0, y), style.clone())
        };
        chart.draw_series(points().skip(from).map(number_at))?;
    }
    Ok(())
}
