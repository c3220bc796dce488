//! Popups: the confirmation and the help.

use std::iter::once;

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Wrap};

use super::super::poller::ShownHold;
use super::super::rows::Row;
use crate::fit::width;
use crate::human;

/// Asks whether to release a hold by force.
pub(super) fn confirmation(frame: &mut Frame<'_>, hold: &ShownHold, rows: &[Row]) {
    let ShownHold { key, expected } = hold;
    let is_hold = |row: &&Row| {
        row.key == *key && row.owner == expected.owner && row.token == expected.token
    };
    let mut all = rows.iter().flat_map(|row| once(row).chain(row.slots()));
    let state = match all.find(is_hold) {
        Some(row) => format!(
            "held for {}, lease left {}, {} waiting",
            human::span(row.held_ms),
            human::lease(row.lease_ms),
            row.waiting
        ),
        None => "This hold has ended.".to_owned(),
    };
    let lines = vec![
        format!("Release {key}"),
        format!("held by {}", human::or_unknown(expected.owner.as_ref())),
        format!("token {}", human::or_unknown(expected.token)),
        state,
        "The holder's job is not stopped.".to_owned(),
        String::new(),
        "y: release   n: cancel".to_owned(),
    ];
    draw(frame, lines, Style::new().red());
}

/// Shows the key bindings.
pub(super) fn help(frame: &mut Frame<'_>) {
    let lines = [
        "\u{2191} \u{2193} k j  PgUp PgDn  g G   select a lock",
        "Enter   show its holder and wait queue; the slots of a GPU",
        "f       release it by force, after confirmation",
        "/       filter by key or owner",
        "s       change the sort order",
        "Esc     close the panel, clear the filter",
        "q       quit; Control-Z: stop",
        "",
        "The bar shows the remaining lease, relative to",
        "the longest value seen.",
    ];
    draw(frame, lines.map(str::to_owned).to_vec(), Style::new());
}

fn draw(frame: &mut Frame<'_>, lines: Vec<String>, border: Style) {
    let area = middle(frame.area(), &lines);
    let block = Block::bordered().border_style(border).padding(Padding::horizontal(1));
    let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
    frame.render_widget(Clear, area);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).block(block);
    frame.render_widget(text, area);
}

/// The centered area that the lines need, wrapped if the screen is too narrow.
fn middle(screen: Rect, lines: &[String]) -> Rect {
    let longest = lines.iter().map(|line| width(line)).max().unwrap_or_default();
    let wide = u16::try_from(longest + 4).unwrap_or(u16::MAX).min(screen.width);
    let room = usize::from(wide.saturating_sub(4)).max(1);
    let folded =
        lines.iter().map(|line| width(line).div_ceil(room).max(1)).sum::<usize>();
    let high = u16::try_from(folded + 2).unwrap_or(u16::MAX);
    let [across] =
        Layout::horizontal([Constraint::Length(wide)]).flex(Flex::Center).areas(screen);
    let [area] =
        Layout::vertical([Constraint::Length(high)]).flex(Flex::Center).areas(across);
    area
}
