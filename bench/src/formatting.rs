//! Formatting of numbers, and Markdown tables with aligned columns, readable on a page and
//! on a terminal.

use std::fmt;

use crate::series::{Run, median};

/// The cell of a missing measurement.
pub(crate) const MISSING: &str = "–";
/// The text instead of an empty table.
pub(crate) const NOT_MEASURED: &str = "Not measured.";

/// A number with three significant digits or all integer digits: `20,225`, `0.40`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let decimals = match value.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        0.095.. => 2,
        _ => 3,
    };
    fixed(value, decimals)
}

/// A number with a fixed number of decimals, and commas between thousands.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = match plain.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (&*plain, String::new()),
    };
    group_thousands(whole) + &fraction
}

/// Inserts commas between thousands.
fn group_thousands(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len() - index;
        if left.is_multiple_of(3)
            && text.ends_with(|before: char| before.is_ascii_digit())
        {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The median, followed by the range in parentheses unless all samples look the same.
pub(crate) fn with_range(samples: &[f64], text: fn(f64) -> String) -> String {
    let (middle, low, high) =
        (text(median(samples)), text(min(samples)), text(max(samples)));
    if low == high { middle } else { format!("{middle} ({low} to {high})") }
}

/// An integer.
pub(crate) fn count(value: f64) -> String {
    fixed(value, 0)
}

/// A number without trailing zeros: `0.1`, `1`, `1,000`.
pub(crate) fn trimmed(value: f64) -> String {
    let text = fixed(value, 3);
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

/// A ratio.
pub(crate) fn ratio(value: f64) -> String {
    fixed(value, 2)
}

/// The lowest sample; NaN without samples.
pub(crate) fn min(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// The highest sample; NaN without samples.
pub(crate) fn max(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::max)
}

/// The server of a run with its proper name: `Redis 7.0.15`.
pub(crate) fn server(run: &Run) -> String {
    let mut letters = run.server.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The server without the patch version, for column headings: `Redis 7.0`.
pub(crate) fn server_release(run: &Run) -> String {
    let whole = server(run);
    whole.rsplit_once('.').map_or(whole.clone(), |(release, _)| release.to_owned())
}

/// A table with a heading row. The first column is left-aligned, the others right-aligned.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) const fn new(head: Vec<String>) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds a row unless all its cells are missing.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        if cells.iter().skip(1).any(|cell| cell != MISSING) {
            self.rows.push(cells);
        }
    }

    /// The width of each column.
    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]);
            cells.chain([&self.head[column]]).map(|cell| cell.chars().count()).max()
        };
        (0..self.head.len())
            .map(|column| width(column).unwrap_or_default().max(3))
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return writeln!(f, "{NOT_MEASURED}");
        }
        let widths = self.widths();
        write_row(f, &self.head, &widths)?;
        write!(f, "|-{}-|", "-".repeat(widths[0]))?;
        for width in &widths[1..] {
            write!(f, "-{}:|", "-".repeat(*width))?;
        }
        writeln!(f)?;
        self.rows.iter().try_for_each(|row| write_row(f, row, &widths))
    }
}

fn write_row(
    f: &mut fmt::Formatter<'_>,
    cells: &[String],
    widths: &[usize],
) -> fmt::Result {
    write!(f, "| {:<width$} |", cells[0], width = widths[0])?;
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        write!(f, " {cell:>width$} |")?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let cases = [
            (0.0, "0"),
            (0.026, "0.026"),
            (0.4, "0.40"),
            (8.0, "8.00"),
            (21.06, "21.1"),
            (999.4, "999"),
            (20_225.0, "20,225"),
            (1_071_060.2, "1,071,060"),
            (-238.4, "-238"),
            (f64::NAN, MISSING),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_range_is_shown_if_samples_differ() {
        assert_eq!(with_range(&[0.46, 0.36, 0.40], number), "0.40 (0.36 to 0.46)");
        assert_eq!(with_range(&[2.0, 2.0], number), "2.00");
        assert_eq!(with_range(&[], number), MISSING);
    }

    #[test]
    fn an_empty_row_is_left_out() {
        let mut table = Table::new(vec!["pair".to_owned(), "us".to_owned()]);
        table.row(vec!["GET, GET".to_owned(), "7".to_owned()]);
        table.row(vec!["FCALL".to_owned(), MISSING.to_owned()]);
        let text = "| pair     |  us |\n|----------|----:|\n| GET, GET |   7 |\n";
        assert_eq!(table.to_string(), text);
    }
}
