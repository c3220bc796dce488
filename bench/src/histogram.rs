//! Latency histograms with three significant digits.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

/// A histogram of durations.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty histogram.
    pub(crate) fn new() -> Self {
        Self(Histogram::new(3).expect("three significant digits are valid"))
    }

    /// Adds a duration.
    pub(crate) fn record(&mut self, latency: Duration) -> Result<()> {
        Ok(self.0.record(u64::try_from(latency.as_nanos())?)?)
    }

    /// The percentile from 0 to 100, in milliseconds.
    pub(crate) fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1e6
    }
}
