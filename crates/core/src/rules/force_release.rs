//! FORCERELEASE: takes a lock from its holder, for operators and monitoring tools. OWNER and TOKEN
//! limit it to the hold that the caller looked at, so that it never takes the lock of a successor.
//! With AFTER, the holder is given notice instead (`rules/notice.rs`).

use crate::error::CommandError;
use crate::manager::{Caller, LockManager};
use crate::request::ForceRelease;
use crate::rules::hand_off::HandOff;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lock::Name;

/// What became of a call, and what to write to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forced {
    /// The lock passes on.
    Freed {
        /// The last holder.
        owner: Box<[u8]>,
        /// What to write to the key.
        next: HandOff,
    },
    /// The holder was given notice.
    Noticed {
        /// The holder.
        owner: Box<[u8]>,
        /// The expiry to set, in ms since the epoch; none: the lease ends before the notice.
        until_ms: Option<u64>,
    },
    /// Nothing: the lock is free, or OWNER or TOKEN do not match.
    NotTaken,
}

impl LockManager {
    /// Takes a lock from its holder, or gives the holder notice.
    ///
    /// # Errors
    /// When the key is not a string, or no notice can be stored.
    pub fn force_release(
        &mut self,
        name: Name<'_>,
        request: ForceRelease<'_>,
        state: &KeyState<'_>,
        client: Option<u64>,
        now: Now,
    ) -> Result<Forced, CommandError> {
        let known = self.reconcile_named(name, state, now);
        match *state {
            KeyState::OtherType => Err(CommandError::WrongType),
            KeyState::String { value, expires }
                if is_valid_owner(value) && self.is_meant(known, &request, value) =>
            {
                let owner = value.into();
                let Some(id) = known.or_else(|| self.table.find_or_create(name)) else {
                    return match request.after_ms {
                        None => Ok(Forced::Freed { owner, next: HandOff::NoWaiter }),
                        Some(_) => Err(CommandError::OutOfMemory),
                    };
                };
                if let Some(after_ms) = request.after_ms {
                    self.adopt_unless_held(id, value, expires, now);
                    let reason = request.reason;
                    let until_ms = self.give_notice(id, after_ms, reason, expires, now);
                    return Ok(Forced::Noticed { owner, until_ms });
                }
                let caller = Caller { owner: request.owner, client };
                self.adopt_unless_held(id, value, expires, now);
                self.end(id, End::Forced(request.reason), caller, now);
                Ok(Forced::Freed { owner, next: self.hand_off_next(id, now) })
            }
            _ => Ok(Forced::NotTaken),
        }
    }

    /// Whether the hold matches OWNER and TOKEN. A hold without a token matches TOKEN only together
    /// with its OWNER: a token alone would identify no hold.
    fn is_meant(
        &self,
        known: Option<Id>,
        request: &ForceRelease<'_>,
        holder: &[u8],
    ) -> bool {
        let hold = known.and_then(|id| self.table.hold(id));
        let has_token = hold.is_some_and(|hold| hold.token().is_some());
        request.owner.is_none_or(|owner| owner == holder)
            && self.token_matches(known, request.token)
            && (request.token.is_none() || request.owner.is_some() || has_token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, Token, adopted_from_me, after, begin, counted, held, held_by_me, holder,
        logged, manager, name, nothing, published, request, shows, wait,
    };

    /// A FORCERELEASE of `gpu:0`, 50 ms after the record was made.
    struct Case<'a> {
        what: &'static str,
        /// Makes the record, and returns the token of the hold.
        record: fn(&mut LockManager) -> Option<u64>,
        /// What the key shows.
        state: KeyState<'a>,
        /// The OWNER of the call.
        owner: Option<&'static str>,
        token: Token,
        outcome: &'static str,
        counted: &'static str,
        logged: &'static str,
        /// The holder after the call.
        holder: &'static str,
    }

    fn outcome(forced: Result<Forced, CommandError>) -> String {
        match forced {
            Ok(Forced::Freed { owner, next }) => {
                let owner = String::from_utf8_lossy(&owner).into_owned();
                match next {
                    HandOff::NoWaiter => format!("taken from {owner}"),
                    HandOff::Waiter(next) => {
                        let next = String::from_utf8_lossy(&next.owner);
                        format!("taken from {owner}, passes to {next}")
                    }
                    other => format!("{other:?}"),
                }
            }
            Ok(Forced::Noticed { owner, .. }) => {
                format!("notice to {}", String::from_utf8_lossy(&owner))
            }
            Ok(Forced::NotTaken) => "not taken".to_owned(),
            Err(error) => format!("{error:?}"),
        }
    }

    fn check(case: Case<'_>) {
        let what = case.what;
        let mut manager = manager();
        let right = (case.record)(&mut manager);
        begin(&mut manager);
        let token = case.token.value(right);
        let owner = case.owner.map(str::as_bytes);
        let reason = b"stuck"[..].into();
        let request = ForceRelease { owner, token, after_ms: None, reason };
        let forced =
            manager.force_release(name(GPU), request, &case.state, Some(7), after(50));
        assert_eq!(outcome(forced), case.outcome, "{what}: outcome");
        assert_eq!(counted(&manager), case.counted, "{what}: counters");
        assert_eq!(logged(&manager), case.logged, "{what}: log");
        assert_eq!(holder(&manager, GPU), case.holder, "{what}: holder");
    }

    #[test]
    #[rustfmt::skip]
    fn outcome_by_record_key_and_request() {
        use KeyState::{Absent, OtherType};
        let too_long = "x".repeat(1025);
        let call = |what, record, state, owner, token, outcome, counted, logged, holder| {
            check(Case { what, record, state, owner, token, outcome, counted, logged, holder });
        };
        call("whichever owner holds it", held_by_me, shows("me"), None, Token::None,
            "taken from me", "emergency_releases", "forced", "free");
        call("OWNER holds it", held_by_me, shows("me"), Some("me"), Token::None,
            "taken from me", "emergency_releases", "forced", "free");
        call("OWNER does not hold it", held_by_me, shows("me"), Some("other"), Token::None,
            "not taken", "", "", "me");
        call("TOKEN is that of the hold", held_by_me, shows("me"), None, Token::Right,
            "taken from me", "emergency_releases", "forced", "free");
        call("TOKEN is another one", held_by_me, shows("me"), None, Token::Wrong,
            "not taken", "", "", "me");
        call("OWNER holds it, TOKEN is another one", held_by_me, shows("me"), Some("me"),
            Token::Wrong, "not taken", "", "", "me");
        call("an adopted hold", adopted_from_me, shows("me"), None, Token::None,
            "taken from me", "emergency_releases", "forced", "free");
        call("an adopted hold without a token: TOKEN alone never matches", adopted_from_me,
            shows("me"), None, Token::Wrong, "not taken", "", "", "me, adopted");
        call("an adopted hold without a token: OWNER decides", adopted_from_me,
            shows("me"), Some("me"), Token::Wrong,
            "taken from me", "emergency_releases", "forced", "free");
        call("not known before", nothing, shows("me"), None, Token::None,
            "taken from me", "emergency_releases adopted", "forced", "free");
        call("a free lock", nothing, Absent, None, Token::None, "not taken", "", "", "free");
        call("the key was deleted", held_by_me, Absent, None, Token::None,
            "not taken", "removed", "removed", "free");
        call("another type", nothing, OtherType, None, Token::None,
            "WrongType", "", "", "free");
        call("an empty value is no owner", nothing, shows(""), None, Token::None,
            "not taken", "", "", "free");
        call("a value of 1025 bytes is no owner", nothing, shows(&too_long), None, Token::None,
            "not taken", "", "", "free");
        call("the first waiter gets the lock",
            |it| { let token = held_by_me(it); wait(it, GPU, &request("b"), 2); token },
            shows("me"), Some("me"), Token::Right, "taken from me, passes to b",
            "emergency_releases acquired acquired_after_wait", "forced", "b");
    }

    #[test]
    fn the_reason_is_published_and_logged() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        let reason = b"stuck"[..].into();
        let request = ForceRelease { owner: None, token: None, after_ms: None, reason };
        manager
            .force_release(name(GPU), request, &shows("me"), Some(7), after(0))
            .unwrap();
        assert_eq!(published(&mut manager), ["me: stuck"]);
        let entry = manager.log.get(0).unwrap();
        assert_eq!((&entry.subject.reason[..], entry.client), (&b"stuck"[..], Some(7)));
    }
}
