//! Random days: longer ways than can be explored. What may happen on them stands in
//! `gpulock_model::scenario`, here only how they are drawn.

use gpulock_core::state::settings::Events;
use gpulock_model::call::Call;
use gpulock_model::keyspace::KEYS;
use gpulock_model::scenario::{NAMES, Scenario, Step};
use gpulock_model::world::{CLIENTS, Writes};
use proptest::collection::vec;
use proptest::prelude::*;

fn request() -> impl Strategy<Value = Call> {
    let wait = prop::option::weighted(0.7, prop_oneof![Just(0u64), 1..300u64]);
    let session = prop::option::weighted(0.3, prop_oneof![Just(0u64), 1..100u64]);
    let who = (0..CLIENTS, keys(), 0..NAMES);
    let lease = prop::option::of(1..300u64);
    let how = (any::<bool>(), prop::bool::weighted(0.95));
    (who, lease, wait, session, how).prop_map(
        |((client, (keys, count), owner), lease_ms, block_ms, session_grace_ms, how)| {
            let (unique, has_memory) = how;
            Call {
                client,
                keys,
                count,
                owner,
                lease_ms,
                unique,
                block_ms,
                session_grace_ms,
                has_memory,
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

/// How the server may come to refuse writes.
fn refusal() -> impl Strategy<Value = Writes> {
    prop::sample::select(vec![Writes::Paused, Writes::Refused, Writes::WithinCommand])
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let owner = 0..NAMES;
    let right = || prop::option::weighted(0.3, any::<bool>());
    prop_oneof![
        14 => request().prop_map(Step::Acquire),
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
        2 => refusal().prop_map(|writes| Step::Writes { writes }),
        6 => Just(Step::Writes { writes: Writes::Accepted }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_law_is_kept_and_in_the_end_everybody_is_served(
        steps in vec(step(), 1..120),
        events in prop::sample::select(vec![Events::Off, Events::Release, Events::All]),
        small_budgets in any::<bool>(),
    ) {
        let mut day = Scenario::begin(events);
        if small_budgets {
            day.use_small_budgets();
        }
        for step in steps {
            day.take(step);
        }
        day.end();
    }
}
