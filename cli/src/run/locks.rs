//! The calls that take, keep and give back locks, over a connection. When they are made
//! stands elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::{Cmd, Connection, FromRedisValue, Value, cmd, pipe};

use crate::replies::is_unknown_command;
use crate::text::Text;

/// What is asked for, and under which terms.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// In the order of preference.
    pub(crate) keys: Vec<Text>,
    /// How many of them.
    pub(crate) count: usize,
    pub(crate) owner: String,
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
}

/// A lock that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) key: Text,
    pub(crate) token: u64,
}

/// A lock that the server says is held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) lock: Lock,
    /// What is left of its lease.
    pub(crate) left: Option<Duration>,
}

impl Wish {
    /// Asks for the locks, tied to the connection, and waits in line at most so long; none: they
    /// could not be had. Locks of the wish that the owner holds are answered as well.
    pub(crate) fn acquire(
        &self,
        connection: &mut Connection,
        wait: Option<Duration>,
    ) -> redis::RedisResult<Option<Vec<Lock>>> {
        let mut acquire = self.acquire_untied(wait);
        acquire.arg("SESSION").arg("GRACE").arg(millis(self.grace));
        acquired(&acquire, connection)
    }

    /// Ends a wait of this owner that may go on elsewhere, by taking over its place for no
    /// time, and gives back what it was granted.
    pub(crate) fn withdraw(&self, connection: &mut Connection) -> Result<()> {
        let at_once = Some(Duration::from_millis(1));
        let acquire = self.acquire_untied(at_once);
        let granted = acquired(&acquire, connection)?.unwrap_or_default();
        Ok(release(connection, &self.owner, &granted, "withdrawn")?)
    }

    fn acquire_untied(&self, wait: Option<Duration>) -> Cmd {
        let mut acquire = cmd("GPULOCK.ACQUIREANY");
        acquire.arg(self.keys.len());
        for key in &self.keys {
            acquire.arg(&key.0);
        }
        acquire.arg(&self.owner).arg("COUNT").arg(self.count);
        acquire.arg("PX").arg(millis(self.lease)).arg("UNIQUE");
        if let Some(wait) = wait {
            // 0 would mean: for ever.
            acquire.arg("BLOCK").arg(millis(wait).max(1));
        }
        acquire
    }
}

/// Renews the leases. None: the owner does not hold all of them any more. A token that
/// differs is that of a server that was started again and still has the lock as ours: this
/// call grants nothing.
pub(crate) fn extend(
    connection: &mut Connection,
    owner: &str,
    locks: &[Lock],
    lease: Duration,
) -> redis::RedisResult<Option<Vec<Lock>>> {
    let mut extend = pipe();
    for lock in locks {
        extend.cmd("GPULOCK.EXTEND").arg(&lock.key.0).arg(owner);
        extend.arg("PX").arg(millis(lease));
    }
    let Some(tokens) = unless_no_lock(extend.query::<Vec<Option<u64>>>(connection))?
    else {
        return Ok(None);
    };
    let renewed = |(lock, token): (&Lock, Option<u64>)| {
        Some(Lock { key: lock.key.clone(), token: token? })
    };
    Ok(locks.iter().zip(tokens).map(renewed).collect())
}

/// Gives the locks back, and says why.
pub(crate) fn release(
    connection: &mut Connection,
    owner: &str,
    locks: &[Lock],
    reason: &str,
) -> redis::RedisResult<()> {
    if locks.is_empty() {
        return Ok(());
    }
    let mut release = pipe();
    for lock in locks {
        release.cmd("GPULOCK.RELEASE").arg(&lock.key.0).arg(owner);
        release.arg("REASON").arg(reason);
    }
    release.query::<Vec<bool>>(connection)?;
    Ok(())
}

/// Those of the locks that the owner holds, as the server says.
pub(crate) fn still_held(
    connection: &mut Connection,
    owner: &str,
    locks: &[Lock],
) -> redis::RedisResult<Vec<Held>> {
    let mut inspect = pipe();
    for lock in locks {
        inspect.cmd("GPULOCK.INSPECT").arg(&lock.key.0);
    }
    let known = unless_no_lock(inspect.query::<Vec<Option<Fields>>>(connection))?;
    let known = known.unwrap_or_default();
    let mut held = Vec::new();
    for (lock, known) in locks.iter().zip(known) {
        let Some(known) = known else { continue };
        if field::<Text>(&known, "owner").is_some_and(|text| text.0 == owner.as_bytes()) {
            // Less than nothing: it has no lease.
            let left = field(&known, "lease_ms").map(Duration::from_millis);
            held.push(Held { lock: lock.clone(), left });
        }
    }
    Ok(held)
}

/// An answer for all of some locks; none when a key of them is no lock any more, of which
/// the server tells by an error for all.
fn unless_no_lock<T>(answer: redis::RedisResult<T>) -> redis::RedisResult<Option<T>> {
    match answer {
        Err(error) if error.to_string().contains("WRONGTYPE") => Ok(None),
        answer => answer.map(Some),
    }
}

/// A lock as the server shows it, by name.
type Fields = BTreeMap<String, Value>;

fn field<T: FromRedisValue>(lock: &Fields, name: &str) -> Option<T> {
    lock.get(name).cloned().and_then(|value| T::from_redis_value(value).ok())
}

/// What an error of a server means to somebody who wants a lock.
pub(crate) fn explained(error: redis::RedisError) -> anyhow::Error {
    if is_unknown_command(&error) {
        return anyhow!(
            "the server has no module gpulock: load it with `loadmodule /path/to/libgpulock.so` \
             in its configuration, or with MODULE LOAD"
        );
    }
    error.into()
}

fn acquired(
    acquire: &Cmd,
    connection: &mut Connection,
) -> redis::RedisResult<Option<Vec<Lock>>> {
    let pairs: Option<Vec<(Text, u64)>> = acquire.query(connection)?;
    let locks = |pairs: Vec<(Text, u64)>| {
        pairs.into_iter().map(|(key, token)| Lock { key, token }).collect()
    };
    Ok(pairs.map(locks))
}

/// Milliseconds as the module takes them.
fn millis(time: Duration) -> u64 {
    const MOST: u64 = (1 << 53) - 1;
    u64::try_from(time.as_millis()).map_or(MOST, |millis| millis.min(MOST))
}
