//! The module's replies as Rust has them. Which command answers what, and what null means
//! where, stands in docs/commands.md.

use std::collections::BTreeMap;

use anyhow::{Context, Error, Result, anyhow};
use redis::{Cmd, FromRedisValue, RedisError, ToRedisArgs, Value, cmd};
use serde::Serialize;

use crate::connection::Connection;
use crate::text::Text;

/// A lock, as `GPULOCK.LIST` has it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Listed {
    pub(crate) key: Text,
    pub(crate) owner: Option<Text>,
    pub(crate) token: Option<u64>,
    pub(crate) lease_ms: Option<i64>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) waiting: u64,
}

/// A lock, as `GPULOCK.INSPECT` has it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Inspected {
    pub(crate) owner: Option<Text>,
    pub(crate) token: Option<u64>,
    pub(crate) lease_ms: Option<i64>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) session: Option<u64>,
    pub(crate) grace_ms: Option<u64>,
    /// None: not held.
    pub(crate) adopted: Option<bool>,
    pub(crate) reserved_for: Option<Text>,
    pub(crate) waiting: u64,
    pub(crate) waiters: Vec<Waiter>,
}

/// Who waits for a lock.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Waiter {
    pub(crate) owner: Text,
    /// None: the place is kept for a client that is away.
    pub(crate) client: Option<u64>,
    pub(crate) waited_ms: u64,
    pub(crate) wants: u64,
    pub(crate) of: u64,
    pub(crate) reserved: Vec<Text>,
}

/// Something that went wrong, as `GPULOCK.LOG` has it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Incident {
    pub(crate) kind: String,
    /// None, as the key: it is about the server.
    pub(crate) db: Option<u64>,
    pub(crate) key: Option<Text>,
    pub(crate) holder: Option<Text>,
    pub(crate) token: Option<u64>,
    pub(crate) caller: Option<Text>,
    pub(crate) client: Option<Text>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) reason: Option<Text>,
    pub(crate) unix_ms: u64,
    pub(crate) count: u64,
}

/// The locks of the database that match a pattern, the longest held first.
pub(crate) fn list(
    connection: &mut Connection,
    pattern: impl ToRedisArgs,
    limit: usize,
) -> Result<Vec<Listed>> {
    let mut list = cmd("GPULOCK.LIST");
    list.arg("MATCH").arg(pattern).arg("LIMIT").arg(limit);
    listed(ask(connection, &list)?)
}

/// What LIST answered.
pub(crate) fn listed(locks: Vec<Value>) -> Result<Vec<Listed>> {
    locks.into_iter().map(|lock| Fields::of(lock).and_then(Listed::read)).collect()
}

/// A lock, or none when it is neither held nor waited for.
pub(crate) fn inspect(
    connection: &mut Connection,
    key: &[u8],
) -> Result<Option<Inspected>> {
    inspected(ask(connection, cmd("GPULOCK.INSPECT").arg(key))?)
}

/// What INSPECT answered.
pub(crate) fn inspected(lock: Value) -> Result<Option<Inspected>> {
    match lock {
        Value::Nil => Ok(None),
        lock => Fields::of(lock).and_then(Inspected::read).map(Some),
    }
}

/// What went wrong last, the newest first.
pub(crate) fn log(connection: &mut Connection, count: usize) -> Result<Vec<Incident>> {
    logged(ask(connection, cmd("GPULOCK.LOG").arg(count))?)
}

/// What LOG answered.
pub(crate) fn logged(entries: Vec<Value>) -> Result<Vec<Incident>> {
    entries.into_iter().map(|entry| Fields::of(entry).and_then(Incident::read)).collect()
}

/// The answer to a command of the module's.
///
/// # Errors
/// When none comes, or the server answers one; told so that people understand it.
pub(crate) fn ask<T: FromRedisValue>(
    connection: &mut Connection,
    command: &Cmd,
) -> Result<T> {
    connection.ask(command).map_err(told)
}

/// Whether an error says that the server knows no such command: the module is not loaded.
pub(crate) fn is_unknown_command(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    error.code() == Some("ERR") && detail.starts_with("unknown command")
}

/// An error in the words of the server, or why there are none.
pub(crate) fn told(error: RedisError) -> Error {
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        _ if is_unknown_command(&error) => anyhow!(
            "the server has not loaded the module gpulock (loadmodule libgpulock.so)"
        ),
        Some(code) => anyhow!("the server answers: {code} {detail}"),
        None => Error::new(error).context("no answer from the server"),
    }
}

impl Listed {
    fn read(fields: Fields) -> Result<Self> {
        Ok(Self {
            key: fields.get("key")?,
            owner: fields.get("owner")?,
            token: fields.get("token")?,
            lease_ms: fields.get("lease_ms")?,
            held_ms: fields.get("held_ms")?,
            waiting: fields.get("waiting")?,
        })
    }
}

impl Inspected {
    fn read(fields: Fields) -> Result<Self> {
        let waiters: Vec<Value> = fields.get("waiters")?;
        Ok(Self {
            owner: fields.get("owner")?,
            token: fields.get("token")?,
            lease_ms: fields.get("lease_ms")?,
            held_ms: fields.get("held_ms")?,
            session: fields.get("session")?,
            grace_ms: fields.get("grace_ms")?,
            adopted: fields.get("adopted")?,
            reserved_for: fields.get("reserved_for")?,
            waiting: fields.get("waiting")?,
            waiters: waiters
                .into_iter()
                .map(|waiter| Fields::of(waiter).and_then(Waiter::read))
                .collect::<Result<_>>()?,
        })
    }
}

impl Waiter {
    fn read(fields: Fields) -> Result<Self> {
        Ok(Self {
            owner: fields.get("owner")?,
            client: fields.get("client")?,
            waited_ms: fields.get("waited_ms")?,
            wants: fields.get("wants")?,
            of: fields.get("of")?,
            reserved: fields.get("reserved")?,
        })
    }
}

impl Incident {
    fn read(fields: Fields) -> Result<Self> {
        Ok(Self {
            kind: fields.get("kind")?,
            db: fields.get("db")?,
            key: fields.get("key")?,
            holder: fields.get("holder")?,
            token: fields.get("token")?,
            caller: fields.get("caller")?,
            client: fields.get("client")?,
            held_ms: fields.get("held_ms")?,
            reason: fields.get("reason")?,
            unix_ms: fields.get("unix_ms")?,
            count: fields.get("count")?,
        })
    }
}

impl FromRedisValue for Text {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        Vec::from_redis_value(value).map(Self)
    }
}

/// A map of the module's: a map in RESP3, a flat array in RESP2.
pub(crate) struct Fields(BTreeMap<String, Value>);

impl Fields {
    pub(crate) fn of(value: Value) -> Result<Self> {
        BTreeMap::from_redis_value(value).map(Self).context("the module answered no map")
    }

    /// A field; what is not there counts as null.
    pub(crate) fn get<T: FromRedisValue>(&self, name: &str) -> Result<T> {
        let value = self.0.get(name).cloned().unwrap_or(Value::Nil);
        T::from_redis_value(value)
            .with_context(|| format!("{name} of the module's answer"))
    }
}
