//! The calls that take, keep and give back locks, over a connection. When they are made
//! stands elsewhere.

use std::time::Duration;

use anyhow::Result;
use redis::{Cmd, RedisResult, Value, cmd, pipe};

use crate::clock;
use crate::connection::Connection;
use crate::replies::inspected;
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
    /// By which the server knows it; none: it found the lock, and has given none yet.
    token: Option<u64>,
    /// What is left of its lease.
    pub(crate) left: Option<Duration>,
}

impl Held {
    /// Whether it is another hold than that which was asked for.
    pub(crate) fn is_another(&self) -> bool {
        self.token.is_some_and(|token| token != self.lock.token)
    }
}

impl Wish {
    /// Asks for the locks, tied to the connection, and waits in line at most so long; none: they
    /// could not be had. Locks of the wish that the owner holds are answered as well.
    pub(crate) fn acquire(
        &self,
        connection: &mut Connection,
        wait: Option<Duration>,
    ) -> RedisResult<Option<Vec<Lock>>> {
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
) -> RedisResult<Option<Vec<Lock>>> {
    let mut extend = pipe();
    for lock in locks {
        extend.cmd("GPULOCK.EXTEND").arg(&lock.key.0).arg(owner);
        extend.arg("PX").arg(millis(lease));
    }
    let answers = connection.ask_all::<Option<u64>>(&mut extend)?;
    let renewed = |(lock, answer): (&Lock, RedisResult<Option<u64>>)| {
        let token = unless_no_lock(answer)?;
        Ok(token.map(|token| Lock { key: lock.key.clone(), token }))
    };
    locks.iter().zip(answers).map(renewed).collect()
}

/// Gives the locks back, and says why.
pub(crate) fn release(
    connection: &mut Connection,
    owner: &str,
    locks: &[Lock],
    reason: &str,
) -> RedisResult<()> {
    if locks.is_empty() {
        return Ok(());
    }
    let mut release = pipe();
    for lock in locks {
        release.cmd("GPULOCK.RELEASE").arg(&lock.key.0).arg(owner);
        release.arg("REASON").arg(reason);
    }
    connection.ask_all::<bool>(&mut release)?.into_iter().try_for_each(|answer| {
        answer?;
        Ok(())
    })
}

/// Those of the locks that the owner holds, as the server says.
pub(crate) fn still_held(
    connection: &mut Connection,
    owner: &str,
    locks: &[Lock],
) -> Result<Vec<Held>> {
    let mut inspect = pipe();
    for lock in locks {
        inspect.cmd("GPULOCK.INSPECT").arg(&lock.key.0);
    }
    let answers = connection.ask_all::<Option<Value>>(&mut inspect)?;
    let mut held = Vec::new();
    for (lock, answer) in locks.iter().zip(answers) {
        let known = unless_no_lock(answer)?.unwrap_or(Value::Nil);
        let Some(known) = inspected(known)? else { continue };
        if known.owner.is_some_and(|text| text.0 == owner.as_bytes()) {
            // Less than nothing: it has no lease.
            let left = known.lease_ms.and_then(|left| u64::try_from(left).ok());
            let left = left.map(Duration::from_millis);
            held.push(Held { lock: lock.clone(), token: known.token, left });
        }
    }
    Ok(held)
}

/// What is answered of a key; nothing when it is no lock any more, of which the server
/// tells by an error.
fn unless_no_lock<T>(answer: RedisResult<Option<T>>) -> RedisResult<Option<T>> {
    match answer {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
        answer => answer,
    }
}

fn acquired(
    acquire: &Cmd,
    connection: &mut Connection,
) -> RedisResult<Option<Vec<Lock>>> {
    let pairs: Option<Vec<(Text, u64)>> = connection.ask(acquire)?;
    let locks = |pairs: Vec<(Text, u64)>| {
        pairs.into_iter().map(|(key, token)| Lock { key, token }).collect()
    };
    Ok(pairs.map(locks))
}

/// Milliseconds as the module takes them.
fn millis(time: Duration) -> u64 {
    const MOST: u64 = (1 << 53) - 1;
    clock::millis(time).min(MOST)
}
