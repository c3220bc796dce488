//! Sessions: a hold that ends with the connection that acquired it. Its end is deferred work, which
//! is dispatched here.

use crate::manager::{Caller, LockManager};
use crate::rules::hand_off::HandOff;
use crate::rules::leave::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::deferred::Deferred;
use crate::state::event::End;
use crate::state::key_state::KeyState;
use crate::state::lock::Session;

/// What to write to the key of a lock with deferred work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeferredOutcome {
    /// Nothing: the lock has changed hands meanwhile.
    Nothing,
    /// The hold is over: the lock passes on.
    Ended(HandOff),
    /// The lock was free: it passes on.
    Free(HandOff),
    /// Set the expiry of the key.
    Shortened {
        /// The end of the grace period or of the notice, in ms since the epoch.
        until_ms: u64,
    },
}

impl LockManager {
    /// A client's connection closed: its wait ends, and the locks tied to it end as deferred work.
    pub fn client_gone(&mut self, client: u64, now: Now) {
        if let Some(ticket) = self.queues.of_client(client) {
            self.end_wait_within_budget(ticket, LeaveReason::Disconnected, now);
        }
        if self.table.first_tied(client).is_some() {
            self.deferred.end_session(client, self.budget.of_session(), now);
        }
    }

    /// The lock, or one of the locks, of the next deferred work.
    pub fn next_deferred_lock(&mut self) -> Option<Id> {
        self.deferred.next_lock(&self.table, &self.queues)
    }

    /// The next deferred work that is due at once.
    pub fn take_deferred(&mut self) -> Option<Deferred> {
        self.deferred.take(&mut self.table, &mut self.queues)
    }

    /// Puts back work that could not be carried out: it is the next again.
    pub fn defer_again(&mut self, work: Deferred) {
        self.deferred.put_back(work);
    }

    /// The next lock of a session that ends in portions.
    pub fn take_session_end(&mut self) -> Option<Deferred> {
        self.deferred.take_session_end(&mut self.table)
    }

    /// Whether a hold with this session is about to end because its connection closed.
    pub fn is_ending(&self, session: Session) -> bool {
        self.deferred.is_ending(session)
    }

    /// Carries out deferred work on one lock, if the lock has not changed hands meanwhile. A lock
    /// that is free passes on in any case.
    pub fn run_deferred(
        &mut self,
        work: Deferred,
        state: &KeyState<'_>,
        now: Now,
    ) -> DeferredOutcome {
        let Some(id) = work.lock() else { return DeferredOutcome::Nothing };
        self.reconcile(id, state, now);
        if *state == KeyState::Absent {
            // If it was reserved for another waiter, the next one has not counted it yet.
            self.table.unreserve(id);
            return DeferredOutcome::Free(self.hand_off_next(id, now));
        }
        match work {
            Deferred::Undelivered { token, lost, .. } => {
                self.take_back(id, token, &lost, now)
            }
            Deferred::SessionEnd { client, closed_ms, .. } => {
                self.end_session_hold(id, client, closed_ms, now)
            }
            Deferred::CutToNotice { .. } => self.cut_to_notice(id, state, now),
            Deferred::HandOff { .. }
            | Deferred::Session(_)
            | Deferred::Recount { .. } => DeferredOutcome::Nothing,
        }
    }

    /// Ends a hold whose connection closed, or leaves it its grace period.
    fn end_session_hold(
        &mut self,
        id: Id,
        client: u64,
        closed_ms: u64,
        now: Now,
    ) -> DeferredOutcome {
        let session = self.table.hold(id).map(|hold| hold.session);
        let Some(Session::Ending { client: tied_to, grace_ms }) = session else {
            return DeferredOutcome::Nothing;
        };
        if tied_to != client {
            return DeferredOutcome::Nothing;
        }
        let until_ms = closed_ms.saturating_add(grace_ms);
        // Without a grace period it ends now, even if the clock was stepped back since.
        if grace_ms > 0 && until_ms > now.ms() {
            return self.shorten_to_grace(id, until_ms);
        }
        self.end(id, End::SessionClosed, Caller::default(), now);
        DeferredOutcome::Ended(self.hand_off_next(id, now))
    }

    /// Shortens a lease to the grace period. A lease that ends before it stays as it is.
    fn shorten_to_grace(&mut self, id: Id, until_ms: u64) -> DeferredOutcome {
        let is_longer = self.table.hold(id).is_some_and(|hold| hold.until_ms > until_ms);
        if !is_longer {
            self.table.set_session(id, Session::None);
            return DeferredOutcome::Nothing;
        }
        self.table.change_hold(id, |hold| hold.until_ms = until_ms);
        self.lease_changed();
        self.table.set_session(id, Session::Closed);
        DeferredOutcome::Shortened { until_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Acquire, Extend};
    use crate::rules::hold::GrantParams;
    use crate::rules::test_support::{
        GPU, LEASE_END, NOW, acquire, after, begin, client, counted, holder, id,
        in_session, logged, manager, name, published, replies, request,
        run_next_deferred, shows, unique, wait,
    };
    use crate::state::key_state::Expires;
    use crate::state::lock::Name;

    /// The session of the hold of `gpu:0`.
    fn session(manager: &LockManager) -> Session {
        manager.table.hold(id(manager, GPU)).unwrap().session
    }

    #[test]
    #[rustfmt::skip]
    fn when_its_connection_closes_a_lock_ends_or_keeps_its_grace_period() {
        let ended = Some(DeferredOutcome::Ended(HandOff::NoWaiter));
        let shortened = Some(DeferredOutcome::Shortened { until_ms: after(5_000).ms() });
        let unchanged = Some(DeferredOutcome::Nothing);
        let released = "session_releases";
        for (what, call, late_ms, outcome, expected_counted, expected_session) in [
            ("no grace period", in_session("me", 0), 0, ended.clone(), released, None),
            ("no grace period, the work is late", in_session("me", 0), 50, ended.clone(),
                released, None),
            ("the lease is longer than the grace period", in_session("me", 5_000), 0,
                shortened.clone(), "", Some(Session::Closed)),
            ("the grace period counts from the end of the connection", in_session("me", 5_000), 50,
                shortened, "", Some(Session::Closed)),
            ("the grace period is over when the work is carried out", in_session("me", 5_000),
                5_000, ended, released, None),
            ("the lease is as long as the grace period", in_session("me", 600_000), 0,
                unchanged.clone(), "", Some(Session::None)),
            ("the lease is shorter than the grace period", in_session("me", 700_000), 0,
                unchanged, "", Some(Session::None)),
            ("without SESSION", unique("me"), 0, None, "", Some(Session::None)),
        ] {
            let mut manager = manager();
            acquire(&mut manager, GPU, &call, 7);
            begin(&mut manager);
            manager.client_gone(7, NOW);
            let result = run_next_deferred(&mut manager, after(late_ms));
            assert_eq!(result, outcome, "{what}: outcome");
            assert_eq!(counted(&manager), expected_counted, "{what}: counters");
            let hold = manager.table.hold(id(&manager, GPU));
            assert_eq!(hold.map(|hold| hold.session), expected_session, "{what}: session");
        }
    }

    #[test]
    fn the_end_of_a_session_is_logged_and_published_and_the_next_waiter_gets_the_lock() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 0), 7);
        wait(&mut manager, GPU, &request("b"), 2);
        begin(&mut manager);
        manager.client_gone(7, NOW);
        let outcome = run_next_deferred(&mut manager, NOW);
        let Some(DeferredOutcome::Ended(HandOff::Waiter(next))) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((&*next.owner, holder(&manager, GPU).as_str()), (&b"b"[..], "b"));
        assert_eq!(logged(&manager), "disconnected");
        assert_eq!(published(&mut manager), ["me: disconnect"]);
    }

    /// How an owner comes back.
    type Return = fn(&mut LockManager);

    fn extend(manager: &mut LockManager) {
        let request = Extend { owner: b"me", lease_ms: None, token: None };
        let state = shows("me");
        manager.extend(name(GPU), &request, &state, NOW).unwrap();
    }

    fn renew(manager: &mut LockManager, request: &Acquire<'_>) {
        manager.acquire(name(GPU), request, &shows("me"), client(8), NOW).unwrap();
    }

    #[test]
    #[rustfmt::skip]
    fn an_owner_that_comes_back_within_its_grace_period_keeps_the_lock() {
        let tied_to_8 = Session::Tied { client: 8, grace_ms: 9 };
        let tied_to_7 = Session::Tied { client: 7, grace_ms: 5_000 };
        // The session after the return; and if the owner calls before its connection closes.
        for (what, come_back, expected, before_it_closes) in [
            ("EXTEND", extend as Return, Session::None, tied_to_7),
            ("ACQUIRE UNIQUE", |it| renew(it, &unique("me")), Session::None, tied_to_7),
            ("ACQUIRE UNIQUE SESSION", |it| renew(it, &in_session("me", 9)), tied_to_8, tied_to_8),
        ] {
            let mut manager = manager();
            acquire(&mut manager, GPU, &in_session("me", 5_000), 7);
            let mut still_connected = manager.clone();
            come_back(&mut still_connected);
            assert_eq!(session(&still_connected), before_it_closes, "{what}: before it closes");
            manager.client_gone(7, NOW);
            // Before the deferred work was carried out, and after it.
            let mut early = manager.clone();
            run_next_deferred(&mut manager, NOW);
            assert_eq!(session(&manager), Session::Closed);
            come_back(&mut manager);
            assert_eq!(session(&manager), expected, "{what}");
            let hold = manager.table.hold(id(&manager, GPU)).unwrap();
            assert_eq!(hold.until_ms, LEASE_END, "{what}: it has a new lease");
            come_back(&mut early);
            assert_eq!(session(&early), expected, "{what}: before the deferred work");
            assert_eq!(run_next_deferred(&mut early, NOW), None, "{what}: nothing is left to do");
        }
    }

    #[test]
    fn a_lock_that_its_owner_renews_between_the_decision_and_the_write_goes_on() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 0), 7);
        manager.client_gone(7, NOW);
        let work = manager.take_deferred().unwrap();
        assert_eq!(session(&manager), Session::Ending { client: 7, grace_ms: 0 });
        assert!(manager.is_ending(session(&manager)));
        renew(&mut manager, &in_session("me", 9));
        let outcome = manager.run_deferred(work, &shows("me"), NOW);
        assert_eq!(
            (outcome, holder(&manager, GPU).as_str()),
            (DeferredOutcome::Nothing, "me")
        );
    }

    #[test]
    fn the_end_of_another_connection_changes_nothing() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 0), 7);
        renew(&mut manager, &in_session("me", 0));
        manager.client_gone(7, NOW);
        manager.client_gone(6, NOW);
        assert!(!manager.deferred.has_any());
        manager.client_gone(8, NOW);
        assert_eq!(manager.next_deferred_lock(), Some(id(&manager, GPU)));
    }

    // ---- Sessions with many locks

    /// A manager of this number of locks that are tied to client 7.
    fn manager_of(locks: usize) -> LockManager {
        let mut manager = manager();
        for n in 0..locks {
            let key = n.to_string();
            let lock = manager.table.find_or_create(name(&key)).unwrap();
            let session = Some((7, 0));
            let params = GrantParams {
                owner: b"me",
                lease_ms: 1_000,
                unique: true,
                session,
                share: None,
                tag: None,
            };
            manager.grant(lock, &params, NOW);
        }
        manager
    }

    fn end_one(manager: &mut LockManager, work: Deferred) {
        let expires = Expires::At(after(1_000).ms());
        let state = KeyState::String { value: b"me", expires };
        let outcome = manager.run_deferred(work, &state, NOW);
        assert_eq!(outcome, DeferredOutcome::Ended(HandOff::NoWaiter));
    }

    #[test]
    fn of_a_large_session_a_portion_ends_at_once_and_the_rest_later() {
        let mut manager = manager_of(1_000);
        manager.client_gone(7, NOW);
        assert_eq!(manager.deferred.work().count(), 1, "a session is one item");
        let at_once: Vec<Deferred> =
            std::iter::from_fn(|| manager.take_deferred()).collect();
        assert_eq!(at_once.len(), 128);
        assert_eq!(at_once.len(), manager.budget.of_session());
        assert!(!manager.deferred.has_work() && manager.deferred.has_any());
        at_once.into_iter().for_each(|work| end_one(&mut manager, work));
        assert_eq!(manager.next_wake_ms(NOW), Some(NOW.ms()));
        while let Some(work) = manager.take_session_end() {
            end_one(&mut manager, work);
        }
        assert!(!manager.deferred.has_any());
        assert_eq!(manager.deferred.closed_clients().count(), 0);
        assert_eq!(manager.table.first_tied(7), None);
        assert_eq!(manager.counters.session_releases, 1_000);
        assert_eq!(manager.table.held(), 0);
    }

    #[test]
    fn locks_of_a_session_are_ending_from_the_moment_it_closes_unless_renewed() {
        let mut manager = manager_of(3);
        let locks: Vec<Id> = manager.table.by_age().collect();
        let session =
            |manager: &LockManager, lock: Id| manager.table.hold(lock).unwrap().session;
        manager.client_gone(7, NOW);
        for lock in &locks {
            assert!(manager.is_ending(session(&manager, *lock)));
        }
        // EXTEND ties the lock to no connection, ACQUIRE UNIQUE SESSION to another.
        manager.renew(locks[1], 500, NOW).unwrap();
        assert_eq!(session(&manager, locks[1]), Session::None);
        let key = manager.table.get(locks[2]).unwrap().key.clone();
        let expires = Expires::At(after(1_000).ms());
        let state = KeyState::String { value: b"me", expires };
        let renewed = manager.acquire(
            Name { db: 0, key: &key },
            &in_session("me", 0),
            &state,
            client(8),
            NOW,
        );
        assert!(renewed.is_ok());
        assert!(!manager.is_ending(session(&manager, locks[2])));
        let ended: Vec<Deferred> =
            std::iter::from_fn(|| manager.take_deferred()).collect();
        let only =
            Deferred::SessionEnd { lock: locks[0], client: 7, closed_ms: NOW.ms() };
        assert_eq!(ended, [only]);
    }

    // ---- Locks that pass on later

    #[test]
    fn a_free_lock_passes_on_only_while_its_key_is_absent() {
        for (state, expected) in [(KeyState::Absent, "b"), (shows("other"), "free")] {
            let mut manager = manager();
            let ticket = wait(&mut manager, GPU, &request("b"), 2);
            let work = manager.take_deferred().unwrap();
            let outcome = manager.run_deferred(work, &state, NOW);
            let is_free = matches!(outcome, DeferredOutcome::Free(HandOff::Waiter(_)));
            assert_eq!(is_free, state == KeyState::Absent, "{outcome:?}");
            assert_eq!(holder(&manager, GPU), expected);
            let granted = (ticket, "granted gpu:0".to_owned());
            let expected = is_free.then_some(granted);
            assert_eq!(replies(&mut manager), Vec::from_iter(expected));
        }
    }

    #[test]
    fn deferred_work_does_nothing_for_a_lock_that_others_have_overwritten() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 0), 7);
        begin(&mut manager);
        manager.client_gone(7, NOW);
        let work = manager.take_deferred().unwrap();
        let outcome = manager.run_deferred(work, &shows("other"), NOW);
        assert_eq!(outcome, DeferredOutcome::Nothing);
        assert_eq!(counted(&manager), "adopted removed");
        assert_eq!(holder(&manager, GPU), "other, adopted");
    }

    #[test]
    fn a_lock_whose_key_is_gone_passes_on_whatever_the_deferred_work_is() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 0), 7);
        wait(&mut manager, GPU, &request("b"), 2);
        begin(&mut manager);
        manager.client_gone(7, NOW);
        let work = manager.take_deferred().unwrap();
        let outcome = manager.run_deferred(work, &KeyState::Absent, NOW);
        assert!(
            matches!(outcome, DeferredOutcome::Free(HandOff::Waiter(_))),
            "{outcome:?}"
        );
        assert_eq!(counted(&manager), "acquired acquired_after_wait removed");
        assert_eq!(holder(&manager, GPU), "b");
    }
}
