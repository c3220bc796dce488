//! `gpulock exporter` against real servers, a real Prometheus and a real browser. What the
//! tests share stands here: the exporter as a process, requests to it, programs that a
//! machine may lack.

mod browser;
mod connections;
mod exporter;
mod http;
mod live;
mod metrics;
mod page;
mod prometheus;
mod series;
mod tools;

use std::time::Duration;

/// How long anything may take: far more than any needs, so that only what hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);
