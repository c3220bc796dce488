//! What stands over the picture until it is answered.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Wrap};

use super::super::asker::Victim;
use super::super::rows::Row;
use crate::fit::width;
use crate::human;

/// Whether to end a hold: whose, since when.
pub(super) fn question(frame: &mut Frame<'_>, victim: &Victim, rows: &[Row]) {
    let Victim { key, guard } = victim;
    let is_it = |row: &&Row| {
        row.key == *key && row.owner == guard.owner && row.token == guard.token
    };
    let now = match rows.iter().find(is_it) {
        Some(row) => format!(
            "held for {}, lease left {}, {} waiting",
            human::span(row.held_ms),
            human::lease(row.lease_ms),
            row.waiting
        ),
        None => "It is no longer held so.".to_owned(),
    };
    let lines = vec![
        format!("Take {key}"),
        format!("from {}", human::or_unknown(guard.owner.as_ref())),
        format!("token {}", human::or_unknown(guard.token)),
        now,
        "Its job is not stopped.".to_owned(),
        String::new(),
        "y: take it   n: leave it".to_owned(),
    ];
    draw(frame, lines, Style::new().red());
}

/// What the keys do.
pub(super) fn help(frame: &mut Frame<'_>) {
    let lines = [
        "\u{2191} \u{2193} k j  PgUp PgDn  g G   choose a lock",
        "Enter   who holds it, and its line",
        "f       take it away from its holder (asks)",
        "/       only locks with this in key or owner",
        "s       another order",
        "Esc     close the panel, forget the filter",
        "q       quit; Control-Z: to the shell, fg: back",
        "",
        "The bar is what is left of the lease, of the",
        "most that was seen of it.",
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

/// As much of the middle as the lines take, folded where the screen is too narrow.
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
