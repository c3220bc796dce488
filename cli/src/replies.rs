//! The module's replies as Rust types. docs/commands.md describes the fields.

use std::collections::BTreeMap;

use anyhow::{Context, Error, Result, anyhow};
use redis::{Cmd, FromRedisValue, RedisError, ToRedisArgs, Value, cmd, pipe};
use serde::Serialize;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::text::Text;

/// A lock in the reply of `GPULOCK.LIST`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Listed {
    pub(crate) key: Text,
    pub(crate) owner: Option<Text>,
    pub(crate) token: Option<u64>,
    pub(crate) lease_ms: Option<i64>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) waiting: u64,
    /// None if its holder was given no notice.
    pub(crate) revoked_ms: Option<u64>,
}

/// A lock in the reply of `GPULOCK.INSPECT`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Inspected {
    pub(crate) owner: Option<Text>,
    pub(crate) token: Option<u64>,
    pub(crate) lease_ms: Option<i64>,
    pub(crate) held_ms: Option<u64>,
    pub(crate) session: Option<u64>,
    pub(crate) grace_ms: Option<u64>,
    /// None if the lock is not held.
    pub(crate) adopted: Option<bool>,
    pub(crate) reserved_for: Option<Text>,
    /// None if the holder was given no notice, like the reason.
    pub(crate) revoked_ms: Option<u64>,
    pub(crate) revoked_reason: Option<Text>,
    pub(crate) share: Option<Text>,
    pub(crate) waiting: u64,
    pub(crate) waiters: Vec<Waiter>,
}

/// A waiter, or a kept position.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Waiter {
    pub(crate) owner: Text,
    /// None for a kept position.
    pub(crate) client: Option<u64>,
    pub(crate) waited_ms: u64,
    pub(crate) wants: u64,
    pub(crate) of: u64,
    /// None for a call without GROUPS.
    pub(crate) groups: Option<u64>,
    pub(crate) priority: i64,
    pub(crate) share: Option<Text>,
    /// None if the server did not look them up, because the queue is too large.
    pub(crate) reserved: Option<Vec<Text>>,
}

/// An entry in the reply of `GPULOCK.LOG`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LogEntry {
    pub(crate) kind: String,
    /// None, like the key, for an entry about the whole server.
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

/// The number of locks to ask for in a portion of LIST.
const PORTION: usize = 1_000;

/// The locks of the database that match a pattern, longest held first. If they are too many for
/// one call, all locks are listed in portions.
pub(crate) fn list(
    connection: &mut Connection,
    pattern: impl ToRedisArgs + Copy,
    limit: usize,
) -> Result<Vec<Listed>> {
    let mut list = cmd("GPULOCK.LIST");
    list.arg("MATCH").arg(pattern).arg("LIMIT").arg(limit);
    match connection.query(&list) {
        Err(error) if takes_too_long(&error) => {}
        locks => return listed(locks.map_err(server_error)?),
    }
    let (mut cursor, mut all) = (0_u64, Vec::new());
    loop {
        let mut portion = cmd("GPULOCK.LIST");
        portion.arg("MATCH").arg(pattern).arg("LIMIT").arg(PORTION);
        portion.arg("CURSOR").arg(cursor);
        let (next, locks): (u64, Vec<Value>) = query(connection, &portion)?;
        all.extend(listed(locks)?);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    // Tokens rise, and the portions were listed at different times. Locks whose beginning is unknown
    // are last.
    all.sort_by_key(|lock| (lock.held_ms.is_none(), lock.token));
    all.truncate(limit);
    Ok(all)
}

/// Whether the error means that LIST has to be called with a cursor.
pub(crate) fn takes_too_long(error: &RedisError) -> bool {
    error.detail().unwrap_or_default().starts_with("LIST would take too long")
}

/// Parses the reply of LIST.
pub(crate) fn listed(locks: Vec<Value>) -> Result<Vec<Listed>> {
    locks.into_iter().map(|lock| Fields::of(lock).and_then(Listed::read)).collect()
}

/// A lock; None if it is neither held nor waited for.
pub(crate) fn inspect(
    connection: &mut Connection,
    key: &[u8],
) -> Result<Option<Inspected>> {
    inspected(query(connection, cmd("GPULOCK.INSPECT").arg(key))?)
}

/// Parses the reply of INSPECT.
pub(crate) fn inspected(lock: Value) -> Result<Option<Inspected>> {
    match lock {
        Value::Nil => Ok(None),
        lock => Fields::of(lock).and_then(Inspected::read).map(Some),
    }
}

/// The number of log entries that one call of LOG looks at, including those that it omits.
const LOOKED_AT: usize = 500;

/// The largest number of entries that a server keeps (`gpulock.log-len`).
const LONGEST_LOG: usize = 100_000;

/// How many calls of LOG are sent at once.
const AT_ONCE: usize = 40;

/// The last log entries, newest first. A reply does not say whether there are older entries than
/// those that the call looked at, of which the user may read none: so this looks at all of them
/// unless it finds enough.
pub(crate) fn log(connection: &mut Connection, count: usize) -> Result<Vec<LogEntry>> {
    let mut entries = newest(connection, count)?;
    let offsets: Vec<usize> = (LOOKED_AT..LONGEST_LOG).step_by(LOOKED_AT).collect();
    for offsets in offsets.chunks(AT_ONCE) {
        if entries.len() >= count {
            break;
        }
        let mut calls = pipe();
        for offset in offsets {
            calls
                .cmd("GPULOCK.LOG")
                .arg(count - entries.len())
                .arg("OFFSET")
                .arg(*offset);
        }
        for reply in connection.query_all(&mut calls).map_err(server_error)? {
            entries.extend(logged(reply.map_err(server_error)?)?);
        }
    }
    entries.truncate(count);
    Ok(entries)
}

/// The newest of the entries that one call of LOG looks at.
pub(crate) fn newest(connection: &mut Connection, count: usize) -> Result<Vec<LogEntry>> {
    logged(query(connection, cmd("GPULOCK.LOG").arg(count))?)
}

/// Parses the reply of LOG.
pub(crate) fn logged(entries: Vec<Value>) -> Result<Vec<LogEntry>> {
    entries.into_iter().map(|entry| Fields::of(entry).and_then(LogEntry::read)).collect()
}

/// Sends a command, and returns its reply.
///
/// # Errors
/// If there is no reply, or the reply is an error.
pub(crate) fn query<T: FromRedisValue>(
    connection: &mut Connection,
    command: &Cmd,
) -> Result<T> {
    connection.query(command).map_err(server_error)
}

/// Whether the error means that the module is not loaded.
pub(crate) fn is_unknown_command(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    error.code() == Some("ERR") && detail.starts_with("unknown command")
}

/// An error with a message for the user.
pub(crate) fn server_error(error: RedisError) -> Error {
    let detail = error.detail().unwrap_or_default();
    let Some(code) = error.code() else {
        return Error::new(error).context("no reply from the server");
    };
    match code {
        _ if is_unknown_command(&error) => anyhow!(
            "the server has not loaded the module gpulock: load it with \"loadmodule \
             libgpulock.so\", or select another server with --url or GPULOCK_URL"
        ),
        "NOAUTH" => anyhow!(
            "the server requires a password: {code} {detail}; give it in the URL, in \
             REDISCLI_AUTH or with --password-file"
        ),
        "CROSSSLOT" => anyhow!(
            "the server returned an error: {code} {detail}; in a cluster, give all locks of a \
             call the same hash tag: {{node7}}:gpu:0, {{node7}}:gpu:1"
        ),
        // It closes the connection.
        "ERR" if detail.starts_with("max number of clients") => {
            Error::new(Failure::unreachable(format!(
                "the server returned an error: {code} {detail}"
            )))
        }
        _ => anyhow!("the server returned an error: {code} {detail}"),
    }
}

impl Listed {
    /// Whether the key exists. Its value may not be an owner.
    pub(crate) const fn is_held(&self) -> bool {
        self.lease_ms.is_some()
    }

    fn read(fields: Fields) -> Result<Self> {
        Ok(Self {
            key: fields.get("key")?,
            owner: fields.get("owner")?,
            token: fields.get("token")?,
            lease_ms: fields.get("lease_ms")?,
            held_ms: fields.get("held_ms")?,
            waiting: fields.get("waiting")?,
            revoked_ms: fields.get("revoked_ms")?,
        })
    }
}

impl Inspected {
    /// Whether the key exists. Its value may not be an owner.
    pub(crate) const fn is_held(&self) -> bool {
        self.lease_ms.is_some()
    }

    /// What LIST returns about the lock.
    pub(crate) fn listed_as(self, key: Text) -> Listed {
        Listed {
            key,
            owner: self.owner,
            token: self.token,
            lease_ms: self.lease_ms,
            held_ms: self.held_ms,
            waiting: self.waiting,
            revoked_ms: self.revoked_ms,
        }
    }

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
            revoked_ms: fields.get("revoked_ms")?,
            revoked_reason: fields.get("revoked_reason")?,
            share: fields.get("share")?,
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
            groups: fields.get("groups")?,
            priority: fields.get("priority")?,
            share: fields.get("share")?,
            reserved: fields.get("reserved")?,
        })
    }
}

impl LogEntry {
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

/// A map in a reply: a map in RESP3, a flat array in RESP2.
pub(crate) struct Fields(BTreeMap<String, Value>);

impl Fields {
    pub(crate) fn of(value: Value) -> Result<Self> {
        BTreeMap::from_redis_value(value)
            .map(Self)
            .context("invalid reply: expected a map")
    }

    /// A field; a missing one counts as null.
    pub(crate) fn get<T: FromRedisValue>(&self, name: &str) -> Result<T> {
        let value = self.0.get(name).cloned().unwrap_or(Value::Nil);
        T::from_redis_value(value).with_context(|| format!("invalid reply: field {name}"))
    }
}
