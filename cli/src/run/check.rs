//! The regular check of the locks on the session's connection, and what its replies mean.
//!
//! A hold is lost only when the server says so: when the owner of a key is another one, or when
//! the lock was granted again, which shows as another token. But the server also assigns another
//! token when it *adopts* the hold, because it has lost its memory of it and found the key:
//! after a restart, a role change, a failover. Then the hold has continued, and only its session
//! is gone, because that is a part of the memory. INSPECT distinguishes the two. A replica can
//! neither confirm nor deny a hold: what counts is the reply of a primary.

use std::time::Duration;

use redis::{RedisError, RedisResult};

use crate::clock::{self, Moment};
use crate::connection::{Connection, is_connection_error};
use crate::locks::{HeldLock, Lock, LockRequest, Notice, extend, still_held};
use crate::run::session::Worker;

/// Error codes of a server that does not decide about the locks, or not yet: a replica, a node
/// that serves other slots, a server that loads its data.
const ELSEWHERE: [&str; 7] =
    ["ASK", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "TRYAGAIN"];

/// The locks, as this run knows them.
pub(super) struct Known {
    /// With the tokens that distinguish this hold from a later one of the same owner.
    pub(super) locks: Vec<Lock>,
    /// A call that could re-acquire the locks got no reply, and may still take effect.
    pub(super) is_doubtful: bool,
    /// The deadline of the notice, if one was given.
    pub(super) notice_end: Option<Moment>,
}

/// Result of a check of the locks.
#[derive(Debug)]
pub(super) enum Check {
    /// They are held.
    Held(State),
    /// The server does not decide about the locks: ask another one, or this one later.
    Elsewhere,
    Lost,
}

/// What the server reports about locks that are held.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The shortest remaining lease, if the server reported it.
    pub(super) lease_left: Option<Duration>,
    /// Whether a lock is not tied to any connection, so that a crash would leave it held until
    /// its lease ends.
    pub(super) is_untied: bool,
    /// The notice with the earliest deadline.
    pub(super) notice: Option<Notice>,
}

impl Known {
    /// Locks that were just granted.
    pub(super) fn granted(locks: Vec<Lock>) -> Self {
        Self { locks, is_doubtful: false, notice_end: None }
    }

    /// The deadline of a notice that was reported by a check sent at `sent`, unless it is known
    /// already. An earlier deadline is a new one.
    pub(super) fn new_notice(&mut self, sent: Moment, notice: &Notice) -> Option<Moment> {
        let latest = clock::now().saturating_add(notice.left);
        if self.notice_end.is_some_and(|known| known <= latest) {
            return None;
        }
        // The time left was computed after the call was sent.
        let end = sent.saturating_add(notice.left);
        self.notice_end = Some(end);
        Some(end)
    }
}

impl Worker {
    /// Checks that the server still reports the locks as ours.
    ///
    /// # Errors
    /// If the connection fails.
    pub(super) fn check(
        &self,
        connection: &mut Connection,
        known: &Known,
    ) -> RedisResult<Check> {
        connection.with_timeout(self.check_interval());
        let held = match still_held(connection, &self.request.owner, &known.locks) {
            Ok(held) => held,
            Err(error) => match error.downcast::<RedisError>() {
                Ok(error) if is_connection_error(&error) => return Err(error),
                Ok(error) if is_elsewhere(&error) => return Ok(Check::Elsewhere),
                // No permission for INSPECT: the reply still proves that the connection works.
                _ => return Ok(Check::Held(self.unknown_state())),
            },
        };
        if held.len() < known.locks.len() {
            return self.confirm_loss(connection, known);
        }
        Ok(judge(&held, known.is_doubtful))
    }

    /// Without INSPECT, other tokens in the reply to a renewal reveal that a session is gone.
    fn unknown_state(&self) -> State {
        State { is_untied: self.adopted.is_set(), ..State::default() }
    }

    /// A lock is not ours according to INSPECT. Only a primary decides that, and only a primary
    /// accepts EXTEND.
    fn confirm_loss(
        &self,
        connection: &mut Connection,
        known: &Known,
    ) -> RedisResult<Check> {
        let LockRequest { owner, lease, .. } = &self.request;
        match extend(connection, owner, &known.locks, *lease) {
            Err(error) if is_connection_error(&error) => Err(error),
            Err(error) if is_elsewhere(&error) => Ok(Check::Elsewhere),
            // If the lock is ours again, it was granted again.
            _ => Ok(Check::Lost),
        }
    }
}

/// What INSPECT says about locks that all have our owner.
///
/// If a token differs from the known one, the server has adopted the hold or granted it again.
/// Only a call of ours can have been granted a lock under our owner, which no other process
/// has: one of the calls that tie the locks, or one whose reply was lost. Such a grant ended
/// another hold, so it counts as lost, even if the server adopted it later: hence `is_doubtful`,
/// which says that such a call may have taken effect.
fn judge(held: &[HeldLock], is_doubtful: bool) -> Check {
    let is_new =
        |held: &HeldLock| held.has_other_token() && (is_doubtful || !held.is_adopted);
    if held.iter().any(is_new) {
        return Check::Lost;
    }
    // A hold without a session may have other tokens, which the next tie returns.
    let is_untied = |held: &HeldLock| !held.has_session || held.has_other_token();
    Check::Held(State {
        lease_left: held.iter().filter_map(|held| held.lease_left).min(),
        is_untied: held.iter().any(is_untied),
        notice: held
            .iter()
            .filter_map(|held| held.notice.clone())
            .min_by_key(|notice| notice.left),
    })
}

/// Whether a primary, or another node, decides about the locks.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    error.code().is_some_and(|code| ELSEWHERE.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    fn held(token: Option<u64>, is_adopted: bool, has_session: bool) -> HeldLock {
        let lock = Lock { key: Text(b"k".to_vec()), token: 7 };
        let lease_left = Some(Duration::from_secs(30));
        HeldLock { lock, token, is_adopted, has_session, lease_left, notice: None }
    }

    /// How the check ends: lost, untied or tied.
    fn judged(held: HeldLock, is_doubtful: bool) -> &'static str {
        match judge(&[held], is_doubtful) {
            Check::Held(State { is_untied: true, .. }) => "untied",
            Check::Held(_) => "tied",
            Check::Elsewhere => "elsewhere",
            Check::Lost => "lost",
        }
    }

    #[test]
    fn another_token_is_a_loss_unless_the_hold_was_adopted_without_doubt() {
        assert_eq!(judged(held(Some(7), false, true), false), "tied");
        assert_eq!(judged(held(Some(8), false, true), false), "lost");
        assert_eq!(judged(held(Some(8), true, false), false), "untied");
        assert_eq!(judged(held(Some(8), true, true), false), "untied");
        assert_eq!(judged(held(Some(8), true, false), true), "lost");
    }

    #[test]
    fn a_hold_without_a_session_is_tied_again() {
        assert_eq!(judged(held(None, true, false), false), "untied");
        assert_eq!(judged(held(Some(7), false, false), false), "untied");
        assert_eq!(judged(held(Some(7), true, true), true), "tied");
    }

    #[test]
    fn only_an_earlier_deadline_is_a_new_notice() {
        let notice =
            |left| Notice { left: Duration::from_secs(left), reason: Text::default() };
        let mut known = Known::granted(Vec::new());
        let sent = clock::now();
        let first = known.new_notice(sent, &notice(60));
        assert_eq!(first, Some(sent + Duration::from_secs(60)));
        assert_eq!(known.new_notice(sent, &notice(60)), None);
        assert_eq!(known.new_notice(sent, &notice(90)), None);
        let second = known.new_notice(sent, &notice(30));
        assert_eq!(second, Some(sent + Duration::from_secs(30)));
    }
}
