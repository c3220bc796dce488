//! A server that the exporter watches: one connection, kept between queries and reopened when
//! it breaks.

use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time;

use crate::connection::open_without_timeouts;
use crate::exit;

/// A server, and how to reach it.
#[derive(Debug)]
pub(crate) struct Target {
    instance: String,
    client: Client,
    timeout: Duration,
    /// Locked during a query, so that a slow server gets one at a time.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Target {
    /// A server that is not connected yet.
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        let instance = client.get_connection_info().addr().to_string();
        Self { instance, client, timeout, connection: Mutex::new(None) }
    }

    /// Its name in labels and on the page: the address without user and password.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
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
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.take() {
            match query(connection.clone()).await {
                // The server was restarted since the last query.
                Err(error) if exit::status(&error) == exit::UNREACHABLE => {}
                reply => {
                    *kept = Some(connection);
                    return reply;
                }
            }
        }
        let connection = open_without_timeouts(&self.client).await?;
        *kept = Some(connection.clone());
        query(connection).await
    }
}
