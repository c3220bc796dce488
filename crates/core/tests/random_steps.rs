//! Random steps of every kind against a keyspace as simple as can be: whatever clients
//! and outsiders do, one owner holds a lock, tokens rise, and the counters add up.

use std::collections::{BTreeMap, BTreeSet};

use gpulock_core::acquire::{Acquired, Asker};
use gpulock_core::arena::Id;
use gpulock_core::deadlock::Circles;
use gpulock_core::event::Text;
use gpulock_core::extend::Extended;
use gpulock_core::force_release::Forced;
use gpulock_core::keeper::Answer;
use gpulock_core::line::Ticket;
use gpulock_core::list::Listed;
use gpulock_core::release::Released;
use gpulock_core::request::{Acquire, Extend, ForceRelease, Release};
use gpulock_core::seen::Glimpse;
use gpulock_core::serve::Handed;
use gpulock_core::session::MadeGood;
use gpulock_core::settings::{Events, Settings};
use gpulock_core::wait::{Leaving, Waiting};
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
    key: usize,
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
    let who = (0..CLIENTS, 0..KEYS.len(), 0..OWNERS.len());
    let lease = prop::option::of(1..300u64);
    let how = (any::<bool>(), prop::bool::weighted(0.95), prop::bool::weighted(0.1));
    (who, lease, wait, session, how).prop_map(
        |((client, key, owner), lease_ms, block_ms, session_grace_ms, how)| {
            let (unique, room, lost) = how;
            Ask {
                client,
                key,
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
    /// Each line as it must be, first come first served.
    lines: BTreeMap<usize, Vec<Place>>,
}

/// A place in a line.
struct Place {
    owner: usize,
    unique: bool,
    /// Who waits there; none: the place is kept until then.
    waits: Result<Wait, u64>,
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
            lines: BTreeMap::new(),
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
            Step::Acquire(Ask { key, .. })
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
            Step::Acquire(ask) => self.acquire(&ask, &shown),
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
                    Ok(Released::Freed) => {
                        assert_eq!(held_by.as_deref(), Some(OWNERS[owner]));
                        self.freed(key);
                    }
                    Ok(Released::HandedOver(handed)) => {
                        assert_eq!(held_by.as_deref(), Some(OWNERS[owner]));
                        self.handed_over(key, &handed);
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
                    Ok(Forced::Freed { owner: from, handed }) => {
                        assert_eq!(held_by.as_deref(), Some(&*from));
                        assert!(owner.is_none_or(|owner| OWNERS[owner] == &*from));
                        match handed {
                            Some(handed) => self.handed_over(key, &handed),
                            None => self.freed(key),
                        }
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
                let waiting = self.lines.values().flatten();
                let waiting = waiting.filter(|place| place.waits.is_ok()).count();
                let mut told = 0;
                while let Some((_, answer)) = self.keeper.take_answer() {
                    assert_eq!(answer, Answer::Refused(Fault::Unblocked));
                    told += 1;
                }
                assert_eq!(told, waiting, "each waiter is told once");
                self.lines.clear();
                assert!(self.keeper.lines().is_empty());
                assert_eq!(self.keeper.table().held(), 0);
                self.keeper.promoted(now);
                self.tokens.clear();
            }
        }
        self.hear();
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
                let handed = self.keeper.looked_at(id, &see(&shown), now);
                if let Some(handed) = handed {
                    assert!(shown.is_none());
                    self.handed_over(key, &handed);
                }
            }
            self.hear();
        }
    }

    fn acquire(&mut self, ask: &Ask, shown: &Option<Value>) {
        if self.waiting().any(|wait| wait.client == ask.client) {
            return;
        }
        let now = self.now();
        let Ask { key, owner, .. } = *ask;
        let (seen, name) = (see(shown), Name { db: 0, key: KEYS[key] });
        let request = Acquire {
            owner: OWNERS[owner],
            lease_ms: ask.lease_ms,
            unique: ask.unique,
            block_ms: ask.block_ms,
            session_grace_ms: ask.session_grace_ms,
        };
        let asker = Asker { client: Some(ask.client), may_wait: true, room: ask.room };
        match self.keeper.acquire(name, &request, &seen, asker, now) {
            Ok(Acquired::Granted { token, until_ms }) => {
                assert!(shown.is_none() && ask.room, "granted only when free");
                assert!(until_ms > now.ms() && until_ms <= now.ms() + 280);
                self.hear();
                let line = self.lines.entry(key).or_default();
                let own =
                    |place: &Place| ask.unique && place.unique && place.owner == owner;
                let first = line.iter().find(|place| place.waits.is_ok() || own(place));
                assert!(first.is_none_or(own), "nobody is passed over");
                line.retain(|place| !own(place));
                self.granted(key, token);
                let value = Value::Text(OWNERS[owner].to_vec(), Some(until_ms));
                self.keys.insert(key, value);
            }
            Ok(Acquired::Renewed { token, until_ms }) => {
                let held = matches!(shown, Some(Value::Text(v, _)) if v == OWNERS[owner]);
                assert!(ask.unique && held);
                self.renewed(key, token, until_ms);
            }
            Ok(Acquired::Contested { served }) => {
                match served {
                    Some(handed) => {
                        assert!(shown.is_none());
                        self.handed_over(key, &handed);
                        self.hear();
                    }
                    None => assert!(shown.is_some(), "contested only when held"),
                }
                if ask.block_ms.is_some() {
                    self.wait(ask, &request);
                }
            }
            Err(_) => {
                let long = ask.lease_ms.is_some_and(|ms| ms > 280);
                assert!(long || !ask.room || matches!(seen, Seen::Other));
            }
        }
    }

    fn wait(&mut self, ask: &Ask, request: &Acquire<'_>) {
        let (now, name) = (self.now(), Name { db: 0, key: KEYS[ask.key] });
        let mut circles = Circles::SureOf(Vec::new());
        let ticket = loop {
            let room = ask.room;
            match self.keeper.wait(name, request, ask.client, &circles, room, now) {
                Ok(Waiting::Begun(ticket)) => break ticket,
                Ok(Waiting::LookFirst(locks)) => {
                    self.look(locks.clone());
                    circles = Circles::SureOf(locks);
                }
                Err(Fault::Deadlock { .. }) => {
                    assert!(ask.unique && self.is_circle(ask.owner, ask.key), "no alarm");
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
        let line = self.lines.entry(ask.key).or_default();
        let own =
            line.iter_mut().find(|p| ask.unique && p.unique && p.owner == ask.owner);
        match own {
            Some(place) => place.waits = waits,
            None => line.push(Place { owner: ask.owner, unique: ask.unique, waits }),
        }
        assert!(
            !(ask.unique && self.is_circle(ask.owner, ask.key)),
            "a circle is refused"
        );
    }

    /// Whether the owner, if it waits for the key, waits for itself: followed through what
    /// the keys show.
    fn is_circle(&mut self, owner: usize, key: usize) -> bool {
        // Each with whether its time is over, of which nobody was told yet.
        let waits_for = |world: &Self, owner: usize| {
            let mut waits = Vec::new();
            for (key, line) in &world.lines {
                for place in line.iter().filter(|p| p.unique && p.owner == owner) {
                    let Ok(wait) = &place.waits else { continue };
                    let deadline_ms =
                        world.keeper.lines().get(wait.ticket).unwrap().deadline_ms;
                    let is_over = deadline_ms.is_some_and(|ms| ms <= world.now().ms());
                    waits.push((*key, is_over));
                }
            }
            waits
        };
        if waits_for(self, owner).iter().any(|(other, _)| *other != key) {
            return false;
        }
        let mut at = key;
        for _ in 0..10 {
            let Some(Value::Text(value, _)) = self.show(at) else { return false };
            let granted = self.keeper.table().find(Name { db: 0, key: KEYS[at] });
            let granted =
                granted.and_then(|id| self.keeper.table().get(id)?.hold.as_ref());
            if granted.is_none_or(|hold| {
                hold.adopted || !hold.unique || hold.owner[..] != value[..]
            }) {
                return false;
            }
            let Some(holder) = OWNERS.iter().position(|o| *o == value) else {
                return false;
            };
            if holder == owner {
                return true;
            }
            match waits_for(self, holder)[..] {
                [(only, false)] => at = only,
                _ => return false,
            }
        }
        false
    }

    fn waiting(&self) -> impl Iterator<Item = &Wait> {
        self.lines.values().flatten().filter_map(|place| place.waits.as_ref().ok())
    }

    /// The wait of a client ends without an answer; its place may be kept.
    fn abandon(&mut self, client: u64, keeps_place: bool) -> Option<Ticket> {
        let until_ms = self.now().ms() + PLACE_KEEP_MS;
        for line in self.lines.values_mut() {
            let is_its = |place: &Place| {
                place.waits.as_ref().is_ok_and(|wait| wait.client == client)
            };
            if let Some(place) = line.iter().position(is_its) {
                let ticket = line[place].waits.as_ref().ok().map(|wait| wait.ticket);
                if line[place].unique && keeps_place {
                    line[place].waits = Err(until_ms);
                } else {
                    line.remove(place);
                }
                return ticket;
            }
        }
        None
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
            let mut lines = self.lines.iter();
            let (key, place) = lines
                .find_map(|(key, line)| Some((*key, line.iter().position(is_it)?)))
                .expect("an answer for somebody who waits");
            let until_ms = self.now().ms() + PLACE_KEEP_MS;
            let line = self.lines.get_mut(&key).unwrap();
            match answer {
                Answer::Granted { token, waiter } => {
                    let first = line.iter().position(|place| place.waits.is_ok());
                    assert_eq!(first, Some(place), "first come, first served");
                    let is_lost = line[place].waits.as_ref().is_ok_and(|wait| wait.lost);
                    if is_lost && line[place].unique {
                        line[place].waits = Err(until_ms);
                    } else {
                        line.remove(place);
                    }
                    if is_lost {
                        lost.push((token, waiter));
                    }
                    self.granted(key, token);
                }
                Answer::Null if line[place].unique => line[place].waits = Err(until_ms),
                Answer::Null => drop(line.remove(place)),
                Answer::Refused(fault) => panic!("{fault}"),
            }
        }
        for (token, waiter) in lost {
            self.keeper.undelivered(token, waiter);
            self.make_good();
        }
    }

    fn make_good(&mut self) {
        let now = self.now();
        while let Some(owed) = self.keeper.take_owed() {
            let lock = self.keeper.table().get(owed.lock);
            let Some(lock) = lock else { continue };
            let key = KEYS.iter().position(|key| *key == &*lock.key).unwrap();
            let shown = self.show(key);
            match self.keeper.make_good(owed, &see(&shown), now) {
                MadeGood::Nothing => {}
                MadeGood::Freed => self.freed(key),
                MadeGood::HandedOver(handed) => self.handed_over(key, &handed),
                MadeGood::Cut { until_ms } => {
                    let Some(Value::Text(_, until)) = self.keys.get_mut(&key) else {
                        panic!("a grace for what is not held");
                    };
                    assert!(until.is_none_or(|until| until > until_ms));
                    *until = Some(until_ms);
                }
            }
            self.hear();
        }
    }

    /// What the timer does. Afterwards nobody waits for a lock that is free: not later than
    /// the second time when the clock was stepped back a little.
    fn tick(&mut self) {
        self.tick_once();
        self.tick_once();
        for key in 0..KEYS.len() {
            let waiting = self.lines.get(&key).into_iter().flatten();
            let waiting = waiting.filter(|place| place.waits.is_ok()).count();
            assert!(waiting == 0 || self.show(key).is_some(), "no lost wake-up");
        }
    }

    fn tick_once(&mut self) {
        self.micros += 6_000;
        let now = self.now();
        self.keeper.end_waits(now);
        self.hear();
        for line in self.lines.values_mut() {
            line.retain(|place| {
                place.waits.as_ref().err().is_none_or(|ms| *ms > now.ms())
            });
        }
        self.make_good();
        let mut due = Vec::new();
        self.keeper.due_lines(now, &mut due);
        self.look(due);
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
        let (lines, places) = (self.keeper.lines(), self.lines.values().flatten());
        assert_eq!(lines.len(), places.count(), "every place is known");
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
        let mut told = 0;
        while let Some(event) = world.keeper.take_event() {
            prop_assert!(event.ended.is_some() || events == Events::All);
            told += 1;
        }
        prop_assert!(told == 0 || events != Events::Off);
    }
}
