//! EXTEND: compare and renew. The new lease counts from now.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::Extend;
use crate::state::clock::Now;
use crate::state::key_state::KeyState;
use crate::state::lease;
use crate::state::lock::Name;

/// What became of a call, and what to write to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// Set the expiry of the key.
    Renewed {
        /// The fencing token.
        token: u64,
        /// When the lease expires, in ms since the epoch.
        until_ms: u64,
    },
    /// Nothing: the caller does not hold the lock.
    NotHeld,
}

impl LockManager {
    /// Renews a lease.
    ///
    /// # Errors
    /// When the key is not a string, or the lease is too long.
    pub fn extend(
        &mut self,
        name: Name<'_>,
        request: &Extend<'_>,
        state: &KeyState<'_>,
        now: Now,
    ) -> Result<Extended, CommandError> {
        let lease_ms = lease::requested(request.lease_ms, &self.settings)?;
        let known = self.reconcile_named(name, state, now);
        match *state {
            KeyState::OtherType => Err(CommandError::WrongType),
            KeyState::String { value, expires }
                if value == request.owner && self.token_matches(known, request.token) =>
            {
                let id =
                    self.table.find_or_create(name).ok_or(CommandError::OutOfMemory)?;
                self.adopt_unless_held(id, value, expires, now);
                let (token, until_ms) = self.renew(id, lease_ms, now)?;
                self.count(Some(id), |counters| &mut counters.extends);
                Ok(Extended::Renewed { token, until_ms })
            }
            _ => {
                self.count(known, |counters| &mut counters.extend_failures);
                Ok(Extended::NotHeld)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, LEASE_END, Token, adopted_from_me, after, begin, counted, held, held_by_me,
        holder, id, manager, name, nothing, shows,
    };
    use crate::state::settings::Settings;

    /// An EXTEND of `gpu:0` to 5,000 ms, 50 ms after the record was made.
    struct Case<'a> {
        what: &'static str,
        /// Makes the record, and returns the token of the hold.
        record: fn(&mut LockManager) -> Option<u64>,
        /// What the key shows.
        state: KeyState<'a>,
        owner: &'static str,
        token: Token,
        /// Whether the lease is renewed.
        outcome: Result<bool, CommandError>,
        counted: &'static str,
        /// The holder after the call.
        holder: &'static str,
    }

    fn extend(owner: &str, lease_ms: u64, token: Option<u64>) -> Extend<'_> {
        Extend { owner: owner.as_bytes(), lease_ms: Some(lease_ms), token }
    }

    fn check(case: Case<'_>) {
        let what = case.what;
        let mut manager = manager();
        let right = (case.record)(&mut manager);
        begin(&mut manager);
        let token = case.token.value(right);
        let request = extend(case.owner, 5_000, token);
        let extended = manager.extend(name(GPU), &request, &case.state, after(50));
        let is_renewed = extended.map(|extended| extended != Extended::NotHeld);
        assert_eq!(is_renewed, case.outcome, "{what}: outcome");
        assert_eq!(counted(&manager), case.counted, "{what}: counters");
        assert_eq!(holder(&manager, GPU), case.holder, "{what}: holder");
        if case.outcome == Ok(true) {
            let lock = id(&manager, GPU);
            let until_ms = manager.table.hold(lock).unwrap().until_ms;
            assert_eq!(until_ms, after(5_050).ms(), "{what}: the lease counts from now");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn outcome_by_record_key_and_request() {
        use KeyState::{Absent, OtherType};
        let call = |what, record, state, owner, token, outcome, counted, holder| {
            check(Case { what, record, state, owner, token, outcome, counted, holder });
        };
        call("by the owner", held_by_me, shows("me"), "me", Token::None,
            Ok(true), "extends", "me");
        call("by the owner, with the token of the hold", held_by_me, shows("me"), "me",
            Token::Right, Ok(true), "extends", "me");
        call("by the owner, with another token", held_by_me, shows("me"), "me", Token::Wrong,
            Ok(false), "extend_failures", "me");
        call("by another owner", held_by_me, shows("me"), "other", Token::None,
            Ok(false), "extend_failures", "me");
        call("an adopted hold", adopted_from_me, shows("me"), "me", Token::None,
            Ok(true), "extends", "me, adopted");
        call("an adopted hold without a token: only the owner is compared", adopted_from_me,
            shows("me"), "me", Token::Wrong, Ok(true), "extends", "me, adopted");
        call("not known before, by its owner", nothing, shows("me"), "me", Token::None,
            Ok(true), "adopted extends", "me, adopted");
        call("not known before, by another owner: not adopted", nothing, shows("me"), "other",
            Token::None, Ok(false), "extend_failures", "free");
        call("a free lock", nothing, Absent, "me", Token::None,
            Ok(false), "extend_failures", "free");
        call("the key was deleted", held_by_me, Absent, "me", Token::None,
            Ok(false), "removed extend_failures", "free");
        call("another type", nothing, OtherType, "me", Token::None,
            Err(CommandError::WrongType), "", "free");
        call("an empty value", nothing, shows(""), "me", Token::None,
            Ok(false), "extend_failures", "free");
    }

    #[test]
    fn a_lease_that_is_too_long_changes_nothing() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        let request = extend("me", 86_400_001, None);
        let extended = manager.extend(name(GPU), &request, &shows("me"), after(0));
        assert_eq!(extended, Err(CommandError::LeaseTooLong { max_ms: 86_400_000 }));
        let lock = id(&manager, GPU);
        assert_eq!(manager.table.hold(lock).unwrap().until_ms, LEASE_END);
    }

    #[test]
    fn without_a_lease_the_default_counts_from_now() {
        let mut manager = manager();
        let token = held(&mut manager, GPU, "me");
        let request = Extend { lease_ms: None, ..extend("me", 0, None) };
        let extended = manager.extend(name(GPU), &request, &shows("me"), after(50));
        let until_ms = LEASE_END + 50;
        assert_eq!(extended, Ok(Extended::Renewed { token, until_ms }));
    }

    #[test]
    fn an_adopted_hold_gets_a_token_that_the_next_call_has_to_match() {
        let mut manager = manager();
        adopted_from_me(&mut manager);
        let mut call = |token| {
            let request = extend("me", 5_000, token);
            match manager.extend(name(GPU), &request, &shows("me"), after(0)) {
                Ok(Extended::Renewed { token, .. }) => Some(token),
                Ok(Extended::NotHeld) => None,
                Err(error) => panic!("{error}"),
            }
        };
        let first = call(Some(1)).unwrap();
        assert_eq!(call(Some(1)), None);
        assert_eq!(call(Some(first)), Some(first));
    }

    #[test]
    fn no_lease_reaches_beyond_max_hold() {
        let settings = Settings { max_hold: 7_000, ..Settings::default() };
        let mut manager = LockManager::new(settings, 1, after(0));
        let token = held(&mut manager, GPU, "me");
        let request = extend("me", 5_000, None);
        let extended = manager.extend(name(GPU), &request, &shows("me"), after(6_000));
        let until_ms = after(7_000).ms();
        assert_eq!(extended, Ok(Extended::Renewed { token, until_ms }));
    }
}
