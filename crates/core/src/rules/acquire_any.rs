//! ACQUIREANY: grants the first free locks of a set in the order in which they are named, all at
//! once or none. The locks that a UNIQUE owner holds already count first.

use crate::error::CommandError;
use crate::manager::LockManager;
use crate::request::AcquireAny;
use crate::rules::acquire::CallerContext;
use crate::rules::hold::GrantParams;
use crate::rules::lock_set::{Availability, Choice, KeyWrite, choose};
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::key_state::{KeyState, OwnedKeyState, is_valid_owner};
use crate::state::lease;
use crate::state::lock::Name;
use crate::state::outbox::Grant;
use crate::state::wait_queue::Locks;

/// What became of a call, and what to write to the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquiredAny {
    /// Set these keys, or their expiry.
    Granted {
        /// What to write, in the order in which the keys were named.
        writes: Vec<KeyWrite>,
        /// What the caller gets, in the same order.
        grants: Vec<Grant>,
    },
    /// Nothing: fewer locks are available than wanted.
    Contested {
        /// Indexes of the keys whose locks are available.
        free: Vec<usize>,
    },
}

/// A lock that the call names.
struct Candidate {
    /// None: it is free, and nothing is known of it.
    id: Option<Id>,
    availability: Availability,
}

impl Candidate {
    fn is_free(&self) -> bool {
        self.availability == Availability::Free
    }
}

impl LockManager {
    /// Asks for some locks of a set. `states` are what the keys show, in the order of
    /// `request.keys`. A call that may wait and gets [`AcquiredAny::Contested`] goes on with
    /// [`LockManager::wait`].
    ///
    /// # Errors
    /// When a key is not a string, the lease is too long, new holds would need memory, or there is
    /// no connection to tie the locks to. Then no key changes.
    pub fn acquire_any(
        &mut self,
        db: u32,
        request: &AcquireAny<'_>,
        states: &[OwnedKeyState],
        caller: CallerContext,
        now: Now,
    ) -> Result<AcquiredAny, CommandError> {
        self.expire_waits(now);
        self.count_acquire_any(db, &request.keys);
        if states.iter().any(|state| matches!(state, OwnedKeyState::OtherType)) {
            return Err(CommandError::WrongType);
        }
        if request.how.session_grace_ms.is_some() && caller.client.is_none() {
            return Err(CommandError::SessionInScript);
        }
        let lease_ms = lease::requested(request.how.lease_ms, &self.settings)?;
        let candidates = self.candidates(db, request, states, now);
        let indexes: Vec<usize> = (0..candidates.len()).collect();
        let chosen = choose(&indexes, request.count, |index| {
            let candidate = candidates.get(*index);
            candidate.map_or(Availability::Unavailable, |it| it.availability)
        });
        if chosen.len() < request.count {
            if request.how.block_ms.is_none() || !caller.may_wait {
                let known = self.counted_alone(db, &request.keys);
                self.count(known, |counters| &mut counters.refused);
            }
            let is_free =
                |index: &usize| candidates.get(*index).is_some_and(Candidate::is_free);
            let free = indexes.into_iter().filter(is_free).collect();
            return Ok(AcquiredAny::Contested { free });
        }
        let has_new = chosen.iter().any(|(_, held)| !held);
        if has_new && !caller.has_memory {
            return Err(CommandError::OutOfMemory);
        }
        let taken =
            self.find_or_create_chosen(db, &request.keys, &candidates, &chosen)?;
        if has_new {
            let known: Locks = candidates.iter().filter_map(|it| it.id).collect();
            self.give_up_positions(&known, &request.how, now);
        }
        let params = GrantParams {
            owner: request.how.owner,
            lease_ms,
            unique: request.how.unique,
            session: caller.client.zip(request.how.session_grace_ms),
        };
        let (writes, grants) = self.grant_set(&taken, &params, false, now);
        Ok(AcquiredAny::Granted { writes, grants })
    }

    /// Counts a call, also one that gets an error.
    pub fn count_acquire_any(&mut self, db: u32, keys: &[&[u8]]) {
        let known = self.counted_alone(db, keys);
        self.count(known, |counters| &mut counters.acquire_requests);
    }

    /// The lock whose own counters count a call: a call for several locks counts for the server
    /// only.
    fn counted_alone(&self, db: u32, keys: &[&[u8]]) -> Option<Id> {
        match keys {
            [key] => self.table.find(Name { db, key }),
            _ => None,
        }
    }

    /// Reconciles the locks, and finds out which the caller can get. A free lock that waiters come
    /// first for is left to the deferred work.
    fn candidates(
        &mut self,
        db: u32,
        request: &AcquireAny<'_>,
        states: &[OwnedKeyState],
        now: Now,
    ) -> Vec<Candidate> {
        let named = request.keys.iter().zip(states);
        let ids: Vec<Option<Id>> = named
            .map(|(key, state)| self.reconcile_and_adopt(Name { db, key }, state, now))
            .collect();
        let known: Locks = ids.iter().flatten().copied().collect();
        let own = self.own_positions(&known, &request.how);
        let same = match known.len() == request.keys.len() {
            true => self.same_call(&own, &known, request.count, now),
            false => None,
        };
        let candidate = |(id, state): (&Option<Id>, &OwnedKeyState)| {
            let is_held = |id| request.how.unique && self.holds(id, request.how.owner);
            let is_turn = |id| {
                let position = self.queues.position_of(request.how.owner, id);
                let position = position.filter(|position| own.contains(position));
                self.is_turn_of(id, position, same)
            };
            let availability = if id.is_some_and(is_held) {
                Availability::Held
            } else if *state == OwnedKeyState::Absent && id.is_none_or(is_turn) {
                Availability::Free
            } else {
                Availability::Unavailable
            };
            Candidate { id: *id, availability }
        };
        let candidates: Vec<Candidate> = ids.iter().zip(states).map(candidate).collect();
        for (candidate, state) in candidates.iter().zip(states) {
            if let Some(lock) = candidate.id
                && *state == OwnedKeyState::Absent
                && candidate.availability == Availability::Unavailable
                && self.table.get(lock).is_some_and(|lock| !lock.reserved)
            {
                self.deferred.hand_off(lock);
            }
        }
        candidates
    }

    fn reconcile_and_adopt(
        &mut self,
        name: Name<'_>,
        state: &OwnedKeyState,
        now: Now,
    ) -> Option<Id> {
        let state = state.borrow();
        let known = self.reconcile_named(name, &state, now);
        let KeyState::String { value, expires } = state else { return known };
        if !is_valid_owner(value) {
            return known;
        }
        let id = known.or_else(|| self.table.find_or_create(name))?;
        self.adopt_unless_held(id, value, expires, now);
        Some(id)
    }

    /// The chosen locks, created where nothing was known of them.
    fn find_or_create_chosen(
        &mut self,
        db: u32,
        keys: &[&[u8]],
        candidates: &[Candidate],
        chosen: &[Choice<usize>],
    ) -> Result<Vec<Choice<Id>>, CommandError> {
        let mut known = Vec::new();
        for (index, held) in chosen {
            let (Some(key), Some(candidate)) = (keys.get(*index), candidates.get(*index))
            else {
                return Err(CommandError::Internal);
            };
            let made = || self.table.find_or_create(Name { db, key });
            let id = candidate.id.or_else(made).ok_or(CommandError::OutOfMemory)?;
            known.push((id, *held));
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Acquire;
    use crate::rules::test_support::{
        acquire, after, begin, client, counted, held, holder, id, in_session, manager,
        name, queue, replies, request, shows, unique, wait, wait_for_set,
    };
    use crate::state::deferred::Deferred;

    const KEYS: [&str; 3] = ["gpu:0", "gpu:1", "gpu:2"];

    /// A call for `count` of three locks.
    struct Case<'a> {
        what: &'static str,
        /// One letter a lock, see [`prepare`].
        locks: &'static str,
        count: usize,
        how: Acquire<'a>,
        caller: CallerContext,
        /// The indexes of the locks that the caller gets, `=` if it held one before; or of the
        /// free ones if it gets none.
        outcome: Result<&'static str, CommandError>,
        counted: &'static str,
    }

    /// Makes the record of a lock, and returns what its key shows. The lock is: `f`ree; held by
    /// `m`e; held by an`o`ther owner; `s`et by another owner, and not known; free, but `w`aited
    /// for; `r`eserved for a lock set of another waiter; an `e`mpty value; another `t`ype.
    fn prepare(
        manager: &mut LockManager,
        key: &'static str,
        letter: char,
    ) -> OwnedKeyState {
        let waiter = 20 + u64::from(key.as_bytes()[4]);
        match letter {
            'f' => OwnedKeyState::Absent,
            'm' => {
                held(manager, key, "me");
                shows("me").into()
            }
            'o' => {
                held(manager, key, "other");
                shows("other").into()
            }
            's' => shows("other").into(),
            'w' => {
                wait(manager, key, &request("b"), waiter);
                OwnedKeyState::Absent
            }
            'r' => {
                wait_for_set(manager, &[key, "cpu"], 2, &request("b"), waiter);
                manager.hand_off_next(id(manager, key), after(0));
                OwnedKeyState::Absent
            }
            'e' => shows("").into(),
            't' => OwnedKeyState::OtherType,
            _ => unreachable!("{letter}"),
        }
    }

    fn outcome(acquired: AcquiredAny) -> String {
        match acquired {
            AcquiredAny::Granted { writes, grants } => {
                assert!(
                    writes
                        .iter()
                        .map(|write| write.lock)
                        .eq(grants.iter().map(|it| it.lock))
                );
                let shown = grants.iter().zip(&writes).map(|(grant, write)| {
                    let index = char::from(grant.key[4]);
                    format!("{index}{}", if write.renewed { "=" } else { "" })
                });
                format!("granted {}", shown.collect::<Vec<_>>().join(" "))
            }
            AcquiredAny::Contested { free } => {
                let free: Vec<String> = free.iter().map(usize::to_string).collect();
                format!("none, free: {}", free.join(" "))
            }
        }
    }

    fn check(case: &Case<'_>) {
        let what = case.what;
        let mut manager = manager();
        let states: Vec<OwnedKeyState> = KEYS
            .into_iter()
            .zip(case.locks.chars())
            .map(|(key, letter)| prepare(&mut manager, key, letter))
            .collect();
        begin(&mut manager);
        let keys = KEYS.iter().map(|key| key.as_bytes()).collect();
        let call = AcquireAny { keys, count: case.count, how: case.how };
        let acquired = manager.acquire_any(0, &call, &states, case.caller, after(50));
        let expected = case.outcome.clone().map(str::to_owned);
        assert_eq!(acquired.map(outcome), expected, "{what}: outcome");
        assert_eq!(counted(&manager), case.counted, "{what}: counters");
    }

    #[test]
    #[rustfmt::skip]
    fn the_first_free_locks_are_granted_or_none() {
        let call = |what, locks, count, how, outcome, counted| {
            let (caller, outcome) = (client(7), Ok(outcome));
            check(&Case { what, locks, count, how, caller, outcome, counted });
        };
        call("the preferred one", "fff", 1, request("me"),
            "granted 0", "acquire_requests acquired");
        call("the preferred two", "fff", 2, request("me"),
            "granted 0 1", "acquire_requests acquired=2");
        call("held ones are skipped", "ofo", 1, request("me"),
            "granted 1", "acquire_requests acquired");
        call("too few: none is granted", "fof", 3, request("me"),
            "none, free: 0 2", "acquire_requests refused");
        call("none is free", "ooo", 1, request("me"),
            "none, free: ", "acquire_requests refused");
        call("those of the same owner do not count without UNIQUE", "mff", 2, request("me"),
            "granted 1 2", "acquire_requests acquired=2");
        call("with UNIQUE they count first", "ffm", 1, unique("me"),
            "granted 2=", "acquire_requests renewed");
        call("with UNIQUE only the rest is acquired", "fmf", 2, unique("me"),
            "granted 0 1=", "acquire_requests acquired renewed");
        call("at most COUNT of them", "mmm", 2, unique("me"),
            "granted 0= 1=", "acquire_requests renewed=2");
        call("with UNIQUE, too few: none is renewed", "moo", 2, unique("me"),
            "none, free: ", "acquire_requests refused");
        call("a string that the module did not write is adopted", "sff", 1, request("me"),
            "granted 1", "acquire_requests acquired adopted");
        call("an empty value is held, but not adopted", "eff", 1, request("me"),
            "granted 1", "acquire_requests acquired");
        call("a waiter comes first", "wff", 1, request("me"),
            "granted 1", "acquire_requests acquired");
        call("a reserved lock is not free", "rrf", 2, request("me"),
            "none, free: 2", "acquire_requests refused");
    }

    #[test]
    #[rustfmt::skip]
    fn errors_and_callers() {
        let script = CallerContext { client: None, may_wait: false, has_memory: true };
        let no_memory = CallerContext { has_memory: false, ..client(7) };
        let with_block = Acquire { block_ms: Some(0), ..request("me") };
        let too_long = Acquire { lease_ms: Some(86_400_001), ..request("me") };
        let call = |what, locks, count, how, caller, outcome, counted| {
            check(&Case { what, locks, count, how, caller, outcome, counted });
        };
        call("another type, although a preferred lock is free", "fft", 1, request("me"), client(7),
            Err(CommandError::WrongType), "acquire_requests");
        call("SESSION without a connection", "fff", 1, in_session("me", 0), script,
            Err(CommandError::SessionInScript), "acquire_requests");
        call("a lease that is too long", "fff", 1, too_long, client(7),
            Err(CommandError::LeaseTooLong { max_ms: 86_400_000 }), "acquire_requests");
        call("no memory for new holds", "mff", 2, unique("me"), no_memory,
            Err(CommandError::OutOfMemory), "acquire_requests");
        call("a renewal needs no memory", "mff", 1, unique("me"), no_memory,
            Ok("granted 0="), "acquire_requests renewed");
        call("a refusal needs no memory", "ooo", 1, request("me"), no_memory,
            Ok("none, free: "), "acquire_requests refused");
        call("with BLOCK, the caller goes on waiting", "ooo", 1, with_block, client(7),
            Ok("none, free: "), "acquire_requests");
        call("BLOCK in a script is ignored", "ooo", 1, with_block, script,
            Ok("none, free: "), "acquire_requests refused");
    }

    /// Asks for one of some locks, all of them free.
    fn ask(manager: &mut LockManager, keys: &[&str], how: Acquire<'_>) -> String {
        let states = vec![OwnedKeyState::Absent; keys.len()];
        let keys = keys.iter().map(|key| key.as_bytes()).collect();
        let call = AcquireAny { keys, count: 1, how };
        let acquired = manager.acquire_any(0, &call, &states, client(7), after(0));
        acquired.map_or_else(|error| error.to_string(), outcome)
    }

    #[test]
    fn a_free_lock_with_waiters_is_handed_off_as_deferred_work() {
        let mut manager = manager();
        wait(&mut manager, "gpu:0", &request("b"), 2);
        begin(&mut manager);
        assert_eq!(ask(&mut manager, &KEYS, request("me")), "granted 1");
        let lock = id(&manager, "gpu:0");
        assert_eq!(manager.take_deferred(), Some(Deferred::HandOff { lock }));
    }

    #[test]
    fn a_grant_gives_up_the_positions_of_the_unique_owner() {
        let mut manager = manager();
        held(&mut manager, "gpu:0", "other");
        let earlier = wait(&mut manager, "gpu:0", &unique("me"), 2);
        begin(&mut manager);
        manager.reconcile_named(name("gpu:0"), &KeyState::Absent, after(0));
        assert_eq!(ask(&mut manager, &KEYS, unique("me")), "granted 0");
        assert_eq!(queue(&manager, "gpu:0"), "");
        assert_eq!(replies(&mut manager), [(earlier, "null".to_owned())]);
    }

    #[test]
    fn the_same_call_takes_over_its_turn() {
        for (keys, expected) in [
            (&["gpu:1", "gpu:0"][..], "granted 1"),
            // This is another call, and `b` comes before it.
            (&["gpu:0"], "none, free: "),
        ] {
            let mut manager = manager();
            wait_for_set(&mut manager, &["gpu:0", "gpu:1"], 1, &unique("me"), 2);
            wait_for_set(&mut manager, &["gpu:0", "gpu:1"], 1, &request("b"), 3);
            manager.client_gone(2, after(0));
            assert_eq!(ask(&mut manager, keys, unique("me")), expected, "{keys:?}");
        }
    }

    #[test]
    fn only_a_call_for_one_lock_counts_in_the_counters_of_that_lock() {
        for (keys, requests) in [(&["gpu:0"][..], 1), (&KEYS, 0)] {
            let mut manager = manager();
            acquire(&mut manager, "gpu:0", &unique("me"), 1);
            let lock = id(&manager, "gpu:0");
            manager.table.use_counters(lock).unwrap().acquire_requests = 0;
            let mut states = vec![OwnedKeyState::Absent; keys.len()];
            states[0] = shows("me").into();
            let call = AcquireAny {
                keys: keys.iter().map(|key| key.as_bytes()).collect(),
                count: 1,
                how: unique("me"),
            };
            manager.acquire_any(0, &call, &states, client(7), after(0)).unwrap();
            let own = manager.table.use_counters(lock).unwrap();
            assert_eq!((own.acquire_requests, own.renewed), (requests, 1), "{keys:?}");
            assert_eq!(holder(&manager, "gpu:0"), "me");
        }
    }
}
