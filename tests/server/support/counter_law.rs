//! The counter law: the number of grants and adoptions is the number of ended and current
//! holds.

use gpulock_testkit::Client;

use super::counters::{Counters, stats};

/// The counters of all ways in which a hold ends, and the current holds.
const HOLDS: [&str; 9] = [
    "releases",
    "emergency_releases",
    "expired",
    "session_releases",
    "removed",
    "evicted",
    "moved",
    "undelivered",
    "locks_held",
];

/// Checks the counter law, and the number of held locks and of waiting clients.
#[track_caller]
pub(crate) fn assert_counters(client: &mut Client, held: i64, waiting: i64) {
    let stats = lawful_stats(client);
    let current = (stats["locks_held"], stats["clients_waiting"]);
    assert_eq!(current, (held, waiting), "{stats:?}");
}

/// Reads the counters, and checks that they obey the law.
#[track_caller]
pub(crate) fn lawful_stats(client: &mut Client) -> Counters {
    let stats = stats(client);
    assert_counter_law(&stats);
    stats
}

/// Checks the counter law.
#[track_caller]
pub(crate) fn assert_counter_law(stats: &Counters) {
    let holds: i64 = HOLDS.iter().map(|name| stats[*name]).sum();
    assert_eq!(stats["acquired"] + stats["adopted"], holds, "{stats:?}");
}
