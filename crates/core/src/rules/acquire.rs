//! ACQUIRE: a free lock is granted, but waiters come first; a lock held by the same UNIQUE owner is
//! renewed; a lock held by anyone else is refused.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::Acquire;
use crate::rules::hand_off::HandOff;
use crate::rules::hold::GrantParams;
use crate::rules::leave::LeaveReason;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, is_valid_owner};
use crate::state::lease;
use crate::state::lock::Name;

/// What became of a call, and what to write to the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Set the key to the owner, with this end of the lease.
    Granted {
        /// The fencing token.
        token: u64,
        /// When the lease expires, in ms since the epoch.
        until_ms: u64,
    },
    /// Set the expiry of the key.
    Renewed {
        /// The fencing token, the same as before.
        token: u64,
        /// When the lease expires, in ms since the epoch.
        until_ms: u64,
    },
    /// Nothing: another owner holds the lock.
    Held,
    /// The lock is free, but waiters come first.
    OthersFirst {
        /// What to write to the key.
        next: HandOff,
    },
}

/// The caller of ACQUIRE or ACQUIREANY, and the state of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallerContext {
    /// The client that calls, if it has a connection of its own.
    pub client: Option<u64>,
    /// It may be blocked.
    pub may_wait: bool,
    /// The server is not out of memory.
    pub has_memory: bool,
}

impl LockManager {
    /// Asks for a lock. A call that may wait and gets [`Acquired::Held`] or
    /// [`Acquired::OthersFirst`] goes on with [`LockManager::wait`]. Expired waiters are removed
    /// first, so they cannot block the caller.
    ///
    /// # Errors
    /// When the key is not a string, the lease is too long, a new hold would need memory, or there
    /// is no connection to tie the lock to.
    pub fn acquire(
        &mut self,
        name: Name<'_>,
        request: &Acquire<'_>,
        state: &KeyState<'_>,
        caller: CallerContext,
        now: Now,
    ) -> Result<Acquired, CommandError> {
        self.expire_waits(now);
        let lease_ms = match self.check_acquire(request, state, caller) {
            Ok(lease_ms) => lease_ms,
            Err(error) => {
                self.count_failed_acquire(name);
                self.reconcile_named(name, state, now);
                return Err(error);
            }
        };
        let id = self.table.find_or_create(name).ok_or(CommandError::OutOfMemory)?;
        self.count(Some(id), |counters| &mut counters.acquire_requests);
        self.reconcile(id, state, now);
        let params = GrantParams {
            owner: request.owner,
            lease_ms,
            unique: request.unique,
            session: caller.client.zip(request.session_grace_ms),
            share: request.share,
            tag: None,
        };
        let refused = match *state {
            KeyState::String { value, expires } => {
                if is_valid_owner(value) {
                    self.adopt_unless_held(id, value, expires, now);
                }
                if request.unique && value == request.owner {
                    let (token, until_ms) = self.renew_unique(id, &params, now)?;
                    return Ok(Acquired::Renewed { token, until_ms });
                }
                Acquired::Held
            }
            _ => match self.waiters_before(id, request, now) {
                Some(next) => Acquired::OthersFirst { next },
                None => {
                    self.give_up_positions(&[id], request, now);
                    let (token, until_ms) = self.grant(id, &params, now);
                    return Ok(Acquired::Granted { token, until_ms });
                }
            },
        };
        if request.block_ms.is_none() || !caller.may_wait {
            self.count(Some(id), |counters| &mut counters.refused);
        }
        Ok(refused)
    }

    /// Hands a free lock to the waiters that come before the caller. None when there are none.
    fn waiters_before(
        &mut self,
        id: Id,
        request: &Acquire<'_>,
        now: Now,
    ) -> Option<HandOff> {
        if self.table.get(id).is_some_and(|lock| !lock.reserved) {
            self.offer_to_groups(id);
        }
        if self.is_callers_turn(id, request, now) {
            return None;
        }
        let next = self.hand_off_next(id, now);
        (next != HandOff::NoWaiter).then_some(next)
    }

    /// Whether a free lock goes to a caller who asks for this lock only.
    fn is_callers_turn(&self, id: Id, request: &Acquire<'_>, now: Now) -> bool {
        if self.table.get(id).is_none_or(|lock| lock.connected == 0) {
            return true;
        }
        let own = self.own_positions(&[id], request);
        let same = self.same_call(&own, &[id], 1, None, request, now);
        let turn = self.turn_of_caller(same, &[id], request);
        self.is_turn_of(id, own.first().copied(), turn)
    }

    /// Gives up the positions that a UNIQUE owner has in the queues of locks that it acquires.
    pub(crate) fn give_up_positions(
        &mut self,
        locks: &[Id],
        request: &Acquire<'_>,
        now: Now,
    ) {
        for ticket in self.own_positions(locks, request) {
            self.end_wait_within_budget(ticket, LeaveReason::TakenOver, now);
        }
    }

    /// Counts a call that gets an error.
    pub fn count_failed_acquire(&mut self, name: Name<'_>) {
        let known = self.table.find(name);
        self.count(known, |counters| &mut counters.acquire_requests);
    }

    /// The lease in ms of a call that is not refused at once.
    fn check_acquire(
        &self,
        request: &Acquire<'_>,
        state: &KeyState<'_>,
        caller: CallerContext,
    ) -> Result<u64, CommandError> {
        match state {
            KeyState::OtherType => Err(CommandError::WrongType),
            KeyState::Absent if !caller.has_memory => Err(CommandError::OutOfMemory),
            _ if request.session_grace_ms.is_some() && caller.client.is_none() => {
                Err(CommandError::SessionInScript)
            }
            _ => {
                self.check_priority(request)?;
                lease::requested(request.lease_ms, &self.settings)
            }
        }
    }

    /// Checks that a call may have its PRIORITY. 0 is that of a call without the option, so it is
    /// always allowed.
    pub(crate) fn check_priority(
        &self,
        request: &Acquire<'_>,
    ) -> Result<(), CommandError> {
        let max = self.settings.max_priority;
        match request.priority {
            0 => Ok(()),
            priority if priority <= max => Ok(()),
            _ => Err(CommandError::PriorityTooHigh { max }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{
        GPU, LEASE_END, acquire, adopted, after, begin, client, counted, held, holder,
        id, in_session, manager, name, queue, replies, request, shows, unique, wait,
        wait_for_set,
    };
    use crate::state::lock::Session;

    /// One call, 50 ms after the record was made.
    struct Case<'a> {
        what: &'static str,
        /// Makes the record.
        record: fn(&mut LockManager),
        /// What the key shows.
        state: KeyState<'a>,
        request: Acquire<'a>,
        caller: CallerContext,
        outcome: Result<&'static str, CommandError>,
        counted: &'static str,
        /// The holder after the call.
        holder: &'static str,
        /// The queue after the call.
        queue: &'static str,
    }

    fn outcome(acquired: Acquired) -> String {
        match acquired {
            Acquired::Granted { .. } => "granted".to_owned(),
            Acquired::Renewed { .. } => "renewed".to_owned(),
            Acquired::Held => "held".to_owned(),
            Acquired::OthersFirst { next: HandOff::Waiter(holder) } => {
                format!("goes to {}", String::from_utf8_lossy(&holder.owner))
            }
            Acquired::OthersFirst { next } => format!("{next:?}"),
        }
    }

    fn check(case: Case<'_>) {
        let what = case.what;
        let mut manager = manager();
        (case.record)(&mut manager);
        begin(&mut manager);
        let acquired = manager.acquire(
            name(GPU),
            &case.request,
            &case.state,
            case.caller,
            after(50),
        );
        let expected = case.outcome.map(str::to_owned);
        assert_eq!(acquired.map(outcome), expected, "{what}: outcome");
        assert_eq!(counted(&manager), case.counted, "{what}: counters");
        assert_eq!(holder(&manager, GPU), case.holder, "{what}: holder");
        assert_eq!(queue(&manager, GPU), case.queue, "{what}: queue");
    }

    fn nothing(_: &mut LockManager) {}

    fn held_by_me(manager: &mut LockManager) {
        held(manager, GPU, "me");
    }

    fn held_by_other(manager: &mut LockManager) {
        held(manager, GPU, "other");
    }

    #[test]
    #[rustfmt::skip]
    fn outcome_by_record_key_and_caller() {
        use KeyState::{Absent, OtherType};
        let too_long = "x".repeat(1025);
        let call = |what, record, state, request, outcome, counted, holder| {
            let caller = client(7);
            check(Case { what, record, state, request, caller, outcome, counted, holder,
                queue: "" });
        };
        call("a free lock", nothing, Absent, request("me"),
            Ok("granted"), "acquire_requests acquired", "me");
        call("held by another owner", held_by_other, shows("other"), unique("me"),
            Ok("held"), "acquire_requests refused", "other");
        call("held by the same owner, without UNIQUE", held_by_me, shows("me"), request("me"),
            Ok("held"), "acquire_requests refused", "me");
        call("held by the same owner, with UNIQUE", held_by_me, shows("me"), unique("me"),
            Ok("renewed"), "acquire_requests renewed", "me");
        call("not granted by the module, another owner", nothing, shows("other"), unique("me"),
            Ok("held"), "acquire_requests refused adopted", "other, adopted");
        call("not granted by the module, same owner, without UNIQUE", nothing, shows("me"),
            request("me"), Ok("held"), "acquire_requests refused adopted", "me, adopted");
        call("not granted by the module, same owner, with UNIQUE", nothing, shows("me"),
            unique("me"), Ok("renewed"), "acquire_requests renewed adopted", "me, adopted");
        call("adopted before, same owner, with UNIQUE", |it| adopted(it, GPU, "me"), shows("me"),
            unique("me"), Ok("renewed"), "acquire_requests renewed", "me, adopted");
        call("the key was deleted", held_by_other, Absent, request("me"),
            Ok("granted"), "acquire_requests acquired removed", "me");
        call("the key was overwritten with the caller", held_by_other, shows("me"), unique("me"),
            Ok("renewed"), "acquire_requests renewed adopted removed", "me, adopted");
        call("another type", nothing, OtherType, request("me"),
            Err(CommandError::WrongType), "acquire_requests", "free");
        call("another type in place of a hold", held_by_me, OtherType, unique("me"),
            Err(CommandError::WrongType), "acquire_requests removed", "free");
        call("an empty value: held, but not adopted", nothing, shows(""), unique("me"),
            Ok("held"), "acquire_requests refused", "free");
        call("a value of 1025 bytes: held, but not adopted", nothing, shows(&too_long),
            unique("me"), Ok("held"), "acquire_requests refused", "free");
        call("the longest lease", nothing, Absent, with_lease("me", 86_400_000),
            Ok("granted"), "acquire_requests acquired", "me");
        call("a lease that is too long", nothing, Absent, with_lease("me", 86_400_001),
            Err(CommandError::LeaseTooLong { max_ms: 86_400_000 }), "acquire_requests", "free");
        call("a lease that is too long, and held", held_by_me, shows("me"),
            Acquire { unique: true, ..with_lease("me", 86_400_001) },
            Err(CommandError::LeaseTooLong { max_ms: 86_400_000 }), "acquire_requests", "me");
    }

    #[test]
    #[rustfmt::skip]
    fn outcome_by_caller() {
        use KeyState::Absent;
        let call = |what, record, state, request, caller, outcome, counted, holder| {
            check(Case { what, record, state, request, caller, outcome, counted, holder,
                queue: "" });
        };
        let no_memory = CallerContext { has_memory: false, ..client(7) };
        let script = CallerContext { client: None, may_wait: false, has_memory: true };
        call("no memory for a new hold", nothing, Absent, request("me"), no_memory,
            Err(CommandError::OutOfMemory), "acquire_requests", "free");
        call("a renewal needs no memory", held_by_me, shows("me"), unique("me"), no_memory,
            Ok("renewed"), "acquire_requests renewed", "me");
        call("a refusal needs no memory", held_by_other, shows("other"), unique("me"), no_memory,
            Ok("held"), "acquire_requests refused", "other");
        call("SESSION without a connection", nothing, Absent, in_session("me", 0), script,
            Err(CommandError::SessionInScript), "acquire_requests", "free");
        call("without SESSION, a script acquires", nothing, Absent, request("me"), script,
            Ok("granted"), "acquire_requests acquired", "me");
        call("with BLOCK, the caller goes on waiting", held_by_other, shows("other"),
            with_block("me", 0), client(7), Ok("held"), "acquire_requests", "other");
        call("BLOCK in a script is ignored", held_by_other, shows("other"),
            with_block("me", 0), script, Ok("held"), "acquire_requests refused", "other");
    }

    #[test]
    #[rustfmt::skip]
    fn a_free_lock_goes_to_the_first_position_in_its_queue() {
        let call = |what, record, request, outcome, counted, holder, queue| {
            let (state, caller) = (KeyState::Absent, client(7));
            check(Case { what, record, state, request, caller, outcome, counted, holder, queue });
        };
        let handed_off = "acquire_requests acquired acquired_after_wait refused";
        call("a waiter comes first", |it| queued(it, &[request("b")]), request("me"),
            Ok("goes to b"), handed_off, "b", "");
        call("a waiter for a lock set comes first, and the lock is reserved for it",
            |it| { wait_for_set(it, &[GPU, "gpu:1"], 2, &request("b"), 2); }, request("me"),
            Ok("Reserved"), "acquire_requests refused", "free, reserved", "b");
        call("a waiter with the same name comes first, without UNIQUE",
            |it| queued(it, &[request("me")]), request("me"),
            Ok("goes to me"), handed_off, "me", "");
        call("an expired waiter does not block the caller",
            |it| queued(it, &[with_block("b", 50)]), request("me"),
            Ok("granted"), "acquire_requests acquired wait_timeouts", "me", "");
        call("a kept position of another owner does not block the caller",
            |it| { queued(it, &[unique("b")]); it.client_gone(2, after(0)); }, request("me"),
            Ok("granted"), "acquire_requests acquired", "me", "(b)");
        call("the caller's own kept position is first",
            |it| { queued(it, &[unique("me"), request("b")]); it.client_gone(2, after(0)); },
            unique("me"), Ok("granted"), "acquire_requests acquired", "me", "b");
        call("the caller's own kept position is behind a waiter",
            |it| { queued(it, &[request("b"), unique("me")]); it.client_gone(3, after(0)); },
            unique("me"), Ok("goes to b"), handed_off, "b", "(me)");
        call("the caller's own waiting call is first",
            |it| queued(it, &[unique("me"), request("b")]), unique("me"),
            Ok("granted"), "acquire_requests acquired waits_abandoned", "me", "b");
        call("the caller's kept position for a lock set does not count for one lock",
            |it| {
                wait_for_set(it, &[GPU, "gpu:1"], 1, &unique("me"), 2);
                wait(it, GPU, &request("b"), 3);
                it.client_gone(2, after(0));
            },
            unique("me"), Ok("goes to b"), handed_off, "b", "(me)");
    }

    /// Owners wait, the first one as client 2, the next one as client 3.
    fn queued(manager: &mut LockManager, requests: &[Acquire<'_>]) {
        for (request, client) in requests.iter().zip(2..) {
            wait(manager, GPU, request, client);
        }
    }

    fn with_lease(owner: &str, lease_ms: u64) -> Acquire<'_> {
        Acquire { lease_ms: Some(lease_ms), ..request(owner) }
    }

    fn with_block(owner: &str, block_ms: u64) -> Acquire<'_> {
        Acquire { block_ms: Some(block_ms), ..request(owner) }
    }

    #[test]
    fn the_earlier_call_of_a_unique_owner_that_acquires_the_lock_returns_null() {
        let mut manager = manager();
        let earlier = wait(&mut manager, GPU, &unique("me"), 2);
        acquire(&mut manager, GPU, &unique("me"), 7);
        assert_eq!(replies(&mut manager), [(earlier, "null".to_owned())]);
    }

    #[test]
    fn a_renewal_keeps_the_token_and_its_lease_counts_from_now() {
        let mut manager = manager();
        let token = held(&mut manager, GPU, "me");
        let request = Acquire { unique: true, ..with_lease("me", 5_000) };
        let renewed =
            manager.acquire(name(GPU), &request, &shows("me"), client(7), after(10));
        let until_ms = after(5_010).ms();
        assert_eq!(renewed, Ok(Acquired::Renewed { token, until_ms }));
        assert!(until_ms < LEASE_END, "a lease may become shorter");
    }

    #[test]
    fn an_adopted_hold_gets_its_first_token_by_a_renewal() {
        let mut manager = manager();
        let last = held(&mut manager, "gpu:1", "other");
        adopted(&mut manager, GPU, "me");
        let renewed =
            manager.acquire(name(GPU), &unique("me"), &shows("me"), client(7), after(0));
        let Ok(Acquired::Renewed { token, .. }) = renewed else { panic!("{renewed:?}") };
        assert!(token > last);
        let again =
            manager.acquire(name(GPU), &unique("me"), &shows("me"), client(7), after(0));
        assert_eq!(again, renewed, "it keeps this token");
    }

    #[test]
    fn each_grant_has_a_larger_token_than_all_before() {
        let mut manager = manager();
        let tokens = ["gpu:0", "gpu:1", "gpu:2"].map(|key| held(&mut manager, key, "me"));
        assert!(tokens.is_sorted() && tokens[0] < tokens[1] && tokens[1] < tokens[2]);
    }

    #[test]
    fn the_tie_to_a_connection_is_that_of_the_last_call_with_session() {
        let mut manager = manager();
        acquire(&mut manager, GPU, &in_session("me", 9), 7);
        let lock = id(&manager, GPU);
        let mut tie_after = |request: &Acquire<'_>, by: u64| {
            let renewed =
                manager.acquire(name(GPU), request, &shows("me"), client(by), after(0));
            assert!(matches!(renewed, Ok(Acquired::Renewed { .. })), "{renewed:?}");
            manager.table.hold(lock).unwrap().session
        };
        let tied_to_7 = Session::Tied { client: 7, grace_ms: 9 };
        assert_eq!(tie_after(&unique("me"), 8), tied_to_7, "without SESSION");
        let tied_to_8 = Session::Tied { client: 8, grace_ms: 0 };
        assert_eq!(tie_after(&in_session("me", 0), 8), tied_to_8, "with SESSION");
    }

    #[test]
    fn a_renewal_with_unique_makes_the_hold_unique() {
        let mut manager = manager();
        held(&mut manager, GPU, "me");
        let is_unique =
            |manager: &LockManager| manager.table.hold(id(manager, GPU)).unwrap().unique;
        assert!(!is_unique(&manager));
        manager
            .acquire(name(GPU), &unique("me"), &shows("me"), client(7), after(0))
            .unwrap();
        assert!(is_unique(&manager));
    }

    #[test]
    fn every_call_ends_the_waits_that_have_expired() {
        let mut manager = manager();
        held(&mut manager, GPU, "other");
        let expired = wait(&mut manager, GPU, &with_block("b", 50), 2);
        let call = |manager: &mut LockManager, ms| {
            let state = KeyState::Absent;
            manager.acquire(name("gpu:1"), &request("me"), &state, client(7), after(ms))
        };
        call(&mut manager, 49).unwrap();
        assert_eq!(replies(&mut manager), []);
        call(&mut manager, 50).unwrap();
        assert_eq!(replies(&mut manager), [(expired, "null".to_owned())]);
    }
}
