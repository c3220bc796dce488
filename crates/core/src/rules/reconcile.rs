//! Reconciliation: every rule first brings the record of a lock in line with what its key shows.
//! Other clients may delete, overwrite or renew a key at any time without notice, so a hold is over
//! when its key says so.
//!
//! | the record | the key shows | then |
//! |---|---|---|
//! | a hold | its owner | the hold goes on, with the lease that the key shows |
//! | a hold under notice | its owner, with a lease beyond the notice | the hold goes on, with a lease until the notice ends, and to cut that of the key is deferred work (`rules/notice.rs`) |
//! | a hold whose lease is over | its owner, with another lease | the hold goes on if others extended the lease before its end; it ended if the key was set again by the same owner. The caller finds out which ([`LockManager::other_lease`]) |
//! | a hold | nothing | the hold ended: `expired` at or after the end of its lease, otherwise `removed`; after a grace period, its session ended; at the end of a notice, it was released by force |
//! | a hold | nothing, and the slot is gone | the hold `moved` |
//! | a hold | anything else | the hold ended likewise; another owner in place of a granted hold is adopted |
//! | no hold | anything | nothing: each rule decides for itself whether to adopt it |

use crate::manager::{Caller, LockManager};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::key_state::{Expires, KeyState, is_valid_owner};
use crate::state::lock::{Hold, Name, Session};

impl LockManager {
    /// How a hold ends whose lease is over.
    fn end_of_lease(&self, id: Id, hold: &Hold) -> End {
        match (self.end_of_notice(id, hold), hold.session) {
            (Some(end), _) => end,
            (None, Session::Closed) => End::SessionClosed,
            (None, _) => End::Expired,
        }
    }

    /// Reconciles the lock of this name, if it is known.
    pub(crate) fn reconcile_named(
        &mut self,
        name: Name<'_>,
        state: &KeyState<'_>,
        now: Now,
    ) -> Option<Id> {
        let known = self.table.find(name);
        if let Some(id) = known {
            self.reconcile(id, state, now);
        }
        known
    }

    /// Reconciles a lock.
    pub(crate) fn reconcile(&mut self, id: Id, state: &KeyState<'_>, now: Now) {
        let Some(lock) = self.table.get(id) else { return };
        let is_reserved = lock.reserved;
        let Some(hold) = &lock.hold else {
            if is_reserved && !matches!(state, KeyState::Absent) {
                self.table.unreserve(id);
                self.update_groups(id);
            }
            return;
        };
        let is_over = hold.is_over(now.ms());
        let end = if is_over { self.end_of_lease(id, hold) } else { End::Removed };
        let granted = !hold.adopted;
        match *state {
            KeyState::String { value, expires } if *value == *hold.owner => {
                let shown_ms = expires.end().filter(|ms| *ms != hold.until_ms);
                if let Some(shown_ms) = shown_ms {
                    let until_ms = self.lease_within_notice(id, shown_ms);
                    self.table.change_hold(id, |hold| hold.until_ms = until_ms);
                    self.lease_changed();
                }
            }
            KeyState::String { value, expires } => {
                self.end(id, end, Caller::default(), now);
                if granted && is_valid_owner(value) {
                    self.adopt(id, value, expires, now);
                }
            }
            KeyState::Absent | KeyState::OtherType => {
                self.end(id, end, Caller::default(), now);
            }
            KeyState::Elsewhere => self.end(id, End::Moved, Caller::default(), now),
        }
    }

    /// The lock of this name, if its key shows another lease than its hold has. When that lease is
    /// over as well ([`LockManager::is_lease_over`]), others may have extended it in time, or set
    /// the key again after its end. Only the key can tell which; if it was set again,
    /// [`LockManager::key_was_set_again`] must be called before the rule. None if that lease is
    /// already known to be an extension beyond a notice.
    pub fn other_lease(&self, name: Name<'_>, expires: Expires) -> Option<Id> {
        let id = self.table.find(name)?;
        let hold = self.table.hold(id)?;
        let is_other = expires.end().is_some_and(|end| end != hold.until_ms);
        (is_other && !self.is_cut_deferred(id)).then_some(id)
    }

    /// Whether the lease of a hold is over, as far as is known.
    pub fn is_lease_over(&self, id: Id, now: Now) -> bool {
        self.table.hold(id).is_some_and(|hold| hold.is_over(now.ms()))
    }

    /// The key of a lock was set again, by the same owner, after the lease of its hold was over:
    /// that hold ended, and the lock is adopted if the module had granted it.
    pub fn key_was_set_again(&mut self, id: Id, expires: Expires, now: Now) {
        let Some(hold) = self.table.hold(id) else { return };
        let (owner, granted) = (hold.owner.clone(), !hold.adopted);
        let end = self.end_of_lease(id, hold);
        self.end(id, end, Caller::default(), now);
        if granted {
            self.adopt(id, &owner, expires, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, LEASE_END, acquire, adopted, after, begin, counted, held, holder, id,
        in_session, logged, manager, name, published, request, shows, wait, wait_for_set,
    };
    use crate::state::deferred::Deferred;

    /// A rule that begins `ms` milliseconds after the record was made.
    struct Case<'a> {
        what: &'static str,
        /// Makes the record.
        record: fn(&mut LockManager),
        ms: u64,
        /// What the key shows.
        state: KeyState<'a>,
        counted: &'static str,
        logged: &'static str,
        published: &'static [&'static str],
        /// The holder afterwards.
        holder: &'static str,
    }

    fn check(case: Case<'_>) {
        let what = case.what;
        let mut manager = manager();
        (case.record)(&mut manager);
        begin(&mut manager);
        manager.reconcile_named(name(GPU), &case.state, after(case.ms));
        assert_eq!(counted(&manager), case.counted, "{what}: counters");
        assert_eq!(logged(&manager), case.logged, "{what}: log");
        assert_eq!(published(&mut manager), case.published, "{what}: events");
        assert_eq!(holder(&manager, GPU), case.holder, "{what}: holder");
    }

    /// The end of the lease, in ms after the record was made.
    const END: u64 = LEASE_END - 1_000_000;

    fn granted(manager: &mut LockManager) {
        held(manager, GPU, "me");
    }

    fn adopted_hold(manager: &mut LockManager) {
        adopted(manager, GPU, "me");
    }

    /// A hold whose connection closed and whose grace period of 5,000 ms runs.
    fn in_grace_period(manager: &mut LockManager) {
        acquire(manager, GPU, &in_session("me", 5_000), 7);
        manager.client_gone(7, after(0));
        let work = manager.take_deferred().unwrap();
        assert!(matches!(work, Deferred::SessionEnd { .. }));
        manager.run_deferred(work, &shows("me"), after(0));
    }

    #[test]
    #[rustfmt::skip]
    fn a_hold_goes_on_or_ends_as_the_key_says() {
        use KeyState::{Absent, Elsewhere, OtherType};
        let too_long = "x".repeat(1025);
        let case = |what, record, ms, state, counted, logged, published, holder| {
            check(Case { what, record, ms, state, counted, logged, published, holder });
        };
        // a hold | its owner
        case("a hold, its owner", granted, 50, shows("me"), "", "", &[], "me");
        case("an adopted hold, its owner", adopted_hold, 50, shows("me"), "", "", &[],
            "me, adopted");
        case("a hold at the end of its lease, its owner with the same lease", granted, END,
            shows("me"), "", "", &[], "me");
        // a hold | nothing
        case("a hold, nothing, before the end of its lease", granted, END - 1, Absent,
            "removed", "removed", &["me: removed"], "free");
        case("a hold, nothing, at the end of its lease", granted, END, Absent,
            "expired", "expired", &["me: timeout"], "free");
        case("a hold, nothing, at the end of its grace period", in_grace_period, 5_000, Absent,
            "session_releases", "disconnected", &["me: disconnect"], "free");
        case("a hold, nothing, before the end of its grace period", in_grace_period, 4_999,
            Absent, "removed", "removed", &["me: removed"], "free");
        case("an adopted hold, nothing, before the end: not published", adopted_hold, 50, Absent,
            "removed", "removed", &[], "free");
        case("an adopted hold, nothing, at the end: published", adopted_hold, END, Absent,
            "expired", "expired", &["me: timeout"], "free");
        // a hold | nothing, and the slot is gone
        case("a hold, nothing, and the slot is gone", granted, 50, Elsewhere,
            "moved", "", &[], "free");
        case("a hold, nothing, and the slot is gone, at the end of its lease", granted, END,
            Elsewhere, "moved", "", &[], "free");
        case("an adopted hold, nothing, and the slot is gone", adopted_hold, 50, Elsewhere,
            "moved", "", &[], "free");
        // a hold | anything else
        case("a hold, another owner: adopted", granted, 50, shows("other"),
            "adopted removed", "removed", &["me: removed"], "other, adopted");
        case("a hold, another owner at the end of its lease: adopted", granted, END,
            shows("other"), "adopted expired", "expired", &["me: timeout"], "other, adopted");
        case("an adopted hold, another owner: not adopted", adopted_hold, 50, shows("other"),
            "removed", "removed", &[], "free");
        case("a hold, an empty value: not adopted", granted, 50, shows(""),
            "removed", "removed", &["me: removed"], "free");
        case("a hold, a value of 1025 bytes: not adopted", granted, 50, shows(&too_long),
            "removed", "removed", &["me: removed"], "free");
        case("a hold, another type", granted, 50, OtherType,
            "removed", "removed", &["me: removed"], "free");
    }

    #[test]
    fn without_a_hold_nothing_is_adopted() {
        for state in
            [KeyState::Absent, KeyState::Elsewhere, shows("me"), KeyState::OtherType]
        {
            let mut manager = manager();
            assert_eq!(manager.reconcile_named(name(GPU), &state, after(0)), None);
            held(&mut manager, GPU, "me");
            let known = manager.reconcile_named(name(GPU), &KeyState::Absent, after(0));
            assert_eq!(known, Some(id(&manager, GPU)));
            begin(&mut manager);
            manager.reconcile_named(name(GPU), &state, after(0));
            assert_eq!(
                (counted(&manager), holder(&manager, GPU).as_str()),
                (String::new(), "free"),
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_hold_takes_over_the_lease_that_the_key_shows() {
        for (expires, until_ms) in [
            (Expires::At(1_234_567), 1_234_567),
            (Expires::Never, crate::state::lock::NO_END),
            (Expires::Unread, LEASE_END),
        ] {
            let mut manager = manager();
            held(&mut manager, GPU, "me");
            let state = KeyState::String { value: b"me", expires };
            manager.reconcile_named(name(GPU), &state, after(0));
            let lock = id(&manager, GPU);
            assert_eq!(
                manager.table.hold(lock).unwrap().until_ms,
                until_ms,
                "{expires:?}"
            );
        }
    }

    /// Row: a hold whose lease is over | its owner, with another lease.
    #[test]
    #[rustfmt::skip]
    fn a_lease_that_is_over_was_extended_in_time_or_the_key_was_set_again() {
        let extended = Expires::At(LEASE_END + 9_000);
        for (what, record, set_again, expected_counted, expected_holder) in [
            ("extended in time", granted as fn(&mut LockManager), false, "", "me"),
            ("set again", granted, true, "adopted expired", "me, adopted"),
            ("adopted, extended in time", adopted_hold, false, "", "me, adopted"),
            // The next rule that adopts holds adopts it again.
            ("adopted, set again", adopted_hold, true, "expired", "free"),
        ] {
            let mut manager = manager();
            record(&mut manager);
            begin(&mut manager);
            let now = after(END + 1);
            let lock = id(&manager, GPU);
            assert_eq!(manager.other_lease(name(GPU), extended), Some(lock), "{what}");
            assert!(manager.is_lease_over(lock, now), "{what}");
            if set_again {
                manager.key_was_set_again(lock, extended, now);
            }
            let state = KeyState::String { value: b"me", expires: extended };
            manager.reconcile(lock, &state, now);
            assert_eq!(counted(&manager), expected_counted, "{what}: counters");
            assert_eq!(holder(&manager, GPU), expected_holder, "{what}: holder");
        }
    }

    #[test]
    fn a_key_that_is_set_again_after_a_grace_period_ends_the_session() {
        let mut manager = manager();
        in_grace_period(&mut manager);
        begin(&mut manager);
        let lock = id(&manager, GPU);
        manager.key_was_set_again(lock, Expires::At(LEASE_END), after(5_000));
        assert_eq!(counted(&manager), "adopted session_releases");
    }

    #[test]
    fn the_same_lease_is_no_other_lease() {
        let mut manager = manager();
        assert_eq!(manager.other_lease(name(GPU), Expires::Never), None, "not known");
        held(&mut manager, GPU, "me");
        let other = |expires| manager.other_lease(name(GPU), expires).is_some();
        assert!(!other(Expires::At(LEASE_END)) && !other(Expires::Unread));
        assert!(other(Expires::At(LEASE_END - 1)) && other(Expires::Never));
        let lock = id(&manager, GPU);
        let is_over = |ms| manager.is_lease_over(lock, after(ms));
        assert_eq!((is_over(END - 1), is_over(END)), (false, true));
    }

    #[test]
    #[rustfmt::skip]
    fn a_lock_stays_reserved_only_while_its_key_is_absent() {
        for (state, expected) in [
            (KeyState::Absent, "free, reserved"),
            (shows("other"), "free"),
            (KeyState::OtherType, "free"),
            (KeyState::Elsewhere, "free"),
        ] {
            let mut manager = manager();
            held(&mut manager, "gpu:1", "other");
            wait_for_set(&mut manager, &[GPU, "gpu:1"], 2, &request("b"), 2);
            manager.probed(id(&manager, GPU), &KeyState::Absent, after(0));
            assert_eq!(holder(&manager, GPU), "free, reserved");
            manager.reconcile_named(name(GPU), &state, after(0));
            assert_eq!(holder(&manager, GPU), expected, "{state:?}");
        }
    }

    #[test]
    fn the_end_of_a_hold_is_not_yet_a_hand_off() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        wait(&mut manager, GPU, &request("b"), 2);
        manager.reconcile_named(name(GPU), &KeyState::Absent, after(0));
        assert_eq!(holder(&manager, GPU), "free");
        assert_eq!(manager.outbox.replies(), 0);
    }
}
