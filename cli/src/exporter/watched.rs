//! A server that is watched: one connection to it, kept between questions and made anew
//! when it broke. What is asked stands in asked.rs.

use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::connection::without_limits;
use crate::exit;

/// A server, and how to reach it.
#[derive(Debug)]
pub(crate) struct Watched {
    instance: String,
    client: Client,
    patience: Duration,
    /// Whoever asks holds it, so that a slow server has one question at a time.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Watched {
    /// A server that is not connected to yet.
    pub(crate) fn new(client: Client, patience: Duration) -> Self {
        let instance = client.get_connection_info().addr().to_string();
        Self { instance, client, patience, connection: Mutex::new(None) }
    }

    /// Its name in labels and on the page: where it is, without user and password.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The answer to `question`, which may be asked twice.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or takes longer than our patience. The
    /// connection of a question that was given up goes with it.
    pub(crate) async fn ask<T>(
        &self,
        question: impl AsyncFn(MultiplexedConnection) -> Result<T>,
    ) -> Result<T> {
        timeout(self.patience, self.ask_patiently(question)).await.unwrap_or_else(|_| {
            Err(anyhow!("no answer within {} s", self.patience.as_secs()))
        })
    }

    async fn ask_patiently<T>(
        &self,
        question: impl AsyncFn(MultiplexedConnection) -> Result<T>,
    ) -> Result<T> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.take() {
            match question(connection.clone()).await {
                // The server was started again since the last question.
                Err(error) if exit::status(&error) == exit::UNREACHABLE => {}
                answer => {
                    *kept = Some(connection);
                    return answer;
                }
            }
        }
        // Our own patience bounds the whole question.
        let connection = without_limits(&self.client).await?;
        *kept = Some(connection.clone());
        question(connection).await
    }
}
