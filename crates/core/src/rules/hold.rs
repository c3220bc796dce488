//! The beginning, the renewal and the end of a hold: the only places where one begins, changes its
//! lease, or ends. Each counts, logs and publishes it.

use crate::error::CommandError;
use crate::manager::{Caller, Incident, LockManager};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::counters::bump;
use crate::state::event::{End, Event, What};
use crate::state::key_state::Expires;
use crate::state::lease;
use crate::state::lock::{Bytes, Hold, NO_END, Name, Session};
use crate::state::log::truncate;
use crate::state::settings::Events;

/// What a new hold begins with.
pub(crate) struct GrantParams<'a> {
    pub(crate) owner: &'a [u8],
    pub(crate) lease_ms: u64,
    pub(crate) unique: bool,
    /// The client whose connection it is tied to, and the grace period in ms.
    pub(crate) session: Option<(u64, u64)>,
    /// The share under which the lock is acquired.
    pub(crate) share: Option<&'a [u8]>,
    /// What it runs, as NEAR names it.
    pub(crate) tag: Option<&'a [u8]>,
}

/// The token of a hold, and when its lease expires, in ms since the epoch.
pub(crate) type TokenAndEnd = (u64, u64);

impl LockManager {
    /// Begins a hold that the module grants.
    pub(crate) fn grant(
        &mut self,
        id: Id,
        params: &GrantParams<'_>,
        now: Now,
    ) -> TokenAndEnd {
        let token = self.tokens.next(now);
        let now_ms = now.ms();
        let until_ms = lease::end(params.lease_ms, now_ms, now_ms, &self.settings);
        let mut hold = Hold::new(params.owner, Some(token), now_ms, until_ms);
        hold.unique = params.unique;
        if let Some((client, grace_ms)) = params.session {
            hold.session = Session::Tied { client, grace_ms };
        }
        self.table.begin_hold(id, hold);
        self.set_details(id, params);
        self.lease_changed();
        if self.table.get(id).is_some_and(|lock| lock.positions > 0) {
            self.queues.count_grant(id);
            self.update_groups(id);
            self.recount_set_of_holder(id, params.owner);
        }
        self.count(Some(id), |counters| &mut counters.acquired);
        if self.settings.events == Events::All {
            self.publish(
                id,
                Bytes::from_slice(params.owner),
                Some(token),
                What::Acquired,
                now,
            );
        }
        (token, until_ms)
    }

    /// Sets what the call says of its hold. What it does not say stays as it is.
    fn set_details(&mut self, id: Id, params: &GrantParams<'_>) {
        if let Some(share) = params.share {
            self.table.change_details(id, |details| {
                details.share = Some(Bytes::from_slice(share));
            });
        }
        if let Some(tag) = params.tag {
            self.table.change_details(id, |details| details.tag = Some(tag.into()));
        }
    }

    /// Begins a hold that the module did not grant.
    pub(crate) fn adopt(&mut self, id: Id, owner: &[u8], expires: Expires, now: Now) {
        let until_ms = expires.end().unwrap_or(NO_END);
        self.table.begin_hold(id, Hold::new(owner, None, now.ms(), until_ms));
        self.lease_changed();
        self.update_groups(id);
        self.count(Some(id), |counters| &mut counters.adopted);
        self.recount_set_of_holder(id, owner);
    }

    /// Adopts the lock unless it has a hold. For a reconciled lock whose key shows an owner.
    pub(crate) fn adopt_unless_held(
        &mut self,
        id: Id,
        owner: &[u8],
        expires: Expires,
        now: Now,
    ) {
        if self.table.hold(id).is_none() {
            self.adopt(id, owner, expires, now);
        }
    }

    /// Sets a new lease, which does not reach beyond a notice. An adopted hold gets its first token
    /// here. A hold whose connection is closed is no longer tied to one.
    pub(crate) fn renew(
        &mut self,
        id: Id,
        lease_ms: u64,
        now: Now,
    ) -> Result<TokenAndEnd, CommandError> {
        let session = self.table.hold(id).ok_or(CommandError::Internal)?.session;
        let limit_ms = self.notice_end(id).unwrap_or(NO_END);
        #[cfg(feature = "break-rules")]
        let limit_ms = match crate::broken::is("notice-is-extended") {
            true => NO_END,
            false => limit_ms,
        };
        if session == Session::Closed || self.deferred.is_ending(session) {
            self.table.set_session(id, Session::None);
        }
        let Self { table, tokens, settings, .. } = self;
        let renewed = table.change_hold(id, |hold| {
            let token = hold.token().unwrap_or_else(|| tokens.next(now));
            hold.set_token(token);
            let until_ms = lease::end(lease_ms, hold.since_ms, now.ms(), settings);
            hold.until_ms = lease::limit(until_ms, limit_ms, now.ms());
            hold.renewed = true;
            (token, hold.until_ms)
        });
        self.lease_changed();
        renewed.ok_or(CommandError::Internal)
    }

    /// Renews what a UNIQUE owner holds and acquires again.
    pub(crate) fn renew_unique(
        &mut self,
        id: Id,
        params: &GrantParams<'_>,
        now: Now,
    ) -> Result<TokenAndEnd, CommandError> {
        let renewed = self.renew(id, params.lease_ms, now)?;
        self.table.change_hold(id, |hold| hold.unique = true);
        self.set_details(id, params);
        if let Some((client, grace_ms)) = params.session {
            self.table.set_session(id, Session::Tied { client, grace_ms });
        }
        self.count(Some(id), |counters| &mut counters.renewed);
        Ok(renewed)
    }

    /// Ends a hold, if there is one.
    pub(crate) fn end(&mut self, id: Id, end: End, caller: Caller<'_>, now: Now) {
        let Some((hold, details)) = self.table.end_hold(id) else { return };
        self.remember_tag(id, details, &end);
        self.recount_groups_of_holder(id, &hold.owner);
        self.tally(Some(id), |counters| {
            bump(end.counter(counters));
            counters.hold_ms.record(now.ms_since(hold.since_ms));
        });
        let is_ours =
            !hold.adopted || !matches!(end, End::Removed | End::Evicted | End::Moved);
        let is_published =
            is_ours && end != End::Moved && self.settings.events != Events::Off;
        let kind = end.log_kind();
        let reason = end.reason();
        if let Some(kind) = kind
            && let Some((db, key)) =
                self.table.get(id).map(|lock| (lock.db, truncate(&lock.key)))
        {
            let incident = Incident {
                name: Name { db, key: &key },
                kind,
                holder: Some(&hold.owner),
                token: hold.token(),
                held_ms: hold.held_ms(now),
                reason: reason.clone(),
                caller,
            };
            self.log_incident(incident, now);
        }
        if is_published {
            let token = hold.token();
            self.publish(id, hold.owner, token, What::Released { reason }, now);
        }
    }

    pub(crate) fn publish(
        &mut self,
        id: Id,
        owner: Bytes,
        token: Option<u64>,
        what: What,
        at: Now,
    ) {
        let Some(lock) = self.table.get(id) else { return };
        let (db, key) = (lock.db, lock.key.clone());
        self.outbox.publish(Event { db, key, owner, token, at, what });
    }

    /// Whether an owner is known to hold a lock.
    pub(crate) fn holds(&self, id: Id, owner: &[u8]) -> bool {
        self.table.hold(id).is_some_and(|hold| *hold.owner == *owner)
    }

    /// Whether the token is that of the current hold, or cannot be compared with it.
    pub(crate) fn token_matches(&self, id: Option<Id>, token: Option<u64>) -> bool {
        let hold = id.and_then(|id| self.table.hold(id));
        hold.is_none_or(|hold| hold.matches(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, acquire, adopted, after, begin, counted, held, id, logged, manager,
        published, unique,
    };
    use crate::state::log::Text;
    use crate::state::settings::Settings;

    /// How a hold ends.
    struct Case {
        end: End,
        counted: &'static str,
        logged: &'static str,
        /// The reason in the event for a hold that the module granted.
        of_granted: Option<&'static str>,
        /// The same for an adopted hold.
        of_adopted: Option<&'static str>,
    }

    #[test]
    #[rustfmt::skip]
    fn each_end_is_counted_logged_and_published() {
        let case = |end, counted, logged, of_granted, of_adopted| {
            Case { end, counted, logged, of_granted, of_adopted }
        };
        let done = || Text::Borrowed(b"done");
        for case in [
            case(End::Released(done()), "releases", "", Some("done"), Some("done")),
            case(End::Forced(done()), "emergency_releases", "forced", Some("done"), Some("done")),
            case(End::Expired, "expired", "expired", Some("timeout"), Some("timeout")),
            case(End::SessionClosed, "session_releases", "disconnected",
                Some("disconnect"), Some("disconnect")),
            case(End::Undelivered, "undelivered", "", Some("disconnect"), Some("disconnect")),
            case(End::Removed, "removed", "removed", Some("removed"), None),
            case(End::Evicted, "evicted", "removed", Some("evicted"), None),
            case(End::Moved, "moved", "", None, None),
        ] {
            for is_adopted in [false, true] {
                let what = format!("{:?}, adopted: {is_adopted}", case.end);
                let mut manager = manager();
                if is_adopted {
                    adopted(&mut manager, GPU, "me");
                } else {
                    held(&mut manager, GPU, "me");
                }
                begin(&mut manager);
                let lock = id(&manager, GPU);
                manager.end(lock, case.end.clone(), Caller::default(), after(50));
                let reason = if is_adopted { case.of_adopted } else { case.of_granted };
                let event: Vec<String> =
                    reason.iter().map(|reason| format!("me: {reason}")).collect();
                assert_eq!(counted(&manager), case.counted, "{what}: counters");
                assert_eq!(logged(&manager), case.logged, "{what}: log");
                assert_eq!(published(&mut manager), event, "{what}: events");
                assert_eq!(manager.counters.hold_ms.sum(), 50, "{what}: hold_ms");
            }
        }
    }

    #[test]
    fn grants_are_published_with_events_all_only_and_nothing_with_off() {
        for (events, expected) in [
            (Events::Off, &[][..]),
            (Events::Release, &["me: timeout"]),
            (Events::All, &["me: acquired", "me: timeout"]),
        ] {
            let mut manager =
                LockManager::new(Settings { events, ..Settings::default() }, 1, after(0));
            held(&mut manager, GPU, "me");
            let lock = id(&manager, GPU);
            manager.end(lock, End::Expired, Caller::default(), after(50));
            assert_eq!(published(&mut manager), expected, "{events:?}");
        }
    }

    #[test]
    fn the_end_of_a_lock_without_a_hold_changes_nothing() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        let lock = id(&manager, GPU);
        manager.end(lock, End::Expired, Caller::default(), after(0));
        begin(&mut manager);
        manager.end(lock, End::Expired, Caller::default(), after(0));
        assert_eq!((counted(&manager), logged(&manager)), (String::new(), String::new()));
    }

    #[test]
    fn the_counters_always_add_up_to_the_locks_held() {
        let mut manager = manager();
        for key in ["gpu:0", "gpu:1", "gpu:2"] {
            acquire(&mut manager, key, &unique("me"), 1);
        }
        adopted(&mut manager, "gpu:3", "me");
        let ended = id(&manager, "gpu:1");
        manager.end(ended, End::Evicted, Caller::default(), after(0));
        assert_eq!((manager.table.held(), manager.counters.expected_held()), (3, 3));
        manager.reset_stats();
        assert_eq!(counted(&manager), "adopted=3");
        assert_eq!(manager.counters.expected_held(), 3);
    }
}
