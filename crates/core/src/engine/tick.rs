//! What happens without a command: the timer, which runs while clients wait or work is deferred,
//! and the server's cron, which runs always.

use crate::engine::deferred;
use crate::engine::keyspace::Keyspace;
use crate::engine::probe::probe;
use crate::state::arena::Id;

/// How long to probe held locks at a time, in microseconds: the server serves no client
/// meanwhile. The rest follows with the next cron.
const LONGEST_SWEEP_US: u64 = 3_000;

/// The timer: ends waits, carries out deferred work, and probes the locks that are due.
pub fn tick<K: Keyspace>(keys: &mut K) {
    let began = keys.now();
    keys.with_manager(|manager| manager.expire_waits(began));
    if !keys.may_start() {
        return;
    }
    deferred::run(keys, began);
    deferred::run_sessions(keys, began);
    let mut due: Vec<Id> = Vec::new();
    let now = keys.now();
    keys.with_manager(|manager| manager.due_queues(now, &mut due));
    for id in due {
        probe(keys, id);
    }
}

/// The cron: ends waits, and sweeps over the held locks.
pub fn cron<K: Keyspace>(keys: &mut K) {
    let began = keys.now();
    keys.with_manager(|manager| manager.expire_waits(began));
    if !keys.may_start() {
        return;
    }
    keys.with_manager(|manager| manager.begin_sweep(began));
    let mut now = began;
    while let Some(id) = keys.with_manager(|manager| manager.next_due(now)) {
        probe(keys, id);
        if keys.is_time_up(began, LONGEST_SWEEP_US) {
            return;
        }
        now = keys.now();
    }
}
