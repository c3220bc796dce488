//! Human-readable values: time spans, leases, local times, and unknown values.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

/// A time span in milliseconds. Displayed with its two largest units, rounded down:
/// `450ms`, `3.2s`, `42s`, `12m 05s`, `1h 02m`, `3d 04h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) u64);

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        let shown = match self.0 {
            ms @ 0..1000 => format!("{ms}ms"),
            ms @ 1000..10_000 => format!("{seconds}.{}s", ms % 1000 / 100),
            _ if minutes == 0 => format!("{seconds}s"),
            _ if hours == 0 => format!("{minutes}m {:02}s", seconds % 60),
            _ if days == 0 => format!("{hours}h {:02}m", minutes % 60),
            _ => format!("{days}d {:02}h", hours % 24),
        };
        out.pad(&shown)
    }
}

/// The remaining lease: None for a free lock, -1 for a key without a TTL.
pub(crate) fn lease(left_ms: Option<i64>) -> String {
    match left_ms.map(u64::try_from) {
        None => unknown(),
        Some(Ok(ms)) => Span(ms).to_string(),
        Some(Err(_)) => "no TTL".to_owned(),
    }
}

/// A time span that may be unknown.
pub(crate) fn span(ms: Option<u64>) -> String {
    or_unknown(ms.map(Span))
}

/// A value that may be unknown or may not apply.
pub(crate) fn or_unknown(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(unknown, |value| value.to_string())
}

/// The local time in RFC 3339 format, to the second.
pub(crate) fn local_time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok();
    let time = time.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    or_unknown(time.map(|time| {
        let local = ZonedDateTime::new(time, TimeZone::system());
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }))
}

fn unknown() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_shows_its_two_largest_units() {
        #[rustfmt::skip]
        let cases = [
            (0,             "0ms"),
            (999,           "999ms"),
            (1_000,         "1.0s"),
            (3_299,         "3.2s"),
            (9_999,         "9.9s"),
            (10_000,        "10s"),
            (59_999,        "59s"),
            (60_000,        "1m 00s"),
            (725_000,       "12m 05s"),
            (3_600_000,     "1h 00m"),
            (3_720_000,     "1h 02m"),
            (86_399_999,    "23h 59m"),
            (86_400_000,    "1d 00h"),
            (273_600_000,   "3d 04h"),
        ];
        for (ms, shown) in cases {
            assert_eq!(Span(ms).to_string(), shown);
        }
    }

    #[test]
    fn a_lease_without_end_differs_from_no_lease() {
        assert_eq!(lease(Some(1_500)), "1.5s");
        assert_eq!(lease(Some(0)), "0ms");
        assert_eq!(lease(Some(-1)), "no TTL");
        assert_eq!(lease(None), "-");
    }
}
