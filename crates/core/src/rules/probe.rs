//! A probe: the key of a lock was read although no command names it. A hold whose key is gone ends,
//! and the lock passes on.

use crate::manager::LockManager;
use crate::rules::hand_off::HandOff;
use crate::rules::wait::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyMeta, KeyState, OWNER_MAX, is_valid_owner};
use crate::state::lock::NO_END;

impl LockManager {
    /// Whether the metadata of the key matches the record, so that its value need not be read. It is
    /// never enough for a granted hold, since only the value tells one owner from another; that
    /// value was written so that reading it costs nothing. The value of an adopted hold was not,
    /// and is not read while length and lease are the same: such a lock may be overwritten
    /// unnoticed until a command compares the value.
    pub fn matches_meta(&self, id: Id, meta: KeyMeta) -> bool {
        let Some(lock) = self.table.get(id) else { return true };
        match (&lock.hold, meta) {
            (None, KeyMeta::Absent) => lock.connected == 0 || self.waits_for_set(id),
            (None, KeyMeta::String { len, .. }) => {
                lock.positions == 0 || !lock.reserved && !(1..=OWNER_MAX).contains(&len)
            }
            (None, KeyMeta::OtherType) => !lock.reserved,
            (Some(hold), KeyMeta::String { len, expires }) => {
                hold.adopted
                    && len == hold.owner.len()
                    && expires.unwrap_or(NO_END) == hold.until_ms
            }
            (Some(_), KeyMeta::Absent | KeyMeta::OtherType) => false,
        }
    }

    /// Whether a free lock is reserved for a set that other locks are missing for.
    fn waits_for_set(&self, id: Id) -> bool {
        let first = self.queues.first_connected(id).and_then(|it| self.queues.get(it));
        self.table.get(id).is_some_and(|lock| lock.reserved)
            && first.is_some_and(|waiter| waiter.wants > 1)
    }

    /// Whether clients wait for a lock, so that a change of its key may lead to a write.
    pub fn has_waiters(&self, id: Id) -> bool {
        self.table.get(id).is_some_and(|lock| lock.connected > 0)
    }

    /// A lock was probed. A free lock passes on; the result says what to write to its key.
    pub fn probed(&mut self, id: Id, state: &KeyState<'_>, now: Now) -> HandOff {
        let was_held = self.table.hold(id).is_some();
        self.reconcile(id, state, now);
        if was_held && self.table.hold(id).is_none() {
            self.sweep.ended = self.sweep.ended.saturating_add(1);
        }
        let has_queue = self.table.get(id).is_some_and(|lock| lock.positions > 0);
        match *state {
            KeyState::String { value, expires } if has_queue && is_valid_owner(value) => {
                self.adopt_unless_held(id, value, expires, now);
                HandOff::NoWaiter
            }
            KeyState::Absent => {
                let next = self.hand_off_next(id, now);
                if matches!(next, HandOff::Waiter(_) | HandOff::LockSet { .. }) {
                    self.probes.go_on_at_once();
                }
                next
            }
            KeyState::Elsewhere => {
                self.end_waits_for(id, LeaveReason::Moved, now);
                HandOff::NoWaiter
            }
            KeyState::String { .. } | KeyState::OtherType => HandOff::NoWaiter,
        }
    }
}
