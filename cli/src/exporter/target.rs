//! A server that the exporter watches: one connection, kept between queries and reopened when
//! it breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time;

use crate::exit;
use crate::server::Server;
use crate::server::link::Link;

/// A server, and how to reach it.
#[derive(Debug)]
pub(crate) struct Target {
    server: Arc<Server>,
    timeout: Duration,
    /// Whether a scrape has succeeded.
    has_been_scraped: AtomicBool,
    /// Locked during a query, so that a slow server gets one at a time.
    link: Mutex<Option<Link>>,
}

impl Target {
    /// A server that is not connected yet.
    pub(crate) fn new(server: Arc<Server>, timeout: Duration) -> Self {
        Self {
            server,
            timeout,
            has_been_scraped: AtomicBool::new(false),
            link: Mutex::new(None),
        }
    }

    /// Its name in labels and on the page: the address without user and password.
    pub(crate) fn instance(&self) -> &str {
        self.server.shown()
    }

    /// Whether it has once replied to the query that a scrape begins with.
    pub(crate) fn has_been_scraped(&self) -> bool {
        self.has_been_scraped.load(Ordering::Relaxed)
    }

    /// Notes such a reply.
    pub(crate) fn note_scrape(&self) {
        self.has_been_scraped.store(true, Ordering::Relaxed);
    }

    /// Runs `query`, a second time if the connection turns out to be broken.
    ///
    /// # Errors
    /// If the server cannot be reached, replies with an error, or exceeds the timeout. After a
    /// timeout the connection is closed.
    pub(crate) async fn query<T>(
        &self,
        query: impl AsyncFn(MultiplexedConnection) -> Result<T>,
    ) -> Result<T> {
        let reply = self.query_without_timeout(query);
        time::timeout(self.timeout, reply).await.unwrap_or_else(|_| {
            Err(anyhow!("no reply within {} s", self.timeout.as_secs()))
        })
    }

    async fn query_without_timeout<T>(
        &self,
        query: impl AsyncFn(MultiplexedConnection) -> Result<T>,
    ) -> Result<T> {
        let mut kept = self.link.lock().await;
        if let Some(link) = kept.take() {
            match query(link.redis.clone()).await {
                // The server was restarted since the last query.
                Err(error) if exit::status(&error) == exit::UNREACHABLE => {}
                reply => {
                    *kept = Some(link);
                    return reply;
                }
            }
        }
        let link = self.server.open(self.timeout).await?;
        let reply = query(link.redis.clone()).await;
        // Not before the reply: after a timeout, the next query must not wait for this one's.
        *kept = Some(link);
        reply
    }
}
