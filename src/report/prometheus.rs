//! The Prometheus text format, version 0.0.4: comments, samples and histograms. It is written byte
//! by byte: libraries for the format first build a tree of all samples, and the formatting of std
//! would take most of the time of a line.

use gpulock_core::state::histogram::Histogram;

/// The labels of a series, as the lines contain them.
pub(crate) struct Labels {
    /// `{db="0",key="gpu_lock:0",`, to which a label can be added; `{` without labels.
    open: String,
    /// `{db="0",key="gpu_lock:0"} `: what is between the name and the value.
    braced: String,
}

impl Labels {
    /// No labels.
    pub(crate) fn none() -> Self {
        Self { open: "{".to_owned(), braced: " ".to_owned() }
    }

    /// The labels of a lock.
    pub(crate) fn of_lock(db: u32, key: &[u8]) -> Self {
        let (mut buffer, key) = (itoa::Buffer::new(), escaped(key));
        let labels = ["{db=\"", buffer.format(db), "\",key=\"", &key, "\""].concat();
        Self { open: [&labels, ","].concat(), braced: [&labels, "} "].concat() }
    }

    /// Their length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

/// Writes the comments of a family. `help` starts with a space.
pub(crate) fn write_head(out: &mut Vec<u8>, family: &str, help: &str, kind: &str) {
    for text in ["# HELP ", family, help, "\n# TYPE ", family, " ", kind, "\n"] {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Writes the line of a sample.
pub(crate) fn write_sample(out: &mut Vec<u8>, name: &str, labels: &Labels, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(labels.braced.as_bytes());
    write_number(out, value);
    out.push(b'\n');
}

/// The names of the samples of a family of histograms.
pub(crate) struct HistogramNames {
    bucket: String,
    sum: String,
    count: String,
    /// The last label of each bucket, with the closing brace and a space.
    bounds: Vec<Vec<u8>>,
    /// The common start of the lines of a histogram, and the last value. They are here to use
    /// their memory again.
    start: Vec<u8>,
    value: Vec<u8>,
}

impl HistogramNames {
    /// The names of a family.
    pub(crate) fn new(family: &str) -> Self {
        let any = Histogram::default();
        let bounds = any.cumulative().map(|(bound, _)| last_label(bound)).collect();
        let [bucket, sum, count] =
            ["_bucket", "_sum", "_count"].map(|part| [family, part].concat());
        Self { bucket, sum, count, bounds, start: Vec::new(), value: Vec::new() }
    }
}

/// Writes the lines of a histogram.
pub(crate) fn write_histogram(
    out: &mut Vec<u8>,
    names: &mut HistogramNames,
    labels: &Labels,
    histogram: &Histogram,
) {
    let HistogramNames { bucket, sum, count, bounds, start, value: text } = names;
    start.clear();
    start.extend_from_slice(bucket.as_bytes());
    start.extend_from_slice(labels.open.as_bytes());
    let mut last = None;
    for ((_, value), bound) in histogram.cumulative().zip(bounds) {
        // Most buckets are empty, so that most lines have the value of the line before.
        if last.replace(value) != Some(value) {
            text.clear();
            write_number(text, value);
            text.push(b'\n');
        }
        out.extend_from_slice(start);
        out.extend_from_slice(bound);
        out.extend_from_slice(text);
    }
    out.extend_from_slice(sum.as_bytes());
    out.extend_from_slice(labels.braced.as_bytes());
    write_seconds(out, histogram.sum());
    out.push(b'\n');
    write_sample(out, count, labels, histogram.count());
}

/// The last label of a bucket, with the closing brace and a space.
fn last_label(bound_ms: Option<u64>) -> Vec<u8> {
    let mut label = b"le=\"".to_vec();
    match bound_ms {
        Some(ms) => write_seconds(&mut label, ms),
        None => label.extend_from_slice(b"+Inf"),
    }
    label.extend_from_slice(b"\"} ");
    label
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
fn escaped(key: &[u8]) -> String {
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
        assert_eq!(escaped(b"gpu:0"), "gpu:0");
        assert_eq!(escaped(b"a\"b\nc\\d"), r#"a\"b\nc\\d"#);
        assert_eq!(escaped(b"\xff"), r"\\xff");
        assert_eq!(escaped(b"\x80\x0f"), "\\\\x80\x0f");
        assert_eq!(escaped(br"\xff"), r"\\x5cxff");
        assert_eq!(escaped("\u{e4}".as_bytes()), "\u{e4}");
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
