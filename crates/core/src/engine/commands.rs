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
use crate::rules::acquire_any::{AcquiredAny, KeyGrants, Search};
use crate::rules::deadlock::DeadlockCheck;
use crate::rules::extend::Extended;
use crate::rules::force_release::Forced;
use crate::rules::release::Released;
use crate::rules::wait::Waiting;
use crate::state::arena::Id;
use crate::state::hash_tag;
use crate::state::lock::Name;
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
        Acquired::Held => {
            drop(key);
            wait_for_one(keys, name, request, caller)
        }
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
    let wanted = Wanted { db: name.db, keys: &[name.key], ..Wanted::default() };
    wait(keys, wanted, request, caller)
}

/// ACQUIREANY: returns the locks that the caller gets. `open` opens a key of the request by its
/// index.
///
/// # Errors
/// Those of [`crate::LockManager::search_locks`], [`crate::LockManager::looked_at`],
/// [`crate::LockManager::acquire_any`], [`crate::LockManager::wait`] and `open`.
pub fn acquire_any<K: Keyspace>(
    keys: &mut K,
    db: u32,
    request: &AcquireAny<'_>,
    caller: CallerContext,
    mut open: impl FnMut(&mut K, usize) -> Result<K::Key, CommandError>,
) -> Result<Outcome<KeyGrants>, CommandError> {
    let now = keys.now();
    let mut search = Search::new(db, request);
    let mut next =
        keys.with_manager(|manager| manager.search_locks(&mut search, caller, now))?;
    let mut last = None;
    while let Some(index) = next {
        drop(last.take());
        let key = open(keys, index)?;
        let name = Name { db, key: request.keys.get(index).copied().unwrap_or_default() };
        let state = state_of(keys, &key, name);
        next = keys
            .with_manager(|manager| manager.looked_at(&mut search, index, &state, now))?;
        last = Some((index, key));
    }
    let acquired = keys.with_manager(|manager| manager.acquire_any(&search, caller, now));
    match acquired? {
        AcquiredAny::Granted(grants) => {
            // One lock is most often the one whose key is still open.
            let mut last = last
                .filter(|(index, _)| matches!(&*grants, [only] if only.index == *index));
            for grant in &grants {
                let mut key = match last.take() {
                    Some((_, key)) => key,
                    None => open(keys, grant.index)?,
                };
                match grant.renewed {
                    true => keys.expire(&mut key, grant.until_ms),
                    false => keys.set(&mut key, request.how.owner, grant.until_ms),
                }
            }
            Ok(Outcome::Granted(grants))
        }
        AcquiredAny::Contested { free } => {
            drop(last);
            let count = request.wants();
            let wanted = Wanted {
                db,
                keys: &request.keys,
                count,
                // One lock of any group is one lock of all.
                groups: request.groups.as_ref().filter(|_| count > 1),
                of_set: true,
                near: request.near,
                free: &free,
            };
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

/// FORCERELEASE: returns the owner that the lock was taken from, or that was given notice.
///
/// # Errors
/// Those of [`crate::LockManager::force_release`].
pub fn force_release<K: Keyspace>(
    keys: &mut K,
    mut key: K::Key,
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
        Forced::Noticed { owner, until_ms } => {
            if let Some(until_ms) = until_ms {
                keys.expire(&mut key, until_ms);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::rules::test_support::{
        GPU, LEASE_END, adopted, begin, counted, held, name, queue, request, unique,
    };

    #[test]
    fn acquire_writes_the_owner_or_the_expiry_or_nothing() {
        let mut server = TestKeyspace::new();
        let granted = server.acquire(GPU, &unique("me"), 1);
        let Ok(Outcome::Granted(token)) = granted else { panic!("{granted:?}") };
        assert_eq!(server.written(), ["SET gpu:0 me"]);
        assert_eq!(server.acquire(GPU, &unique("me"), 1), Ok(Outcome::Granted(token)));
        assert_eq!(server.written(), ["PEXPIREAT gpu:0"]);
        assert_eq!(server.acquire(GPU, &unique("other"), 2), Ok(Outcome::Refused));
        assert_eq!(server.written(), [] as [&str; 0]);
    }

    #[test]
    fn a_free_lock_goes_to_a_waiter_before_the_caller() {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &request("me"), 1).unwrap();
        server.wait(GPU, &request("b"), 2);
        server.delete_by_other(GPU);
        server.written();
        let third = Acquire { block_ms: Some(0), ..request("c") };
        assert!(matches!(server.acquire(GPU, &third, 3), Ok(Outcome::Waits(_))));
        assert_eq!(server.written(), ["SET gpu:0 b"]);
        assert_eq!(queue(&server.manager, GPU), "c");
    }

    #[test]
    fn a_deadlock_is_refused_after_its_locks_were_probed() {
        let mut server = TestKeyspace::new();
        server.acquire("x", &unique("a"), 1).unwrap();
        server.acquire("y", &unique("b"), 2).unwrap();
        server.wait("y", &unique("a"), 1);
        let second = Acquire { block_ms: Some(0), ..unique("b") };
        let refused = server.acquire("x", &second, 2);
        assert!(matches!(refused, Err(CommandError::Deadlock { .. })), "{refused:?}");
        // What a probe finds ends the cycle.
        server.delete_by_other("y");
        assert!(matches!(server.acquire("x", &second, 2), Ok(Outcome::Waits(_))));
        assert_eq!(server.owner("y"), Some("a"));
    }

    #[test]
    fn a_released_lock_passes_on_without_a_deletion() {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &request("me"), 1).unwrap();
        server.wait(GPU, &request("b"), 2);
        server.written();
        assert_eq!(server.release(GPU, "other"), Ok(false));
        assert_eq!(server.written(), [] as [&str; 0]);
        assert_eq!(server.release(GPU, "me"), Ok(true));
        assert_eq!(server.written(), ["SET gpu:0 b"]);
        assert_eq!(server.release(GPU, "b"), Ok(true));
        assert_eq!(server.written(), ["DEL gpu:0"]);
    }

    #[test]
    fn acquire_any_writes_all_its_locks_or_none() {
        let mut server = TestKeyspace::new();
        server.acquire("gpu:1", &request("other"), 1).unwrap();
        server.written();
        let keys = ["gpu:0", "gpu:1", "gpu:2"];
        assert_eq!(server.acquire_any(&keys, 3, request("me"), 2), Ok(Outcome::Refused));
        assert_eq!(server.written(), [] as [&str; 0]);
        assert!(server.acquire_any(&keys, 2, request("me"), 2).is_ok());
        assert_eq!(server.written(), ["SET gpu:0 me", "SET gpu:2 me"]);
    }

    #[test]
    fn acquire_any_opens_no_key_that_it_can_do_without() {
        let mut server = TestKeyspace::new();
        let keys = ["gpu:0", "gpu:1", "gpu:2", "gpu:3"];
        server.acquire("gpu:0", &unique("other"), 1).unwrap();
        let any = |server: &mut TestKeyspace, count, how| {
            server.acquire_any(&keys, count, how, 2).unwrap();
            server.opened()
        };
        assert_eq!(any(&mut server, 1, request("me")), ["gpu:1"]);
        assert_eq!(any(&mut server, 1, unique("me")), ["gpu:1"], "a renewal");
        // To write several keys, each is opened again.
        let read_and_written = ["gpu:2", "gpu:3", "gpu:2", "gpu:3"];
        assert_eq!(any(&mut server, 2, request("b")), read_and_written);
        // No lock is free: each key is read.
        assert_eq!(any(&mut server, 1, request("c")), keys);
        assert_eq!(server.values_read, 1 + keys.len());
    }

    #[test]
    fn a_deleted_key_is_found_before_acquire_any_is_refused_or_waits() {
        for block_ms in [None, Some(0)] {
            let mut server = TestKeyspace::new();
            let keys = ["gpu:0", "gpu:1", "gpu:2"];
            server.acquire_any(&keys, 3, request("other"), 1).unwrap();
            server.delete_by_other("gpu:1");
            server.written();
            let request = Acquire { block_ms, ..request("me") };
            assert!(matches!(
                server.acquire_any(&keys, 1, request, 2),
                Ok(Outcome::Granted(_))
            ));
            assert_eq!(server.written(), ["SET gpu:1 me"]);
        }
    }

    /// A server on which `me` holds `gpu:0`, and `other` holds `gpu:1` and waits for `gpu:0`.
    fn almost_a_cycle() -> TestKeyspace {
        let mut server = TestKeyspace::new();
        server.acquire("gpu:0", &unique("me"), 1).unwrap();
        server.acquire("gpu:1", &unique("other"), 2).unwrap();
        server.wait("gpu:0", &unique("other"), 2);
        server.written();
        begin(&mut server.manager);
        server
    }

    fn close_cycle(server: &mut TestKeyspace) -> Result<Outcome<u64>, CommandError> {
        let request = Acquire { block_ms: Some(0), ..unique("me") };
        server.acquire("gpu:1", &request, 1)
    }

    #[test]
    fn a_wait_that_closes_a_cycle_is_refused() {
        let mut server = almost_a_cycle();
        let chain = r#""me" -> "other" -> "me""#.to_owned();
        assert_eq!(close_cycle(&mut server), Err(CommandError::Deadlock { chain }));
        assert_eq!(counted(&server.manager), "acquire_requests deadlocks");
    }

    #[test]
    fn a_cycle_is_probed_first() {
        let mut server = almost_a_cycle();
        server.delete_by_other("gpu:0");
        let waits = close_cycle(&mut server);
        assert!(matches!(waits, Ok(Outcome::Waits(_))), "{waits:?}");
        assert_eq!(server.written(), ["SET gpu:0 other"], "the probe hands it off");
    }

    #[test]
    fn in_a_cluster_a_cycle_through_another_slot_cannot_be_probed() {
        let mut server = almost_a_cycle();
        server.in_cluster = true;
        let waits = close_cycle(&mut server);
        assert!(matches!(waits, Ok(Outcome::Waits(_))), "{waits:?}");
    }

    #[test]
    #[rustfmt::skip]
    fn a_row_of_list_shows_what_the_key_shows() {
        for (what, by_other, expected) in [
            ("its owner", (|it| it.set_by_other(GPU, "me", LEASE_END)) as fn(&mut TestKeyspace),
                "me"),
            ("nothing", |_| {}, "gone"),
            ("another owner, which is adopted", |it| it.set_by_other(GPU, "other", LEASE_END),
                "adopted"),
            ("its owner, set again after the end of the lease", |it| {
                it.set_by_other(GPU, "me", 2 * LEASE_END);
                it.now = crate::Now::from_ms(LEASE_END + 50);
            }, "adopted"),
        ] {
            let mut server = TestKeyspace::new();
            held(&mut server.manager, GPU, "me");
            by_other(&mut server);
            let lock = server.id(GPU);
            let row = match list_row(&mut server, lock) {
                Listed::Row(row) => String::from_utf8_lossy(&row.owner.unwrap()).into_owned(),
                Listed::Gone => "gone".to_owned(),
                Listed::Adopted => "adopted".to_owned(),
            };
            assert_eq!(row, expected, "{what}");
        }
    }

    #[test]
    fn force_release_deletes_an_adopted_lock() {
        let mut server = TestKeyspace::new();
        adopted(&mut server.manager, GPU, "me");
        server.set_by_other(GPU, "me", LEASE_END);
        let key = server.open(name(GPU)).unwrap();
        let reason = b""[..].into();
        let request = ForceRelease { owner: None, token: None, after_ms: None, reason };
        let forced = force_release(&mut server, key, name(GPU), request, None);
        assert_eq!(forced, Ok(Some(b"me"[..].into())));
        assert_eq!(server.written(), ["DEL gpu:0"]);
    }

    #[test]
    fn in_a_cluster_a_cycle_within_one_slot_is_refused() {
        let (held, wanted) = ("{node7}:gpu:0", "{node7}:gpu:1");
        let mut server = TestKeyspace::new();
        server.in_cluster = true;
        server.acquire(held, &unique("me"), 1).unwrap();
        server.acquire(wanted, &unique("other"), 2).unwrap();
        server.wait(held, &unique("other"), 2);
        let request = Acquire { block_ms: Some(0), ..unique("me") };
        let refused = server.acquire(wanted, &request, 1);
        assert!(matches!(refused, Err(CommandError::Deadlock { .. })), "{refused:?}");
    }

    #[test]
    fn a_call_waits_for_one_lock_or_for_a_lock_set() {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &request("other"), 1).unwrap();
        let one = server.wait(GPU, &request("me"), 2);
        let set = server.wait_for_set(&[GPU], 1, request("me"), 3);
        let is_of_set = |ticket| server.manager.queues().get(ticket).unwrap().of_set;
        assert_eq!((is_of_set(one), is_of_set(set)), (false, true));
    }

    #[test]
    fn a_release_after_the_end_of_the_lease_finds_out_whether_the_key_was_set_again() {
        let again_until_ms = 2 * LEASE_END;
        for (what, by_other, expected) in [
            (
                "set again by the same owner",
                (|it, ms| it.set_by_other(GPU, "me", ms)) as fn(&mut TestKeyspace, u64),
                "adopted releases expired",
            ),
            ("extended in time", |it, ms| it.expire_by_other(GPU, ms), "releases"),
        ] {
            let mut server = TestKeyspace::new();
            server.acquire(GPU, &request("me"), 1).unwrap();
            begin(&mut server.manager);
            by_other(&mut server, again_until_ms);
            server.now = crate::Now::from_ms(LEASE_END + 50);
            assert_eq!(server.release(GPU, "me"), Ok(true), "{what}");
            assert_eq!(counted(&server.manager), expected, "{what}");
        }
    }
}
