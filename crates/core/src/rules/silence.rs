//! Silence: while no command runs, no key changes, so nothing needs to be probed.
//!
//! Other clients change keys without notice, so the module probes keys all the time while the
//! server is busy. But nothing outside the module changes a key without a command. So the module
//! **listens in silence**: the server calls [`LockManager::command_seen`] before each command, and
//! after two whole rounds of probes since the last command (`state/rounds.rs`) the probes rest, and
//! with them the timer.
//! On a busy server listening would make every command slower, so it ends, for a second.
//!
//! What changes keys without a command:
//!
//! - The end of a lease. An alarm wakes the timer while a client waits for the lock; the sweep
//!   remembers the earliest other one.
//! - Evictions and role changes: events of the server.
//! - A command that was postponed by a pause: it was heard when it arrived, and is executed after
//!   the pause. While the server is paused, rounds stay owed; the tick that ends the pause begins the
//!   first one, and the command is executed before the second.
//! - A reason to refuse a write that ends without a command, for example a failed snapshot. After a
//!   refused write a round stays owed.
//! - The end of a key that is no hold, such as a list. It has no alarm, so the probes do not rest
//!   while a client waits for its lock.
//! - A slot that moves to another node of the cluster, and another module that writes keys without
//!   calling commands: the sweep probes a page of locks every two seconds even while it
//!   rests.

use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::lock::Lock;

impl LockManager {
    /// A command is about to run, and may change any key. Returns whether the timer has to be armed
    /// for that.
    pub fn command_seen(&mut self) -> bool {
        self.listening.count_command();
        let was_resting = self.probes_rest();
        self.keys_may_change();
        was_resting && self.queues.clients() > 0
    }

    /// Whether to listen: there is something to probe, and the server is not busy.
    pub fn should_listen(&mut self, now: Now) -> bool {
        let is_busy = self.listening.is_busy(now);
        !is_busy && (self.queues.clients() > 0 || self.table.held() > 0)
    }

    /// Whether the server calls [`LockManager::command_seen`] before each command.
    pub fn is_listening(&self) -> bool {
        self.listening.is_on()
    }

    /// The server begins to call [`LockManager::command_seen`], or no longer does.
    pub fn set_listening(&mut self, is_on: bool) {
        self.listening.set(is_on);
        self.probes.rounds.start_over();
        self.sweep.memory.rounds.start_over();
        self.sweep.keys.rounds.start_over();
    }

    /// A lock was probed. If it has no hold, and clients wait for it all the same, it needs another
    /// probe: its key is no hold and has no alarm, or the probe was not completed.
    pub fn keep_probing_unheld(&mut self, id: Id) {
        let is_unheld =
            |lock: &Lock| lock.hold.is_none() && lock.connected > 0 && !lock.reserved;
        if self.table.get(id).is_some_and(is_unheld) {
            self.probes.rounds.owe();
        }
    }

    /// Whether no key of a lock with waiters can have changed since it was probed.
    pub fn probes_rest(&self) -> bool {
        self.listening.is_on() && self.probes.rounds.is_done()
    }

    /// Keys may change: a command is about to run, or a key has changed without one; or the server
    /// is paused or refused a write, which may end without a command.
    pub(crate) fn keys_may_change(&mut self) {
        self.probes.rounds.owe();
        self.sweep.memory.rounds.owe();
        self.sweep.keys.rounds.owe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::engine::{Permission, tick};
    use crate::rules::test_support::{
        GPU, LEASE_END, NOW, after, held, manager, name, request, wait,
    };

    /// A server on which `me` holds the lock, `b` waits for it, and the probes rest.
    fn resting() -> TestKeyspace {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &request("me"), 1).unwrap();
        server.wait(GPU, &request("b"), 2);
        server.written();
        for ms in [0, 5] {
            server.now = after(ms);
            tick::tick(&mut server);
        }
        assert!(server.is_listening && server.manager.probes_rest());
        server
    }

    /// Fires the timer at each time that it is due, up to `ms`.
    fn run_timer_until(server: &mut TestKeyspace, ms: u64) {
        while let Some(wake_ms) = server.manager.next_wake_ms(server.now)
            && wake_ms <= after(ms).ms()
        {
            server.now = Now::from_ms(wake_ms.max(server.now.ms() + 1));
            tick::tick(server);
        }
    }

    fn hear(manager: &mut LockManager, commands: usize) {
        for _ in 0..commands {
            manager.command_seen();
        }
    }

    #[test]
    fn the_module_listens_while_there_is_something_to_probe() {
        let mut empty = manager();
        assert!(!empty.should_listen(NOW));
        let (mut with_hold, mut with_waiter) = (manager(), manager());
        held(&mut with_hold, GPU, "me");
        wait(&mut with_waiter, GPU, &request("b"), 2);
        for mut manager in [with_hold, with_waiter] {
            assert!(manager.should_listen(NOW));
            hear(&mut manager, 21);
            assert!(!manager.should_listen(NOW), "the server is busy");
            assert!(manager.should_listen(after(1_000)), "and it is tried again");
        }
    }

    #[test]
    fn the_timer_waits_for_the_end_of_the_lease_while_the_probes_rest() {
        let server = resting();
        assert_eq!(server.manager.next_wake_ms(server.now), Some(LEASE_END + 1));
    }

    #[test]
    fn the_first_command_arms_the_timer() {
        let mut server = resting();
        assert!(server.manager.command_seen());
        assert!(!server.manager.command_seen(), "it is armed already");
        server.delete_by_other(GPU);
        run_timer_until(&mut server, 20);
        assert_eq!(server.owner(GPU), Some("b"));
    }

    #[test]
    fn without_waiters_no_timer_is_armed() {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &request("me"), 1).unwrap();
        tick::cron(&mut server);
        assert!(server.is_listening);
        assert!(!server.manager.command_seen());
        assert_eq!(server.manager.next_wake_ms(server.now), None);
    }

    #[test]
    fn a_busy_server_is_probed_without_listening() {
        let mut server = resting();
        hear(&mut server.manager, 21);
        tick::tick(&mut server);
        assert!(!server.is_listening);
        assert_eq!(server.manager.next_wake_ms(server.now), Some(after(10).ms()));
        server.delete_by_other(GPU);
        run_timer_until(&mut server, 20);
        assert_eq!(server.owner(GPU), Some("b"), "no command was heard");
    }

    #[test]
    fn all_queues_are_probed_after_a_command_before_the_probes_rest() {
        let mut server = TestKeyspace::new();
        for n in 0..400 {
            server.acquire(&n.to_string(), &request("me"), 1).unwrap();
            server.wait(&n.to_string(), &request("b"), 1_000 + n);
        }
        run_timer_until(&mut server, 100);
        assert_eq!(server.manager.next_wake_ms(server.now), Some(LEASE_END + 1));
        server.manager.command_seen();
        for n in 0..400 {
            server.delete_by_other(&n.to_string());
        }
        run_timer_until(&mut server, 200);
        assert_eq!(server.replies().len(), 400);
    }

    #[test]
    fn the_probes_do_not_rest_while_the_server_is_paused_or_refuses_writes() {
        for refuse in [(|it| it.may_start = false) as fn(&mut TestKeyspace), |it| {
            it.permission = Permission::Refused
        }] {
            let mut server = resting();
            server.manager.command_seen();
            server.delete_by_other(GPU);
            refuse(&mut server);
            run_timer_until(&mut server, 50);
            assert!(server.manager.next_wake_ms(server.now).is_some());
            (server.may_start, server.permission) = (true, Permission::Granted);
            run_timer_until(&mut server, 60);
            assert_eq!(server.owner(GPU), Some("b"));
        }
    }

    #[test]
    fn the_probes_do_not_rest_while_a_client_waits_for_a_key_that_is_no_hold() {
        let mut server = resting();
        server.manager.command_seen();
        server.set_by_other(GPU, "", after(100).ms());
        run_timer_until(&mut server, 90);
        assert!(!server.manager.probes_rest());
        run_timer_until(&mut server, 110);
        assert_eq!(server.owner(GPU), Some("b"), "the key has expired");
    }

    /// The locks that one portion of the sweep probes.
    fn portion(manager: &mut LockManager, ms: u64) -> Vec<Id> {
        manager.begin_sweep(after(ms));
        std::iter::from_fn(|| manager.next_due(after(ms))).collect()
    }

    #[test]
    fn the_sweep_rests_but_for_a_page_every_two_seconds() {
        let mut manager = manager();
        for n in 0..600 {
            held(&mut manager, &n.to_string(), "me");
        }
        manager.set_listening(true);
        assert_eq!(portion(&mut manager, 100).len(), 600, "each lock once");
        let probes = (2..110).map(|n| portion(&mut manager, n * 100).len());
        let probes: Vec<usize> = probes.filter(|probes| *probes > 0).collect();
        assert_eq!(probes, [600, 256, 256, 88, 256, 256]);
        manager.command_seen();
        assert_eq!(portion(&mut manager, 11_000).len(), 600, "a command was heard");
    }

    #[test]
    fn a_sweep_that_rests_goes_on_at_the_end_of_a_lease() {
        let mut manager = manager();
        held(&mut manager, "gpu:1", "me");
        let lease_ms = Some(5_000);
        let short = crate::request::Acquire { lease_ms, ..request("me") };
        crate::rules::test_support::acquire(&mut manager, GPU, &short, 1);
        manager.set_listening(true);
        for ms in [100, 900] {
            assert_eq!(portion(&mut manager, ms).len(), 2);
        }
        // The page every two seconds finds both; the walk through memory finds the ended one.
        for (ms, probes) in [(1_500, 2), (1_600, 0), (4_999, 2), (5_040, 1)] {
            assert_eq!(portion(&mut manager, ms).len(), probes, "after {ms} ms");
        }
        let ended = manager.table.find(name(GPU)).unwrap();
        assert_eq!(portion(&mut manager, 5_100), [ended], "again until it is gone");
    }
}
