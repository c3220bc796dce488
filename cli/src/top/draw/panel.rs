//! The panel of the selected lock: its holder and its wait queue.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::super::state::State;
use crate::fit::shortened;
use crate::human::{self, Span};
use crate::replies::{Inspected, Waiter};

/// Draws the panel if it is open.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let Some((key, lock)) = state.panel() else { return };
    let title = shortened(&format!(" {key} "), usize::from(area.width));
    let block = Block::new()
        .borders(Borders::TOP)
        .title(title.bold())
        .border_style(Style::new().dim());
    let inside = block.inner(area);
    frame.render_widget(block, area);
    match lock {
        None => frame.render_widget(Paragraph::new("loading\u{2026}"), inside),
        Some(None) => {
            frame.render_widget(Paragraph::new("free, no waiters"), inside);
        }
        Some(Some(lock)) => details(frame, inside, lock),
    }
}

fn details(frame: &mut Frame<'_>, area: Rect, lock: &Inspected) {
    let holder = holder(lock);
    let height = u16::try_from(holder.len()).unwrap_or(u16::MAX);
    let [above, below] =
        Layout::vertical([Constraint::Length(height), Constraint::Fill(1)]).areas(area);
    let room = usize::from(above.width);
    let lines: Vec<_> = holder.iter().map(|line| shortened(line, room).into()).collect();
    frame.render_widget(Paragraph::new(lines), above);
    if lock.waiters.is_empty() {
        frame.render_widget(Paragraph::new("no waiters"), below);
        return;
    }
    let columns = columns(below.width);
    let widths = columns.iter().map(|(_, width)| *width);
    let names = Row::new(columns.iter().map(|(name, _)| *name)).bold();
    // Cells without a column are not drawn.
    let rows = (1..).zip(&lock.waiters).map(|(position, waiter)| row(position, waiter));
    let table = Table::new(rows, widths).header(names).column_spacing(2);
    frame.render_widget(table, below);
}

/// The names and widths of the columns that fit.
fn columns(width: u16) -> &'static [(&'static str, Constraint)] {
    const ALL: [(&str, Constraint); 5] = [
        ("", Constraint::Length(3)),
        ("WAITER", Constraint::Fill(2)),
        ("WAITED FOR", Constraint::Length(10)),
        ("WANTS", Constraint::Length(9)),
        ("RESERVED", Constraint::Fill(1)),
    ];
    let shown = match width {
        0..32 => 2,
        32..50 => 3,
        _ => ALL.len(),
    };
    ALL.get(..shown).unwrap_or(&ALL)
}

fn holder(lock: &Inspected) -> Vec<String> {
    let mut lines = match (&lock.owner, &lock.reserved_for) {
        (Some(owner), _) => vec![format!("held by {owner}")],
        (None, Some(next)) => vec![format!("free, reserved for {next}")],
        (None, None) if lock.adopted.is_some() => {
            vec!["held; the value is not an owner".to_owned()]
        }
        (None, None) => vec!["free".to_owned()],
    };
    let mut details = vec![format!("token {}", human::or_unknown(lock.token))];
    details.extend(lock.session.map(|client| format!("session of client {client}")));
    details.extend(lock.grace_ms.map(|left| format!("grace period left {}", Span(left))));
    details.extend((lock.adopted == Some(true)).then(|| "adopted".to_owned()));
    if lock.adopted.is_some() {
        lines.push(details.join(" \u{b7} "));
    }
    lines
}

fn row(position: usize, waiter: &Waiter) -> Row<'static> {
    let kept = if waiter.client.is_none() { " (disconnected)" } else { "" };
    let reserved = waiter.reserved.iter().flatten();
    let reserved: Vec<_> = reserved.map(ToString::to_string).collect();
    Row::new([
        position.to_string(),
        format!("{}{kept}", waiter.owner),
        Span(waiter.waited_ms).to_string(),
        format!("{} of {}", waiter.wants, waiter.of),
        reserved.join(" "),
    ])
}
