//! The queries that the exporter sends to a server, all read-only. A reply that the ACL of the
//! server denies leaves a gap; only the main query of a scrape or a page update is an error.

use anyhow::Result;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, InfoDict, RedisError, Value, cmd};
use serde::Serialize;

use crate::replies::{self, Inspected, Listed, LogEntry, Waiter};
use crate::text::Text;

/// Number of log entries on the status page.
const LOG_ENTRIES: usize = 50;

/// Maximum number of portions of a server's text: 64 locks each. It limits the memory of a scrape,
/// about 100 MB for this many, and its duration.
const PORTIONS_MAX: usize = 256;

/// A lock and its wait queue.
#[derive(Debug, Serialize)]
pub(crate) struct Lock {
    #[serde(flatten)]
    pub(crate) listed: Listed,
    pub(crate) reserved_for: Option<Text>,
    pub(crate) waiters: Vec<Waiter>,
}

/// The locks of the connection's database with their queues, up to LIST's default limit. Of locks
/// with very long names, the first portion.
pub(crate) async fn locks(connection: &MultiplexedConnection) -> Result<Vec<Lock>> {
    let rows = match query(connection, &cmd("GPULOCK.LIST")).await {
        Err(error) if replies::takes_too_long(&error) => {
            let mut portion = cmd("GPULOCK.LIST");
            let reply = query(connection, portion.arg("CURSOR").arg(0)).await?;
            let (_, rows): (u64, Vec<Value>) = reply;
            rows
        }
        rows => rows?,
    };
    let listed = replies::listed(rows)?;
    let queues = listed.iter().map(|lock| queue(connection, lock));
    let queues = join_all(queues).await;
    let locks = listed.into_iter().zip(queues);
    Ok(locks.map(|(listed, queue)| Lock::new(listed, queue)).collect())
}

impl Lock {
    fn new(listed: Listed, queue: Option<Inspected>) -> Self {
        let (reserved_for, waiters) =
            queue.map(|queue| (queue.reserved_for, queue.waiters)).unwrap_or_default();
        Self { listed, reserved_for, waiters }
    }
}

/// The queue of a lock. None if no client waits for a held lock, or if the key is no longer a lock.
async fn queue(connection: &MultiplexedConnection, lock: &Listed) -> Option<Inspected> {
    // A free lock that is listed although no client waits has kept positions.
    if lock.waiting == 0 && lock.owner.is_some() {
        return None;
    }
    let mut inspect = cmd("GPULOCK.INSPECT");
    let inspected = query(connection, inspect.arg(&lock.key.0)).await.ok()?;
    replies::inspected(inspected).ok()?
}

/// The last log entries.
pub(crate) async fn log(connection: &MultiplexedConnection) -> Result<Vec<LogEntry>> {
    replies::logged(query(connection, cmd("GPULOCK.LOG").arg(LOG_ENTRIES)).await?)
}

/// The server's Prometheus text, in portions that do not delay its other clients.
pub(crate) async fn metrics(connection: &MultiplexedConnection) -> Result<Vec<String>> {
    let mut portions = Vec::new();
    let mut cursor: u64 = 0;
    loop {
        let mut metrics = cmd("GPULOCK.METRICS");
        let reply = query(connection, metrics.arg("CURSOR").arg(cursor)).await?;
        let (next, text) = reply;
        portions.push(text);
        if next == 0 || portions.len() == PORTIONS_MAX {
            return Ok(portions);
        }
        cursor = next;
    }
}

/// Whether the server replies to the query that a scrape begins with.
pub(crate) async fn replies(connection: &MultiplexedConnection) -> Result<()> {
    let mut metrics = cmd("GPULOCK.METRICS");
    metrics.arg("CURSOR").arg(0).arg("COUNT").arg(1);
    let _portion: Value = query(connection, &metrics).await?;
    Ok(())
}

/// Whether the server may evict locks when memory is short. Locks have a TTL, so every policy
/// but noeviction may evict them. None if the policy is unknown.
pub(crate) async fn may_evict(connection: &MultiplexedConnection) -> Option<bool> {
    let info: InfoDict = query(connection, cmd("INFO").arg("memory")).await.ok()?;
    let policy: String = info.get("maxmemory_policy")?;
    Some(policy != "noeviction")
}

async fn query<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    command: &redis::Cmd,
) -> Result<T, RedisError> {
    command.query_async(&mut connection.clone()).await
}
