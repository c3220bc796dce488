//! Random steps of every kind against a keyspace as simple as can be: whatever clients
//! and outsiders do, one owner holds a lock, tokens rise, and the counters add up.

use std::collections::{BTreeMap, BTreeSet};

use gpulock_core::acquire::Acquired;
use gpulock_core::event::Text;
use gpulock_core::extend::Extended;
use gpulock_core::force_release::Forced;
use gpulock_core::release::Released;
use gpulock_core::request::{Acquire, Extend, ForceRelease, Release};
use gpulock_core::seen::Glimpse;
use gpulock_core::settings::{Events, Settings};
use gpulock_core::{Keeper, Name, Now, Seen};
use proptest::collection::vec;
use proptest::prelude::*;

const KEYS: [&[u8]; 4] = [b"gpu:0", b"gpu:1", b"gpu:2", b""];
const OWNERS: [&[u8]; 3] = [b"a", b"b", b"c"];

#[derive(Clone, Debug)]
enum Step {
    Acquire { key: usize, owner: usize, lease_ms: Option<u64>, unique: bool, room: bool },
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

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let owner = 0..OWNERS.len();
    let right = || prop::option::weighted(0.3, any::<bool>());
    prop_oneof![
        8 => (key.clone(), owner.clone(), prop::option::of(1..300u64), any::<bool>(),
              prop::bool::weighted(0.95))
            .prop_map(|(key, owner, lease_ms, unique, room)| Step::Acquire {
                key, owner, lease_ms, unique, room
            }),
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
            Step::Acquire { key, .. }
            | Step::Release { key, .. }
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
            Step::Acquire { key, owner, lease_ms, unique, room } => {
                let ask = Acquire { owner: OWNERS[owner], lease_ms, unique };
                let name = Name { db: 0, key: KEYS[key] };
                match self.keeper.acquire(name, &ask, &seen, room, now) {
                    Ok(Acquired::Granted { token, until_ms }) => {
                        assert!(shown.is_none() && room, "granted only when free");
                        assert!(until_ms > now.ms() && until_ms <= now.ms() + 280);
                        self.granted(key, token);
                        let value = Value::Text(OWNERS[owner].to_vec(), Some(until_ms));
                        self.keys.insert(key, value);
                    }
                    Ok(Acquired::Renewed { token, until_ms }) => {
                        assert!(unique && held_by.as_deref() == Some(OWNERS[owner]));
                        self.renewed(key, token, until_ms);
                    }
                    Ok(Acquired::Refused) => {
                        let holder = held_by.expect("refused only when held");
                        assert!(!unique || holder != OWNERS[owner]);
                    }
                    Err(_) => {
                        let long = lease_ms.is_some_and(|ms| ms > 280);
                        assert!(long || !room || matches!(seen, Seen::Other));
                    }
                }
            }
            Step::Release { key, owner, right_token } => {
                let token = self.token_of(key, right_token);
                let reason = Text::Borrowed(b"normal");
                let ask = Release { owner: OWNERS[owner], token, reason };
                let name = Name { db: 0, key: KEYS[key] };
                match self.keeper.release(name, ask, &seen, Some(1), now) {
                    Ok(Released::Freed) => {
                        assert_eq!(held_by.as_deref(), Some(OWNERS[owner]));
                        self.keys.remove(&key);
                        self.tokens.remove(&key);
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
                    Ok(Forced::Freed { owner: from }) => {
                        assert_eq!(held_by.as_deref(), Some(&*from));
                        assert!(owner.is_none_or(|owner| OWNERS[owner] == &*from));
                        self.keys.remove(&key);
                        self.tokens.remove(&key);
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
                assert_eq!(self.keeper.table().held(), 0);
                self.keeper.promoted(now);
                self.tokens.clear();
            }
        }
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
        let mut due = Vec::new();
        self.keeper.due(now, &mut due);
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
                self.keeper.looked_at(id, &see(&shown), now);
            }
        }
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
            assert!(
                lock.hold.is_some() || lock.counters.is_some(),
                "nothing idle is kept"
            );
        }
        assert!(self.keeper.log().entries().count() <= 4);
    }

    /// Looks at every lock, as LIST does; then all that is known is what the keys show.
    fn list_all(&mut self) {
        let now = self.now();
        for id in self.keeper.table().by_age().collect::<Vec<_>>() {
            let lock = self.keeper.table().get(id).unwrap();
            let key = KEYS.iter().position(|key| *key == &*lock.key).unwrap();
            let shown = self.show(key);
            if let Some(row) = self.keeper.list_row(id, &see(&shown), now) {
                assert!(matches!(&shown, Some(Value::Text(v, _)) if *v == *row.owner));
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
        let mut told = 0;
        while let Some(event) = world.keeper.take_event() {
            prop_assert!(event.ended.is_some() || events == Events::All);
            told += 1;
        }
        prop_assert!(told == 0 || events != Events::Off);
    }
}
