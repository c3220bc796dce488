//! `/-/ready`: whether the exporter can serve scrapes with data.
//!
//! It is ready from the first reply of a server on, and stays ready: if servers become unreachable
//! later, Prometheus must go on scraping `gpulock_up 0`. So a new exporter that cannot reach any
//! server, such as with a wrong password, does not replace one that can.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::queries;
use super::target::Target;
use crate::exit;

/// The servers.
#[derive(Debug)]
pub(crate) struct Readiness(Vec<Arc<Target>>);

impl Readiness {
    /// Of an exporter that watches these servers.
    pub(crate) fn new(servers: &[Arc<Target>]) -> Self {
        Self(servers.to_vec())
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
    /// Queries the servers until one replies, unless one has replied before, also to a scrape.
    async fn check(&self) -> Result<(), String> {
        if self.0.iter().any(|server| server.has_been_scraped()) {
            return Ok(());
        }
        let mut waiting: FuturesUnordered<_> = self.0.iter().map(query).collect();
        let mut why = String::new();
        while let Some(reply) = waiting.next().await {
            match reply {
                Ok(()) => return Ok(()),
                Err(error) => why += &error,
            }
        }
        Err(why)
    }
}

/// The query that a scrape begins with. The error is a line.
async fn query(server: &Arc<Target>) -> Result<(), String> {
    let reply = server.query(async |connection| queries::replies(&connection).await);
    let reply = reply.await;
    if reply.is_ok() {
        server.note_scrape();
    }
    reply.map_err(|error| format!("{}: {}\n", server.instance(), exit::message(&error)))
}
