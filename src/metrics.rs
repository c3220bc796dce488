//! The figures in the text format of Prometheus, version 0.0.4: of the server, of each
//! lock that has counters of its own, and of all other locks together.
//!
//! Written here rather than by a library: those build a tree of every sample first, on
//! the server's one thread, for what is a line each.

use std::fmt::Write;

use gpulock_core::Name;
use gpulock_core::histogram::Histogram;

use crate::server::state::with_keeper;
use crate::stats::{Figures, Number};

/// A lock's figures and the labels of its series.
struct Labelled {
    labels: String,
    figures: Figures,
}

/// The whole text. Locks whose keys `may_see` denies are left out.
pub(crate) fn text(may_see: impl Fn(&[u8]) -> bool) -> String {
    let keys = with_keeper(|keeper| {
        keeper
            .table()
            .tracked()
            .map(|lock| (lock.db, lock.key.clone()))
            .collect::<Vec<_>>()
    });
    let seen = keys.iter().filter(|(_, key)| may_see(key));
    let own = seen.filter_map(|(db, key)| {
        let name = Name { db: *db, key };
        let figures = with_keeper(|keeper| Figures::of_lock(keeper, name))?;
        Some(Labelled { labels: format!("db=\"{db}\",key=\"{}\"", label(key)), figures })
    });
    let own: Vec<_> = own.collect();
    let (server, untracked) =
        with_keeper(|keeper| (Figures::of_server(keeper), Figures::untracked(keeper)));
    let unlabelled = |figures| [Labelled { labels: String::new(), figures }];

    let mut out = String::new();
    write_families(&mut out, "gpulock_", &unlabelled(server));
    write_families(&mut out, "gpulock_lock_", &own);
    write_families(&mut out, "gpulock_untracked_", &unlabelled(untracked));
    out
}

/// Each figure as a family of series, one for each of `series`.
fn write_families(out: &mut String, prefix: &str, series: &[Labelled]) {
    let Some(first) = series.first() else { return };
    let numbers: Vec<_> = series.iter().map(|of| of.figures.numbers()).collect();
    for (place, Number { name, help, is_gauge, .. }) in
        first.figures.numbers().iter().enumerate()
    {
        let (kind, suffix) =
            if *is_gauge { ("gauge", "") } else { ("counter", "_total") };
        let family = format!("{prefix}{name}{suffix}");
        let _ = write!(out, "# HELP {family}{help}\n# TYPE {family} {kind}\n");
        for (of, numbers) in series.iter().zip(&numbers) {
            let Some(Number { value, .. }) = numbers.get(place) else { continue };
            let _ = writeln!(out, "{family}{} {value}", braced(&of.labels));
        }
    }
    for (place, (name, _)) in first.figures.histograms().iter().enumerate() {
        let family = format!("{prefix}{}_seconds", name.trim_end_matches("_ms"));
        let help = if *name == "wait_ms" {
            "Waits that ended in a grant."
        } else {
            "All holds that ended."
        };
        let _ = write!(out, "# HELP {family} {help}\n# TYPE {family} histogram\n");
        for of in series {
            if let Some((_, histogram)) = of.figures.histograms().get(place) {
                write_histogram(out, &family, &of.labels, histogram);
            }
        }
    }
}

fn write_histogram(out: &mut String, family: &str, labels: &str, histogram: &Histogram) {
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, count) in histogram.cumulative() {
        let le = bound.map_or_else(|| "+Inf".to_owned(), seconds);
        let _ = writeln!(out, "{family}_bucket{{{labels}{comma}le=\"{le}\"}} {count}");
    }
    let (labels, sum) = (braced(labels), seconds(histogram.sum()));
    let _ = write!(
        out,
        "{family}_sum{labels} {sum}\n{family}_count{labels} {}\n",
        histogram.count()
    );
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

/// Milliseconds as seconds, exactly.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A key as the value of a label: bytes that are no UTF-8 as `\xHH`, then escaped as the
/// format asks. A backslash that the key itself has before an `xHH` is written `\x5c`, so
/// that two keys never share a series.
fn label(key: &[u8]) -> String {
    let mut out = String::new();
    for chunk in key.utf8_chunks() {
        let text = chunk.valid();
        for (place, character) in text.char_indices() {
            match character {
                '\\' if is_hex_escape(text.as_bytes().get(place..)) => {
                    out.push_str(r"\\x5c");
                }
                '\\' => out.push_str(r"\\"),
                '"' => out.push_str(r#"\""#),
                '\n' => out.push_str(r"\n"),
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, r"\\x{byte:02x}");
        }
    }
    out
}

fn is_hex_escape(text: Option<&[u8]>) -> bool {
    matches!(text, Some([b'\\', b'x', high, low, ..])
        if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_never_the_same_for_two_keys() {
        assert_eq!(label(b"gpu:0"), "gpu:0");
        assert_eq!(label(b"a\"b\nc\\d"), r#"a\"b\nc\\d"#);
        assert_eq!(label(b"\xff"), r"\\xff");
        assert_eq!(label(br"\xff"), r"\\x5cxff");
        assert_eq!(label("\u{e4}".as_bytes()), "\u{e4}");
    }

    #[test]
    fn milliseconds_are_told_in_seconds() {
        assert_eq!(seconds(1), "0.001");
        assert_eq!(seconds(500), "0.5");
        assert_eq!(seconds(5_000_000), "5000");
        assert_eq!(seconds(0), "0");
    }
}
