//! Notice: FORCERELEASE AFTER announces the end of a hold, so that its holder can finish. From then
//! on no lease reaches beyond the notice, whoever sets it:
//!
//! - The lease is cut when the notice is given, so that the server ends the hold in time, even if
//!   the notice is forgotten in a restart or a failover.
//! - EXTEND and the renewals of a UNIQUE owner set a lease that is cut in the same way.
//! - If other clients set a longer lease, or remove it, reconciliation cuts that of the record, and
//!   defers the cut of the key: an event must not write keys. If the notice is over by then, the
//!   key is deleted instead. The key is read shortly before the end, because a key that shows
//!   another lease after the end may have been set again.
//!
//! A hold whose lease was cut ends as if it was released by force. A hold whose lease was shorter
//! than the notice ends as without one.

use crate::manager::{Caller, LockManager};
use crate::rules::session::DeferredOutcome;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::{End, What};
use crate::state::hold_details::Notice;
use crate::state::key_state::{Expires, KeyState};
use crate::state::lock::Hold;
use crate::state::log::Text;
use crate::state::settings::Events;

impl LockManager {
    /// Announces the end of a hold in `after_ms`. Of two notices, the one that ends first counts,
    /// with its reason. Returns the expiry to set if the key shows a longer lease.
    pub(crate) fn give_notice(
        &mut self,
        id: Id,
        after_ms: u64,
        reason: Text,
        shown: Expires,
        now: Now,
    ) -> Option<u64> {
        let until_ms = now.ms().saturating_add(after_ms);
        if self.notice_end(id).is_none_or(|end_ms| until_ms < end_ms) {
            self.begin_notice(id, until_ms, reason, now);
        }
        let until_ms = self.notice_end(id)?;
        if self.table.hold(id).is_some_and(|hold| hold.until_ms > until_ms) {
            self.table.change_hold(id, |hold| hold.until_ms = until_ms);
            self.lease_changed();
        }
        let is_longer = shown.end().is_some_and(|shown_ms| shown_ms > until_ms);
        // A notice that is over has been found by the caller: the end of the hold is deferred work.
        (is_longer && until_ms > now.ms()).then_some(until_ms)
    }

    fn begin_notice(&mut self, id: Id, until_ms: u64, reason: Text, now: Now) {
        let Some(hold) = self.table.hold(id) else { return };
        let (owner, token) = (hold.owner.clone(), hold.token());
        self.table.change_details(id, |details| {
            let cut_deferred =
                details.notice.as_ref().is_some_and(|notice| notice.cut_deferred);
            let reason = reason.clone();
            let probed_before_ms = 0;
            details.notice =
                Some(Notice { until_ms, reason, cut_deferred, probed_before_ms });
        });
        self.count(Some(id), |counters| &mut counters.revocations);
        if self.settings.events != Events::Off {
            let what = What::Revoked { reason, deadline_ms: until_ms };
            self.publish(id, owner, token, what, now);
        }
    }

    fn notice(&self, id: Id) -> Option<&Notice> {
        self.table.details(id)?.notice.as_ref()
    }

    /// When the hold of a lock ends at the latest, in ms since the epoch, if its holder was given
    /// notice.
    pub(crate) fn notice_end(&self, id: Id) -> Option<u64> {
        #[cfg(feature = "break-rules")]
        if crate::broken::is("notice-forgotten") {
            return None;
        }
        self.notice(id).map(|notice| notice.until_ms)
    }

    /// The rest of the notice in ms, and the reason.
    pub(crate) fn revoked(&self, id: Id, now: Now) -> Option<(u64, Text)> {
        let notice = self.notice(id)?;
        let left_ms = notice.until_ms.saturating_sub(now.ms());
        Some((left_ms, notice.reason.clone()))
    }

    /// The end of a lease that other clients have set to `shown_ms`. If that is beyond a notice,
    /// the lease of the key will be cut.
    pub(crate) fn lease_within_notice(&mut self, id: Id, shown_ms: u64) -> u64 {
        let end_ms = self.notice_end(id).filter(|end_ms| shown_ms > *end_ms);
        let Some(end_ms) = end_ms else { return shown_ms };
        if !self.set_cut_deferred(id, true) {
            self.deferred.cut_to_notice(id);
        }
        end_ms
    }

    /// A lock is probed because its alarm is due. If its hold is under notice, the next alarm is the
    /// end of the lease.
    pub(crate) fn probed_before_end(&mut self, id: Id) {
        let Some(until_ms) = self.table.hold(id).map(|hold| hold.until_ms) else {
            return;
        };
        if self.notice(id).is_some_and(|notice| notice.probed_before_ms != until_ms) {
            self.table.change_details(id, |details| {
                if let Some(notice) = &mut details.notice {
                    notice.probed_before_ms = until_ms;
                }
            });
        }
    }

    /// Whether the key of a lock is known to show a longer lease than its hold has.
    pub(crate) fn is_cut_deferred(&self, id: Id) -> bool {
        self.notice(id).is_some_and(|notice| notice.cut_deferred)
    }

    /// Marks whether the cut of a lease is deferred. Returns whether it was.
    fn set_cut_deferred(&mut self, id: Id, is_deferred: bool) -> bool {
        let mut was_deferred = false;
        self.table.change_details(id, |details| {
            if let Some(notice) = &mut details.notice {
                was_deferred = std::mem::replace(&mut notice.cut_deferred, is_deferred);
            }
        });
        was_deferred
    }

    /// Carries out the deferred cut of a lease. The lock is reconciled.
    pub(crate) fn cut_to_notice(
        &mut self,
        id: Id,
        state: &KeyState<'_>,
        now: Now,
    ) -> DeferredOutcome {
        self.set_cut_deferred(id, false);
        let KeyState::String { expires, .. } = *state else {
            return DeferredOutcome::Nothing;
        };
        let Some(notice) = self.notice(id) else { return DeferredOutcome::Nothing };
        let until_ms = notice.until_ms;
        if expires.end().is_none_or(|shown_ms| shown_ms <= until_ms) {
            return DeferredOutcome::Nothing;
        }
        if until_ms > now.ms() {
            return DeferredOutcome::Shortened { until_ms };
        }
        let end = End::Forced(notice.reason.clone());
        self.end(id, end, Caller::default(), now);
        DeferredOutcome::Ended(self.hand_off_next(id, now))
    }

    /// How a hold ends whose lease is over, if a notice has cut it.
    pub(crate) fn end_of_notice(&self, id: Id, hold: &Hold) -> Option<End> {
        let notice = self.notice(id)?;
        let is_cut = hold.until_ms >= notice.until_ms;
        is_cut.then(|| End::Forced(notice.reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::test_keyspace::TestKeyspace;
    use crate::engine::{deferred, probe::probe, tick::tick};
    use crate::request::{Acquire, Extend, ForceRelease};
    use crate::rules::force_release::Forced;
    use crate::rules::test_support::{
        GPU, LEASE_END, NOW, acquire, adopted, after, begin, client, counted, held,
        holder, id, in_session, logged, manager, name, published, replies, request,
        run_next_deferred, unique, wait,
    };
    use crate::state::lock::{NO_END, Session};
    use crate::state::settings::Settings;

    /// A key of `me` with a lease until `ms` after the test began.
    fn shows_until(ms: u64) -> KeyState<'static> {
        KeyState::String { value: b"me", expires: Expires::At(after(ms).ms()) }
    }

    /// A key of `me` without a lease.
    const PERSISTED: KeyState<'static> =
        KeyState::String { value: b"me", expires: Expires::Never };

    /// The end of the lease, in ms after the test began.
    const END: u64 = LEASE_END - NOW.ms();

    /// FORCERELEASE AFTER. Returns the expiry to set.
    fn notice_at(
        manager: &mut LockManager,
        state: &KeyState<'_>,
        after_ms: u64,
        reason: &'static str,
        now: Now,
    ) -> Option<u64> {
        let request = ForceRelease {
            owner: None,
            token: None,
            after_ms: Some(after_ms),
            reason: reason.as_bytes().into(),
        };
        match manager.force_release(name(GPU), request, state, Some(7), now) {
            Ok(Forced::Noticed { owner, until_ms }) => {
                assert_eq!(*owner, *b"me");
                until_ms
            }
            other => panic!("{other:?}"),
        }
    }

    /// Gives the holder 1,000 ms, at once.
    fn give(manager: &mut LockManager) {
        notice_at(manager, &shows_until(END), 1_000, "drain", NOW);
    }

    /// A manager of which `me` was given 1,000 ms.
    fn noticed() -> LockManager {
        let mut manager = manager();
        acquire(&mut manager, GPU, &unique("me"), 1);
        give(&mut manager);
        begin(&mut manager);
        manager
    }

    /// The end of the lease in the record, in ms after the test began.
    fn lease(manager: &LockManager) -> u64 {
        manager.table.hold(id(manager, GPU)).unwrap().until_ms - NOW.ms()
    }

    fn revoked(manager: &LockManager) -> Option<(u64, String)> {
        let revoked = manager.revoked(id(manager, GPU), NOW);
        revoked.map(|(ms, reason)| (ms, String::from_utf8_lossy(&reason).into_owned()))
    }

    #[test]
    #[rustfmt::skip]
    fn a_notice_cuts_a_longer_lease() {
        for (what, shown, after_ms, cut) in [
            ("a longer lease", shows_until(END), 1_000, true),
            ("no lease", PERSISTED, 1_000, true),
            ("the same end", shows_until(1_000), 1_000, false),
            ("a shorter lease", shows_until(999), 1_000, false),
            ("the longest notice", shows_until(END), (1 << 53) - 1, false),
        ] {
            for is_adopted in [false, true] {
                let what = format!("{what}, adopted: {is_adopted}");
                let mut manager = manager();
                if is_adopted {
                    adopted(&mut manager, GPU, "me");
                } else {
                    held(&mut manager, GPU, "me");
                }
                begin(&mut manager);
                let until_ms = notice_at(&mut manager, &shown, after_ms, "drain", NOW);
                assert_eq!(until_ms, cut.then(|| after(1_000).ms()), "{what}");
                assert_eq!(revoked(&manager), Some((after_ms, "drain".to_owned())), "{what}");
                if cut {
                    assert_eq!(lease(&manager), 1_000, "{what}");
                }
                assert_eq!(counted(&manager), "revocations", "{what}");
                assert_eq!(published(&mut manager), ["me: revoked"], "{what}");
                assert_eq!(logged(&manager), "", "{what}");
            }
        }
    }

    #[test]
    fn the_event_is_published_unless_events_are_off() {
        for (events, expected) in [
            (Events::Off, None),
            (Events::Release, Some(after(1_000).ms())),
            (Events::All, Some(after(1_000).ms())),
        ] {
            let settings = Settings { events, ..Settings::default() };
            let mut manager = LockManager::new(settings, 1, NOW);
            let token = held(&mut manager, GPU, "me");
            begin(&mut manager);
            give(&mut manager);
            let event = manager.outbox.take_event();
            let deadline = event.map(|event| {
                assert_eq!((event.token, event.at), (Some(token), NOW));
                match event.what {
                    What::Revoked { reason, deadline_ms } => {
                        assert_eq!(*reason, *b"drain");
                        deadline_ms
                    }
                    other => panic!("{other:?}"),
                }
            });
            assert_eq!(deadline, expected, "{events:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_second_notice_only_shortens() {
        for (after_ms, now_ms, left, reason, is_given) in [
            (500, 0, 500, "again", true),
            (1_000, 0, 1_000, "drain", false),
            (9_000, 0, 1_000, "drain", false),
            (500, 499, 999, "again", true),
            (500, 500, 1_000, "drain", false),
        ] {
            let mut manager = noticed();
            let state = shows_until(1_000);
            let until_ms = notice_at(&mut manager, &state, after_ms, "again", after(now_ms));
            let what = format!("{after_ms} ms after {now_ms} ms");
            assert_eq!(until_ms, is_given.then(|| after(left).ms()), "{what}");
            assert_eq!(revoked(&manager), Some((left, reason.to_owned())), "{what}");
            assert_eq!(lease(&manager), left, "{what}");
            assert_eq!(counted(&manager), if is_given { "revocations" } else { "" }, "{what}");
            assert_eq!(published(&mut manager).len(), usize::from(is_given), "{what}");
        }
    }

    #[test]
    fn without_a_match_no_notice_is_given() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        begin(&mut manager);
        for (owner, token, state) in [
            (Some(&b"other"[..]), None, shows_until(END)),
            (None, Some(1), shows_until(END)),
            (None, None, KeyState::Absent),
        ] {
            let reason = b"drain"[..].into();
            let request = ForceRelease { owner, token, after_ms: Some(1_000), reason };
            let forced = manager.force_release(name(GPU), request, &state, None, NOW);
            assert_eq!(forced, Ok(Forced::NotTaken));
            assert_eq!(manager.counters.revocations, 0);
        }
    }

    /// A change of the lease by its owner.
    type Renew = fn(&mut LockManager, u64, Now) -> u64;

    fn extend(manager: &mut LockManager, lease_ms: u64, now: Now) -> u64 {
        let request = Extend { owner: b"me", lease_ms: Some(lease_ms), token: None };
        let state = shows_until(1_000);
        match manager.extend(name(GPU), &request, &state, now) {
            Ok(crate::rules::extend::Extended::Renewed { until_ms, .. }) => until_ms,
            other => panic!("{other:?}"),
        }
    }

    fn acquire_again(manager: &mut LockManager, lease_ms: u64, now: Now) -> u64 {
        let request = Acquire { lease_ms: Some(lease_ms), ..unique("me") };
        let state = shows_until(1_000);
        match manager.acquire(name(GPU), &request, &state, client(1), now) {
            Ok(crate::rules::acquire::Acquired::Renewed { until_ms, .. }) => until_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn no_renewal_reaches_beyond_a_notice() {
        for (name, renew) in [("EXTEND", extend as Renew), ("UNIQUE", acquire_again)] {
            for (what, lease_ms, now_ms, expected) in [
                ("longer", 60_000, 50, 1_000),
                ("to the same end", 950, 50, 1_000),
                ("shorter", 300, 50, 350),
                ("in its last millisecond", 60_000, 1_000, 1_000),
            ] {
                let what = format!("{name}, {what}");
                let mut manager = noticed();
                let until_ms = renew(&mut manager, lease_ms, after(now_ms));
                assert_eq!(until_ms, after(expected).ms(), "{what}");
                assert_eq!(lease(&manager), expected, "{what}");
                assert_eq!(revoked(&manager), Some((1_000, "drain".to_owned())), "{what}");
            }
        }
    }

    #[test]
    fn a_hold_that_is_renewed_every_millisecond_ends_with_its_notice() {
        let mut server = server();
        let mut renew = |ms| {
            server.now = after(ms);
            server.acquire(GPU, &unique("me"), 1).unwrap();
            let counters = &server.manager.counters;
            (counters.acquired, counters.emergency_releases)
        };
        assert_eq!([999, 1_000, 1_000].map(&mut renew), [(0, 0); 3]);
        assert_eq!(renew(1_001), (1, 1));
    }

    #[test]
    fn max_hold_may_end_a_hold_before_its_notice() {
        let settings = Settings { max_hold: 700, ..Settings::default() };
        let mut manager = LockManager::new(settings, 1, NOW);
        held(&mut manager, GPU, "me");
        give(&mut manager);
        assert_eq!(extend(&mut manager, 60_000, NOW), after(700).ms());
    }

    #[test]
    #[rustfmt::skip]
    fn a_hold_under_notice_ends_by_force_if_the_notice_has_cut_its_lease() {
        use KeyState::Absent;
        let forced = ("emergency_releases", "forced", "me: drain");
        let expired = ("expired", "expired", "me: timeout");
        let removed = ("removed", "removed", "me: removed");
        let shorter: fn(&mut LockManager) = |it| { extend(it, 300, NOW); };
        for (what, change, state, now_ms, expected) in [
            ("at the end", (|_| {}) as fn(&mut LockManager), Absent, 1_000, forced),
            ("long after the end", |_| {}, Absent, 90_000, forced),
            ("before the end", |_| {}, Absent, 999, removed),
            ("the lease is shorter", shorter, Absent, 300, expired),
            ("the lease is shorter, noticed after the notice", shorter, Absent, 5_000, expired),
            ("renewed to more", |it| { extend(it, 60_000, NOW); }, Absent, 1_000, forced),
            ("renewed in its last millisecond", |it| { extend(it, 9, after(1_000)); }, Absent,
                1_001, forced),
            ("overwritten at the end", |_| {},
                KeyState::String { value: b"other", expires: Expires::Never }, 1_000,
                ("emergency_releases adopted", "forced", "me: drain")),
        ] {
            let mut manager = noticed();
            change(&mut manager);
            begin(&mut manager);
            manager.reconcile_named(name(GPU), &state, after(now_ms));
            assert_eq!(counted(&manager), expected.0, "{what}: counters");
            assert_eq!(logged(&manager), expected.1, "{what}: log");
            assert_eq!(published(&mut manager), [expected.2], "{what}: events");
        }
    }

    #[test]
    fn a_key_that_is_set_again_after_a_notice_is_a_new_hold_without_one() {
        let mut manager = noticed();
        let lock = id(&manager, GPU);
        manager.key_was_set_again(lock, Expires::At(LEASE_END), after(1_000));
        assert_eq!(counted(&manager), "emergency_releases adopted");
        assert_eq!(holder(&manager, GPU), "me, adopted");
        assert_eq!((revoked(&manager), lease(&manager)), (None, END));
    }

    #[test]
    fn the_next_holder_has_no_notice() {
        let mut manager = noticed();
        wait(&mut manager, GPU, &request("b"), 2);
        begin(&mut manager);
        manager.probed(id(&manager, GPU), &KeyState::Absent, after(1_001));
        assert_eq!(holder(&manager, GPU), "b");
        assert_eq!((revoked(&manager), lease(&manager)), (None, END + 1_001));
    }

    #[test]
    fn a_lock_under_notice_is_probed_shortly_before_its_end_and_at_its_end() {
        for is_waited_for in [false, true] {
            let mut manager = noticed();
            if is_waited_for {
                wait(&mut manager, GPU, &request("b"), 2);
            }
            let lock = id(&manager, GPU);
            let mut next = |now_ms, alarm_ms| {
                let mut due = Vec::new();
                manager.due_queues(after(now_ms), &mut due);
                assert_eq!(manager.table.next_alarm(), Some(after(alarm_ms).ms()));
                due.contains(&lock)
            };
            next(0, 996);
            assert!(next(996, 1_001));
            assert!(next(1_001, 1_001));
            // Another client removes the lease.
            manager.reconcile_named(name(GPU), &PERSISTED, after(10));
            assert_eq!(manager.table.next_alarm(), Some(after(1_001).ms()));
            // It is probed before each end.
            extend(&mut manager, 500, NOW);
            assert_eq!(manager.table.next_alarm(), Some(after(496).ms()));
        }
    }

    /// When its connection closes: the grace period of the lock, what is written, and how it ends.
    #[test]
    #[rustfmt::skip]
    fn of_a_notice_and_a_grace_period_the_one_that_ends_first_counts() {
        for (grace_ms, until_ms, session, expected) in [
            (400, 400, Session::Closed, "session_releases"),
            (1_000, 1_000, Session::None, "emergency_releases"),
            (5_000, 1_000, Session::None, "emergency_releases"),
        ] {
            let mut manager = manager();
            acquire(&mut manager, GPU, &in_session("me", grace_ms), 7);
            give(&mut manager);
            begin(&mut manager);
            manager.client_gone(7, NOW);
            run_next_deferred(&mut manager, NOW);
            let hold = manager.table.hold(id(&manager, GPU)).unwrap();
            assert_eq!((hold.until_ms, hold.session), (after(until_ms).ms(), session));
            manager.reconcile_named(name(GPU), &KeyState::Absent, after(until_ms));
            assert_eq!(counted(&manager), expected, "a grace period of {grace_ms} ms");
        }
    }

    #[test]
    fn a_notice_during_a_grace_period_cuts_it() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 5_000), 7);
        manager.client_gone(7, NOW);
        run_next_deferred(&mut manager, NOW);
        let state = shows_until(5_000);
        let until_ms = notice_at(&mut manager, &state, 1_000, "drain", NOW);
        assert_eq!(until_ms, Some(after(1_000).ms()));
        begin(&mut manager);
        manager.reconcile_named(name(GPU), &KeyState::Absent, after(1_000));
        assert_eq!(counted(&manager), "emergency_releases");
    }

    // ---- Leases that other clients set

    /// A server on which `me` was given 1,000 ms.
    fn server() -> TestKeyspace {
        let mut server = TestKeyspace::new();
        server.acquire(GPU, &unique("me"), 1).unwrap();
        give(&mut server.manager);
        server.expire_by_other(GPU, after(1_000).ms());
        server.written();
        begin(&mut server.manager);
        server
    }

    fn probe_gpu(server: &mut TestKeyspace) {
        let lock = server.id(GPU);
        probe(server, lock);
    }

    #[test]
    fn a_longer_lease_by_another_client_is_cut_as_deferred_work() {
        let mut server = server();
        server.expire_by_other(GPU, LEASE_END);
        for _ in 0..3 {
            probe_gpu(&mut server);
            assert_eq!(server.written(), [] as [&str; 0], "a probe writes no lease");
            assert_eq!(lease(&server.manager), 1_000);
        }
        assert_eq!(server.manager.deferred().work().count(), 1, "it is deferred once");
        deferred::run(&mut server, NOW);
        assert_eq!(server.written(), ["PEXPIREAT gpu:0"]);
        // And again.
        server.expire_by_other(GPU, LEASE_END);
        probe_gpu(&mut server);
        deferred::run(&mut server, NOW);
        assert_eq!(server.written(), ["PEXPIREAT gpu:0"]);
        assert_eq!(revoked(&server.manager), Some((1_000, "drain".to_owned())));
        assert_eq!(counted(&server.manager), "");
    }

    #[test]
    fn a_shorter_lease_by_another_client_is_not_changed() {
        let mut server = server();
        for ms in [1_000, 600] {
            server.expire_by_other(GPU, after(ms).ms());
            probe_gpu(&mut server);
            deferred::run(&mut server, NOW);
            assert_eq!(lease(&server.manager), ms);
        }
        assert_eq!(server.written(), [] as [&str; 0]);
    }

    #[test]
    fn a_lease_that_was_cut_otherwise_meanwhile_is_not_written() {
        for (what, change) in [
            (
                "shortened",
                (|it| it.expire_by_other(GPU, NOW.ms() + 9)) as fn(&mut TestKeyspace),
            ),
            ("overwritten", |it: &mut TestKeyspace| {
                it.set_by_other(GPU, "other", LEASE_END);
            }),
        ] {
            let mut server = server();
            server.expire_by_other(GPU, LEASE_END);
            probe_gpu(&mut server);
            change(&mut server);
            deferred::run(&mut server, NOW);
            assert_eq!(server.written(), [] as [&str; 0], "{what}");
        }
    }

    #[test]
    fn a_key_that_outlives_its_notice_is_deleted_and_passes_on() {
        for is_waited_for in [false, true] {
            let mut server = server();
            if is_waited_for {
                server.wait(GPU, &request("b"), 2);
                begin(&mut server.manager);
            }
            server.expire_by_other(GPU, NO_END - 1);
            server.now = after(1_001);
            probe_gpu(&mut server);
            assert_eq!(server.written(), [] as [&str; 0]);
            let now = server.now;
            deferred::run(&mut server, now);
            let written = if is_waited_for { "SET gpu:0 b" } else { "DEL gpu:0" };
            assert_eq!(server.written(), [written]);
            let manager = &mut server.manager;
            assert_eq!(manager.counters.emergency_releases, 1);
            assert_eq!(logged(manager), "forced");
            assert_eq!(published(manager), ["me: drain"]);
            assert_eq!(replies(manager).len(), usize::from(is_waited_for));
        }
    }

    /// Long owners, and all on a server without OBJECT.
    #[test]
    fn a_value_that_does_not_show_who_wrote_it_makes_no_difference() {
        for is_refused in [false, true] {
            let mut server = server();
            server.set_by_other(GPU, "me", LEASE_END);
            server.now = after(996);
            tick(&mut server);
            assert_eq!(server.manager.deferred().work().count(), 1);
            server.may_start = !is_refused;
            tick(&mut server);
            server.may_start = true;
            server.now = after(1_001);
            tick(&mut server);
            assert_eq!(counted(&server.manager), "emergency_releases");
            let written = if is_refused { "DEL gpu:0" } else { "PEXPIREAT gpu:0" };
            assert_eq!(server.written(), [written]);
        }
    }

    #[test]
    fn a_notice_that_is_over_is_not_written_by_another_one() {
        let mut manager = noticed();
        let until_ms = notice_at(&mut manager, &PERSISTED, 5_000, "again", after(1_000));
        assert_eq!(until_ms, None);
        let work = manager.take_deferred().unwrap();
        let outcome = manager.run_deferred(work, &PERSISTED, after(1_000));
        assert!(matches!(outcome, DeferredOutcome::Ended(_)), "{outcome:?}");
    }

    #[test]
    fn deferred_cuts_are_void_when_the_hold_has_ended() {
        let mut manager = noticed();
        manager.reconcile_named(name(GPU), &PERSISTED, after(10));
        let work = manager.take_deferred().unwrap();
        manager.reconcile_named(name(GPU), &KeyState::Absent, after(10));
        held(&mut manager, GPU, "me");
        let outcome = manager.run_deferred(work, &PERSISTED, after(10));
        assert_eq!(outcome, DeferredOutcome::Nothing);
        assert_eq!(holder(&manager, GPU), "me");
    }
}
