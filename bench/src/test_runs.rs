//! Runs for unit tests. Their numbers are plausible but were not measured.

use std::collections::BTreeMap;

use crate::series::Run;

/// A run on an old server.
pub(crate) fn redis() -> Run {
    read(include_str!("../tests/sample-redis.json"))
}

/// A run on a new server.
pub(crate) fn valkey() -> Run {
    read(include_str!("../tests/sample-valkey.json"))
}

/// A run without any measurement.
pub(crate) fn empty() -> Run {
    Run {
        server: "redis 7.0.15".to_owned(),
        date: "2026-11-23".to_owned(),
        machine: String::new(),
        load: 0.0,
        versions: BTreeMap::new(),
        series: Vec::new(),
    }
}

fn read(text: &str) -> Run {
    serde_json::from_str(text).expect("the sample files are valid runs")
}
