//! Runs to test with. Their figures look like those of a real run and are none.

use std::collections::BTreeMap;

use crate::figures::Run;

/// A run on an old server.
pub(crate) fn redis() -> Run {
    read(include_str!("../tests/sample-redis.json"))
}

/// A run on a new one.
pub(crate) fn valkey() -> Run {
    read(include_str!("../tests/sample-valkey.json"))
}

/// A run in which nothing was measured.
pub(crate) fn empty() -> Run {
    Run {
        server: "redis 7.0.15".to_owned(),
        date: "2026-11-23".to_owned(),
        machine: String::new(),
        load: 0.0,
        versions: BTreeMap::new(),
        figures: Vec::new(),
    }
}

fn read(text: &str) -> Run {
    serde_json::from_str(text).expect("the samples are runs")
}
