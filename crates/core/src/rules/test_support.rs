//! Helpers of the rules' unit tests: a fixed clock, standard names, builders for the record, and
//! short texts for what a call has changed.

use std::collections::BTreeSet;

use crate::manager::LockManager;
use crate::request::Acquire;
use crate::rules::acquire::{Acquired, CallerContext};
use crate::rules::deadlock::DeadlockCheck;
use crate::rules::lock_set::{KeyWrite, ToProbe};
use crate::rules::session::DeferredOutcome;
use crate::rules::wait::Waiting;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::counters::Counters;
use crate::state::event::What;
use crate::state::key_state::{Expires, KeyState};
use crate::state::lock::Name;
use crate::state::outbox::{Outbox, WaitReply};
use crate::state::settings::Settings;
use crate::state::wait_queue::{Ticket, Wanted};

/// The time at which every test begins.
pub(crate) const NOW: Now = Now::from_ms(1_000_000);

/// The end of a lease of the default length that begins at [`NOW`], in ms since the epoch.
pub(crate) const LEASE_END: u64 = 1_600_000;

/// The key of a test that needs only one.
pub(crate) const GPU: &str = "gpu:0";

/// The time `ms` milliseconds after [`NOW`].
pub(crate) fn after(ms: u64) -> Now {
    Now::from_ms(NOW.ms() + ms)
}

/// A manager without locks, with the default settings.
pub(crate) fn manager() -> LockManager {
    LockManager::new(Settings::default(), 1, NOW)
}

/// The name of a lock in database 0.
pub(crate) fn name(key: &str) -> Name<'_> {
    Name { db: 0, key: key.as_bytes() }
}

/// The id of a known lock.
pub(crate) fn id(manager: &LockManager, key: &str) -> Id {
    manager.table.find(name(key)).expect("the lock is known")
}

/// A call without options.
pub(crate) fn request(owner: &str) -> Acquire<'_> {
    Acquire { owner: owner.as_bytes(), ..Acquire::default() }
}

/// A call with UNIQUE.
pub(crate) fn unique(owner: &str) -> Acquire<'_> {
    Acquire { unique: true, ..request(owner) }
}

/// A call with UNIQUE, SESSION and GRACE.
pub(crate) fn in_session(owner: &str, grace_ms: u64) -> Acquire<'_> {
    Acquire { session_grace_ms: Some(grace_ms), ..unique(owner) }
}

/// A client with its own connection, on a server that is not out of memory.
pub(crate) fn client(id: u64) -> CallerContext {
    CallerContext { client: Some(id), may_wait: true, has_memory: true }
}

/// A key whose value is `value`, with a lease of the default length.
pub(crate) fn shows(value: &str) -> KeyState<'_> {
    KeyState::String { value: value.as_bytes(), expires: Expires::At(LEASE_END) }
}

/// A client acquires a free lock. Returns the token.
pub(crate) fn acquire(
    manager: &mut LockManager,
    key: &str,
    request: &Acquire<'_>,
    by: u64,
) -> u64 {
    let state = KeyState::Absent;
    match manager.acquire(name(key), request, &state, client(by), NOW) {
        Ok(Acquired::Granted { token, .. }) => token,
        other => panic!("{other:?}"),
    }
}

/// `owner` acquires a free lock without options, as client 1. Returns the token.
pub(crate) fn held(manager: &mut LockManager, key: &str, owner: &str) -> u64 {
    acquire(manager, key, &request(owner), 1)
}

/// The lock is held by `owner`, but was not granted by the module.
pub(crate) fn adopted(manager: &mut LockManager, key: &str, owner: &str) {
    let id = manager.table.find_or_create(name(key)).expect("there is room");
    manager.adopt(id, owner.as_bytes(), Expires::At(LEASE_END), NOW);
}

/// A client waits for a lock; indefinitely unless the request has BLOCK.
pub(crate) fn wait(
    manager: &mut LockManager,
    key: &str,
    request: &Acquire<'_>,
    by: u64,
) -> Ticket {
    wait_for(manager, &[key], 1, false, request, by)
}

/// A client waits for `count` locks of a lock set.
pub(crate) fn wait_for_set(
    manager: &mut LockManager,
    keys: &[&str],
    count: usize,
    request: &Acquire<'_>,
    by: u64,
) -> Ticket {
    wait_for(manager, keys, count, true, request, by)
}

fn wait_for(
    manager: &mut LockManager,
    keys: &[&str],
    count: usize,
    of_set: bool,
    request: &Acquire<'_>,
    by: u64,
) -> Ticket {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let wanted = Wanted { keys: &keys, count, of_set, ..Wanted::default() };
    match manager.wait(wanted, request, by, &DeadlockCheck::Skipped, true, NOW) {
        Ok(Waiting::Queued(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Forgets what the preparation of a test has counted, logged, deferred and sent.
pub(crate) fn begin(manager: &mut LockManager) {
    manager.counters = Counters::default();
    manager.outbox = Outbox::default();
    manager.log.reset();
    manager.deferred.clear();
}

/// The counters that are not zero, in the order of the command reference: `releases`, or
/// `releases=2`.
pub(crate) fn counted(manager: &LockManager) -> String {
    let values = Counters::NAMES.iter().zip(manager.counters.values());
    let shown = values.filter_map(|((name, _), value)| match value {
        0 => None,
        1 => Some((*name).to_owned()),
        _ => Some(format!("{name}={value}")),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The kinds of the log entries, the newest first.
pub(crate) fn logged(manager: &LockManager) -> String {
    let kinds = manager.log.entries().map(|entry| entry.subject.kind.name());
    kinds.collect::<Vec<_>>().join(" ")
}

/// The replies to waiting clients, the oldest first. Removes them.
pub(crate) fn replies(manager: &mut LockManager) -> Vec<(Ticket, String)> {
    let next = || manager.outbox.take_reply();
    let text = |reply| match reply {
        WaitReply::Granted { grants, .. } => {
            let keys = grants.iter().map(|grant| String::from_utf8_lossy(&grant.key));
            format!("granted {}", keys.collect::<Vec<_>>().join(" "))
        }
        WaitReply::Null => "null".to_owned(),
        WaitReply::Error(error) => {
            let error = error.to_string();
            error.split(' ').next().unwrap_or_default().to_owned()
        }
    };
    std::iter::from_fn(next).map(|(ticket, reply)| (ticket, text(reply))).collect()
}

/// The events to publish, the oldest first: the owner, and the reason why its hold ended. Removes
/// them.
pub(crate) fn published(manager: &mut LockManager) -> Vec<String> {
    let next = || manager.outbox.take_event();
    std::iter::from_fn(next)
        .map(|event| {
            let owner = String::from_utf8_lossy(&event.owner);
            let why = match &event.what {
                What::Acquired => "acquired".into(),
                What::Released { reason } => String::from_utf8_lossy(reason),
                What::Revoked { .. } => "revoked".into(),
            };
            format!("{owner}: {why}")
        })
        .collect()
}

/// The hold of a lock: `me`, `me, adopted`, `free`, or `free, reserved`.
pub(crate) fn holder(manager: &LockManager, key: &str) -> String {
    let Some(lock) = manager.table.find(name(key)).and_then(|id| manager.table.get(id))
    else {
        return "free".to_owned();
    };
    match &lock.hold {
        Some(hold) => {
            let adopted = if hold.adopted { ", adopted" } else { "" };
            format!("{}{adopted}", String::from_utf8_lossy(&hold.owner))
        }
        None if lock.reserved => "free, reserved".to_owned(),
        None => "free".to_owned(),
    }
}

/// The owners in the queue of a lock, in order; a kept position in parentheses.
pub(crate) fn queue(manager: &LockManager, key: &str) -> String {
    let Some(id) = manager.table.find(name(key)) else { return String::new() };
    let positions = manager.queues.positions(id).map(|(_, waiter)| {
        let owner = String::from_utf8_lossy(&waiter.owner).into_owned();
        if waiter.is_waiting() { owner } else { format!("({owner})") }
    });
    positions.collect::<Vec<_>>().join(" ")
}

/// The TOKEN of a call.
#[derive(Clone, Copy)]
pub(crate) enum Token {
    None,
    /// That of the current hold.
    Right,
    Wrong,
}

impl Token {
    /// The value, if the hold has this token.
    pub(crate) fn value(self, hold: Option<u64>) -> Option<u64> {
        match self {
            Token::None => None,
            Token::Right => hold,
            Token::Wrong => Some(hold.unwrap_or(0) + 1),
        }
    }
}

/// A record without locks. Like the next two, it returns the token of the hold of [`GPU`].
pub(crate) fn nothing(_: &mut LockManager) -> Option<u64> {
    None
}

/// A record in which `me` holds [`GPU`].
pub(crate) fn held_by_me(manager: &mut LockManager) -> Option<u64> {
    Some(held(manager, GPU, "me"))
}

/// A record in which `me` holds [`GPU`] and the module did not grant it.
pub(crate) fn adopted_from_me(manager: &mut LockManager) -> Option<u64> {
    adopted(manager, GPU, "me");
    None
}

/// Carries out the next deferred work on a lock whose key is as the record has it.
pub(crate) fn run_next_deferred(
    manager: &mut LockManager,
    now: Now,
) -> Option<DeferredOutcome> {
    let work = manager.take_deferred()?;
    let lock = manager.table.get(work.lock()?)?;
    let value = lock.hold.as_ref().map(|hold| hold.owner.clone());
    let until_ms = lock.hold.as_ref().map_or(0, |hold| hold.until_ms);
    let state = match &value {
        Some(value) => KeyState::String { value, expires: Expires::At(until_ms) },
        None => KeyState::Absent,
    };
    Some(manager.run_deferred(work, &state, now))
}

/// The locks of a set that are left to probe.
pub(crate) fn to_probe(
    manager: &mut LockManager,
    ticket: Ticket,
    probed: &BTreeSet<Id>,
) -> Vec<Id> {
    match manager.unprobed_of(ticket, probed) {
        ToProbe::Locks(locks) => locks,
        ToProbe::Nothing(_) | ToProbe::Incomplete => Vec::new(),
    }
}

/// Grants a lock set, all of whose locks count as probed.
pub(crate) fn hand_off_set(
    manager: &mut LockManager,
    ticket: Ticket,
    now: Now,
) -> Option<Vec<KeyWrite>> {
    let locks = manager.queues.get(ticket).map(|waiter| waiter.locks.clone());
    let probed = locks.into_iter().flatten().collect();
    match manager.unprobed_of(ticket, &probed) {
        ToProbe::Nothing(set) => manager.hand_off_set(ticket, set, now),
        ToProbe::Locks(_) | ToProbe::Incomplete => None,
    }
}
