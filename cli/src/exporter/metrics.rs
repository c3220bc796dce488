//! `/metrics`: the metrics of each server, and those that only the exporter can measure.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::join_all;
use tokio::join;

use super::families::{Families, label};
use super::gpus::GpuWatch;
use super::queries::{self, Lock};
use super::target::Target;
use crate::replies::is_unknown_command;

/// The results of scraping all servers.
pub(crate) struct Scrapes(Vec<(Arc<Target>, Scrape)>);

/// Scrapes the servers concurrently.
pub(crate) async fn scrape(servers: &[Arc<Target>]) -> Scrapes {
    let scrapes = servers.iter().map(async |server| {
        let scrape = Scrape::of(server).await;
        (Arc::clone(server), scrape)
    });
    Scrapes(join_all(scrapes).await)
}

impl Scrapes {
    /// The metrics as Prometheus text (0.0.4). With thousands of locks this takes a while.
    pub(crate) fn text(&self, gpus: &GpuWatch) -> String {
        let mut families = Families::default();
        gpus.write(&mut families);
        for (server, scrape) in &self.0 {
            scrape.write(&label(server.instance()), &mut families);
        }
        families.text()
    }
}

/// The result of scraping one server, and how long it took.
struct Scrape {
    reply: Result<Scraped>,
    took: Duration,
}

struct Scraped {
    /// The portions of the server's text.
    metrics: Vec<String>,
    locks: Option<Vec<Lock>>,
    may_evict: Option<bool>,
}

impl Scrape {
    async fn of(server: &Target) -> Self {
        let start = Instant::now();
        let reply = server
            .query(async |connection| {
                let (metrics, locks, may_evict) = join!(
                    queries::metrics(&connection),
                    queries::locks(&connection),
                    queries::may_evict(&connection),
                );
                Ok(Scraped { metrics: metrics?, locks: locks.ok(), may_evict })
            })
            .await;
        if reply.is_ok() {
            server.note_scrape();
        }
        Self { reply, took: start.elapsed() }
    }

    fn write(&self, label: &str, families: &mut Families) {
        let mut gauge = |name, help, value: &dyn Display| {
            families.gauge(name, help, label, value);
        };
        gauge(
            "gpulock_up",
            "Whether the server replied to GPULOCK.METRICS.",
            &u8::from(self.reply.is_ok()),
        );
        gauge(
            "gpulock_scrape_seconds",
            "How long the server took to reply.",
            &self.took.as_secs_f64(),
        );
        if let Some(loaded) = self.module_loaded() {
            gauge(
                "gpulock_module_loaded",
                "Whether the server has loaded the module; absent if the server does not reply.",
                &u8::from(loaded),
            );
        }
        if let Ok(scraped) = &self.reply {
            scraped.write(label, families);
        }
    }

    fn module_loaded(&self) -> Option<bool> {
        match &self.reply {
            Ok(_) => Some(true),
            Err(error) => {
                error.downcast_ref().is_some_and(is_unknown_command).then_some(false)
            }
        }
    }
}

impl Scraped {
    fn write(&self, label: &str, families: &mut Families) {
        if let Some(may_evict) = self.may_evict {
            families.gauge(
                "gpulock_may_evict",
                "Whether maxmemory-policy lets the server evict locks.",
                label,
                &u8::from(may_evict),
            );
        }
        if let Some(locks) = &self.locks {
            families.gauge(
                "gpulock_oldest_hold_seconds",
                "How long the oldest current hold has lasted; 0 if no lock is held.",
                label,
                &longest(locks.iter().filter_map(|lock| lock.listed.held_ms)),
            );
            let waiters = locks.iter().flat_map(|lock| &lock.waiters);
            families.gauge(
                "gpulock_longest_wait_seconds",
                "How long the longest current wait has lasted; 0 if no client waits.",
                label,
                &longest(waiters.map(|waiter| waiter.waited_ms)),
            );
        }
        for portion in &self.metrics {
            families.merge(portion, label);
        }
    }
}

/// The longest of some times, in seconds.
fn longest(times_ms: impl Iterator<Item = u64>) -> f64 {
    Duration::from_millis(times_ms.max().unwrap_or(0)).as_secs_f64()
}
