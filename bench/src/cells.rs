//! Numbers as text, and text in rows and columns. The tables are Markdown whose columns
//! stand below each other, so that a page and a terminal show the same. What is in them
//! is told in `tables.rs`.

use std::fmt;

use crate::figures::{Run, median};

/// Stands where nothing was measured.
pub(crate) const MISSING: &str = "–";
/// Stands where a whole table would be.
pub(crate) const NOT_MEASURED: &str = "Not measured.";

/// A number with the places that tell something, thousands parted: `20,225`, `0.40`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let places = match value.abs() {
        0.0 | 100.0.. => 0,
        10.0.. => 1,
        0.095.. => 2,
        _ => 3,
    };
    fixed(value, places)
}

/// A number with so many places.
pub(crate) fn fixed(value: f64, places: usize) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let plain = format!("{value:.places$}");
    let (whole, places) = match plain.split_once('.') {
        Some((whole, places)) => (whole, format!(".{places}")),
        None => (&*plain, String::new()),
    };
    parted(whole) + &places
}

/// Digits in groups of three.
fn parted(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        let left = digits.len() - place;
        if left.is_multiple_of(3)
            && text.ends_with(|before: char| before.is_ascii_digit())
        {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The median of samples, and in brackets the least and the most when they differ from it.
pub(crate) fn spread(samples: &[f64], text: fn(f64) -> String) -> String {
    let (middle, least, most) =
        (text(median(samples)), text(least(samples)), text(most(samples)));
    if least == most { middle } else { format!("{middle} ({least} to {most})") }
}

/// A number of things.
pub(crate) fn count(value: f64) -> String {
    fixed(value, 0)
}

/// A number without places that say nothing, as for an axis: `0.1`, `1`, `1,000`.
pub(crate) fn bare(value: f64) -> String {
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

/// From the least to the most of values, which are one for each server: `1.54 to 1.61`.
pub(crate) fn span(values: impl Iterator<Item = f64>, text: fn(f64) -> String) -> String {
    let known: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let (least, most) = (text(least(&known)), text(most(&known)));
    if least == most { most } else { format!("{least} to {most}") }
}

/// The least of samples; NaN of none.
pub(crate) fn least(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::min)
}

/// The most of samples; NaN of none.
pub(crate) fn most(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::NAN, f64::max)
}

/// The server of a run as people write it: `Redis 7.0.15`.
pub(crate) fn server(run: &Run) -> String {
    let mut letters = run.server.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The same without the patch number, for heads of columns: `Redis 7.0`.
pub(crate) fn release(run: &Run) -> String {
    let whole = server(run);
    whole.rsplit_once('.').map_or(whole.clone(), |(release, _)| release.to_owned())
}

/// Rows below a head; the first column holds words, the others numbers.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) const fn new(head: Vec<String>) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds a row, unless it has nothing to say.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        if cells.iter().skip(1).any(|cell| cell != MISSING) {
            self.rows.push(cells);
        }
    }

    /// How wide each column has to be.
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
    fn numbers_have_the_places_that_tell_something() {
        let told = [
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
        for (value, text) in told {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_spread_is_told_when_there_is_one() {
        assert_eq!(spread(&[0.46, 0.36, 0.40], number), "0.40 (0.36 to 0.46)");
        assert_eq!(spread(&[2.0, 2.0], number), "2.00");
        assert_eq!(spread(&[], number), MISSING);
    }

    #[test]
    fn a_row_without_figures_is_left_out() {
        let mut table = Table::new(vec!["pair".to_owned(), "us".to_owned()]);
        table.row(vec!["GET, GET".to_owned(), "7".to_owned()]);
        table.row(vec!["FCALL".to_owned(), MISSING.to_owned()]);
        let text = "| pair     |  us |\n|----------|----:|\n| GET, GET |   7 |\n";
        assert_eq!(table.to_string(), text);
    }
}
