//! The commands that change a lock, from the open key to the outcome: read the key, let the rule
//! decide, write the key. Arguments and replies belong to the module.

use crate::engine::hand_off;
use crate::engine::keyspace::Keyspace;
use crate::engine::probe::probe;
use crate::engine::read::{end_if_set_again, open_lock, state_of};
use crate::error::CommandError;
use crate::report::list::Listed;
use crate::request::{Acquire, AcquireAny, Extend, ForceRelease, Release};
use crate::rules::acquire::{Acquired, CallerContext};
use crate::rules::acquire_any::AcquiredAny;
use crate::rules::deadlock::DeadlockCheck;
use crate::rules::extend::Extended;
use crate::rules::force_release::Forced;
use crate::rules::release::Released;
use crate::rules::wait::Waiting;
use crate::state::arena::Id;
use crate::state::hash_tag;
use crate::state::key_state::OwnedKeyState;
use crate::state::lock::Name;
use crate::state::outbox::Grant;
use crate::state::wait_queue::{Ticket, Wanted};

/// What became of a call that asks for locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The caller holds what it asked for.
    Granted(T),
    /// The caller gets nothing, and does not wait.
    Refused,
    /// The caller waits in the queues under this ticket.
    Waits(Ticket),
}

/// How many times a cycle may turn out to be a different one before the client is asked to
/// retry.
const DEADLOCK_PROBES: usize = 8;

/// ACQUIRE: returns the token.
///
/// # Errors
/// Those of [`crate::LockManager::acquire`] and [`crate::LockManager::wait`].
pub fn acquire<K: Keyspace>(
    keys: &mut K,
    mut key: K::Key,
    name: Name<'_>,
    request: &Acquire<'_>,
    caller: CallerContext,
) -> Result<Outcome<u64>, CommandError> {
    let state = state_of(keys, &key, name);
    let now = keys.now();
    let acquired =
        keys.with_manager(|manager| manager.acquire(name, request, &state, caller, now));
    match acquired? {
        Acquired::Granted { token, until_ms } => {
            keys.set(&mut key, request.owner, until_ms);
            Ok(Outcome::Granted(token))
        }
        Acquired::Renewed { token, until_ms } => {
            keys.expire(&mut key, until_ms);
            Ok(Outcome::Granted(token))
        }
        Acquired::Held => wait_for_one(keys, name, request, caller),
        Acquired::OthersFirst { next } => {
            hand_off::take_free_lock(keys, key, next);
            wait_for_one(keys, name, request, caller)
        }
    }
}

fn wait_for_one<K: Keyspace>(
    keys: &mut K,
    name: Name<'_>,
    request: &Acquire<'_>,
    caller: CallerContext,
) -> Result<Outcome<u64>, CommandError> {
    let wanted =
        Wanted { db: name.db, keys: &[name.key], count: 1, of_set: false, free: &[] };
    wait(keys, wanted, request, caller)
}

/// ACQUIREANY: returns the key and the token of each lock. `states` are what the keys show, in
/// the order of the request.
///
/// # Errors
/// Those of [`crate::LockManager::acquire_any`] and [`crate::LockManager::wait`].
pub fn acquire_any<K: Keyspace>(
    keys: &mut K,
    db: u32,
    request: &AcquireAny<'_>,
    states: &[OwnedKeyState],
    caller: CallerContext,
) -> Result<Outcome<Vec<Grant>>, CommandError> {
    let now = keys.now();
    let acquired = keys
        .with_manager(|manager| manager.acquire_any(db, request, states, caller, now));
    match acquired? {
        AcquiredAny::Granted { writes, grants } => {
            hand_off::write_all(keys, &writes);
            Ok(Outcome::Granted(grants))
        }
        AcquiredAny::Contested { free } => {
            let (keys_wanted, count) = (&request.keys, request.count);
            let wanted =
                Wanted { db, keys: keys_wanted, count, of_set: true, free: &free };
            wait(keys, wanted, &request.how, caller)
        }
    }
}

/// Queues the caller, if it wants to wait and may.
fn wait<K: Keyspace, T>(
    keys: &mut K,
    wanted: Wanted<'_>,
    request: &Acquire<'_>,
    caller: CallerContext,
) -> Result<Outcome<T>, CommandError> {
    let waits = caller.may_wait && request.block_ms.is_some();
    let Some(client) = caller.client.filter(|_| waits) else {
        return Ok(Outcome::Refused);
    };
    let mut check = DeadlockCheck::Probed(Vec::new());
    for _ in 0..DEADLOCK_PROBES {
        let now = keys.now();
        let waiting = keys.with_manager(|manager| {
            manager.wait(wanted, request, client, &check, caller.has_memory, now)
        });
        match waiting? {
            Waiting::Queued(ticket) => return Ok(Outcome::Waits(ticket)),
            Waiting::ProbeFirst(locks) => check = probe_cycle(keys, wanted, locks),
        }
    }
    Err(CommandError::TryAgain)
}

/// Probes the locks of a cycle. In a cluster a command may touch keys of its own slot only: a
/// cycle through other slots cannot be confirmed.
fn probe_cycle<K: Keyspace>(
    keys: &mut K,
    wanted: Wanted<'_>,
    locks: Vec<Id>,
) -> DeadlockCheck {
    let own = wanted.keys.first().map(|key| hash_tag::tag(key));
    let in_other_slot = |keys: &mut K, id: Id| {
        keys.with_manager(|manager| {
            let lock = manager.table().get(id);
            lock.is_some_and(|lock| Some(hash_tag::tag(&lock.key)) != own)
        })
    };
    if keys.in_cluster() && locks.iter().any(|id| in_other_slot(keys, *id)) {
        return DeadlockCheck::Skipped;
    }
    for id in &locks {
        probe(keys, *id);
    }
    DeadlockCheck::Probed(locks)
}

/// RELEASE: returns whether the caller held the lock.
///
/// # Errors
/// Those of [`crate::LockManager::release`].
pub fn release<K: Keyspace>(
    keys: &mut K,
    key: K::Key,
    name: Name<'_>,
    request: Release<'_>,
    client: Option<u64>,
) -> Result<bool, CommandError> {
    let now = keys.now();
    let (known, is_over) = keys.with_manager(|manager| {
        let known = manager.table().find(name);
        (known, known.is_some_and(|id| manager.is_lease_over(id, now)))
    });
    // A token names one hold, which only its lease tells from a later one; and after the end of
    // a lease the key may have been set again by the same owner.
    let state = match request.token {
        None if !is_over => keys.state_for_owner(&key, request.owner),
        _ => state_of(keys, &key, name),
    };
    let released = keys.with_manager(|manager| {
        manager.release(name, known, request, &state, client, now)
    });
    match released? {
        Released::Freed(next) => {
            hand_off::replace_holder(keys, key, next);
            Ok(true)
        }
        Released::NotHeld => Ok(false),
    }
}

/// FORCERELEASE: returns the owner that the lock was taken from.
///
/// # Errors
/// Those of [`crate::LockManager::force_release`].
pub fn force_release<K: Keyspace>(
    keys: &mut K,
    key: K::Key,
    name: Name<'_>,
    request: ForceRelease<'_>,
    client: Option<u64>,
) -> Result<Option<Box<[u8]>>, CommandError> {
    let state = state_of(keys, &key, name);
    let now = keys.now();
    let forced = keys.with_manager(|manager| {
        manager.force_release(name, request, &state, client, now)
    });
    match forced? {
        Forced::Freed { owner, next } => {
            hand_off::replace_holder(keys, key, next);
            Ok(Some(owner))
        }
        Forced::NotTaken => Ok(None),
    }
}

/// EXTEND: returns the token; none when the caller does not hold the lock.
///
/// # Errors
/// Those of [`crate::LockManager::extend`].
pub fn extend<K: Keyspace>(
    keys: &mut K,
    mut key: K::Key,
    name: Name<'_>,
    request: &Extend<'_>,
) -> Result<Option<u64>, CommandError> {
    let state = state_of(keys, &key, name);
    let now = keys.now();
    match keys.with_manager(|manager| manager.extend(name, request, &state, now))? {
        Extended::Renewed { token, until_ms } => {
            keys.expire(&mut key, until_ms);
            Ok(Some(token))
        }
        Extended::NotHeld => Ok(None),
    }
}

/// LIST: the row of one lock. Its key is read first, so that a row never shows what the key does
/// not.
pub fn list_row<K: Keyspace>(keys: &mut K, id: Id) -> Listed {
    let Some((key, name)) = open_lock(keys, id) else { return Listed::Gone };
    if let Some(expires) = keys.expiry(&key)
        && end_if_set_again(keys, &key, name.borrow(), expires)
    {
        let lock = |manager: &mut crate::LockManager| {
            Some(manager.table().get(id)?.hold.is_some())
        };
        return match keys.with_manager(lock) {
            Some(true) => Listed::Adopted,
            _ => Listed::Gone,
        };
    }
    let state = keys.state(&key);
    let now = keys.now();
    keys.with_manager(|manager| manager.list_row(id, &state, now))
}
