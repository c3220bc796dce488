//! A connection with a timeout for every operation: connecting, and each call, however many
//! replies it has.

use std::future::Future;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, pipe};
use tokio::runtime::{Builder, Runtime};
use tokio::time;

use crate::exit;
use crate::server::Server;
use crate::server::link::Link;

/// How often a call follows redirections between the nodes of a cluster.
const MAX_REDIRECTIONS: u32 = 5;

/// A call that was redirected after this time has waited: its caller decides how to go on.
const QUICK: Duration = Duration::from_secs(1);

/// How long connecting to another node may take: a call that waits for a lock has a longer timeout.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, and the timeout of a call on it. A reply that arrives after the timeout is
/// discarded; it is not returned to the next call.
pub(crate) struct Connection {
    // Before the executor, which runs its I/O.
    link: Box<Link>,
    executor: Executor,
    server: Arc<Server>,
    timeout: Duration,
}

/// Runs the connection's I/O, only during a call.
struct Executor(Option<Runtime>);

impl Connection {
    /// Connects within `timeout`, which is also the timeout of the calls that follow.
    ///
    /// # Errors
    /// If the server cannot be reached in time, or rejects the connection.
    pub(crate) fn open(server: Arc<Server>, timeout: Duration) -> Result<Self> {
        let executor = Executor::start()?;
        let link = executor.open(&server, timeout)?;
        Ok(Self { link, executor, server, timeout })
    }

    /// Changes the timeout.
    pub(crate) fn with_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.timeout = timeout;
        self
    }

    /// Sends a command, and returns its reply. If a cluster node redirects the call to another
    /// one, connects to that one, also for the calls that follow.
    ///
    /// # Errors
    /// If there is no reply in time, or the reply is an error.
    pub(crate) fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        let start = Instant::now();
        let mut redirections = 0;
        loop {
            let reply = self.query_once(command);
            let Err(error) = &reply else { return reply };
            redirections += 1;
            let may_follow = redirections <= MAX_REDIRECTIONS && start.elapsed() < QUICK;
            if !self.server.redirect(error, &self.link.endpoint) || !may_follow {
                return reply;
            }
            self.link = self.reopened()?;
        }
    }

    /// Whether the cluster node serves the slot of the keys only in part: the slot is being
    /// migrated to it, and some keys may still be elsewhere.
    pub(crate) fn is_asking(&self) -> bool {
        self.link.is_asking
    }

    /// A connection to the node to which a call was redirected.
    fn reopened(&self) -> RedisResult<Box<Link>> {
        let opened = self.executor.open(&self.server, self.timeout.min(OPEN_TIMEOUT));
        opened.map_err(|error| match error.downcast::<RedisError>() {
            Ok(error) => error,
            Err(error) => Error::other(exit::message(&error)).into(),
        })
    }

    /// Sends several commands, and returns their replies, each of which may be an error. Does not
    /// follow redirections between the nodes of a cluster, so that the caller notices when its
    /// locks have moved to another node.
    ///
    /// # Errors
    /// If not all replies arrive in time.
    pub(crate) fn query_all<T: FromRedisValue>(
        &mut self,
        commands: &mut Pipeline,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        let mut asking;
        let commands = if self.link.is_asking {
            asking = with_asking(commands.cmd_iter());
            &mut asking
        } else {
            commands
        };
        let replies = commands.ignore_errors().query_async(&mut self.link.redis);
        let replies: Vec<RedisResult<T>> = self.executor.wait(replies, self.timeout)?;
        for error in replies.iter().filter_map(|reply| reply.as_ref().err()) {
            self.server.redirect(error, &self.link.endpoint);
        }
        Ok(replies)
    }

    /// Sends several commands, and returns their replies, each of which may be an error. Follows
    /// redirections like [`Connection::query`].
    ///
    /// # Errors
    /// If not all replies arrive in time.
    pub(crate) fn query_each<T: FromRedisValue>(
        &mut self,
        commands: &mut Pipeline,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        let mut replies = self.query_all(commands)?;
        for (command, reply) in commands.cmd_iter().zip(&mut replies) {
            let is_redirected = reply
                .as_ref()
                .is_err_and(|error: &RedisError| error.redirect_node().is_some());
            if is_redirected {
                *reply = self.query(command);
            }
        }
        Ok(replies)
    }

    fn query_once<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        if self.link.is_asking {
            let mut one = pipe();
            one.add_command(command.clone());
            let no_reply = || Err(Error::from(ErrorKind::UnexpectedEof).into());
            return self.query_all(&mut one)?.pop().unwrap_or_else(no_reply);
        }
        self.executor.wait(command.query_async(&mut self.link.redis), self.timeout)
    }
}

/// The commands, each after ASKING, which holds for one command.
fn with_asking<'a>(commands: impl Iterator<Item = &'a Cmd>) -> Pipeline {
    let mut asking = pipe();
    for command in commands {
        asking.cmd("ASKING").ignore().add_command(command.clone());
    }
    asking
}

/// Whether the connection failed or leads to the wrong node of a cluster, as opposed to any other
/// error reply of the server: a new connection is needed.
pub(crate) fn is_connection_error(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || matches!(error.code(), Some("MOVED" | "ASK"))
}

impl Executor {
    fn start() -> RedisResult<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn open(&self, server: &Server, timeout: Duration) -> Result<Box<Link>> {
        let Some(runtime) = &self.0 else { return Err(timed_out(timeout).into()) };
        let opened = runtime.block_on(server.open(timeout));
        let opened = opened.map(Box::new);
        opened.with_context(|| format!("failed to connect to {}", server.shown()))
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

/// The error for an operation that exceeded its timeout.
pub(crate) fn timed_out(timeout: Duration) -> RedisError {
    const STEP: Duration = Duration::from_millis(10);
    // What is left of a timeout is not a round number.
    let timeout = STEP.saturating_mul(timeout.div_duration_f64(STEP).round() as u32);
    Error::new(ErrorKind::TimedOut, format!("timed out after {timeout:?}")).into()
}
