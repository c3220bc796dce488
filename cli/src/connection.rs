//! A connection to a server on which nothing takes longer than it may: neither its making
//! nor the answer to a question, however many replies that has. What is asked stands
//! elsewhere.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// A connection, and how long an answer on it may take. An answer that comes too late is
/// passed over, and the next question gets its own.
pub(crate) struct Connection {
    engine: Engine,
    redis: MultiplexedConnection,
    patience: Duration,
}

/// What waits for the network. It goes on only while something is waited for.
struct Engine(Option<Runtime>);

impl Connection {
    /// Connects within `patience`, which any answer may take from then on.
    ///
    /// # Errors
    /// When the server cannot be reached in time, or refuses.
    pub(crate) fn open(client: &Client, patience: Duration) -> RedisResult<Self> {
        let engine = Engine::start()?;
        let redis = engine.wait(without_limits(client), patience)?;
        Ok(Self { engine, redis, patience })
    }

    /// The same connection, on which any answer may take `patience`.
    pub(crate) fn within(&mut self, patience: Duration) -> &mut Self {
        self.patience = patience;
        self
    }

    /// The answer to a command.
    ///
    /// # Errors
    /// When none comes in time, or the server answers one.
    pub(crate) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        self.engine.wait(command.query_async(&mut self.redis), self.patience)
    }

    /// The answers to several commands: each may be an error of its own.
    ///
    /// # Errors
    /// When not all come in time.
    pub(crate) fn ask_all<T: FromRedisValue>(
        &mut self,
        commands: &mut Pipeline,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        let answers = commands.ignore_errors().query_async(&mut self.redis);
        self.engine.wait(answers, self.patience)
    }
}

/// A connection whose user limits the time: the time-outs of the library count each reply for
/// itself.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub(crate) async fn without_limits(
    client: &Client,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

impl Engine {
    fn start() -> RedisResult<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn wait<T>(
        &self,
        answer: impl Future<Output = RedisResult<T>>,
        patience: Duration,
    ) -> RedisResult<T> {
        let Some(runtime) = &self.0 else { return Err(too_late(patience)) };
        runtime.block_on(async {
            timeout(patience, answer).await.unwrap_or_else(|_| Err(too_late(patience)))
        })
    }
}

impl Drop for Engine {
    /// Without waiting for a name that is still looked up.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn too_late(patience: Duration) -> RedisError {
    Error::new(ErrorKind::TimedOut, format!("it took longer than {patience:?}")).into()
}
