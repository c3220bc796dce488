//! What was measured: one flat list of figures, and the run they are from. All that comes
//! after (tables, plots, targets) is made of it, so that a result can be shown again
//! without measuring again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One quantity, as often as it was measured. The samples of peers that ran in turn belong
/// together by their place: ratios are taken round by round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What part of the bench: [`crate::names::PAIR`] and so on.
    pub part: String,
    /// Under which circumstances: `events off`, `10,000 waiting`.
    pub case: String,
    /// Whose it is.
    pub peer: String,
    /// What it is, with its unit.
    pub measure: String,
    /// One for each round.
    pub samples: Vec<f64>,
}

/// One run on one server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Brand and version of the server: `redis 7.0.15`.
    pub server: String,
    /// Day of the run, as `2026-11-23`.
    pub date: String,
    /// The machine: processor, cores, memory, kernel.
    pub machine: String,
    /// Load of the machine before the run, one minute.
    pub load: f64,
    /// Versions of the module and of the peers.
    pub versions: BTreeMap<String, String>,
    /// All that was measured.
    pub figures: Vec<Figure>,
}

impl Run {
    /// Reads a run.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Writes a run.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The samples of a figure, none when it was not measured.
    pub(crate) fn samples(
        &self,
        part: &str,
        case: &str,
        peer: &str,
        measure: &str,
    ) -> &[f64] {
        let wanted = |figure: &&Figure| {
            (&*figure.part, &*figure.case, &*figure.peer, &*figure.measure)
                == (part, case, peer, measure)
        };
        self.figures.iter().find(wanted).map_or(&[], |figure| &figure.samples)
    }
}

/// Collects the figures of one part, a sample at a time.
#[derive(Debug)]
pub(crate) struct Notebook {
    part: &'static str,
    figures: Vec<Figure>,
}

impl Notebook {
    /// An empty one.
    pub(crate) const fn new(part: &'static str) -> Self {
        Self { part, figures: Vec::new() }
    }

    /// Adds a sample to its figure, which begins with the first.
    pub(crate) fn note(&mut self, case: &str, peer: &str, measure: &str, sample: f64) {
        let same = |figure: &&mut Figure| {
            (&*figure.case, &*figure.peer, &*figure.measure) == (case, peer, measure)
        };
        if let Some(figure) = self.figures.iter_mut().find(same) {
            figure.samples.push(sample);
            return;
        }
        self.figures.push(Figure {
            part: self.part.to_owned(),
            case: case.to_owned(),
            peer: peer.to_owned(),
            measure: measure.to_owned(),
            samples: vec![sample],
        });
    }

    /// All of it.
    pub(crate) fn into_figures(self) -> Vec<Figure> {
        self.figures
    }
}

/// The middle of samples; NaN of none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut ordered = samples.to_vec();
    ordered.sort_by(f64::total_cmp);
    match ordered.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => ordered[n / 2],
        n => f64::midpoint(ordered[n / 2 - 1], ordered[n / 2]),
    }
}

/// The ratios of what was measured in the same rounds.
pub(crate) fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}
