//! `/metrics`: what each server counts, and what only a look from outside can tell. How
//! the servers become one text stands in families.rs.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::join_all;
use tokio::join;

use super::asked::{self, Lock};
use super::families::{Families, label};
use super::watched::Watched;
use crate::replies::is_unknown_command;

/// All servers, asked at once, as Prometheus text (0.0.4).
pub(crate) async fn text(servers: &[Arc<Watched>]) -> String {
    let scrapes = join_all(servers.iter().map(|server| Scrape::of(server))).await;
    let mut families = Families::default();
    for (server, scrape) in servers.iter().zip(&scrapes) {
        scrape.write(&label(server.instance()), &mut families);
    }
    families.text()
}

/// What a server answered, and how long that took.
struct Scrape {
    answer: Result<Answer>,
    took: Duration,
}

struct Answer {
    metrics: String,
    locks: Option<Vec<Lock>>,
    may_evict: Option<bool>,
}

impl Scrape {
    async fn of(server: &Watched) -> Self {
        let start = Instant::now();
        let answer = server
            .ask(async |connection| {
                let (metrics, locks, may_evict) = join!(
                    asked::metrics(&connection),
                    asked::locks(&connection),
                    asked::may_evict(&connection),
                );
                Ok(Answer { metrics: metrics?, locks: locks.ok(), may_evict })
            })
            .await;
        Self { answer, took: start.elapsed() }
    }

    fn write(&self, label: &str, families: &mut Families) {
        let mut gauge = |name, help, value: &dyn Display| {
            families.gauge(name, help, label, value);
        };
        gauge(
            "gpulock_up",
            "Whether the server answered GPULOCK.METRICS.",
            &u8::from(self.answer.is_ok()),
        );
        gauge(
            "gpulock_scrape_seconds",
            "How long the server took to answer.",
            &self.took.as_secs_f64(),
        );
        if let Some(loaded) = self.module_loaded() {
            gauge(
                "gpulock_module_loaded",
                "Whether the server that answers has the module; absent when none does.",
                &u8::from(loaded),
            );
        }
        if let Ok(answer) = &self.answer {
            answer.write(label, families);
        }
    }

    fn module_loaded(&self) -> Option<bool> {
        match &self.answer {
            Ok(_) => Some(true),
            Err(error) => {
                error.downcast_ref().is_some_and(is_unknown_command).then_some(false)
            }
        }
    }
}

impl Answer {
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
                "How long the lock held longest is held; 0 when none is.",
                label,
                &longest(locks.iter().filter_map(|lock| lock.listed.held_ms)),
            );
            let waiters = locks.iter().flat_map(|lock| &lock.waiters);
            families.gauge(
                "gpulock_longest_wait_seconds",
                "How long the client that waits longest has waited; 0 when none waits.",
                label,
                &longest(waiters.map(|waiter| waiter.waited_ms)),
            );
        }
        families.merge(&self.metrics, label);
    }
}

/// The longest of some times, in seconds.
fn longest(times_ms: impl Iterator<Item = u64>) -> f64 {
    Duration::from_millis(times_ms.max().unwrap_or(0)).as_secs_f64()
}
