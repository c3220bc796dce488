//! Progress of the wait: the position in the queue, and the current holders, for the user and for
//! the event log. Read over a separate connection, because the session's connection is blocked in the wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::clock;
use crate::connection::Connection;
use crate::exit;
use crate::locks::LockRequest;
use crate::replies::{self, Inspected, Waiter};
use crate::run::event_log::EventLog;
use crate::run::holders::{MAX_SHOWN, holder, seconds};
use crate::run::stderr::Stderr;
use crate::server::Address;
use crate::text::Text;

/// How often the progress line is redrawn.
const TICK: Duration = Duration::from_secs(1);

/// The state of the wait.
struct QueueState<'a> {
    /// Number of connected waiters ahead. None: not queued yet.
    ahead: Option<usize>,
    locks: Vec<(&'a Text, Inspected)>,
}

/// The part of the state that is an event when it changes.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Position<'a> {
    /// 1 for the next waiter.
    position: Option<usize>,
    holders: Vec<Holder<'a>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Holder<'a> {
    key: &'a Text,
    /// None if the lock is reserved for a waiter.
    owner: Option<Text>,
}

/// Reports progress until neither `stderr` nor the log wants more, or the flag is set. If no thread
/// can be started, the wait goes on without reports.
pub(crate) fn start(
    address: &Address,
    request: &LockRequest,
    stderr: &Stderr,
    log: &EventLog,
    is_over: &Arc<AtomicBool>,
) {
    let is_over = Arc::clone(is_over);
    let (address, request) = (address.clone(), request.clone());
    let (stderr, log) = (stderr.clone(), log.clone());
    let start = clock::now();
    let thread = thread::Builder::new().name("progress".to_owned());
    let _no_progress = thread.spawn(move || {
        let (mut connection, mut last) = (None, None);
        loop {
            let state = queue_state(&address, &mut connection, &request);
            let position = state.as_ref().ok().map(QueueState::position);
            let wants_events = match position {
                Some(position) if last.as_ref() != Some(&position) => {
                    log.position(last.insert(position))
                }
                _ => log.is_waiting(),
            };
            let state = match &state {
                Ok(state) => describe(&request, state),
                Err(error) => exit::message(error),
            };
            let waited = seconds(clock::now().saturating_sub(start));
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let line = format!("waiting {waited} for {}: {state}", requested(&request));
            let short = format!("{waited} {state}");
            let wants_lines = stderr.progress(&line, &short);
            if !wants_lines && !wants_events {
                return;
            }
            sleep(TICK);
        }
    });
}

fn requested(request: &LockRequest) -> String {
    match &request.keys[..] {
        [key] => key.to_string(),
        keys => {
            let groups = request.groups.as_ref().map_or(1, |groups| groups.wanted);
            let wanted = request.count.saturating_mul(groups);
            format!("{wanted} of {} locks", keys.len())
        }
    }
}

fn queue_state<'a>(
    address: &Address,
    connection: &mut Option<Connection>,
    request: &'a LockRequest,
) -> Result<QueueState<'a>> {
    let mut connected = match connection.take() {
        Some(connected) => connected,
        None => address.connect()?,
    };
    let mut locks = Vec::new();
    for key in request.keys.iter().take(MAX_SHOWN) {
        locks.push((key, replies::inspect(&mut connected, &key.0)?));
    }
    *connection = Some(connected);
    let locks: Vec<_> =
        locks.into_iter().filter_map(|(key, lock)| Some((key, lock?))).collect();
    let ahead = locks.iter().filter_map(|(_, lock)| waiters_ahead(request, lock)).min();
    Ok(QueueState { ahead, locks })
}

impl<'a> QueueState<'a> {
    fn position(&self) -> Position<'a> {
        let holder = |(key, lock): &(&'a Text, Inspected)| Holder {
            key,
            owner: lock.owner.clone(),
        };
        Position {
            position: self.ahead.map(|ahead| ahead.saturating_add(1)),
            holders: self.locks.iter().map(holder).collect(),
        }
    }
}

/// The position and the holders: `position 2; gpu:0: held by asr-7f3a for 3m 2s`.
fn describe(request: &LockRequest, state: &QueueState<'_>) -> String {
    let position = state.ahead.map_or("not queued yet".to_owned(), |ahead| {
        format!("position {}", ahead.saturating_add(1))
    });
    let holders = state.locks.iter().map(|(key, lock)| match request.keys.len() {
        1 => holder(lock),
        _ => format!("{key}: {}", holder(lock)),
    });
    let holders = holders.collect::<Vec<_>>().join(", ");
    if holders.is_empty() { position } else { format!("{position}; {holders}") }
}

/// Number of connected waiters ahead of this owner. Kept positions do not count.
fn waiters_ahead(request: &LockRequest, lock: &Inspected) -> Option<usize> {
    let is_ours = |waiter: &Waiter| waiter.owner.0 == request.owner.as_bytes();
    let ahead = lock.waiters.iter().take(lock.waiters.iter().position(is_ours)?);
    Some(ahead.filter(|waiter| waiter.client.is_some()).count())
}
