//! The law of the counters: what was taken is what ended and what is held.

use gpulock_testkit::Client;

use super::figures::stats;

/// Checks it, and how many hold and wait.
#[track_caller]
pub(crate) fn adds_up(client: &mut Client, held: i64, waiting: i64) {
    let stats = stats(client);
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
    let now = (stats["locks_held"], stats["clients_waiting"]);
    assert_eq!(now, (held, waiting), "{stats:?}");
}
