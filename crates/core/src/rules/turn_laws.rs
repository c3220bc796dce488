//! Tests that the turns keep their laws in random sequences of calls, grants and leaves: plain calls
//! are first in, first out; no call is passed after its bound; and no free lock is left to a queue
//! whose first waiter could have it.

use crate::manager::{Caller, LockManager};
use crate::request::{Acquire, AcquireAny};
use crate::rules::acquire::Acquired;
use crate::rules::acquire_any::{AcquiredAny, Search};
use crate::rules::deadlock::DeadlockCheck;
use crate::rules::hand_off::HandOff;
use crate::rules::leave::LeaveReason;
use crate::rules::session::DeferredOutcome;
use crate::rules::test_support::{client, hand_off_set, name};
use crate::rules::wait::Waiting;
use crate::state::arena::Id;
use crate::state::clock::Now;
use crate::state::deferred::Deferred;
use crate::state::event::End;
use crate::state::key_state::{Expires, KeyState};
use crate::state::outbox::WaitReply;
use crate::state::settings::Settings;
use crate::state::wait_queue::{Ticket, Wanted};

const KEYS: [&str; 3] = ["gpu:0", "gpu:1", "gpu:2"];
const ROUND: u64 = 2;
const SHARES: [&str; 2] = ["ana", "ben"];

/// A call, which has its own owner and client.
#[derive(Clone, Debug)]
struct Call {
    owner: String,
    client: u64,
    keys: Vec<&'static str>,
    count: usize,
    unique: bool,
    priority: i64,
    share: Option<&'static str>,
}

impl Call {
    fn request(&self) -> Acquire<'_> {
        Acquire {
            owner: self.owner.as_bytes(),
            unique: self.unique,
            priority: self.priority,
            share: self.share.map(str::as_bytes),
            block_ms: Some(0),
            ..Acquire::default()
        }
    }

    fn is_plain(&self) -> bool {
        self.priority == 0 && self.share.is_none()
    }
}

/// A call that has joined the queues of its locks.
#[derive(Clone, Debug)]
struct Joined {
    call: Call,
    /// How many calls joined before.
    order: usize,
    /// The places and holds of its share then.
    of_share: i64,
    /// The grants of each of its locks then.
    grants: Vec<u64>,
}

struct Random {
    manager: LockManager,
    random: u64,
    now: Now,
    /// The calls that wait, or whose position is kept.
    joined: Vec<Joined>,
    calls: usize,
    grants: [u64; KEYS.len()],
    /// How often one call passed another: the tests are worth nothing if none did.
    passed: usize,
    /// How many grants there were to plain calls.
    plain: usize,
}

impl Random {
    fn new(seed: u64) -> Self {
        let settings = Settings { round: ROUND, ..Settings::default() };
        let now = Now::from_ms(1_000_000);
        Self {
            manager: LockManager::new(settings, 1, now),
            random: seed,
            now,
            joined: Vec::new(),
            calls: 0,
            grants: [0; KEYS.len()],
            passed: 0,
            plain: 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) as usize % limit
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn new_call(&mut self) -> Call {
        let first = self.below(KEYS.len());
        let of = self.below(KEYS.len()) + 1;
        let keys = (0..of).map(|n| KEYS[(first + n) % KEYS.len()]).collect();
        let is_plain = self.below(2) == 0;
        self.calls += 1;
        Call {
            owner: self.calls.to_string(),
            client: self.calls as u64,
            keys,
            count: self.below(of) + 1,
            unique: self.below(2) == 0,
            priority: if is_plain { 0 } else { self.one_of(&[-1, 0, 1, 3]) },
            share: match self.below(3) {
                share if !is_plain => SHARES.get(share).copied(),
                _ => None,
            },
        }
    }

    fn state(&self, key: &str) -> Option<String> {
        let id = self.manager.table.find(name(key))?;
        let hold = self.manager.table.hold(id)?;
        Some(String::from_utf8_lossy(&hold.owner).into_owned())
    }

    /// The places and holds of the share of a call, counted one by one.
    fn of_share(&self, call: &Call) -> i64 {
        let Some(share) = call.share else { return 0 };
        let ids: Vec<Id> = call
            .keys
            .iter()
            .filter_map(|key| self.manager.table.find(name(key)))
            .collect();
        let is_of_share = |other: Option<&[u8]>| other == Some(share.as_bytes());
        let details = ids.iter().filter_map(|id| self.manager.table.details(*id));
        let holds =
            details.filter(|details| is_of_share(details.share.as_deref())).count();
        let places = ids.iter().map(|id| {
            let positions = self.manager.queues.positions(*id);
            let others = positions.filter(|(_, other)| {
                is_of_share(other.share.as_deref())
                    && other.priority >= call.priority
                    && *other.owner != *call.owner.as_bytes()
            });
            others.count()
        });
        (holds + places.max().unwrap_or(0)) as i64
    }

    /// A call that asks for its locks, and waits.
    fn call(&mut self, call: &Call) {
        let of_share = self.of_share(call);
        let held: Vec<Option<String>> =
            call.keys.iter().map(|key| self.state(key)).collect();
        let states: Vec<KeyState<'_>> = held.iter().map(|owner| state(owner)).collect();
        let keys: Vec<&[u8]> = call.keys.iter().map(|key| key.as_bytes()).collect();
        let request = call.request();
        let (now, caller) = (self.now, client(call.client));
        let free = match &keys[..] {
            [_] => {
                let only = name(call.keys[0]);
                match self
                    .manager
                    .acquire(only, &request, &states[0], caller, now)
                    .unwrap()
                {
                    Acquired::Granted { .. } | Acquired::Renewed { .. } => {
                        return self.granted(call, &call.keys);
                    }
                    Acquired::OthersFirst { next } => self.passed_on(next),
                    Acquired::Held => {}
                }
                Vec::new()
            }
            _ => {
                let asked = AcquireAny {
                    keys: keys.iter().copied().collect(),
                    count: call.count,
                    groups: None,
                    near: None,
                    how: request,
                };
                let mut search = Search::new(0, &asked);
                let mut next =
                    self.manager.search_locks(&mut search, caller, now).unwrap();
                while let Some(index) = next {
                    let state = &states[index];
                    next =
                        self.manager.looked_at(&mut search, index, state, now).unwrap();
                }
                match self.manager.acquire_any(&search, caller, now).unwrap() {
                    AcquiredAny::Granted(grants) => {
                        let keys = grants.iter().map(|grant| call.keys[grant.index]);
                        return self.granted(call, &keys.collect::<Vec<_>>());
                    }
                    AcquiredAny::Contested { free } => free,
                }
            }
        };
        let of_set = keys.len() > 1;
        let wanted = Wanted {
            db: 0,
            keys: &keys,
            count: call.count,
            of_set,
            free: &free,
            ..Wanted::default()
        };
        let skipped = DeadlockCheck::Skipped;
        let waits = self
            .manager
            .wait(wanted, &request, call.client, &skipped, true, now)
            .unwrap();
        let Waiting::Queued(ticket) = waits else { panic!("{waits:?}") };
        self.joins(call, of_share, ticket);
    }

    /// A call has joined its queues, or taken over its position.
    fn joins(&mut self, call: &Call, of_share: i64, ticket: Ticket) {
        if self.joined.iter().any(|it| it.call.owner == call.owner) {
            return;
        }
        let grants = call.keys.iter().map(|key| self.grants_of(key)).collect();
        let turn = self.manager.queues.get(ticket).unwrap().turn;
        for other in self.joined.clone() {
            let theirs = self.turn_of(&other.call);
            if theirs.is_some_and(|theirs| turn < theirs) {
                self.check_passes(call, &other, &call.keys);
            }
        }
        let order = self.calls;
        self.joined.push(Joined { call: call.clone(), order, of_share, grants });
    }

    fn turn_of(&self, call: &Call) -> Option<crate::state::turn::Turn> {
        let id = self.manager.table.find(name(call.keys[0]))?;
        let mut positions = self.manager.queues.positions(id);
        let own = positions.find(|(_, waiter)| *waiter.owner == *call.owner.as_bytes());
        own.map(|(_, waiter)| waiter.turn)
    }

    fn grants_of(&self, key: &str) -> u64 {
        let index = KEYS.iter().position(|it| *it == key).unwrap();
        self.grants[index]
    }

    /// `call` comes before `other` in the queues of `keys`, although it came later.
    fn check_passes(&mut self, call: &Call, other: &Joined, keys: &[&str]) {
        let (n2, n1) = (call.priority, other.call.priority);
        let bound = ROUND as i64 * (n2 - n1 + other.of_share);
        for (key, then) in other.call.keys.iter().zip(&other.grants) {
            if keys.contains(key) {
                let grants = (self.grants_of(key) - then) as i64;
                assert!(
                    grants < bound,
                    "{call:?} passes {other:?} after {grants} grants"
                );
                assert!(!(call.is_plain() && other.call.is_plain()));
                self.passed += 1;
            }
        }
    }

    /// A call gets these locks.
    fn granted(&mut self, call: &Call, keys: &[&str]) {
        let own = self.joined.iter().position(|it| it.call.owner == call.owner);
        let own = own.map(|at| self.joined.remove(at));
        let order = own.as_ref().map_or(usize::MAX, |own| own.order);
        for other in self.joined.clone().iter().filter(|it| it.order < order) {
            let is_away = self.turn_of(&other.call).is_none_or(|_| {
                self.manager.queues.of_client(other.call.client).is_none()
            });
            let shared = other.call.keys.iter().any(|key| keys.contains(key));
            if is_away || !shared {
                continue;
            }
            assert!(
                !(call.is_plain() && other.call.is_plain()),
                "{call:?} is served before {other:?}"
            );
            // A waiter has passed the others when it joined.
            if own.is_none() {
                self.check_passes(call, other, keys);
            }
        }
        self.plain += usize::from(call.is_plain());
        for (key, grants) in KEYS.iter().zip(&mut self.grants) {
            *grants += u64::from(keys.contains(key));
        }
    }

    fn passed_on(&mut self, next: HandOff) {
        if let HandOff::LockSet { ticket, .. } = next {
            hand_off_set(&mut self.manager, ticket, self.now);
        }
    }

    /// Does what is due, and delivers the replies.
    fn settle(&mut self) {
        loop {
            while let Some((_, reply)) = self.manager.outbox.take_reply() {
                let WaitReply::Granted { grants, waiter, .. } = reply else { continue };
                let owner = String::from_utf8_lossy(&waiter.owner).into_owned();
                let call = self.joined.iter().find(|it| it.call.owner == owner);
                let call = call.unwrap().call.clone();
                let key =
                    |key: &[u8]| *KEYS.iter().find(|it| it.as_bytes() == key).unwrap();
                let keys: Vec<&str> =
                    grants.iter().map(|grant| key(&grant.key)).collect();
                self.granted(&call, &keys);
            }
            match self.manager.take_deferred() {
                None => break,
                Some(Deferred::Recount { ticket }) => {
                    if let Some(waiter) = self.manager.queues.get_mut(ticket) {
                        waiter.recount_deferred = false;
                    }
                    hand_off_set(&mut self.manager, ticket, self.now);
                }
                Some(work) => {
                    let key = self.manager.table.get(work.lock().unwrap()).unwrap();
                    let key = String::from_utf8_lossy(&key.key).into_owned();
                    let owner = self.state(&key);
                    let outcome =
                        self.manager.run_deferred(work, &state(&owner), self.now);
                    if let DeferredOutcome::Free(next) | DeferredOutcome::Ended(next) =
                        outcome
                    {
                        self.passed_on(next);
                    }
                }
            }
        }
        self.check_that_no_lock_is_left();
    }

    /// A free lock whose first waiter could have it would be a lost wake-up.
    fn check_that_no_lock_is_left(&mut self) {
        let manager = &mut self.manager;
        for key in KEYS {
            let Some(id) = manager.table.find(name(key)) else { continue };
            if manager.table.hold(id).is_some() {
                continue;
            }
            let Some(first) = manager.queues.first_taker(id) else { continue };
            assert!(manager.table.get(id).unwrap().reserved, "{key} is left");
            let stored = manager.queues.get(first).unwrap().missing;
            assert!(manager.complete_set(first).is_none(), "{key} is left");
            let waiter = manager.queues.get_mut(first).unwrap();
            let missing = std::mem::replace(&mut waiter.missing, stored);
            assert!(stored <= missing, "{stored} locks are missing, not {missing}");
        }
    }

    fn step(&mut self) {
        self.now = Now::from_ms(self.now.ms() + 1);
        let now = self.now;
        match self.below(10) {
            0..4 if self.joined.len() < 8 => {
                let call = self.new_call();
                self.call(&call);
            }
            4..8 => {
                let key = self.one_of(&KEYS);
                let id = self.manager.table.find(name(key));
                if let Some(id) = id.filter(|id| self.manager.table.hold(*id).is_some()) {
                    self.manager.end(id, End::Expired, Caller::default(), now);
                    let next = self.manager.hand_off_next(id, now);
                    self.passed_on(next);
                }
            }
            leaves @ 8.. if !self.joined.is_empty() => {
                let at = self.below(self.joined.len());
                let call = self.joined[at].call.clone();
                match (self.manager.queues.of_client(call.client), leaves) {
                    (Some(ticket), 8) => {
                        self.manager.leave(ticket, LeaveReason::Unblocked, now);
                        self.joined.remove(at);
                    }
                    (Some(_), _) => {
                        self.manager.client_gone(call.client, now);
                        if !call.unique {
                            self.joined.remove(at);
                        }
                    }
                    (None, _) => self.call(&call),
                }
            }
            _ => {}
        }
        self.settle();
    }
}

fn state(owner: &Option<String>) -> KeyState<'_> {
    match owner {
        Some(owner) => KeyState::String {
            value: owner.as_bytes(),
            expires: Expires::At(u64::MAX / 2),
        },
        None => KeyState::Absent,
    }
}

#[test]
fn plain_calls_are_fifo_no_call_is_passed_after_its_bound_and_no_lock_is_left() {
    let (mut passed, mut plain) = (0, 0);
    for seed in 0..100 {
        let mut random = Random::new(seed);
        (0..200).for_each(|_| random.step());
        passed += random.passed;
        plain += random.plain;
    }
    assert!(
        passed > 1_000 && plain > 1_000,
        "{passed} passed, {plain} grants to plain calls"
    );
}
