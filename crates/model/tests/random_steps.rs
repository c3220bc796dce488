//! Random steps of every kind, longer ways than can be explored, with what the scopes leave
//! out: equal owners, leases and waits of any length, values that are no owners, a clock that
//! is stepped back, evictions, role changes, settings.

use gpulock_core::settings::{Events, Settings};
use gpulock_model::ask::{Ask, OWNERS};
use gpulock_model::flaw::Flaw;
use gpulock_model::keyspace::KEYS;
use gpulock_model::world::{CLIENTS, World};
use proptest::collection::vec;
use proptest::prelude::*;

/// Fewer than clients: some share a name.
const NAMES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Acquire(Ask),
    DropClient { client: usize },
    Unblock { client: usize, with_error: bool },
    EndTurn,
    Tick,
    Release { key: usize, owner: usize, right_token: Option<bool> },
    Extend { key: usize, owner: usize, lease_ms: u64 },
    Force { key: usize, owner: Option<usize>, right_token: Option<bool> },
    Inspect { key: usize },
    List,
    OutsideSet { key: usize, value: usize, ttl_ms: Option<u64> },
    OutsideOther { key: usize },
    OutsideDelete { key: usize },
    OutsideExpiry { key: usize, ttl_ms: Option<u64> },
    Evict { key: usize },
    Pass { ms: i64 },
    Sweep,
    ResetStats,
    Track { keys: u64 },
    Demote,
}

fn ask() -> impl Strategy<Value = Ask> {
    let wait = prop::option::weighted(0.7, prop_oneof![Just(0u64), 1..300u64]);
    let session = prop::option::weighted(0.3, prop_oneof![Just(0u64), 1..100u64]);
    let who = (0..CLIENTS, keys(), 0..NAMES);
    let lease = prop::option::of(1..300u64);
    let how = (any::<bool>(), prop::bool::weighted(0.95));
    (who, lease, wait, session, how).prop_map(
        |((client, (keys, count), owner), lease_ms, block_ms, session_grace_ms, how)| {
            let (unique, room) = how;
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
    let owner = 0..NAMES;
    let right = || prop::option::weighted(0.3, any::<bool>());
    prop_oneof![
        14 => ask().prop_map(Step::Acquire),
        2 => (0..CLIENTS).prop_map(|client| Step::DropClient { client }),
        1 => (0..CLIENTS, any::<bool>())
            .prop_map(|(client, with_error)| Step::Unblock { client, with_error }),
        6 => Just(Step::EndTurn),
        4 => Just(Step::Tick),
        6 => (key.clone(), owner.clone(), right()).prop_map(|(key, owner, right_token)| {
            Step::Release { key, owner, right_token }
        }),
        3 => (key.clone(), owner.clone(), 1..300u64)
            .prop_map(|(key, owner, lease_ms)| Step::Extend { key, owner, lease_ms }),
        2 => (key.clone(), prop::option::of(owner), right())
            .prop_map(|(key, owner, right_token)| Step::Force { key, owner, right_token }),
        1 => key.clone().prop_map(|key| Step::Inspect { key }),
        1 => Just(Step::List),
        2 => (key.clone(), 0..5usize, prop::option::of(1..300u64))
            .prop_map(|(key, value, ttl_ms)| Step::OutsideSet { key, value, ttl_ms }),
        1 => key.clone().prop_map(|key| Step::OutsideOther { key }),
        1 => key.clone().prop_map(|key| Step::OutsideDelete { key }),
        1 => (key.clone(), prop::option::of(1..300u64))
            .prop_map(|(key, ttl_ms)| Step::OutsideExpiry { key, ttl_ms }),
        1 => key.prop_map(|key| Step::Evict { key }),
        4 => (0..200i64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..500i64).prop_map(|ms| Step::Pass { ms: -ms }),
        3 => Just(Step::Sweep),
        1 => Just(Step::ResetStats),
        1 => (0..4u64).prop_map(|keys| Step::Track { keys }),
        1 => Just(Step::Demote),
    ]
}

fn begin(events: Events) -> World {
    let settings = Settings {
        default_lease: 250,
        max_lease: 280,
        max_hold: 400,
        warn_hold: 100,
        tracked_keys: 2,
        log_len: 4,
        place_keep: 150,
        events,
        ..Settings::default()
    };
    World::new(settings, Flaw::None)
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Acquire(ask) => world.acquire(&ask),
        Step::DropClient { client } => world.drop_client(client),
        Step::Unblock { client, with_error } => world.unblock(client, with_error),
        Step::EndTurn => world.end_turn(),
        Step::Tick => world.tick(),
        Step::Release { key, owner, right_token } => {
            world.release(key, owner, right_token);
        }
        Step::Extend { key, owner, lease_ms } => world.extend(key, owner, Some(lease_ms)),
        Step::Force { key, owner, right_token } => world.force(key, owner, right_token),
        Step::Inspect { key } => world.inspect(key),
        Step::List => world.list(),
        Step::OutsideSet { key, value, ttl_ms } => world.set(key, &text(value), ttl_ms),
        Step::OutsideOther { key } => world.set_other(key),
        Step::OutsideDelete { key } => world.delete(key),
        Step::OutsideExpiry { key, ttl_ms } => world.expire(key, ttl_ms),
        Step::Evict { key } => world.evict(key),
        Step::Pass { ms } => world.pass(ms),
        Step::Sweep => world.sweep(),
        Step::ResetStats => world.reset_stats(),
        Step::Track { keys } => world.configure(|settings| settings.tracked_keys = keys),
        Step::Demote => world.demote(),
    }
}

/// An owner, or what can be none.
fn text(n: usize) -> Vec<u8> {
    match n {
        3 => Vec::new(),
        4 => vec![b'x'; 1025],
        n => OWNERS[n].to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_law_is_kept_and_in_the_end_everybody_is_served(
        steps in vec(step(), 1..120),
        events in prop::sample::select(vec![Events::Off, Events::Release, Events::All]),
    ) {
        let mut world = begin(events);
        for step in steps {
            take(&mut world, step);
            prop_assert!(world.breach().is_none(), "{}", world.breach().unwrap());
        }
        prop_assert!(world.keeper.log().entries().count() <= 4);
        world.end_turn();
        world.list();
        world.tick_until_quiet();
        world.serve_all();
        prop_assert!(world.breach().is_none(), "{}", world.breach().unwrap());
        let mut told = 0;
        while let Some(event) = world.keeper.take_event() {
            prop_assert!(event.ended.is_some() || events == Events::All);
            told += 1;
        }
        prop_assert!(told == 0 || events != Events::Off);
    }
}
