//! RELEASE: compare and delete. A caller that does not hold the lock changes nothing; the call is
//! counted and logged.

use crate::error::CommandError;
use crate::manager::{Caller, Incident, LockManager};
use crate::request::Release;
use crate::rules::hand_off::HandOff;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::event::End;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lock::{Hold, Name};
use crate::state::log::Kind;

/// What became of a call, and what to write to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The lock passes on.
    Freed(HandOff),
    /// Nothing: the caller does not hold the lock.
    NotHeld,
}

impl LockManager {
    /// Releases a lock; `known` is what the table has of it.
    ///
    /// # Errors
    /// When the key is not a string.
    pub fn release(
        &mut self,
        name: Name<'_>,
        known: Option<Id>,
        request: Release<'_>,
        state: &KeyState<'_>,
        client: Option<u64>,
        now: Now,
    ) -> Result<Released, CommandError> {
        let caller = Caller { owner: Some(request.owner), client };
        if let Some(id) = known {
            self.reconcile(id, state, now);
        }
        match *state {
            KeyState::OtherType => {
                self.count_failed_release(name);
                Err(CommandError::WrongType)
            }
            KeyState::String { value, expires }
                if value == request.owner && self.token_matches(known, request.token) =>
            {
                let Some(id) = known.or_else(|| self.table.find_or_create(name)) else {
                    return Ok(Released::Freed(HandOff::NoWaiter));
                };
                self.adopt_unless_held(id, value, expires, now);
                self.end(id, End::Released(request.reason), caller, now);
                Ok(Released::Freed(self.hand_off_next(id, now)))
            }
            _ => {
                self.log_violation(name, request, state, caller, now);
                Ok(Released::NotHeld)
            }
        }
    }

    /// Counts a RELEASE that gets an error.
    pub fn count_failed_release(&mut self, name: Name<'_>) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.release_script_errors);
        self.count(known, |counters| &mut counters.normal_release_failures);
    }

    /// Counts and logs a release by a caller that does not hold the lock.
    fn log_violation(
        &mut self,
        name: Name<'_>,
        request: Release<'_>,
        state: &KeyState<'_>,
        caller: Caller<'_>,
        now: Now,
    ) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.ownership_violations);
        self.count(known, |counters| &mut counters.normal_release_failures);
        let (kind, holder) = match *state {
            KeyState::String { value, .. } => (Kind::OwnershipViolation, Some(value)),
            _ => {
                self.count(known, |counters| &mut counters.stale_releases);
                (Kind::StaleRelease, None)
            }
        };
        let hold = known.and_then(|id| self.table.hold(id));
        let incident = Incident {
            name,
            kind,
            holder: holder.filter(|holder| is_valid_owner(holder)),
            token: hold.and_then(Hold::token),
            held_ms: hold.and_then(|hold| hold.held_ms(now)),
            reason: request.reason,
            caller,
        };
        self.log_incident(incident, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, Token, adopted_from_me, after, begin, counted, held, held_by_me, holder,
        logged, manager, name, nothing, published, request, shows, wait, wait_for_set,
    };

    /// A RELEASE of `gpu:0` by `owner`, 50 ms after the record was made.
    struct Case<'a> {
        what: &'static str,
        /// Makes the record, and returns the token of the hold.
        record: fn(&mut LockManager) -> Option<u64>,
        /// What the key shows.
        state: KeyState<'a>,
        owner: &'static str,
        token: Token,
        outcome: &'static str,
        counted: &'static str,
        logged: &'static str,
        /// The holder after the call.
        holder: &'static str,
    }

    fn outcome(released: Result<Released, CommandError>) -> String {
        match released {
            Ok(Released::Freed(HandOff::Waiter(next))) => {
                format!("passes to {}", String::from_utf8_lossy(&next.owner))
            }
            Ok(Released::Freed(HandOff::NoWaiter)) => "released".to_owned(),
            Ok(Released::Freed(HandOff::Reserved)) => "released, reserved".to_owned(),
            Ok(Released::NotHeld) => "not held".to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn release<'a>(owner: &'a str, token: Option<u64>) -> Release<'a> {
        Release { owner: owner.as_bytes(), token, reason: b"normal"[..].into() }
    }

    /// A RELEASE of `gpu:0`.
    fn call(
        manager: &mut LockManager,
        request: Release<'_>,
        state: &KeyState<'_>,
        client: Option<u64>,
        now: Now,
    ) -> Result<Released, CommandError> {
        let known = manager.table.find(name(GPU));
        manager.release(name(GPU), known, request, state, client, now)
    }

    fn check(case: Case<'_>) {
        let what = case.what;
        let mut manager = manager();
        let right = (case.record)(&mut manager);
        begin(&mut manager);
        let token = case.token.value(right);
        let request = release(case.owner, token);
        let released = call(&mut manager, request, &case.state, Some(7), after(50));
        assert_eq!(outcome(released), case.outcome, "{what}: outcome");
        assert_eq!(counted(&manager), case.counted, "{what}: counters");
        assert_eq!(logged(&manager), case.logged, "{what}: log");
        assert_eq!(holder(&manager, GPU), case.holder, "{what}: holder");
    }

    #[test]
    #[rustfmt::skip]
    fn outcome_by_record_key_and_request() {
        use KeyState::{Absent, OtherType};
        let refused = "ownership_violations normal_release_failures";
        let stale = "ownership_violations normal_release_failures stale_releases";
        let stale_and_removed =
            "ownership_violations normal_release_failures stale_releases removed";
        let too_long = "x".repeat(1025);
        let call = |what, record, state, owner, token, outcome, counted, logged, holder| {
            check(Case { what, record, state, owner, token, outcome, counted, logged, holder });
        };
        call("by the owner", held_by_me, shows("me"), "me", Token::None,
            "released", "releases", "", "free");
        call("by the owner, with the token of the hold", held_by_me, shows("me"), "me",
            Token::Right, "released", "releases", "", "free");
        call("by the owner, with another token", held_by_me, shows("me"), "me", Token::Wrong,
            "not held", refused, "ownership_violation", "me");
        call("by another owner", held_by_me, shows("me"), "other", Token::None,
            "not held", refused, "ownership_violation", "me");
        call("by another owner, with the token of the hold", held_by_me, shows("me"), "other",
            Token::Right, "not held", refused, "ownership_violation", "me");
        call("an adopted hold, by its owner", adopted_from_me, shows("me"), "me", Token::None,
            "released", "releases", "", "free");
        call("an adopted hold without a token: only the owner is compared", adopted_from_me,
            shows("me"), "me", Token::Wrong, "released", "releases", "", "free");
        call("not known before, by its owner", nothing, shows("me"), "me", Token::None,
            "released", "adopted releases", "", "free");
        call("not known before, by another owner: not adopted", nothing, shows("me"), "other",
            Token::None, "not held", refused, "ownership_violation", "free");
        call("a free lock", nothing, Absent, "me", Token::None,
            "not held", stale, "stale_release", "free");
        call("the key was deleted", held_by_me, Absent, "me", Token::None,
            "not held", stale_and_removed, "stale_release removed", "free");
        call("the key was overwritten", held_by_me, shows("other"), "me", Token::None,
            "not held", "ownership_violations normal_release_failures adopted removed",
            "ownership_violation removed", "other, adopted");
        call("another type", nothing, OtherType, "me", Token::None,
            "Err(WrongType)", "release_script_errors normal_release_failures", "", "free");
        call("an empty value", nothing, shows(""), "me", Token::None,
            "not held", refused, "ownership_violation", "free");
        call("a value of 1025 bytes", nothing, shows(&too_long), "me", Token::None,
            "not held", refused, "ownership_violation", "free");
        call("the first waiter gets the lock",
            |it| { let token = held_by_me(it); wait(it, GPU, &request("b"), 2); token },
            shows("me"), "me", Token::Right,
            "passes to b", "acquired acquired_after_wait releases", "", "b");
        call("a waiter for a lock set: the lock is reserved",
            |it| {
                let token = held_by_me(it);
                held(it, "gpu:1", "other");
                wait_for_set(it, &[GPU, "gpu:1"], 2, &request("b"), 2);
                token
            },
            shows("me"), "me", Token::Right,
            "released, reserved", "releases", "", "free, reserved");
        call("a waiter does not get the lock from a caller that does not hold it",
            |it| { let token = held_by_me(it); wait(it, GPU, &request("b"), 2); token },
            shows("me"), "b", Token::None, "not held", refused, "ownership_violation", "me");
    }

    #[test]
    fn the_reason_is_published() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        let request = Release { reason: b"preempted"[..].into(), ..release("me", None) };
        call(&mut manager, request, &shows("me"), None, after(0)).unwrap();
        assert_eq!(published(&mut manager), ["me: preempted"]);
    }

    #[test]
    fn the_log_names_holder_and_caller() {
        let mut manager = manager();
        let token = held(&mut manager, GPU, "me");
        let request = release("other", None);
        call(&mut manager, request, &shows("me"), Some(7), after(50)).unwrap();
        let entry = manager.log.get(0).unwrap();
        let subject = &entry.subject;
        assert_eq!(subject.holder.as_deref(), Some(&b"me"[..]));
        assert_eq!(subject.caller.as_deref(), Some(&b"other"[..]));
        assert_eq!(subject.lock, Some((0, GPU.as_bytes().into())));
        assert_eq!(
            (entry.token, entry.held_ms, entry.client),
            (Some(token), Some(50), Some(7))
        );
    }
}
