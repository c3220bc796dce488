//! When to probe a lock without a command: at the end of its lease, if a client waits for it, a
//! grace period runs, or its holder was given notice, and then also shortly before the end; and
//! every few milliseconds while clients wait for it, because other commands delete keys without
//! notice. While no command runs, the latter rests (`rules/silence.rs`).

use crate::manager::LockManager;
use crate::state::arena::Id;
use crate::state::clock::Now;

/// How often the locks with waiters are probed, in ms.
const PROBE_EVERY_MS: u64 = 5;

/// The number of locks with waiters that are probed at a time. After a hand-off the next ones
/// follow at once.
const QUEUES_AT_A_TIME: usize = 160;

/// The number of ended leases that are probed at a time. The rest follows a millisecond later.
const ENDS_AT_A_TIME: usize = 100;

impl LockManager {
    /// Whether [`LockManager::next_wake_ms`] may return a time.
    pub fn needs_timer(&self) -> bool {
        self.queues.clients() > 0
            || self.table.next_alarm().is_some()
            || self.has_positions_to_remove()
            || self.deferred.has_any()
            || self.has_old_holds()
            || self.outbox.has_events()
    }

    /// Whether positions remain that have been given up, because they exceeded a portion.
    fn has_positions_to_remove(&self) -> bool {
        self.queues.left() > 0 || self.has_surplus()
    }

    /// When the timer has to fire next, in ms since the epoch; none: no wait and no grace period
    /// ends, no work is deferred, no hold of a former primary remains, no event waits to be
    /// published, and no key of a lock with waiters can have changed.
    pub fn next_wake_ms(&self, now: Now) -> Option<u64> {
        const NEVER: u64 = u64::MAX;
        // After the clock was stepped back, `next_ms` is too far ahead.
        let far = now.ms().saturating_add(PROBE_EVERY_MS);
        let (probe, deadline) = match self.queues.clients() {
            // A kept position that expires has no effect of its own.
            0 if !self.has_positions_to_remove() => (NEVER, NEVER),
            0 => (NEVER, self.budget.next_ms(now)),
            _ => {
                let left = self.has_positions_to_remove().then_some(0);
                let deadline = left.or(self.queues.next_deadline()).unwrap_or(NEVER);
                let probe = match self.probes_rest() {
                    true => NEVER,
                    false => self.probes.next_ms.min(far),
                };
                let deadline = match deadline {
                    NEVER => NEVER,
                    _ => deadline.max(self.budget.next_ms(now)),
                };
                (probe, deadline)
            }
        };
        let checked_ms = self.probes.checked_ms.min(now.ms());
        let deferred = match (self.deferred.has_work(), self.deferred.has_any()) {
            (true, _) => 0,
            (false, true) => checked_ms.saturating_add(1),
            (false, false) => NEVER,
        };
        let alarm = self.table.next_alarm().unwrap_or(NEVER);
        let alarm = alarm.max(checked_ms.saturating_add(1));
        let old_holds =
            if self.has_old_holds() { now.ms().saturating_add(1) } else { NEVER };
        let events = if self.outbox.has_events() { 0 } else { NEVER };
        let next =
            probe.min(deferred).min(alarm).min(deadline).min(old_holds).min(events);
        (next != NEVER).then(|| next.max(now.ms()))
    }

    /// Adds the locks that have to be probed now to `due`.
    pub fn due_queues(&mut self, now: Now, due: &mut Vec<Id>) {
        self.probes.checked_ms = now.ms();
        let before = due.len();
        due.extend(self.table.due_alarms(now.ms()).take(ENDS_AT_A_TIME));
        for id in due.iter().skip(before) {
            self.probed_before_end(*id);
        }
        // After the clock was stepped back, `next_ms` is too far ahead.
        let far = now.ms().saturating_add(PROBE_EVERY_MS);
        if now.ms() < self.probes.next_ms && self.probes.next_ms <= far {
            return;
        }
        self.probes.next_ms = far;
        if !self.listening.is_on() {
            self.probes.rounds.owe();
        }
        if self.probes.rounds.begin() {
            self.probes.last = None;
        }
        if self.probes.rounds.is_running() {
            self.continue_round(due);
        }
    }

    /// Adds the next locks of the round.
    fn continue_round(&mut self, due: &mut Vec<Id>) {
        let Self { queues, probes, .. } = self;
        let round = std::iter::successors(queues.next_queue(probes.last), |id| {
            queues.next_queue(Some(*id))
        });
        for id in round.take(QUEUES_AT_A_TIME) {
            due.push(id);
            probes.last = Some(id);
        }
        if queues.next_queue(probes.last).is_none() {
            probes.rounds.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::test_support::{
        GPU, LEASE_END, NOW, acquire, after, begin, held, id, in_session, manager,
        request, shows, unique, wait,
    };
    use crate::state::key_state::KeyState;

    /// A time of this test, in ms after it began.
    fn at(ms: Option<u64>) -> Option<u64> {
        ms.map(|ms| after(ms).ms())
    }

    #[test]
    #[rustfmt::skip]
    fn the_timer_runs_while_a_client_waits_a_grace_period_runs_or_work_is_deferred() {
        let wait_on_held: fn(&mut LockManager) = |it| {
            held(it, GPU, "me");
            wait(it, GPU, &request("b"), 2);
            it.due_queues(NOW, &mut Vec::new());
        };
        for (what, record, wakes_ms) in [
            ("nothing is known", (|_| {}) as fn(&mut LockManager), None),
            ("a lock is held", |it| { held(it, GPU, "me"); }, None),
            ("a lock is tied to a connection",
                |it| { acquire(it, GPU, &in_session("me", 9), 7); }, None),
            ("a client begins to wait",
                |it| { held(it, GPU, "me"); wait(it, GPU, &request("b"), 2); },
                Some(0)),
            ("a client waits: the next probe", wait_on_held, Some(5)),
            ("a client waits: the end of its BLOCK time, if that is earlier", |it| {
                held(it, GPU, "me");
                wait(it, GPU, &Acquire { block_ms: Some(3), ..request("b") }, 2);
                it.due_queues(NOW, &mut Vec::new());
            }, Some(3)),
            ("only a kept position is left", |it| {
                held(it, GPU, "me");
                wait(it, GPU, &unique("b"), 2);
                it.client_gone(2, NOW);
            }, None),
            ("a connection closed with a lock tied to it", |it| {
                acquire(it, GPU, &in_session("me", 9), 7);
                it.client_gone(7, NOW);
            }, Some(0)),
            ("a grace period: its end, and one ms more", |it| {
                acquire(it, GPU, &in_session("me", 9), 7);
                it.client_gone(7, NOW);
                let work = it.take_deferred().unwrap();
                it.run_deferred(work, &shows("me"), NOW);
                while it.take_deferred().is_some() {}
            }, Some(10)),
            ("deferred work", |it| it.deferred.hand_off(Id::FIRST), Some(0)),
        ] {
            let mut manager = manager();
            record(&mut manager);
            assert_eq!(manager.next_wake_ms(NOW), at(wakes_ms), "{what}");
            assert_eq!(manager.needs_timer(), wakes_ms.is_some(), "{what}: needs_timer");
        }
    }

    /// The locks that are due.
    fn due(manager: &mut LockManager, ms: u64) -> Vec<Id> {
        let mut due = Vec::new();
        manager.due_queues(after(ms), &mut due);
        due
    }

    /// The end of a lease of the default length, in ms after the test began.
    const END: u64 = LEASE_END - 1_000_000;

    #[test]
    fn an_alarm_is_due_a_millisecond_after_the_end_of_the_lease() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 9), 7);
        manager.client_gone(7, NOW);
        let work = manager.take_deferred().unwrap();
        manager.run_deferred(work, &shows("me"), NOW);
        assert_eq!(manager.take_deferred(), None);
        // A key lives through the millisecond in which it expires.
        assert_eq!(due(&mut manager, 9), []);
        assert_eq!(due(&mut manager, 10), [id(&manager, GPU)]);
        assert_eq!(
            manager.next_wake_ms(after(10)),
            at(Some(11)),
            "a lease end that is still due is checked again a millisecond later"
        );
    }

    #[test]
    fn the_lease_end_of_a_lock_has_an_alarm_only_while_a_client_waits_for_it() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        assert_eq!(manager.table.next_alarm(), None);
        wait(&mut manager, GPU, &unique("b"), 2);
        assert_eq!(manager.table.next_alarm(), at(Some(END + 1)));
        manager.client_gone(2, NOW);
        assert_eq!(manager.table.next_alarm(), None);
    }

    #[test]
    fn the_rest_of_many_ended_leases_follows_a_millisecond_later() {
        let mut manager = manager();
        for n in 0..250 {
            let key = n.to_string();
            held(&mut manager, &key, "me");
            wait(&mut manager, &key, &request("b"), n);
        }
        manager.probes.next_ms = after(END + 3).ms();
        let ends = due(&mut manager, END + 1);
        assert_eq!(ends.len(), ENDS_AT_A_TIME);
        assert_eq!(manager.next_wake_ms(after(END + 1)), at(Some(END + 2)));
    }

    #[test]
    fn all_queues_are_probed_in_turn() {
        const QUEUES: usize = 400;
        let mut manager = manager();
        let mut clients = 0..;
        for n in 0..QUEUES {
            let key = n.to_string();
            wait(&mut manager, &key, &request("b"), clients.next().unwrap());
            wait(&mut manager, &key, &request("c"), clients.next().unwrap());
        }
        begin(&mut manager);
        let first = due(&mut manager, 0);
        assert_eq!(first.len(), QUEUES_AT_A_TIME);
        assert_eq!(due(&mut manager, 4), [], "not before 5 ms have passed");
        let (second, third) = (due(&mut manager, 5), due(&mut manager, 10));
        let round: Vec<Id> = [first, second, third].concat();
        let mut locks = round[..QUEUES].to_vec();
        locks.sort_unstable();
        locks.dedup();
        assert_eq!(locks.len(), QUEUES, "each queue once, whatever its length");
        assert_eq!(
            round[QUEUES..],
            round[..round.len() - QUEUES],
            "then from the beginning"
        );
    }

    #[test]
    fn fewer_queues_are_probed_once_each_time() {
        let mut manager = manager();
        wait(&mut manager, "gpu:0", &request("b"), 2);
        wait(&mut manager, "gpu:1", &request("b"), 3);
        assert_eq!(due(&mut manager, 0).len(), 2);
        assert_eq!(due(&mut manager, 5).len(), 2);
    }

    #[test]
    fn after_a_hand_off_the_next_queues_follow_at_once() {
        let mut manager = manager();
        wait(&mut manager, "gpu:0", &request("b"), 2);
        wait(&mut manager, "gpu:1", &request("b"), 3);
        begin(&mut manager);
        due(&mut manager, 0);
        assert_eq!(manager.next_wake_ms(NOW), at(Some(5)));
        let lock = id(&manager, "gpu:0");
        manager.probed(lock, &KeyState::Absent, NOW);
        assert_eq!(manager.next_wake_ms(NOW), at(Some(0)));
        assert_eq!(due(&mut manager, 1), [id(&manager, "gpu:1")]);
    }

    #[test]
    fn a_clock_that_is_stepped_back_does_not_stop_the_probes() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        wait(&mut manager, GPU, &request("b"), 2);
        let lock = id(&manager, GPU);
        assert_eq!(due(&mut manager, 50_000), [lock]);
        assert_eq!(manager.next_wake_ms(after(100)), at(Some(105)));
        assert_eq!(due(&mut manager, 105), [lock]);
        assert_eq!(due(&mut manager, 107), [], "the round goes on as before");
    }
}
