//! A connection with a timeout for every operation: connecting, and each call, however many
//! replies it has.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time;

/// A connection, and the timeout of a call on it. A reply that arrives after the timeout is
/// discarded; it is not returned to the next call.
pub(crate) struct Connection {
    executor: Executor,
    redis: MultiplexedConnection,
    timeout: Duration,
}

/// Runs the connection's I/O, only during a call.
struct Executor(Option<Runtime>);

impl Connection {
    /// Connects within `timeout`, which is also the timeout of the calls that follow.
    ///
    /// # Errors
    /// If the server cannot be reached in time, or rejects the connection.
    pub(crate) fn open(client: &Client, timeout: Duration) -> RedisResult<Self> {
        let executor = Executor::start()?;
        let redis = executor.wait(open_without_timeouts(client), timeout)?;
        Ok(Self { executor, redis, timeout })
    }

    /// Changes the timeout.
    pub(crate) fn with_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.timeout = timeout;
        self
    }

    /// Sends a command, and returns its reply.
    ///
    /// # Errors
    /// If there is no reply in time, or the reply is an error.
    pub(crate) fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        self.executor.wait(command.query_async(&mut self.redis), self.timeout)
    }

    /// Sends several commands, and returns their replies, each of which may be an error.
    ///
    /// # Errors
    /// If not all replies arrive in time.
    pub(crate) fn query_all<T: FromRedisValue>(
        &mut self,
        commands: &mut Pipeline,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        let replies = commands.ignore_errors().query_async(&mut self.redis);
        self.executor.wait(replies, self.timeout)
    }
}

/// Opens a connection without the library's timeouts, which apply to each reply separately.
/// The caller limits the time.
///
/// # Errors
/// If the server cannot be reached, or rejects the connection.
pub(crate) async fn open_without_timeouts(
    client: &Client,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// Whether the connection failed, as opposed to an error reply of the server.
pub(crate) fn is_connection_error(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped()
}

impl Executor {
    fn start() -> RedisResult<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn wait<T>(
        &self,
        reply: impl Future<Output = RedisResult<T>>,
        timeout: Duration,
    ) -> RedisResult<T> {
        let Some(runtime) = &self.0 else { return Err(timed_out(timeout)) };
        runtime.block_on(async {
            time::timeout(timeout, reply)
                .await
                .unwrap_or_else(|_| Err(timed_out(timeout)))
        })
    }
}

impl Drop for Executor {
    /// Does not wait for a name lookup in progress.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn timed_out(timeout: Duration) -> RedisError {
    Error::new(ErrorKind::TimedOut, format!("timed out after {timeout:?}")).into()
}
