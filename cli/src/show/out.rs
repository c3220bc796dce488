//! Standard output. Tables wrap to the width of a terminal, and have their full width in a pipe.

use std::io::{self, ErrorKind, Write};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Space between two columns.
const GAP: u16 = 2;

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

/// Renders a table.
pub(crate) fn lines(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

/// Prints text and a newline.
///
/// # Errors
/// If the write fails, except with a closed pipe.
pub(crate) fn print(lines: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{lines}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Prints a JSON document.
///
/// # Errors
/// If the write fails, except with a closed pipe.
pub(crate) fn print_json(document: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(document)?)
}
