//! `/-/ready`: whether the exporter can serve scrapes with data.
//!
//! It is ready from the first reply of a server on, and stays ready: if servers become unreachable
//! later, Prometheus must go on scraping `gpulock_up 0`. So a new exporter that cannot reach any
//! server, such as with a wrong password, does not replace one that can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::queries;
use super::target::Target;
use crate::exit;

/// The servers, and whether one of them has replied.
#[derive(Debug)]
pub(crate) struct Readiness {
    servers: Vec<Arc<Target>>,
    has_replied: AtomicBool,
}

impl Readiness {
    /// Of an exporter that has just started.
    pub(crate) fn new(servers: &[Arc<Target>]) -> Self {
        Self { servers: servers.to_vec(), has_replied: AtomicBool::new(false) }
    }
}

/// 200 if a server has replied, otherwise 503 with the error of each server.
pub(crate) async fn ready(
    State(readiness): State<Arc<Readiness>>,
) -> (StatusCode, String) {
    match readiness.check().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

impl Readiness {
    /// Queries the servers until one replies, unless one has replied before.
    async fn check(&self) -> Result<(), String> {
        if self.has_replied.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut waiting: FuturesUnordered<_> = self.servers.iter().map(query).collect();
        let mut why = String::new();
        while let Some(reply) = waiting.next().await {
            match reply {
                Ok(()) => {
                    self.has_replied.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => why += &error,
            }
        }
        Err(why)
    }
}

/// The query that a scrape begins with. The error is a line.
async fn query(server: &Arc<Target>) -> Result<(), String> {
    let reply = server.query(async |connection| queries::replies(&connection).await);
    reply
        .await
        .map_err(|error| format!("{}: {}\n", server.instance(), exit::message(&error)))
}
