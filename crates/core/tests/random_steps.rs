//! Random steps of every kind against a keyspace as simple as can be: whatever clients
//! and outsiders do, one owner holds a lock, tokens rise, and the counters add up.

use std::collections::{BTreeMap, BTreeSet};

use gpulock_core::acquire::{Acquired, Asker};
use gpulock_core::acquire_any::AcquiredAny;
use gpulock_core::arena::Id;
use gpulock_core::deadlock::Circles;
use gpulock_core::event::Text;
use gpulock_core::extend::Extended;
use gpulock_core::force_release::Forced;
use gpulock_core::keeper::{Answer, Grant};
use gpulock_core::line::{Ticket, Waiter};
use gpulock_core::list::Listed;
use gpulock_core::lock::Bytes;
use gpulock_core::release::Released;
use gpulock_core::request::{Acquire, AcquireAny, Extend, ForceRelease, Release};
use gpulock_core::seen::{Glimpse, Shown};
use gpulock_core::serve::{Handed, Next};
use gpulock_core::session::{MadeGood, Owed};
use gpulock_core::settings::{Events, Settings};
use gpulock_core::wait::{Leaving, Waiting, Wanted};
use gpulock_core::{Fault, Keeper, Name, Now, Seen};
use proptest::collection::vec;
use proptest::prelude::*;

const KEYS: [&[u8]; 4] = [b"gpu:0", b"gpu:1", b"gpu:2", b""];
const OWNERS: [&[u8]; 3] = [b"a", b"b", b"c"];
const CLIENTS: u64 = 6;
const PLACE_KEEP_MS: u64 = 150;

/// Who asks for what, and how.
#[derive(Clone, Debug)]
struct Ask {
    client: u64,
    /// One lock, or those of a set, the one liked best first.
    keys: Vec<usize>,
    /// How many of the set; none: it is one lock alone that is asked for.
    count: Option<usize>,
    owner: usize,
    lease_ms: Option<u64>,
    unique: bool,
    block_ms: Option<u64>,
    session_grace_ms: Option<u64>,
    room: bool,
    /// The client is closed in the turn in which it is granted the lock.
    lost: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(Ask),
    DropClient { client: u64 },
    Unblock { client: u64, with_error: bool },
    Tick,
    Release { key: usize, owner: usize, right_token: Option<bool> },
    Extend { key: usize, owner: usize, lease_ms: u64 },
    Force { key: usize, owner: Option<usize>, right_token: Option<bool> },
    Inspect { key: usize },
    OutsideSet { key: usize, value: usize, ttl_ms: Option<u64> },
    OutsideOther { key: usize },
    OutsideDelete { key: usize },
    OutsideExpiry { key: usize, ttl_ms: Option<u64> },
    Evict { key: usize },
    Pass { ms: u64 },
    ClockBack { ms: u64 },
    Sweep,
    ResetStats,
    Track { keys: u64 },
    Demote,
}

fn ask() -> impl Strategy<Value = Ask> {
    let wait = prop::option::weighted(0.7, prop_oneof![Just(0u64), 1..300u64]);
    let session = prop::option::weighted(0.3, prop_oneof![Just(0u64), 1..100u64]);
    let who = (0..CLIENTS, keys(), 0..OWNERS.len());
    let lease = prop::option::of(1..300u64);
    let how = (any::<bool>(), prop::bool::weighted(0.95), prop::bool::weighted(0.1));
    (who, lease, wait, session, how).prop_map(
        |((client, (keys, count), owner), lease_ms, block_ms, session_grace_ms, how)| {
            let (unique, room, lost) = how;
            Ask {
                client,
                keys,
                count,
                owner,
                lease_ms,
                unique,
                block_ms,
                session_grace_ms,
                room,
                lost,
            }
        },
    )
}

/// One lock, or some of a set.
fn keys() -> impl Strategy<Value = (Vec<usize>, Option<usize>)> {
    let all: Vec<usize> = (0..KEYS.len()).collect();
    let set = prop::sample::subsequence(all, 1..=KEYS.len()).prop_shuffle();
    prop_oneof![
        3 => (0..KEYS.len()).prop_map(|key| (vec![key], None)),
        2 => (set, 1..=KEYS.len()).prop_map(|(keys, count)| {
            let count = count.min(keys.len());
            (keys, Some(count))
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let owner = 0..OWNERS.len();
    let right = || prop::option::weighted(0.3, any::<bool>());
    prop_oneof![
        14 => ask().prop_map(Step::Acquire),
        2 => (0..CLIENTS).prop_map(|client| Step::DropClient { client }),
        1 => (0..CLIENTS, any::<bool>())
            .prop_map(|(client, with_error)| Step::Unblock { client, with_error }),
        4 => Just(Step::Tick),
        6 => (key.clone(), owner.clone(), right()).prop_map(|(key, owner, right_token)| {
            Step::Release { key, owner, right_token }
        }),
        3 => (key.clone(), owner.clone(), 1..300u64)
            .prop_map(|(key, owner, lease_ms)| Step::Extend { key, owner, lease_ms }),
        2 => (key.clone(), prop::option::of(owner), right())
            .prop_map(|(key, owner, right_token)| Step::Force { key, owner, right_token }),
        1 => key.clone().prop_map(|key| Step::Inspect { key }),
        2 => (key.clone(), 0..5usize, prop::option::of(1..300u64))
            .prop_map(|(key, value, ttl_ms)| Step::OutsideSet { key, value, ttl_ms }),
        1 => key.clone().prop_map(|key| Step::OutsideOther { key }),
        1 => key.clone().prop_map(|key| Step::OutsideDelete { key }),
        1 => (key.clone(), prop::option::of(1..300u64))
            .prop_map(|(key, ttl_ms)| Step::OutsideExpiry { key, ttl_ms }),
        1 => key.prop_map(|key| Step::Evict { key }),
        4 => (0..200u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..500u64).prop_map(|ms| Step::ClockBack { ms }),
        3 => Just(Step::Sweep),
        1 => Just(Step::ResetStats),
        1 => (0..4u64).prop_map(|keys| Step::Track { keys }),
        1 => Just(Step::Demote),
    ]
}

#[derive(Clone)]
enum Value {
    Text(Vec<u8>, Option<u64>),
    Other,
}

/// A server: its keys, its clock, and the keeper.
struct World {
    keeper: Keeper,
    keys: BTreeMap<usize, Value>,
    micros: u64,
    last_token: u64,
    /// The token of each lock that the keeper granted, as its holder knows it.
    tokens: BTreeMap<usize, u64>,
    /// All who wait, as they must stand: first come, first served.
    line: Vec<Place>,
    /// Grants whose client was closed in the same turn.
    lost: Vec<(Vec<Grant>, Box<Waiter>, Vec<Bytes>)>,
    /// What a set that is being served held already.
    renewed: BTreeSet<usize>,
}

/// A place in a line.
struct Place {
    keys: Vec<usize>,
    wants: usize,
    of_set: bool,
    owner: usize,
    unique: bool,
    /// Who waits there; none: the place is kept until then.
    waits: Result<Wait, u64>,
}

impl Place {
    /// It waits for just what is asked for now.
    fn is_same(&self, ask: &Ask, count: usize) -> bool {
        let sorted = |keys: &[usize]| keys.iter().copied().collect::<BTreeSet<_>>();
        self.wants == count && sorted(&self.keys) == sorted(&ask.keys)
    }
}

impl Ask {
    fn request(&self) -> Acquire<'static> {
        Acquire {
            owner: OWNERS[self.owner],
            lease_ms: self.lease_ms,
            unique: self.unique,
            block_ms: self.block_ms,
            session_grace_ms: self.session_grace_ms,
        }
    }

    fn asker(&self) -> Asker {
        Asker { client: Some(self.client), may_wait: true, room: self.room }
    }
}

struct Wait {
    ticket: Ticket,
    client: u64,
    lost: bool,
}

fn value(n: usize) -> Vec<u8> {
    match n {
        3 => Vec::new(),
        4 => vec![b'x'; 1025],
        n => OWNERS[n].to_vec(),
    }
}

impl World {
    fn new(events: Events) -> Self {
        let settings = Settings {
            default_lease: 250,
            max_lease: 280,
            max_hold: 400,
            warn_hold: 100,
            tracked_keys: 2,
            log_len: 4,
            place_keep: PLACE_KEEP_MS,
            events,
            ..Settings::default()
        };
        let micros = 1_000_000_000;
        Self {
            keeper: Keeper::new(settings, 1, Now::from_micros(micros)),
            keys: BTreeMap::new(),
            micros,
            last_token: 0,
            tokens: BTreeMap::new(),
            line: Vec::new(),
            lost: Vec::new(),
            renewed: BTreeSet::new(),
        }
    }

    fn now(&self) -> Now {
        Now::from_micros(self.micros)
    }

    /// What the key shows; one whose time is over is deleted, as a server does it.
    fn show(&mut self, key: usize) -> Option<Value> {
        if let Some(Value::Text(_, Some(until))) = self.keys.get(&key)
            && self.now().ms() > *until
        {
            self.keys.remove(&key);
        }
        self.keys.get(&key).cloned()
    }

    fn token_of(&self, key: usize, right: Option<bool>) -> Option<u64> {
        let token = self.tokens.get(&key).copied().unwrap_or(77);
        right.map(|right| if right { token } else { token + 1 })
    }

    fn granted(&mut self, key: usize, token: u64) {
        assert!(token > self.last_token, "tokens rise");
        self.last_token = token;
        self.tokens.insert(key, token);
    }

    fn take(&mut self, step: Step) {
        let now = self.now();
        let shown = match step {
            Step::Release { key, .. }
            | Step::Extend { key, .. }
            | Step::Force { key, .. }
            | Step::Inspect { key } => self.show(key),
            _ => None,
        };
        let seen = see(&shown);
        let held_by = match &shown {
            Some(Value::Text(value, _)) => Some(value.clone()),
            _ => None,
        };
        match step {
            Step::Acquire(ask)
                if self.waiting().any(|wait| wait.client == ask.client) => {}
            Step::Acquire(ask) => match ask.count {
                None => self.acquire(&ask),
                Some(count) => self.acquire_any(&ask, count),
            },
            Step::DropClient { client } => {
                self.keeper.client_gone(client, now);
                self.abandon(client, true);
                self.make_good();
            }
            Step::Unblock { client, with_error } => {
                if let Some(ticket) = self.abandon(client, false) {
                    let why = match with_error {
                        true => Leaving::UnblockedWithError,
                        false => Leaving::Unblocked,
                    };
                    assert!(self.keeper.leave(ticket, why, now).is_some());
                }
            }
            Step::Tick => self.tick(),
            Step::Release { key, owner, right_token } => {
                let token = self.token_of(key, right_token);
                let reason = Text::Borrowed(b"normal");
                let ask = Release { owner: OWNERS[owner], token, reason };
                let name = Name { db: 0, key: KEYS[key] };
                match self.keeper.release(name, ask, &seen, Some(1), now) {
                    Ok(Released::Freed(next)) => {
                        assert_eq!(held_by.as_deref(), Some(OWNERS[owner]));
                        self.pass_on(key, next);
                    }
                    Ok(Released::NotHeld) => assert!(
                        held_by.as_deref() != Some(OWNERS[owner]) || token.is_some()
                    ),
                    Err(_) => assert!(matches!(seen, Seen::Other)),
                }
            }
            Step::Extend { key, owner, lease_ms } => {
                let ask = Extend {
                    owner: OWNERS[owner],
                    lease_ms: Some(lease_ms),
                    token: None,
                };
                let name = Name { db: 0, key: KEYS[key] };
                match self.keeper.extend(name, &ask, &seen, now) {
                    Ok(Extended::Renewed { token, until_ms }) => {
                        assert_eq!(held_by.as_deref(), Some(OWNERS[owner]));
                        self.renewed(key, token, until_ms);
                    }
                    Ok(Extended::NotHeld) => {
                        assert_ne!(held_by.as_deref(), Some(OWNERS[owner]));
                    }
                    Err(_) => assert!(lease_ms > 280 || matches!(seen, Seen::Other)),
                }
            }
            Step::Force { key, owner, right_token } => {
                let token = self.token_of(key, right_token);
                let ask = ForceRelease {
                    owner: owner.map(|owner| OWNERS[owner]),
                    token,
                    reason: Text::Borrowed(b"forced"),
                };
                let name = Name { db: 0, key: KEYS[key] };
                match self.keeper.force_release(name, ask, &seen, None, now) {
                    Ok(Forced::Freed { owner: from, next }) => {
                        assert_eq!(held_by.as_deref(), Some(&*from));
                        assert!(owner.is_none_or(|owner| OWNERS[owner] == &*from));
                        self.pass_on(key, next);
                    }
                    Ok(Forced::NotTaken) => {}
                    Err(_) => assert!(matches!(seen, Seen::Other)),
                }
            }
            Step::Inspect { key } => {
                let name = Name { db: 0, key: KEYS[key] };
                if let Ok(shown) = self.keeper.inspect(name, &seen, now) {
                    let owner = held_by.filter(|o| (1..=1024).contains(&o.len()));
                    assert_eq!(shown.and_then(|s| s.owner).as_deref(), owner.as_deref());
                }
            }
            Step::OutsideSet { key, value: n, ttl_ms } => {
                let until = ttl_ms.map(|ttl| now.ms() + ttl);
                self.keys.insert(key, Value::Text(value(n), until));
            }
            Step::OutsideOther { key } => drop(self.keys.insert(key, Value::Other)),
            Step::OutsideDelete { key } => drop(self.keys.remove(&key)),
            Step::OutsideExpiry { key, ttl_ms } => {
                if let Some(Value::Text(_, until)) = self.keys.get_mut(&key) {
                    *until = ttl_ms.map(|ttl| now.ms() + ttl);
                }
            }
            Step::Evict { key } => {
                if self.keys.remove(&key).is_some() {
                    self.keeper.evicted(Name { db: 0, key: KEYS[key] }, now);
                }
            }
            Step::Pass { ms } => self.micros += ms * 1000,
            Step::ClockBack { ms } => self.micros -= ms * 1000,
            Step::Sweep => self.sweep(),
            Step::ResetStats => {
                self.keeper.reset_stats();
                assert_eq!(self.keeper.counters().adopted, self.keeper.table().held());
            }
            Step::Track { keys } => self.keeper.configure(|s| s.tracked_keys = keys),
            Step::Demote => {
                self.keeper.demoted(now);
                let waiting = self.waiting().count();
                let mut told = 0;
                while let Some((_, answer)) = self.keeper.take_answer() {
                    assert_eq!(answer, Answer::Refused(Fault::Unblocked));
                    told += 1;
                }
                assert_eq!(told, waiting, "each waiter is told once");
                self.line.clear();
                assert!(self.keeper.lines().is_empty());
                assert_eq!(self.keeper.table().held(), 0);
                self.keeper.promoted(now);
                self.tokens.clear();
            }
        }
        self.hear();
        self.make_good();
        self.check();
    }

    fn renewed(&mut self, key: usize, token: u64, until_ms: u64) {
        if token > self.last_token {
            self.granted(key, token);
        } else {
            assert_eq!(self.tokens.get(&key), Some(&token), "renewed with its token");
        }
        let Some(Value::Text(_, until)) = self.keys.get_mut(&key) else {
            panic!("renewed what is not held");
        };
        *until = Some(until_ms);
    }

    fn sweep(&mut self) {
        let now = self.now();
        self.keeper.begin_sweep(now);
        let due = std::iter::from_fn(|| self.keeper.next_due(now)).collect();
        self.look(due);
    }

    fn look(&mut self, due: Vec<Id>) {
        let now = self.now();
        for id in due {
            let Some(lock) = self.keeper.table().get(id) else { continue };
            let key = KEYS.iter().position(|key| *key == &*lock.key).unwrap();
            let shown = self.show(key);
            let glimpse = match &shown {
                None => Glimpse::Absent,
                Some(Value::Text(value, expires)) => {
                    Glimpse::Text { len: value.len(), expires: *expires }
                }
                Some(Value::Other) => Glimpse::Other,
            };
            if !self.keeper.agrees(id, glimpse) {
                let next = self.keeper.looked_at(id, &see(&shown), now);
                self.fill(key, &shown, next);
            }
            self.hear();
        }
    }

    fn acquire(&mut self, ask: &Ask) {
        let now = self.now();
        let (key, owner) = (ask.keys[0], ask.owner);
        let shown = self.show(key);
        let (seen, name) = (see(&shown), Name { db: 0, key: KEYS[key] });
        let request = ask.request();
        match self.keeper.acquire(name, &request, &seen, ask.asker(), now) {
            Ok(Acquired::Granted { token, until_ms }) => {
                self.hear();
                self.granted_at_once(ask, 1, &[key]);
                self.takes(key, owner, token, until_ms);
            }
            Ok(Acquired::Renewed { token, until_ms }) => {
                let held = matches!(shown, Some(Value::Text(v, _)) if v == OWNERS[owner]);
                assert!(ask.unique && held);
                self.renewed(key, token, until_ms);
            }
            Ok(Acquired::Contested { next }) => {
                assert!(
                    shown.is_some() || next != Next::Nobody,
                    "contested only when held"
                );
                self.fill(key, &shown, next);
                if ask.block_ms.is_some() {
                    self.wait(ask, 1, &[]);
                }
            }
            Err(_) => {
                let long = ask.lease_ms.is_some_and(|ms| ms > 280);
                assert!(long || !ask.room || matches!(seen, Seen::Other));
            }
        }
    }

    fn acquire_any(&mut self, ask: &Ask, count: usize) {
        let now = self.now();
        self.end_waits();
        let shown: Vec<_> = ask.keys.iter().map(|key| self.show(*key)).collect();
        let seen: Vec<Shown> = shown.iter().map(|shown| see(shown).into()).collect();
        let keys = ask.keys.iter().map(|key| KEYS[*key]).collect();
        let request = AcquireAny { keys, count, how: ask.request() };
        let owner = ask.owner;
        let is_own = |shown: &Option<Value>| {
            ask.unique && matches!(shown, Some(Value::Text(v, _)) if v == OWNERS[owner])
        };
        match self.keeper.acquire_any(0, &request, &seen, ask.asker(), now) {
            Ok(AcquiredAny::Granted { parts, grants }) => {
                self.hear();
                assert_eq!((parts.len(), grants.len()), (count, count), "all or none");
                let held = shown.iter().filter(|shown| is_own(shown)).count();
                let renewed = parts.iter().filter(|part| part.renewed).count();
                assert_eq!(renewed, held.min(count), "what is held counts first");
                let place = |grant: &Grant| KEYS.iter().position(|k| *k == &*grant.key);
                let got: Vec<usize> = grants.iter().filter_map(place).collect();
                let order = |key: &usize| ask.keys.iter().position(|k| k == key);
                assert!(got.iter().is_sorted_by_key(order), "in the order of the keys");
                let new: Vec<usize> = got
                    .iter()
                    .zip(&parts)
                    .filter_map(|(key, part)| (!part.renewed).then_some(*key))
                    .collect();
                let passed = ask.keys.iter().filter(|key| {
                    new.last().is_some_and(|last| order(key) < order(last))
                        && !got.contains(key)
                });
                for key in passed {
                    let shown = self.show(*key);
                    let own = |p: &Place| ask.unique && p.unique && p.owner == owner;
                    let first = self.first_but(*key, own);
                    assert!(shown.is_some() || first.is_some(), "the first free ones");
                }
                if !new.is_empty() {
                    self.granted_at_once(ask, count, &new);
                }
                for ((key, part), grant) in got.into_iter().zip(&parts).zip(&grants) {
                    match part.renewed {
                        true => self.renewed(key, grant.token, part.until_ms),
                        false => self.takes(key, owner, grant.token, part.until_ms),
                    }
                }
            }
            Ok(AcquiredAny::Contested { free }) => {
                self.hear();
                let held = shown.iter().filter(|shown| is_own(shown)).count();
                assert!(free.len() + held < count, "refused only when too few are free");
                if ask.block_ms.is_some() {
                    self.wait(ask, count, &free);
                }
            }
            Err(_) => {
                self.hear();
                let long = ask.lease_ms.is_some_and(|ms| ms > 280);
                let other = seen.contains(&Shown::Other);
                assert!(long || !ask.room || other);
            }
        }
    }

    /// A call was granted locks at once: nobody who was there stood before it, and the
    /// other calls of its owner in these lines are over.
    fn granted_at_once(&mut self, ask: &Ask, count: usize, new: &[usize]) {
        assert!(ask.room, "granted only when there is room");
        let own = |place: &Place| {
            ask.unique
                && place.unique
                && place.owner == ask.owner
                && place.keys.iter().any(|key| ask.keys.contains(key))
        };
        let same = |place: &Place| place.is_same(ask, count);
        let mine: Vec<usize> =
            (0..self.line.len()).filter(|at| own(&self.line[*at])).collect();
        let turn = match mine[..] {
            [only] if same(&self.line[only]) => only,
            _ => usize::MAX,
        };
        for key in new {
            let first = self.line.iter().position(|place| {
                place.waits.is_ok() && place.keys.contains(key) && !own(place)
            });
            assert!(first.is_none_or(|first| turn < first), "nobody is passed over");
        }
        self.line.retain(|place| !own(place));
    }

    fn takes(&mut self, key: usize, owner: usize, token: u64, until_ms: u64) {
        let now_ms = self.now().ms();
        assert!(self.show(key).is_none(), "granted only when free");
        assert!(until_ms > now_ms && until_ms <= now_ms + 280);
        self.granted(key, token);
        self.keys.insert(key, Value::Text(OWNERS[owner].to_vec(), Some(until_ms)));
    }

    /// The first in the line of a key who is there, those left out but for.
    fn first_but(&self, key: usize, but: impl Fn(&Place) -> bool) -> Option<usize> {
        self.line.iter().position(|place| {
            place.waits.is_ok() && place.keys.contains(&key) && !but(place)
        })
    }

    fn wait(&mut self, ask: &Ask, count: usize, free: &[usize]) {
        let now = self.now();
        let keys: Vec<&[u8]> = ask.keys.iter().map(|key| KEYS[*key]).collect();
        let of_set = ask.count.is_some();
        let wanted = Wanted { db: 0, keys: &keys, count, of_set, free };
        let request = ask.request();
        let mut circles = Circles::SureOf(Vec::new());
        let ticket = loop {
            match self.keeper.wait(wanted, &request, ask.client, &circles, ask.room, now)
            {
                Ok(Waiting::Begun(ticket)) => break ticket,
                Ok(Waiting::LookFirst(locks)) => {
                    self.look(locks.clone());
                    circles = Circles::SureOf(locks);
                }
                Err(Fault::Deadlock { .. }) => {
                    assert!(ask.unique && self.is_circle(ask, count), "no alarm");
                    return;
                }
                Err(fault) => {
                    assert!(fault == Fault::OutOfMemory && !ask.room, "{fault}");
                    return;
                }
            }
        };
        self.hear();
        let waits = Ok(Wait { ticket, client: ask.client, lost: ask.lost });
        let own = |place: &Place| {
            ask.unique
                && place.unique
                && place.owner == ask.owner
                && place.keys.iter().any(|key| ask.keys.contains(key))
        };
        let mine: Vec<usize> =
            (0..self.line.len()).filter(|at| own(&self.line[*at])).collect();
        match mine[..] {
            [only] if self.line[only].is_same(ask, count) => {
                self.line[only].waits = waits;
                self.line[only].of_set = ask.count.is_some();
                self.line[only].keys.clone_from(&ask.keys);
            }
            _ => {
                self.line.retain(|place| !own(place));
                let (keys, wants) = (ask.keys.clone(), count);
                let of_set = ask.count.is_some();
                let (owner, unique) = (ask.owner, ask.unique);
                self.line.push(Place { keys, wants, of_set, owner, unique, waits });
            }
        }
        assert!(!(ask.unique && self.is_circle(ask, count)), "a circle is refused");
    }

    /// Whether the owner, if it waits for all of these, waits for itself: followed through
    /// what the keys show.
    fn is_circle(&mut self, ask: &Ask, count: usize) -> bool {
        let overlaps =
            |place: &Place| place.keys.iter().any(|key| ask.keys.contains(key));
        let mut calls = self.line.iter().filter(|place| {
            place.unique && place.waits.is_ok() && place.owner == ask.owner
        });
        if count < ask.keys.len() || calls.any(|place| !overlaps(place)) {
            return false;
        }
        let mut reached: BTreeSet<usize> = ask.keys.iter().copied().collect();
        if ask.keys.len() > 1 {
            reached.retain(|key| self.sure_holder(*key) != Some(ask.owner));
        }
        loop {
            let before = reached.clone();
            for key in &before {
                let Some(holder) = self.sure_holder(*key) else { continue };
                if holder == ask.owner {
                    return true;
                }
                let calls: Vec<&Place> = self
                    .line
                    .iter()
                    .filter(|p| p.unique && p.waits.is_ok() && p.owner == holder)
                    .collect();
                let [only] = calls[..] else { continue };
                let Ok(wait) = &only.waits else { continue };
                let waiter = self.keeper.lines().get(wait.ticket).unwrap();
                let is_over = waiter.deadline_ms.is_some_and(|ms| ms <= self.now().ms());
                if only.wants == only.keys.len() && !is_over {
                    let needed = only.keys.clone();
                    reached.extend(
                        needed
                            .into_iter()
                            .filter(|k| self.sure_holder(*k) != Some(holder)),
                    );
                }
            }
            if reached == before {
                return false;
            }
        }
    }

    /// Who holds a lock that the keeper granted to a UNIQUE owner.
    fn sure_holder(&mut self, key: usize) -> Option<usize> {
        let Some(Value::Text(value, _)) = self.show(key) else { return None };
        let granted = self.keeper.table().find(Name { db: 0, key: KEYS[key] });
        let hold = granted.and_then(|id| self.keeper.table().get(id)?.hold.as_ref())?;
        let is_sure = !hold.adopted && hold.unique && hold.owner[..] == value[..];
        is_sure.then(|| OWNERS.iter().position(|owner| *owner == value)).flatten()
    }

    fn waiting(&self) -> impl Iterator<Item = &Wait> {
        self.line.iter().filter_map(|place| place.waits.as_ref().ok())
    }

    /// The wait of a client ends without an answer; its place may be kept.
    fn abandon(&mut self, client: u64, keeps_place: bool) -> Option<Ticket> {
        let until_ms = self.now().ms() + PLACE_KEEP_MS;
        let is_its =
            |place: &Place| place.waits.as_ref().is_ok_and(|wait| wait.client == client);
        let at = self.line.iter().position(is_its)?;
        let ticket = self.line[at].waits.as_ref().ok().map(|wait| wait.ticket);
        if self.line[at].unique && keeps_place {
            self.line[at].waits = Err(until_ms);
        } else {
            self.line.remove(at);
        }
        ticket
    }

    /// The hold of a key is over.
    fn pass_on(&mut self, key: usize, next: Next) {
        match next {
            Next::Nobody | Next::SetAside => self.freed(key),
            Next::One(handed) => self.handed_over(key, &handed),
            Next::Set { ticket, lock } => self.give_set(ticket, Some((lock, key))),
        }
        self.hear();
    }

    /// A key without a hold was looked at.
    fn fill(&mut self, key: usize, shown: &Option<Value>, next: Next) {
        match next {
            Next::Nobody | Next::SetAside => {}
            Next::One(handed) => {
                assert!(shown.is_none());
                self.handed_over(key, &handed);
            }
            Next::Set { ticket, .. } => self.give_set(ticket, None),
        }
        self.hear();
    }

    fn give_set(&mut self, ticket: Ticket, in_hand: Option<(Id, usize)>) {
        let now = self.now();
        let mut seen: BTreeSet<Id> = in_hand.iter().map(|(lock, _)| *lock).collect();
        loop {
            let unseen = self.keeper.unseen_of(ticket, &seen);
            if unseen.is_empty() {
                break;
            }
            for id in unseen {
                seen.insert(id);
                let shown = self.show(self.key_of(id));
                self.keeper.looked_at_for_set(id, &see(&shown), now);
            }
        }
        let parts = self.keeper.serve_set(ticket, now).unwrap_or_default();
        if let Some((_, key)) = in_hand {
            self.freed(key);
        }
        for part in parts {
            let key = self.key_of(part.lock);
            let handed = Handed { owner: part.owner, until_ms: part.until_ms };
            match (self.show(key), part.renewed) {
                (None, false) => self.handed_over(key, &handed),
                (Some(Value::Text(value, _)), true) => {
                    assert_eq!(value[..], handed.owner[..]);
                    self.renewed.insert(key);
                    self.keys.insert(key, Value::Text(value, Some(handed.until_ms)));
                }
                _ => panic!("a share of what is not there"),
            }
        }
    }

    fn key_of(&self, id: Id) -> usize {
        let lock = self.keeper.table().get(id).unwrap();
        KEYS.iter().position(|key| *key == &*lock.key).unwrap()
    }

    fn freed(&mut self, key: usize) {
        self.keys.remove(&key);
        self.tokens.remove(&key);
    }

    fn handed_over(&mut self, key: usize, handed: &Handed) {
        let value = Value::Text(handed.owner.to_vec(), Some(handed.until_ms));
        self.keys.insert(key, value);
        self.tokens.remove(&key);
    }

    /// Hears the answers that waiting clients are given.
    fn hear(&mut self) {
        let mut lost = Vec::new();
        while let Some((ticket, answer)) = self.keeper.take_answer() {
            let is_it = |place: &Place| {
                place.waits.as_ref().is_ok_and(|wait| wait.ticket == ticket)
            };
            let at = self.line.iter().position(is_it);
            let at = at.expect("an answer for somebody who waits");
            let until_ms = self.now().ms() + PLACE_KEEP_MS;
            match answer {
                Answer::Granted { grants, waiter, set } => {
                    assert_eq!(grants.len(), self.line[at].wants, "all or none");
                    let mut has_new = false;
                    for grant in &grants {
                        let key = KEYS.iter().position(|key| *key == &*grant.key);
                        let key = key.expect("a key that it asked for");
                        if self.renewed.remove(&key) {
                            if grant.token > self.last_token {
                                self.granted(key, grant.token);
                            }
                            continue;
                        }
                        let first = self.first_but(key, |_| false);
                        assert_eq!(first, Some(at), "first come, first served");
                        has_new = true;
                        self.granted(key, grant.token);
                    }
                    let is_lost =
                        self.line[at].waits.as_ref().is_ok_and(|wait| wait.lost);
                    if is_lost && has_new && self.line[at].unique {
                        self.line[at].waits = Err(until_ms);
                    } else {
                        self.line.remove(at);
                    }
                    if is_lost {
                        lost.push((grants, waiter, set));
                    }
                }
                Answer::Null if self.line[at].unique => {
                    self.line[at].waits = Err(until_ms);
                }
                Answer::Null => drop(self.line.remove(at)),
                Answer::Refused(fault) => panic!("{fault}"),
            }
        }
        self.lost.extend(lost);
    }

    fn make_good(&mut self) {
        loop {
            for (grants, waiter, set) in std::mem::take(&mut self.lost) {
                self.keeper.undelivered(&grants, &waiter, &set);
            }
            let Some(owed) = self.keeper.take_owed() else { return };
            self.make_good_one(owed);
            self.hear();
        }
    }

    fn make_good_one(&mut self, owed: Owed) {
        let now = self.now();
        if let Owed::Share { ticket } = owed {
            self.give_set(ticket, None);
            return;
        }
        let id = owed.lock().unwrap();
        if self.keeper.table().get(id).is_none() {
            return;
        }
        let key = self.key_of(id);
        let shown = self.show(key);
        match self.keeper.make_good(owed, &see(&shown), now) {
            MadeGood::Nothing => {}
            MadeGood::Freed(next) => self.pass_on(key, next),
            MadeGood::Served(next) => self.fill(key, &shown, next),
            MadeGood::Cut { until_ms } => {
                let Some(Value::Text(_, until)) = self.keys.get_mut(&key) else {
                    panic!("a grace for what is not held");
                };
                assert!(until.is_none_or(|until| until > until_ms));
                *until = Some(until_ms);
            }
        }
    }

    /// What the timer does. Afterwards nobody waits for a lock that is free: not later than
    /// the second time when the clock was stepped back a little.
    fn tick(&mut self) {
        self.tick_once();
        self.tick_once();
        for at in 0..self.line.len() {
            if self.line[at].waits.is_ok() {
                let (keys, owner) = (self.line[at].keys.clone(), self.line[at].owner);
                let unique = self.line[at].unique && self.line[at].of_set;
                let has = |world: &mut Self, key: usize| match world.show(key) {
                    None => world.first_but(key, |_| false) == Some(at),
                    // An adopted lock may be overwritten unnoticed: see `Keeper::agrees`.
                    Some(Value::Text(value, _)) => {
                        let name = Name { db: 0, key: KEYS[key] };
                        let table = world.keeper.table();
                        let hold =
                            table.find(name).and_then(|id| table.get(id)?.hold.as_ref());
                        let known = hold.is_some_and(|hold| hold.owner[..] == value[..]);
                        unique && known && value == OWNERS[owner]
                    }
                    Some(Value::Other) => false,
                };
                let share = keys.into_iter().filter(|key| has(self, *key)).count();
                assert!(share < self.line[at].wants, "no lost wake-up");
            }
        }
    }

    /// Everything is given up again and again: everybody who waits is served.
    fn serve_all(&mut self) {
        for _ in 0..=self.line.len() {
            self.keys.clear();
            self.tick();
            self.check();
        }
        assert_eq!(self.waiting().count(), 0, "nobody starves");
    }

    fn end_waits(&mut self) {
        let now = self.now();
        self.keeper.end_waits(now);
        self.hear();
        self.line
            .retain(|place| place.waits.as_ref().err().is_none_or(|ms| *ms > now.ms()));
    }

    fn tick_once(&mut self) {
        self.micros += 6_000;
        let now = self.now();
        self.end_waits();
        self.make_good();
        let mut due = Vec::new();
        self.keeper.due_lines(now, &mut due);
        self.look(due);
        self.make_good();
        let wake_ms = self.keeper.next_wake_ms(now);
        assert!(
            self.waiting().count() == 0 || wake_ms.is_some_and(|ms| ms <= now.ms() + 6)
        );
    }

    /// What must hold at every moment.
    fn check(&self) {
        let table = self.keeper.table();
        let ids: BTreeSet<_> = table.by_age().collect();
        assert_eq!(u64::try_from(ids.len()).unwrap(), table.held());
        assert_eq!(self.keeper.counters().held_by_law(), table.held(), "the law");
        for lock in table.tracked() {
            let counters = lock.counters.as_deref().unwrap();
            assert_eq!(counters.held_by_law(), u64::from(lock.hold.is_some()));
        }
        let known = (0..table.pages()).flat_map(|page| table.page(page));
        for (_, lock) in known {
            let idle = lock.hold.is_none() && lock.counters.is_none() && lock.places == 0;
            assert!(!idle, "nothing idle is kept: {lock:?}");
        }
        let lines = self.keeper.lines();
        assert_eq!(lines.len(), self.line.len(), "every place is known: {lines:?}");
        assert_eq!(lines.clients(), self.waiting().count());
        assert!(self.keeper.log().entries().count() <= 4);
    }

    /// Looks at every lock, as LIST does; then all that is known is what the keys show.
    fn list_all(&mut self) {
        let now = self.now();
        for id in self.keeper.table().by_age().collect::<Vec<_>>() {
            let lock = self.keeper.table().get(id).unwrap();
            let key = KEYS.iter().position(|key| *key == &*lock.key).unwrap();
            let shown = self.show(key);
            if let Listed::Row(row) = self.keeper.list_row(id, &see(&shown), now) {
                let value = match &shown {
                    Some(Value::Text(value, _)) => Some(&value[..]),
                    _ => None,
                };
                match row.owner {
                    Some(owner) => assert_eq!(Some(&owner[..]), value),
                    None => assert!(row.waiting > 0),
                }
            }
        }
        self.check();
    }
}

fn see(shown: &Option<Value>) -> Seen<'_> {
    match shown {
        None => Seen::Absent,
        Some(Value::Text(value, expires)) => {
            Seen::Text { value, expires: (*expires).into() }
        }
        Some(Value::Other) => Seen::Other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn one_owner_rising_tokens_and_counters_that_add_up(
        steps in vec(step(), 1..120),
        events in prop::sample::select(vec![Events::Off, Events::Release, Events::All]),
    ) {
        let mut world = World::new(events);
        for step in steps {
            world.take(step);
        }
        world.list_all();
        world.serve_all();
        let mut told = 0;
        while let Some(event) = world.keeper.take_event() {
            prop_assert!(event.ended.is_some() || events == Events::All);
            told += 1;
        }
        prop_assert!(told == 0 || events != Events::Off);
    }
}
