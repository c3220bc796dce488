//! The results of a run: a flat list of series, and the environment they were measured in.
//! Tables and targets are derived from this file format alone, so old results can be
//! rendered again without a new measurement.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The samples of one quantity. Samples of different peers at the same index come from the
/// same round, so ratios are computed per index.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Part of the benchmark, such as [`crate::names::PAIR`].
    pub part: String,
    /// Conditions: `events off`, `10,000 waiting`.
    pub case: String,
    /// What was measured: GPULOCK or one of its peers.
    pub peer: String,
    /// Quantity and unit.
    pub measure: String,
    /// One sample for each round.
    pub samples: Vec<f64>,
}

/// One run on one server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Brand and version of the server: `redis 7.0.15`.
    pub server: String,
    /// Date of the run: `2026-11-23`.
    pub date: String,
    /// Processor, cores, memory and kernel.
    pub machine: String,
    /// One-minute load average before the run.
    pub load: f64,
    /// Versions of the module and of the peers.
    pub versions: BTreeMap<String, String>,
    /// All measurements.
    pub series: Vec<Series>,
}

impl Run {
    /// Reads a run from a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("invalid run in {}", path.display()))
    }

    /// Writes a run to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("failed to write {}", path.display()))
    }

    /// The samples of a series; empty if it was not measured.
    pub(crate) fn samples(
        &self,
        part: &str,
        case: &str,
        peer: &str,
        measure: &str,
    ) -> &[f64] {
        let matches = |series: &&Series| {
            (&*series.part, &*series.case, &*series.peer, &*series.measure)
                == (part, case, peer, measure)
        };
        self.series.iter().find(matches).map_or(&[], |series| &series.samples)
    }
}

/// Collects the series of one part, one sample at a time.
#[derive(Debug)]
pub(crate) struct Recorder {
    part: &'static str,
    series: Vec<Series>,
}

impl Recorder {
    /// An empty recorder.
    pub(crate) const fn new(part: &'static str) -> Self {
        Self { part, series: Vec::new() }
    }

    /// Appends a sample to its series, which is created on the first sample.
    pub(crate) fn record(&mut self, case: &str, peer: &str, measure: &str, sample: f64) {
        let matches = |series: &&mut Series| {
            (&*series.case, &*series.peer, &*series.measure) == (case, peer, measure)
        };
        if let Some(series) = self.series.iter_mut().find(matches) {
            series.samples.push(sample);
            return;
        }
        self.series.push(Series {
            part: self.part.to_owned(),
            case: case.to_owned(),
            peer: peer.to_owned(),
            measure: measure.to_owned(),
            samples: vec![sample],
        });
    }

    /// Returns the series.
    pub(crate) fn into_series(self) -> Vec<Series> {
        self.series
    }
}

/// The median; NaN without samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut ordered = samples.to_vec();
    ordered.sort_by(f64::total_cmp);
    match ordered.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => ordered[n / 2],
        n => f64::midpoint(ordered[n / 2 - 1], ordered[n / 2]),
    }
}

/// The ratios of two series, round by round.
pub(crate) fn ratios(numerator: &[f64], denominator: &[f64]) -> Vec<f64> {
    numerator.iter().zip(denominator).map(|(upper, lower)| upper / lower).collect()
}
