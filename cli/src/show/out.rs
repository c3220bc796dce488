//! Standard output. Tables wrap to the width of a terminal, and have their full width in a pipe.

use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};
use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Row, Table, presets};
use serde::Serialize;

/// Space between two columns.
const GAP: u16 = 2;

/// Wrapped text can be read down to this width of its column.
const MIN_WIDTH: u16 = 7;

/// A table with a header.
pub(crate) fn table(names: &[&str]) -> Table {
    let mut table = bare();
    table.set_header(names);
    table
}

/// A table without a header.
pub(crate) fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Renders a table. If the terminal is too narrow for its columns, each cell gets a line.
pub(crate) fn lines(mut table: Table) -> String {
    if is_too_wide(&table) {
        return records(&table);
    }
    let has_names = table.header().is_some();
    let last = table.column_count().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { GAP }));
        if index == 0 && !has_names {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

/// Whether columns would have to be narrower than their content and than [`MIN_WIDTH`]. Without a
/// header, the first column contains names, which are not wrapped.
fn is_too_wide(table: &Table) -> bool {
    let has_names = table.header().is_some();
    let needed = |(index, content): (usize, u16)| match index {
        0 if !has_names => content,
        _ => content.min(MIN_WIDTH),
    };
    let columns = table.column_max_content_widths().into_iter().enumerate();
    let needed =
        columns.map(needed).reduce(|a, b| a.saturating_add(GAP).saturating_add(b));
    table.width().zip(needed).is_some_and(|(room, needed)| room < needed)
}

/// The cells below each other with their names, and an empty line between two rows.
fn records(table: &Table) -> String {
    let Some(names) = table.header() else {
        return joined(
            table.row_iter().map(|row| joined(row.cell_iter().map(Cell::content), ": ")),
            "\n",
        );
    };
    let record = |row: &Row| {
        let cells = names.cell_iter().zip(row.cell_iter());
        let line = |(name, cell): (&Cell, &Cell)| match &*name.content() {
            "" => cell.content(),
            name => format!("{name}: {}", cell.content()),
        };
        joined(cells.map(line), "\n")
    };
    joined(table.row_iter().map(record), "\n\n")
}

fn joined(parts: impl Iterator<Item = String>, by: &str) -> String {
    parts.collect::<Vec<_>>().join(by)
}

/// Prints text and a newline.
///
/// # Errors
/// If the write fails, except with a closed pipe.
pub(crate) fn print(lines: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{lines}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("failed to write the output"),
    }
}

/// Prints a JSON document.
///
/// # Errors
/// If the write fails, except with a closed pipe.
pub(crate) fn print_json(document: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(document)?)
}
