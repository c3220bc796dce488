//! The table of locks. On narrow screens the least important columns are omitted. Long keys and
//! owners are shortened in the middle, since keys differ at the end.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Table, TableState};

use super::super::rows::{Kind, Row};
use crate::cards;
use crate::fit::{shortened, width};
use crate::human;

/// The width of the lease bar.
const BAR: usize = 10;
/// The widths of the columns other than key and owner.
const BAR_WIDTH: u16 = 10;
const LEFT: u16 = 7;
const HELD: u16 = 8;
const WAITING: u16 = 7;
const GAP: u16 = 2;
/// The minimum widths of a screen with these columns. Key and lease are always shown.
const WITH_BAR: u16 = 64;
const WITH_HELD: u16 = 44;
const WITH_OWNER: u16 = 32;
const WITH_WAITING: u16 = 28;

/// Draws the rows, and highlights the selected one.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    rows: &[Row],
    selected: &mut TableState,
    filter: &str,
) {
    if rows.is_empty() {
        frame.render_widget(empty(filter), area);
        return;
    }
    let columns = Columns::within(area.width, rows);
    let table = Table::new(rows.iter().map(|row| columns.cells(row)), columns.widths())
        .header(columns.names())
        .column_spacing(GAP)
        .row_highlight_style(Style::new().reversed());
    frame.render_stateful_widget(table, area, selected);
}

fn empty(filter: &str) -> Paragraph<'static> {
    let message = match filter {
        "" => "No lock is held or waited for.".to_owned(),
        filter => format!("No key or owner contains \"{filter}\"."),
    };
    Paragraph::new(message)
}

/// The columns that fit, and their widths.
struct Columns {
    key: u16,
    owner: u16,
    has_bar: bool,
    has_held: bool,
    has_owner: bool,
    has_waiting: bool,
}

impl Columns {
    fn within(area: u16, rows: &[Row]) -> Self {
        let (has_bar, has_held) = (area >= WITH_BAR, area >= WITH_HELD);
        let (has_owner, has_waiting) = (area >= WITH_OWNER, area >= WITH_WAITING);
        let mut taken = LEFT + GAP;
        for (is_shown, width) in [
            (has_bar, BAR_WIDTH),
            (has_held, HELD),
            (has_owner, 0),
            (has_waiting, WAITING),
        ] {
            if is_shown {
                taken += width + GAP;
            }
        }
        let room = area.saturating_sub(taken);
        let longest = |text: fn(&Row) -> String| {
            let widths = rows.iter().map(|row| width(&text(row)));
            u16::try_from(widths.max().unwrap_or_default()).unwrap_or(u16::MAX)
        };
        // Key and owner get their full widths if both fit, otherwise at least half each.
        let (key, owner) = (longest(key).max(5), longest(owner).max(5));
        let key = match has_owner {
            true => key.min((room / 2).max(room.saturating_sub(owner))),
            false => room,
        };
        let owner = room.saturating_sub(key);
        Self { key, owner, has_bar, has_held, has_owner, has_waiting }
    }

    fn widths(&self) -> Vec<Constraint> {
        let widths = [
            Some(self.key),
            self.has_owner.then_some(self.owner),
            self.has_bar.then_some(BAR_WIDTH),
            Some(LEFT),
            self.has_held.then_some(HELD),
            self.has_waiting.then_some(WAITING),
        ];
        widths.into_iter().flatten().map(Constraint::Length).collect()
    }

    fn names(&self) -> Cells<'static> {
        let left = if self.has_bar { "LEFT" } else { "LEASE" };
        let names = [
            Some(Cell::new("KEY")),
            self.has_owner.then(|| Cell::new("OWNER")),
            self.has_bar.then(|| Cell::new("LEASE")),
            Some(right(left)),
            self.has_held.then(|| right("HELD FOR")),
            self.has_waiting.then(|| right("WAITING")),
        ];
        Cells::new(names.into_iter().flatten()).bold()
    }

    fn cells(&self, row: &Row) -> Cells<'static> {
        let fitting = |text: String, width| Cell::new(shortened(&text, width));
        let cells = [
            Some(fitting(key(row), usize::from(self.key))),
            self.has_owner.then(|| fitting(owner(row), usize::from(self.owner))),
            self.has_bar.then(|| Cell::new(bar(row.lease_share))),
            Some(right(human::lease(row.lease_ms))),
            self.has_held.then(|| right(human::span(row.held_ms))),
            self.has_waiting.then(|| right(row.waiting.to_string())),
        ];
        Cells::new(cells.into_iter().flatten())
    }
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::new(Text::from(text.into()).right_aligned())
}

fn key(row: &Row) -> String {
    match &row.kind {
        Kind::Lock => row.key.to_string(),
        Kind::Slot(number) => format!("  slot {number}"),
        Kind::Card { is_expanded: false, .. } => format!("\u{25b8} {}", row.key),
        Kind::Card { is_expanded: true, .. } => format!("\u{25be} {}", row.key),
    }
}

fn owner(row: &Row) -> String {
    let owner = human::or_unknown(row.owner.as_ref());
    match &row.kind {
        Kind::Lock | Kind::Slot(_) => owner,
        Kind::Card { slots, .. } => {
            let held = slots.iter().filter(|slot| slot.is_held()).count();
            format!("{owner} ({})", cards::count(held))
        }
    }
}

/// The remaining lease as a bar, in eighths of a character.
fn bar(share: Option<f64>) -> Line<'static> {
    const EIGHTHS: [&str; 8] = [
        "", "\u{258f}", "\u{258e}", "\u{258d}", "\u{258c}", "\u{258b}", "\u{258a}",
        "\u{2589}",
    ];
    let Some(share) = share else { return Line::default() };
    let eighths = (share * (BAR * 8) as f64).round() as usize;
    let part = EIGHTHS.get(eighths % 8).copied().unwrap_or_default();
    let drawn = "\u{2588}".repeat(eighths / 8) + part;
    let left = BAR.saturating_sub(width(&drawn));
    let colour = match share {
        0.0..0.1 => Color::Red,
        0.1..0.33 => Color::Yellow,
        _ => Color::Green,
    };
    Line::from(vec![
        Span::from(drawn).fg(colour),
        Span::from("\u{b7}".repeat(left)).dim(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_the_share_and_fits_its_column() {
        #[rustfmt::skip]
        let cases = [
            (0.0,    "··········"),
            (0.0125, "▏·········"),
            (0.5,    "█████·····"),
            (0.55,   "█████▌····"),
            (1.0,    "██████████"),
        ];
        for (share, drawn) in cases {
            assert_eq!(bar(Some(share)).to_string(), drawn, "{share}");
        }
        assert_eq!(bar(None).to_string(), "");
    }
}
