//! What a server is asked: reading commands only. An answer that the server's ACL keeps
//! from us leaves a gap; only the question for which all is done is an error.

use anyhow::Result;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, InfoDict, RedisError, cmd};
use serde::Serialize;

use crate::replies::{self, Incident, Inspected, Listed, Waiter};
use crate::text::Text;

/// How many entries of the log the page shows.
const INCIDENTS: usize = 50;

/// A lock and its line.
#[derive(Debug, Serialize)]
pub(crate) struct Lock {
    #[serde(flatten)]
    pub(crate) listed: Listed,
    pub(crate) reserved_for: Option<Text>,
    pub(crate) waiters: Vec<Waiter>,
}

/// The locks of the connection's database with their lines, as many as LIST gives unasked.
pub(crate) async fn locks(connection: &MultiplexedConnection) -> Result<Vec<Lock>> {
    let listed = replies::listed(answer(connection, &cmd("GPULOCK.LIST")).await?)?;
    let lines = listed.iter().map(|lock| line(connection, lock));
    let lines = join_all(lines).await;
    let locks = listed.into_iter().zip(lines);
    Ok(locks.map(|(listed, line)| Lock::new(listed, line)).collect())
}

impl Lock {
    fn new(listed: Listed, line: Option<Inspected>) -> Self {
        let (reserved_for, waiters) =
            line.map(|line| (line.reserved_for, line.waiters)).unwrap_or_default();
        Self { listed, reserved_for, waiters }
    }
}

/// The line of a lock. Meanwhile the lock may be gone, or its key of another type.
async fn line(connection: &MultiplexedConnection, lock: &Listed) -> Option<Inspected> {
    if lock.waiting == 0 {
        return None;
    }
    let mut inspect = cmd("GPULOCK.INSPECT");
    let inspected = answer(connection, inspect.arg(&lock.key.0)).await.ok()?;
    replies::inspected(inspected).ok()?
}

/// What went wrong last.
pub(crate) async fn log(connection: &MultiplexedConnection) -> Result<Vec<Incident>> {
    replies::logged(answer(connection, cmd("GPULOCK.LOG").arg(INCIDENTS)).await?)
}

/// The server's own Prometheus text.
pub(crate) async fn metrics(connection: &MultiplexedConnection) -> Result<String> {
    Ok(answer(connection, &cmd("GPULOCK.METRICS")).await?)
}

/// Whether the server may evict locks when memory is short: all of them have a lease, so
/// that any policy but one may. None: not known.
pub(crate) async fn may_evict(connection: &MultiplexedConnection) -> Option<bool> {
    let info: InfoDict = answer(connection, cmd("INFO").arg("memory")).await.ok()?;
    let policy: String = info.get("maxmemory_policy")?;
    Some(policy != "noeviction")
}

async fn answer<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    command: &redis::Cmd,
) -> Result<T, RedisError> {
    command.query_async(&mut connection.clone()).await
}
