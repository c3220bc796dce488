//! What happens without a command: the timer, which runs while clients wait or work is deferred,
//! and the server's cron, which runs always.

use crate::engine::deferred;
use crate::engine::keyspace::Keyspace;
use crate::engine::listen;
use crate::engine::probe::probe;
use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::clock::Now;

/// How long to probe held locks at a time, in microseconds: the server serves no client
/// meanwhile. The rest follows with the next cron.
const LONGEST_SWEEP_US: u64 = 3_000;

/// The timer: ends waits, carries out deferred work, and probes the locks that are due.
pub fn tick<K: Keyspace>(keys: &mut K) {
    let began = keys.now();
    if !begin(keys, began) {
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
    if !begin(keys, began) {
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

/// What both begin with. Returns whether work may start.
fn begin<K: Keyspace>(keys: &mut K, now: Now) -> bool {
    keys.with_manager(|manager| manager.expire_waits(now));
    listen::update(keys);
    let may_start = keys.may_start();
    if !may_start {
        keys.with_manager(LockManager::keys_may_change);
    }
    may_start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::request::Acquire;
    use crate::rules::test_support::{
        GPU, after, holder, in_session, queue, request, unique,
    };

    /// A server on which `me` holds the lock, and `b`, for 50 ms, and `c` wait for it.
    fn server() -> TestKeyspace {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &in_session("me", 0), 1).unwrap();
        server.wait(GPU, &Acquire { block_ms: Some(50), ..unique("b") }, 2);
        server.wait(GPU, &request("c"), 3);
        server.written();
        server
    }

    #[test]
    fn the_timer_ends_waits_before_it_hands_off_locks() {
        for (what, free) in [
            ("deleted", (|it| it.delete_by_other(GPU)) as fn(&mut TestKeyspace)),
            ("its session ended", |it| it.manager.client_gone(1, after(50))),
        ] {
            let mut server = server();
            server.now = after(50);
            free(&mut server);
            tick(&mut server);
            assert_eq!(server.written(), ["SET gpu:0 c"], "{what}");
            let replies = server.replies().into_iter().map(|(_, reply)| reply);
            assert_eq!(Vec::from_iter(replies), ["null", "granted gpu:0"], "{what}");
            assert_eq!(queue(&server.manager, GPU), "(b)", "{what}");
        }
    }

    #[test]
    fn while_work_may_not_start_waits_end_but_nothing_is_written() {
        for runs in [tick, cron] {
            let mut server = server();
            server.now = after(50);
            server.delete_by_other(GPU);
            server.may_start = false;
            runs(&mut server);
            assert_eq!(server.written(), [] as [&str; 0]);
            assert_eq!(queue(&server.manager, GPU), "(b) c");
        }
    }

    #[test]
    fn the_cron_finds_a_deleted_key_that_no_client_waits_for() {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &request("me"), 1).unwrap();
        server.delete_by_other(GPU);
        server.now = after(100);
        tick(&mut server);
        assert_eq!(holder(&server.manager, GPU), "me", "the timer does not");
        cron(&mut server);
        assert_eq!(holder(&server.manager, GPU), "free");
    }
}
