//! The top of the screen: the title or a warning, and the last minutes.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};

use super::super::history::WINDOW;
use super::super::state::{State, span};
use crate::human;

/// The height of the sparkline with its border.
pub(super) const HEIGHT: u16 = 5;

/// The width of the percentiles beside the sparkline.
const PERCENTILES: u16 = 30;

/// The minimum width of a screen with the sparkline.
const WITH_SPARKLINE: u16 = 48;

/// The minimum width of a title that begins with the server.
const WITH_SERVER: u16 = 40;

/// The warning, if there is one; otherwise the server, the number of locks, and the sort order.
pub(super) fn title(
    state: &State,
    shown: usize,
    now: Instant,
    width: u16,
) -> Line<'static> {
    if let Some(warning) = state.warning(now) {
        return Line::from(format!(" {warning} ")).white().on_red().bold();
    }
    let server = (width >= WITH_SERVER).then(|| state.server().to_owned());
    let mut parts: Vec<_> = server.into_iter().collect();
    parts.extend([
        format!("{} held", state.counter("locks_held")),
        format!("{} waiting", state.counter("clients_waiting")),
        state.sorting().name().to_owned(),
    ]);
    if !state.filter().is_empty() {
        parts.push(format!("{shown} matching \"{}\"", state.filter()));
    }
    if state.is_limited() {
        parts.push("longest held only".to_owned());
    }
    let name = if width >= WITH_SERVER { "gpulock  " } else { "" };
    Line::from(vec![name.bold(), parts.join(" \u{b7} ").into()])
}

/// A sparkline of the waiting clients, and percentiles of the completed waits.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, now: Instant) {
    if area.width < WITH_SPARKLINE {
        frame.render_widget(percentiles(state), area);
        return;
    }
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Max(PERCENTILES)])
            .spacing(2)
            .areas(area);
    let samples = usize::from(left.width);
    let waiting = state.history().waiting(samples);
    let max = waiting.iter().flatten().max().copied().unwrap_or_default();
    let age = span(state.history().age(samples, now));
    let block = Block::new()
        .borders(Borders::TOP)
        .title(format!(" clients waiting, last {age}, max {max} "))
        .border_style(Style::new().dim());
    let sparkline = Sparkline::default()
        .block(block)
        .data(&waiting)
        .absent_value_symbol("\u{b7}")
        .style(Style::new().cyan());
    frame.render_widget(sparkline, left);
    frame.render_widget(percentiles(state), right);
}

fn percentiles(state: &State) -> Paragraph<'static> {
    let waits = state.history().waits();
    let minutes = WINDOW.as_secs() / 60;
    let block = Block::new()
        .borders(Borders::TOP)
        .title(format!(" waits, last {minutes} min "))
        .border_style(Style::new().dim());
    let percentile =
        |percent| format!("p{percent} {}", human::or_unknown(waits.percentile(percent)));
    let count = format!("{} granted, ", waits.count);
    let lines = [count + &percentile(50), percentile(90), percentile(99)];
    Paragraph::new(lines.map(Line::from).to_vec()).block(block)
}
