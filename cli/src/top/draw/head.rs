//! The head of the picture: what is wrong or how it is sorted, and the last minutes.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};

use super::super::history::WINDOW;
use super::super::state::{State, span};
use crate::human;

/// Of the last minutes, with the line above.
pub(super) const HEIGHT: u16 = 5;

/// What is told beside the sparkline.
const FIGURES: u16 = 30;

/// What is wrong; else which server, how many locks, in which order they stand.
pub(super) fn title(state: &State, shown: usize, now: Instant) -> Line<'static> {
    if let Some(alarm) = state.alarm(now) {
        return Line::from(format!(" {alarm} ")).white().on_red().bold();
    }
    let mut told = vec![
        state.server().to_owned(),
        format!("{} held", state.counter("locks_held")),
        format!("{} waiting", state.counter("clients_waiting")),
        state.sorting().name().to_owned(),
    ];
    if !state.filter().is_empty() {
        told.push(format!("{shown} with \"{}\"", state.filter()));
    }
    if state.is_cut() {
        told.push("those held longest".to_owned());
    }
    Line::from(vec!["gpulock  ".bold(), told.join(" \u{b7} ").into()])
}

/// The clients that waited, as bars, and how long the waits took that ended.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, state: &State, now: Instant) {
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Max(FIGURES)])
            .spacing(2)
            .areas(area);
    let looks = usize::from(left.width);
    let waiting = state.history().waiting(looks);
    let most = waiting.iter().flatten().max().copied().unwrap_or_default();
    let age = span(state.history().age(looks, now));
    let block = Block::new()
        .borders(Borders::TOP)
        .title(format!(" clients waiting, last {age}, at most {most} "))
        .border_style(Style::new().dim());
    let sparkline = Sparkline::default()
        .block(block)
        .data(&waiting)
        .absent_value_symbol("\u{b7}")
        .style(Style::new().cyan());
    frame.render_widget(sparkline, left);
    frame.render_widget(figures(state), right);
}

fn figures(state: &State) -> Paragraph<'static> {
    let waits = state.history().waits();
    let minutes = WINDOW.as_secs() / 60;
    let block = Block::new()
        .borders(Borders::TOP)
        .title(format!(" waits ended, {minutes} min "))
        .border_style(Style::new().dim());
    let percentile =
        |percent| format!("p{percent} {}", human::or_unknown(waits.percentile(percent)));
    let count = format!("{} granted, ", waits.count);
    let lines = [count + &percentile(50), percentile(90), percentile(99)];
    Paragraph::new(lines.map(Line::from).to_vec()).block(block)
}
