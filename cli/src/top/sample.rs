//! Snapshots for the tests of the state and of the screen.

use std::time::{Duration, Instant};

use super::poller::{Snapshot, Update};
use super::state::State;
use crate::replies::Listed;
use crate::stats::{Histogram, Stats};
use crate::text::Text;

/// Locks with these keys and numbers of waiters, all held for a minute, with half a minute of
/// their lease left.
pub(super) fn snapshot(locks: &[(&str, u64)]) -> Snapshot {
    let waiting = locks.iter().map(|(_, waiting)| waiting).sum();
    let lock = |(key, waiting): &(&str, u64)| Listed {
        key: Text((*key).into()),
        owner: Some(Text(format!("owner of {key}").into())),
        token: Some(1_795_419_307_235_151),
        lease_ms: Some(30_000),
        held_ms: Some(60_000),
        waiting: *waiting,
        revoked_ms: None,
    };
    let counters = [
        ("locks_held".to_owned(), locks.len() as u64),
        ("clients_waiting".to_owned(), waiting),
    ];
    let stats = Stats {
        counters: counters.to_vec(),
        wait_ms: Histogram::of(&[(10, 0), (2_000, 0)], 0),
        hold_ms: Histogram::default(),
    };
    Snapshot { locks: locks.iter().map(lock).collect(), stats, inspected: None }
}

/// The same as an update of the poller.
pub(super) fn update(locks: &[(&str, u64)]) -> Update {
    Update::Snapshot(Box::new(snapshot(locks)))
}

/// The state after this snapshot, with an interval of a second.
pub(super) fn state(first: Snapshot, now: Instant) -> State {
    State::new("127.0.0.1:6379".to_owned(), Duration::from_secs(1), first, now)
}
