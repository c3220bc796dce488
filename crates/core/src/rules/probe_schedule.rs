//! When to probe a lock without a command: at the end of its lease, if a client waits for it or a grace period runs; and every few milliseconds while clients wait for it, because other commands delete keys without notice.

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
    /// Whether [`LockManager::next_wake_ms`] returns a time.
    pub fn needs_timer(&self) -> bool {
        self.queues.clients() > 0
            || self.table.next_alarm().is_some()
            || self.queues.left() > 0
            || self.deferred.has_any()
    }

    /// When the timer has to fire next, in ms since the epoch; none: no client waits, no grace
    /// period runs, and no work is deferred.
    pub fn next_wake_ms(&self, now: Now) -> Option<u64> {
        const NEVER: u64 = u64::MAX;
        // After the clock was stepped back, `next_ms` is too far ahead.
        let far = now.ms().saturating_add(PROBE_EVERY_MS);
        let (probe, deadline) = match self.queues.clients() {
            // A kept position that expires has no effect of its own.
            0 if self.queues.left() == 0 => (NEVER, NEVER),
            0 => (NEVER, self.budget.next_ms(now)),
            _ => {
                let left = (self.queues.left() > 0).then_some(0);
                let deadline = left.or(self.queues.next_deadline()).unwrap_or(NEVER);
                (self.probes.next_ms.min(far), deadline.max(self.budget.next_ms(now)))
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
        let next = probe.min(deferred).min(alarm).min(deadline);
        (next != NEVER).then(|| next.max(now.ms()))
    }

    /// Adds the locks that have to be probed now to `due`.
    pub fn due_queues(&mut self, now: Now, due: &mut Vec<Id>) {
        self.probes.checked_ms = now.ms();
        due.extend(self.table.due_alarms(now.ms()).take(ENDS_AT_A_TIME));
        // After the clock was stepped back, `next_ms` is too far ahead.
        let far = now.ms().saturating_add(PROBE_EVERY_MS);
        if now.ms() < self.probes.next_ms && self.probes.next_ms <= far {
            return;
        }
        self.probes.next_ms = far;
        let first = self.queues.next_queue(self.probes.last);
        let round = std::iter::successors(first, |id| {
            self.queues.next_queue(Some(*id)).filter(|next| Some(*next) != first)
        });
        let alarms = due.len();
        due.extend(round.take(QUEUES_AT_A_TIME));
        self.probes.last = due.get(alarms..).and_then(<[Id]>::last).copied();
    }
}
