//! The figures in the Prometheus text format, version 0.0.4: of the server, of the locks with their
//! own counters, and of all other locks together.
//!
//! The text is written byte by byte. Libraries for the format first build a tree of all samples,
//! and the formatting of std would take most of the time of a line. A server with the default 1,024
//! tracked locks writes 75,000 lines, and serves no other client meanwhile.

use gpulock_core::state::arena::Id;
use gpulock_core::state::histogram::Histogram;
use gpulock_core::state::lock::Bytes;
use gpulock_core::{LockManager, Name};

use crate::manager::with_manager;
use crate::report::figures::Figures;

/// The maximum number of locks with their own series in one reply.
const SERIES_MAX: usize = 1024;

/// The maximum total length of the keys of these locks as label text, in bytes. A byte of a key
/// takes up to five, and each of a lock's 73 lines repeats the text.
const LABELS_MAX: usize = 64 * 1024;

/// The number of tracked locks that are copied at a time.
const PORTION: usize = 1024;

/// An upper bound of the length of a line without its labels, in bytes.
const LINE_MAX: usize = 64;

/// The figures of the server, of a lock, or of the remaining locks, and the labels of their series.
struct Series {
    /// `db="0",key="gpu_lock:0"`; empty for the server and the remaining locks.
    labels: String,
    figures: Figures,
}

impl Series {
    fn without_labels(figures: Figures) -> [Self; 1] {
        [Self { labels: String::new(), figures }]
    }
}

/// The whole text. Locks that the caller may not read are counted with the remaining locks.
pub(crate) fn text(may_read: impl Fn(Name<'_>) -> bool) -> Vec<u8> {
    let chosen = choose(may_read);
    let (server, locks, rest) = with_manager(|manager| figures(manager, chosen));
    let lines = server.lines();
    let bytes = |series: &Series| LINE_MAX.saturating_add(series.labels.len());
    let size =
        locks.iter().map(bytes).fold(LINE_MAX.saturating_mul(2), usize::saturating_add);
    let mut out = Vec::with_capacity(size.saturating_mul(lines));
    write_families(&mut out, "gpulock_", &Series::without_labels(server));
    write_families(&mut out, "gpulock_lock_", &locks);
    write_families(&mut out, "gpulock_untracked_", &Series::without_labels(rest));
    out
}

/// The locks that get their own series, with their labels: the most recently used ones, up to
/// [`SERIES_MAX`] and [`LABELS_MAX`].
fn choose(may_read: impl Fn(Name<'_>) -> bool) -> Vec<(Id, String)> {
    let mut chosen = Vec::new();
    let mut room = LABELS_MAX;
    let mut next = with_manager(|manager| manager.table().tracked().next());
    while next.is_some() {
        let portion = with_manager(|manager| portion(manager, next));
        next = portion.last().and_then(|(id, _, _)| {
            with_manager(|manager| manager.table().tracked_after(*id))
        });
        for (id, db, key) in portion {
            if !may_read(Name { db, key: &key }) {
                continue;
            }
            let key = label(&key);
            let left = room.checked_sub(key.len());
            let Some(left) = left.filter(|_| chosen.len() < SERIES_MAX) else {
                return chosen;
            };
            room = left;
            let mut labels = String::with_capacity(key.len().saturating_add(LINE_MAX));
            labels.push_str("db=\"");
            labels.push_str(itoa::Buffer::new().format(db));
            labels.push_str("\",key=\"");
            labels.push_str(&key);
            labels.push('"');
            chosen.push((id, labels));
        }
    }
    chosen
}

/// The next [`PORTION`] tracked locks, starting with this one.
fn portion(manager: &LockManager, from: Option<Id>) -> Vec<(Id, u32, Bytes)> {
    let table = manager.table();
    let ids = table.tracked_from(from).take(PORTION);
    ids.filter_map(|id| table.get(id).map(|lock| (id, lock.db, lock.key.clone())))
        .collect()
}

/// The figures of the server, of the chosen locks, and of the remaining locks. The latter two add
/// up to the first.
fn figures(
    manager: &LockManager,
    chosen: Vec<(Id, String)>,
) -> (Figures, Vec<Series>, Figures) {
    let mut rest = Figures::of_server(manager);
    let mut locks = Vec::with_capacity(chosen.len());
    for (id, labels) in chosen {
        if let Some(figures) = manager.table().get(id).and_then(Figures::of) {
            rest.subtract(&figures);
            locks.push(Series { labels, figures });
        }
    }
    rest.leave_out_internal_errors();
    (Figures::of_server(manager), locks, rest)
}

/// Writes each figure as a metric family with one sample, or histogram, for each of `series`.
fn write_families(out: &mut Vec<u8>, prefix: &str, series: &[Series]) {
    let Some(first) = series.first() else { return };
    // The labels are formatted once, so that a line is a few copies.
    let braced: Vec<String> =
        series.iter().map(|series| braced(&series.labels)).collect();
    let values: Vec<Vec<u64>> =
        series.iter().map(|series| series.figures.values().collect()).collect();
    for (position, number) in first.figures.numbers().iter().enumerate() {
        let (kind, suffix) =
            if number.is_gauge { ("gauge", "") } else { ("counter", "_total") };
        let family = [prefix, number.name, suffix].concat();
        write_head(out, &family, number.help, kind);
        for (labels, values) in braced.iter().zip(&values) {
            let value = values.get(position).copied().unwrap_or_default();
            write_sample(out, &family, labels, value);
        }
    }
    for (position, (name, _)) in first.figures.histograms().iter().enumerate() {
        let family = [prefix, name.trim_end_matches("_ms"), "_seconds"].concat();
        let help = if *name == "wait_ms" {
            " Duration of waits that ended with a grant."
        } else {
            " Duration of holds that ended."
        };
        write_head(out, &family, help, "histogram");
        let names = HistogramNames::new(&family);
        for (series, braced) in series.iter().zip(&braced) {
            if let Some((_, histogram)) = series.figures.histograms().get(position) {
                write_histogram(out, &names, &series.labels, braced, histogram);
            }
        }
    }
}

/// Writes the comments of a family. `help` starts with a space.
fn write_head(out: &mut Vec<u8>, family: &str, help: &str, kind: &str) {
    for text in ["# HELP ", family, help, "\n# TYPE ", family, " ", kind, "\n"] {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Writes a line. `labels` includes the braces and ends with a space.
fn write_sample(out: &mut Vec<u8>, name: &str, labels: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(labels.as_bytes());
    write_number(out, value);
    out.push(b'\n');
}

/// The names of the samples of a histogram.
struct HistogramNames {
    /// With the opening brace.
    bucket: String,
    sum: String,
    count: String,
    /// The last label of each bucket, with the closing brace and a space.
    bounds: Vec<String>,
}

impl HistogramNames {
    fn new(family: &str) -> Self {
        let bound = |(bound, _): (Option<u64>, u64)| {
            let mut le = b"le=\"".to_vec();
            match bound {
                Some(ms) => write_seconds(&mut le, ms),
                None => le.extend_from_slice(b"+Inf"),
            }
            le.extend_from_slice(b"\"} ");
            String::from_utf8(le).unwrap_or_default()
        };
        Self {
            bucket: [family, "_bucket{"].concat(),
            sum: [family, "_sum"].concat(),
            count: [family, "_count"].concat(),
            bounds: Histogram::default().cumulative().map(bound).collect(),
        }
    }
}

fn write_histogram(
    out: &mut Vec<u8>,
    names: &HistogramNames,
    labels: &str,
    braced: &str,
    histogram: &Histogram,
) {
    let comma = if labels.is_empty() { "" } else { "," };
    for ((_, count), bound) in histogram.cumulative().zip(&names.bounds) {
        out.extend_from_slice(names.bucket.as_bytes());
        out.extend_from_slice(labels.as_bytes());
        out.extend_from_slice(comma.as_bytes());
        out.extend_from_slice(bound.as_bytes());
        write_number(out, count);
        out.push(b'\n');
    }
    out.extend_from_slice(names.sum.as_bytes());
    out.extend_from_slice(braced.as_bytes());
    write_seconds(out, histogram.sum());
    out.push(b'\n');
    write_sample(out, &names.count, braced, histogram.count());
}

/// The text between the name of a sample and its value.
fn braced(labels: &str) -> String {
    if labels.is_empty() { " ".to_owned() } else { ["{", labels, "} "].concat() }
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes milliseconds as seconds, without rounding.
fn write_seconds(out: &mut Vec<u8>, ms: u64) {
    write_number(out, ms / 1000);
    let thousandths = ms % 1000;
    if thousandths > 0 {
        // The extra leading digit, which is skipped below, preserves leading zeros.
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(thousandths.saturating_add(1000));
        out.push(b'.');
        let digits = digits.get(1..).unwrap_or_default();
        out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    }
}

/// A key as the value of a label: bytes that are not valid UTF-8 are written as `\xHH`, and the
/// text is escaped as the format requires. A backslash in the key before `xHH` is written as
/// `\x5c`, so that two keys never have the same label.
fn label(key: &[u8]) -> String {
    let mut out = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        let text = chunk.valid();
        for (position, character) in text.char_indices() {
            match character {
                '\\' if is_hex_escape(text.as_bytes().get(position..)) => {
                    out.push_str(r"\\x5c");
                }
                '\\' => out.push_str(r"\\"),
                '"' => out.push_str(r#"\""#),
                '\n' => out.push_str(r"\n"),
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(r"\\x");
            let digits = [byte >> 4, byte & 0xf].map(u32::from);
            out.extend(
                digits.into_iter().filter_map(|digit| char::from_digit(digit, 16)),
            );
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
    fn labels_are_escaped_and_different_for_different_keys() {
        assert_eq!(label(b"gpu:0"), "gpu:0");
        assert_eq!(label(b"a\"b\nc\\d"), r#"a\"b\nc\\d"#);
        assert_eq!(label(b"\xff"), r"\\xff");
        assert_eq!(label(b"\x80\x0f"), "\\\\x80\x0f");
        assert_eq!(label(br"\xff"), r"\\x5cxff");
        assert_eq!(label("\u{e4}".as_bytes()), "\u{e4}");
    }

    #[test]
    fn milliseconds_are_written_as_seconds() {
        let seconds = |ms| {
            let mut out = Vec::new();
            write_seconds(&mut out, ms);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(seconds(1), "0.001");
        assert_eq!(seconds(500), "0.5");
        assert_eq!(seconds(1_050), "1.05");
        assert_eq!(seconds(5_000_000), "5000");
        assert_eq!(seconds(0), "0");
    }
}
