//! Looks for the tests of the state and of the picture.

use std::time::{Duration, Instant};

use super::asker::{Look, News};
use super::state::State;
use crate::replies::Listed;
use crate::stats::{Histogram, Stats};
use crate::text::Text;

/// Locks by their keys and how many wait for each, all held for a minute, with half a
/// minute of their lease left.
pub(super) fn look(locks: &[(&str, u64)]) -> Look {
    let waiting = locks.iter().map(|(_, waiting)| waiting).sum();
    let lock = |(key, waiting): &(&str, u64)| Listed {
        key: Text((*key).into()),
        owner: Some(Text(format!("owner of {key}").into())),
        token: Some(1_795_419_307_235_151),
        lease_ms: Some(30_000),
        held_ms: Some(60_000),
        waiting: *waiting,
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
    Look { locks: locks.iter().map(lock).collect(), stats, watched: None }
}

/// The same, as the asker tells it.
pub(super) fn seen(locks: &[(&str, u64)]) -> News {
    News::Seen(Box::new(look(locks)))
}

/// After that look, with one each second.
pub(super) fn state(first: Look, now: Instant) -> State {
    State::new("127.0.0.1:6379".to_owned(), Duration::from_secs(1), first, now)
}
