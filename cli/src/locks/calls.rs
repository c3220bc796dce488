//! The commands that acquire, renew, check and release locks, each over a given connection.

use std::time::Duration;

use anyhow::Result;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, cmd, pipe};

use super::turn::Turn;
use crate::clock;
use crate::connection::Connection;
use crate::replies::{Inspected, inspected};
use crate::text::Text;

/// The locks to acquire, and the parameters of the call.
#[derive(Clone, Debug)]
pub(crate) struct LockRequest {
    /// In order of preference.
    pub(crate) keys: Vec<Text>,
    /// Number of locks to acquire; with groups, from each of them.
    pub(crate) count: usize,
    /// None: all keys are equal.
    pub(crate) groups: Option<Groups>,
    pub(crate) turn: Turn,
    pub(crate) owner: String,
    pub(crate) lease: Duration,
    /// Whether the locks are tied to the connection that acquires them. If it closes, they end
    /// after the grace period.
    pub(crate) is_tied: bool,
    pub(crate) grace: Duration,
}

/// The groups of the keys, such as the slots of a GPU: the locks come from `wanted` of them.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    pub(crate) wanted: usize,
    /// The number of keys of each group, in the order of the keys.
    pub(crate) sizes: Vec<usize>,
}

/// A lock that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) key: Text,
    pub(crate) token: u64,
}

/// A lock that the server reports as held by this run's owner.
#[derive(Clone, Debug)]
pub(crate) struct HeldLock {
    pub(crate) lock: Lock,
    /// The token that the server reports. None: the server adopted the lock and has not
    /// assigned a token yet.
    pub(crate) token: Option<u64>,
    /// Whether the server adopted the hold: it found the key with this owner, for example after
    /// a restart or a role change. Otherwise it granted the hold to a call.
    pub(crate) is_adopted: bool,
    /// Whether the lock is tied to a connection.
    pub(crate) has_session: bool,
    /// The remaining lease.
    pub(crate) lease_left: Option<Duration>,
    /// The notice that was given, if any.
    pub(crate) notice: Option<Notice>,
}

/// Notice: the hold ends at a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// The time until the deadline.
    pub(crate) left: Duration,
    pub(crate) reason: Text,
}

impl HeldLock {
    /// Whether the server adopted the hold and reports the token that is known.
    pub(crate) fn is_adopted_as_known(&self) -> bool {
        self.is_adopted && self.token == Some(self.lock.token)
    }

    /// Whether the server reports another token than the one that is known.
    pub(crate) fn has_other_token(&self) -> bool {
        self.token.is_some_and(|token| token != self.lock.token)
    }
}

impl LockRequest {
    /// Acquires the locks, and waits for up to `wait`. None: they were not granted in time. The
    /// result includes requested locks that the owner already holds.
    pub(crate) fn acquire(
        &self,
        connection: &mut Connection,
        wait: Option<Duration>,
    ) -> RedisResult<Option<Vec<Lock>>> {
        let mut acquire = self.acquire_without_session(wait);
        if self.is_tied {
            add_session(&mut acquire, self.grace);
        }
        acquired(&acquire, connection)
    }

    /// Whether the locks that `has` accepts are enough.
    pub(crate) fn is_met_by(&self, has: impl Fn(&Text) -> bool) -> bool {
        let is_enough =
            |keys: &[Text]| keys.iter().filter(|key| has(key)).count() >= self.count;
        let Some(groups) = &self.groups else { return is_enough(&self.keys) };
        let (mut keys, mut complete) = (&self.keys[..], 0);
        for size in &groups.sizes {
            let (group, rest) = keys.split_at_checked(*size).unwrap_or((keys, &[]));
            complete += usize::from(is_enough(group));
            keys = rest;
        }
        complete >= groups.wanted
    }

    /// Ends a wait of this owner that may still be in progress on another connection, and gives
    /// up its position, by taking it over for a moment. Releases whatever that grants.
    pub(crate) fn withdraw(&self, connection: &mut Connection) -> Result<()> {
        let granted = acquired(&self.withdrawal(), connection)?.unwrap_or_default();
        Ok(release(connection, &self.owner, &granted, "withdrawn")?)
    }

    /// What it grants ends with the connection: the server may execute the call so late that
    /// this process is gone.
    fn withdrawal(&self) -> Cmd {
        let shortest = Some(Duration::from_millis(1));
        let mut acquire = self.acquire_without_session(shortest);
        add_session(&mut acquire, Duration::ZERO);
        acquire.arg("KEEP").arg(0);
        acquire
    }

    fn acquire_without_session(&self, wait: Option<Duration>) -> Cmd {
        let mut acquire = cmd("GPULOCK.ACQUIREANY");
        acquire.arg(self.keys.len());
        for key in &self.keys {
            acquire.arg(&key.0);
        }
        acquire.arg(&self.owner).arg("COUNT").arg(self.count);
        if let Some(Groups { wanted, sizes }) = &self.groups {
            acquire.arg("GROUPS").arg(*wanted).arg(sizes.len()).arg(sizes);
        }
        self.turn.add_to(&mut acquire);
        acquire.arg("PX").arg(millis(self.lease)).arg("UNIQUE");
        if let Some(wait) = wait {
            // BLOCK 0 waits indefinitely.
            acquire.arg("BLOCK").arg(millis(wait).max(1));
        }
        acquire
    }
}

/// Ties the locks to the connection.
fn add_session(acquire: &mut Cmd, grace: Duration) {
    acquire.arg("SESSION").arg("GRACE").arg(millis(grace));
}

/// Renews the leases. None: the owner no longer holds all of the locks. A token in the result
/// differs if the server has adopted the lock, for example after a restart or a role change:
/// EXTEND itself grants nothing.
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
    let replies = connection.query_all::<Option<u64>>(&mut extend)?;
    let renewed = |(lock, reply): (&Lock, RedisResult<Option<u64>>)| {
        let token = none_if_not_a_lock(reply)?;
        Ok(token.map(|token| Lock { key: lock.key.clone(), token }))
    };
    let renewed: Option<_> =
        locks.iter().zip(replies).map(renewed).collect::<RedisResult<_>>()?;
    if renewed.is_none() && connection.is_asking() {
        return Err(in_migration());
    }
    Ok(renewed)
}

/// The error for locks whose slot is being migrated between two nodes of a cluster: a lock that
/// the new node does not have may still be on the old one. The server's own error is the same, for
/// a command with several keys.
fn in_migration() -> RedisError {
    let why = "the slot of the locks is being migrated";
    (ErrorKind::Server(ServerErrorKind::TryAgain), why).into()
}

/// Releases the locks, with a reason for the event.
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
    connection.query_each::<bool>(&mut release)?.into_iter().try_for_each(|reply| {
        reply?;
        Ok(())
    })
}

/// The locks that the owner still holds according to the server.
pub(crate) fn still_held(
    connection: &mut Connection,
    owner: &str,
    locks: &[Lock],
) -> Result<Vec<HeldLock>> {
    let all = inspect_all(connection, locks.iter().map(|lock| &lock.key))?;
    let is_ours = |known: &Inspected| {
        known.owner.as_ref().is_some_and(|text| text.0 == owner.as_bytes())
    };
    let held = |(lock, known): (&Lock, Option<Inspected>)| {
        known.filter(is_ours).map(|known| held_lock(lock.clone(), known))
    };
    Ok(locks.iter().zip(all).filter_map(held).collect())
}

/// What the server knows about each of these locks. None: it is neither held nor waited for, or
/// the key is not a lock.
pub(crate) fn inspect_all<'a>(
    connection: &mut Connection,
    keys: impl IntoIterator<Item = &'a Text>,
) -> Result<Vec<Option<Inspected>>> {
    let parse = |reply| inspected(none_if_not_a_lock(reply)?.unwrap_or(Value::Nil));
    inspect_each(connection, keys)?.into_iter().map(parse).collect()
}

fn inspect_each<'a>(
    connection: &mut Connection,
    keys: impl IntoIterator<Item = &'a Text>,
) -> RedisResult<Vec<RedisResult<Option<Value>>>> {
    let mut inspect = pipe();
    for key in keys {
        inspect.cmd("GPULOCK.INSPECT").arg(&key.0);
    }
    connection.query_all(&mut inspect)
}

fn held_lock(lock: Lock, known: Inspected) -> HeldLock {
    let notice = |left| Notice {
        left: Duration::from_millis(left),
        reason: known.revoked_reason.unwrap_or_default(),
    };
    // A negative value means that the key has no TTL.
    let lease_left = known.lease_ms.and_then(|left| u64::try_from(left).ok());
    HeldLock {
        lock,
        token: known.token,
        is_adopted: known.adopted == Some(true),
        has_session: known.session.is_some(),
        lease_left: lease_left.map(Duration::from_millis),
        notice: known.revoked_ms.map(notice),
    }
}

/// The first of these keys that is held, with its owner. A key that this user may not inspect
/// counts as free.
///
/// # Errors
/// If the connection fails, or the server returns any other error.
pub(crate) fn first_held(
    connection: &mut Connection,
    keys: &[Text],
) -> Result<Option<(Text, Option<Text>)>> {
    for (key, reply) in keys.iter().zip(inspect_each(connection, keys)?) {
        let is_forbidden =
            reply.as_ref().is_err_and(|error| error.code() == Some("NOPERM"));
        let reply = if is_forbidden { Ok(None) } else { none_if_not_a_lock(reply) };
        let lock = inspected(reply?.unwrap_or(Value::Nil))?;
        if let Some(held) = lock.filter(Inspected::is_held) {
            return Ok(Some((key.clone(), held.owner)));
        }
    }
    Ok(None)
}

/// Turns the error for a key that is no longer a lock into None.
fn none_if_not_a_lock<T>(reply: RedisResult<Option<T>>) -> RedisResult<Option<T>> {
    match reply {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
        reply => reply,
    }
}

fn acquired(
    acquire: &Cmd,
    connection: &mut Connection,
) -> RedisResult<Option<Vec<Lock>>> {
    let pairs: Option<Vec<(Text, u64)>> = connection.query(acquire)?;
    let locks = |pairs: Vec<(Text, u64)>| {
        pairs.into_iter().map(|(key, token)| Lock { key, token }).collect()
    };
    Ok(pairs.map(locks))
}

/// Milliseconds, limited to the maximum that the module accepts.
fn millis(time: Duration) -> u64 {
    const MAX: u64 = (1 << 53) - 1;
    clock::millis(time).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> Vec<Text> {
        names.iter().map(|name| Text(name.as_bytes().to_vec())).collect()
    }

    fn request(count: usize, groups: Option<(usize, &[usize])>) -> LockRequest {
        LockRequest {
            keys: keys(&["a0", "a1", "b0", "b1", "b2"]),
            count,
            groups: groups
                .map(|(wanted, sizes)| Groups { wanted, sizes: sizes.to_vec() }),
            turn: Turn::default(),
            owner: "me".to_owned(),
            lease: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            is_tied: true,
        }
    }

    fn is_met(request: &LockRequest, by: &[&str]) -> bool {
        let by = keys(by);
        request.is_met_by(|key| by.contains(key))
    }

    #[test]
    fn a_withdrawal_leaves_nothing_held_without_its_connection() {
        let withdrawal = request(1, None).withdrawal().get_packed_command();
        let withdrawal = String::from_utf8_lossy(&withdrawal).into_owned();
        assert!(
            withdrawal.contains("SESSION\r\n$5\r\nGRACE\r\n$1\r\n0\r\n"),
            "{withdrawal:?}"
        );
    }

    #[test]
    fn an_adopted_hold_without_a_token_is_not_known() {
        let lock = Lock { key: Text(b"k".to_vec()), token: 7 };
        let held = |token, is_adopted| HeldLock {
            lock: lock.clone(),
            token,
            is_adopted,
            has_session: true,
            lease_left: None,
            notice: None,
        };
        assert!(held(Some(7), true).is_adopted_as_known());
        assert!(!held(Some(7), false).is_adopted_as_known());
        assert!(!held(Some(8), true).is_adopted_as_known());
        assert!(!held(None, true).is_adopted_as_known());
    }

    #[test]
    fn a_request_is_met_by_enough_of_its_keys() {
        let two = request(2, None);
        assert!(is_met(&two, &["b2", "a0"]));
        assert!(is_met(&two, &["a0", "a1", "b0"]));
        assert!(!is_met(&two, &["a0"]));
        assert!(!is_met(&two, &["a0", "x"]));
    }

    #[test]
    fn a_request_with_groups_is_met_by_enough_keys_of_enough_groups() {
        let one_group = request(2, Some((1, &[2, 3])));
        assert!(is_met(&one_group, &["b0", "b2"]));
        assert!(!is_met(&one_group, &["a0", "b2"]));
        let both = request(1, Some((2, &[2, 3])));
        assert!(is_met(&both, &["a1", "b0"]));
        assert!(!is_met(&both, &["b0", "b1", "b2"]));
    }
}
