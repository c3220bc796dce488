//! The law of the counters: what was taken is what ended and what is held.

use gpulock_testkit::Client;

use super::figures::{Figures, stats};

/// Checks it, and how many hold and wait.
#[track_caller]
pub(crate) fn adds_up(client: &mut Client, held: i64, waiting: i64) {
    let stats = holds(client);
    let now = (stats["locks_held"], stats["clients_waiting"]);
    assert_eq!(now, (held, waiting), "{stats:?}");
}

/// Checks it alone, and answers the counters.
#[track_caller]
pub(crate) fn holds(client: &mut Client) -> Figures {
    let stats = stats(client);
    is_kept_by(&stats);
    stats
}

/// Checks it for counters that were read before.
#[track_caller]
pub(crate) fn is_kept_by(stats: &Figures) {
    let ends = [
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
    let ended: i64 = ends.iter().map(|name| stats[*name]).sum();
    assert_eq!(stats["acquired"] + stats["adopted"], ended, "{stats:?}");
}
