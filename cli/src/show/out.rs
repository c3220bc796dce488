//! What is written to standard output, and how a table looks there: as wide as it needs in
//! a pipe, folded to its width on a terminal, cut nowhere.

use std::io::{self, ErrorKind, Write};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Between two columns.
const GAP: u16 = 2;

/// A table under these names.
pub(crate) fn table(names: &[&str]) -> Table {
    let mut table = bare();
    table.set_header(names);
    table
}

/// A table without names.
pub(crate) fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// The lines of a table, without borders.
pub(crate) fn lines(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

/// Prints a line or several.
///
/// # Errors
/// When they cannot be written; that nobody reads them any more is none.
pub(crate) fn print(lines: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{lines}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Prints a JSON document.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(document: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(document)?)
}
