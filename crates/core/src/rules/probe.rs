//! A probe: the key of a lock was read although no command names it. A hold whose key is gone ends,
//! and the lock passes on.

use crate::manager::LockManager;
use crate::rules::hand_off::HandOff;
use crate::rules::leave::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyMeta, KeyState, OWNER_MAX, is_valid_owner};
use crate::state::lock::NO_END;

impl LockManager {
    /// Whether the metadata of the key matches the record, so that its value need not be read. It
    /// is never enough for a granted hold, since only the value tells one owner from another; that
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

    /// Whether no waiter takes a free lock alone: it is reserved for a lock set, or only waiters with
    /// GROUPS wait for it that collect other groups.
    fn waits_for_set(&self, id: Id) -> bool {
        let first = self.queues.first_taker(id).and_then(|it| self.queues.get(it));
        self.table.get(id).is_some_and(|lock| lock.reserved)
            && first.is_none_or(|waiter| waiter.wants > 1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, LEASE_END, NOW, adopted, begin, counted, held, holder, id, manager, name,
        queue, replies, request, shows, unique, wait, wait_for_set,
    };
    use crate::state::key_state::Expires;

    fn granted(manager: &mut LockManager) {
        held(manager, GPU, "me");
    }

    fn adopted_hold(manager: &mut LockManager) {
        adopted(manager, GPU, "me");
    }

    fn waited_for(manager: &mut LockManager) {
        wait(manager, GPU, &request("b"), 2);
    }

    fn only_kept_position(manager: &mut LockManager) {
        wait(manager, GPU, &unique("b"), 2);
        manager.client_gone(2, NOW);
    }

    /// The lock is reserved for a lock set of which another lock is missing.
    fn reserved(manager: &mut LockManager) {
        held(manager, "gpu:1", "other");
        wait_for_set(manager, &[GPU, "gpu:1"], 2, &request("b"), 2);
        manager.hand_off_next(id(manager, GPU), NOW);
    }

    /// The waiter that the lock was reserved for is gone; the next one wants only this lock.
    fn reserved_for_one(manager: &mut LockManager) {
        reserved(manager);
        wait(manager, GPU, &request("c"), 3);
        manager.client_gone(2, NOW);
    }

    /// Neither a hold nor a queue.
    fn idle(manager: &mut LockManager) {
        granted(manager);
        manager.reconcile_named(name(GPU), &KeyState::Absent, NOW);
    }

    #[test]
    #[rustfmt::skip]
    fn the_value_is_read_unless_the_metadata_matches_the_record() {
        let string = |len| KeyMeta::String { len, expires: Some(LEASE_END) };
        let other_lease = KeyMeta::String { len: 2, expires: Some(LEASE_END + 1) };
        let no_lease = KeyMeta::String { len: 2, expires: None };
        let (absent, other_type) = (KeyMeta::Absent, KeyMeta::OtherType);
        for (what, record, meta, matches) in [
            ("idle, absent", idle as fn(&mut LockManager), absent, true),
            ("idle, a string", idle, string(2), true),
            ("idle, another type", idle, other_type, true),
            ("waited for, absent", waited_for, absent, false),
            ("waited for, a string that can be an owner", waited_for, string(2), false),
            ("waited for, the longest owner", waited_for, string(1024), false),
            ("waited for, an empty string", waited_for, string(0), true),
            ("waited for, a string that is too long", waited_for, string(1025), true),
            ("waited for, another type", waited_for, other_type, true),
            ("only a kept position, absent", only_kept_position, absent, true),
            ("only a kept position, a string", only_kept_position, string(2), false),
            ("reserved for a lock set, absent", reserved, absent, true),
            ("reserved for a waiter for one lock, absent", reserved_for_one, absent, false),
            ("reserved, a string", reserved, string(2), false),
            ("reserved, an empty string", reserved, string(0), false),
            ("reserved, another type", reserved, other_type, false),
            ("granted, a string as expected", granted, string(2), false),
            ("granted, absent", granted, absent, false),
            ("granted, another type", granted, other_type, false),
            ("adopted, the same length and lease", adopted_hold, string(2), true),
            ("adopted, another length", adopted_hold, string(3), false),
            ("adopted, another lease", adopted_hold, other_lease, false),
            ("adopted, no lease", adopted_hold, no_lease, false),
            ("adopted, absent", adopted_hold, absent, false),
            ("adopted, another type", adopted_hold, other_type, false),
        ] {
            let mut manager = manager();
            record(&mut manager);
            let lock = id(&manager, GPU);
            assert_eq!(manager.matches_meta(lock, meta), matches, "{what}");
        }
    }

    #[test]
    fn an_adopted_lock_without_a_lease_matches_a_key_without_one() {
        let mut manager = manager();
        let lock = manager.table.find_or_create(name(GPU)).unwrap();
        manager.adopt(lock, b"me", Expires::Never, NOW);
        let meta = |expires| KeyMeta::String { len: 2, expires };
        assert!(manager.matches_meta(lock, meta(None)));
        assert!(!manager.matches_meta(lock, meta(Some(LEASE_END))));
    }

    #[test]
    #[rustfmt::skip]
    fn a_free_lock_passes_on_and_a_lock_with_a_queue_is_adopted() {
        use KeyState::{Absent, Elsewhere, OtherType};
        for (what, record, state, next, expected_counted, expected_holder, expected_queue) in [
            ("held, its owner", granted as fn(&mut LockManager), shows("me"), "", "", "me", ""),
            ("held, absent", granted, Absent, "", "removed", "free", ""),
            ("held, another owner", granted, shows("other"), "", "adopted removed",
                "other, adopted", ""),
            ("idle, a string: not adopted without a queue", idle, shows("me"), "", "", "free", ""),
            ("waited for, absent", waited_for, Absent, "b", "acquired acquired_after_wait", "b",
                ""),
            ("waited for, a string", waited_for, shows("me"), "", "adopted", "me, adopted", "b"),
            ("waited for, an empty string", waited_for, shows(""), "", "", "free", "b"),
            ("waited for, another type", waited_for, OtherType, "", "", "free", "b"),
            ("waited for, and the slot is gone", waited_for, Elsewhere, "", "waits_abandoned",
                "free", ""),
            ("held, and the slot is gone", granted, Elsewhere, "", "moved", "free", ""),
            ("only a kept position, absent", only_kept_position, Absent, "", "", "free", "(b)"),
            ("only a kept position, a string", only_kept_position, shows("me"), "", "adopted",
                "me, adopted", "(b)"),
            ("reserved, a string", reserved, shows("me"), "", "adopted", "me, adopted", "b"),
        ] {
            let mut manager = manager();
            record(&mut manager);
            begin(&mut manager);
            let lock = id(&manager, GPU);
            let passed_on = match manager.probed(lock, &state, NOW) {
                HandOff::NoWaiter => String::new(),
                HandOff::Waiter(holder) => String::from_utf8_lossy(&holder.owner).into_owned(),
                other => format!("{other:?}"),
            };
            assert_eq!(passed_on, next, "{what}: next holder");
            assert_eq!(counted(&manager), expected_counted, "{what}: counters");
            assert_eq!(holder(&manager, GPU), expected_holder, "{what}: holder");
            assert_eq!(queue(&manager, GPU), expected_queue, "{what}: queue");
        }
    }

    #[test]
    fn the_clients_of_a_slot_that_is_gone_are_asked_to_try_again() {
        let mut manager = manager();
        let b = wait(&mut manager, GPU, &unique("b"), 2);
        let c = wait(&mut manager, GPU, &request("c"), 3);
        manager.probed(id(&manager, GPU), &KeyState::Elsewhere, NOW);
        let retry = || "TRYAGAIN".to_owned();
        assert_eq!(replies(&mut manager), [(b, retry()), (c, retry())]);
    }

    #[test]
    fn only_connected_waiters_can_lead_to_a_write() {
        for (record, has_waiters) in [
            (granted as fn(&mut LockManager), false),
            (only_kept_position, false),
            (waited_for, true),
        ] {
            let mut manager = manager();
            record(&mut manager);
            assert_eq!(manager.has_waiters(id(&manager, GPU)), has_waiters);
        }
    }
}
