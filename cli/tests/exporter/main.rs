//! `gpulock exporter` with real servers, a real Prometheus and a real browser.
//!
//! # Layout
//! - [`metrics`], [`gpus`], [`compression`], [`prometheus`]: `/metrics`
//! - [`live`], [`page`]: the status page
//! - [`ready`]: the probes
//! - [`http`], [`connections`]: which requests are accepted, and how many
//! - [`exporter`], [`series`], [`browser`], [`tools`]: shared helpers

mod browser;
mod compression;
mod connections;
mod exporter;
mod gpus;
mod http;
mod live;
mod metrics;
mod page;
mod prometheus;
mod ready;
mod series;
mod tools;

use std::time::Duration;

/// Timeout that only a hang exceeds.
const TIMEOUT: Duration = Duration::from_secs(60);
