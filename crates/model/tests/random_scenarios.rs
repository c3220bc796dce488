//! Random scenarios: longer than the paths that can be explored. The steps and the checks are in
//! `gpulock_model::scenario`; this file only generates the steps.

use gpulock_core::state::settings::Events;
use gpulock_model::call::{Call, SHARES};
use gpulock_model::groups::Groups;
use gpulock_model::memory_keys::KEYS;
use gpulock_model::scenario::{OWNER_COUNT, Scenario, Step};
use gpulock_model::world::{CLIENTS, Writes};
use proptest::collection::vec;
use proptest::prelude::*;

fn call() -> impl Strategy<Value = Call> {
    let wait = prop::option::weighted(0.7, prop_oneof![Just(0u64), 1..300u64]);
    let session = prop::option::weighted(0.3, prop_oneof![Just(0u64), 1..100u64]);
    let target = (0..CLIENTS, keys_and_groups(), 0..OWNER_COUNT);
    let lease = prop::option::of(1..300u64);
    let flags = (any::<bool>(), prop::bool::weighted(0.95));
    // Half of the calls are plain.
    let priority = prop_oneof![3 => Just(0i64), 1 => -1..3i64];
    let share = prop::option::weighted(0.3, 0..SHARES.len());
    let keep = prop::option::weighted(0.2, prop_oneof![Just(0u64), 1..300u64]);
    (target, lease, wait, session, flags, (priority, share, keep)).prop_map(
        |(
            (client, (keys, count, groups), owner),
            lease_ms,
            block_ms,
            session_grace_ms,
            flags,
            (priority, share, keep_ms),
        )| {
            let (unique, has_memory) = flags;
            Call {
                client,
                keys,
                count,
                groups,
                owner,
                lease_ms,
                unique,
                keep_ms: keep_ms.filter(|_| unique),
                block_ms,
                session_grace_ms,
                priority,
                share,
                has_memory,
            }
        },
    )
}

/// The key of ACQUIRE, or the keys and COUNT of ACQUIREANY.
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

/// The same, or those of ACQUIREANY with GROUPS.
fn keys_and_groups() -> impl Strategy<Value = (Vec<usize>, Option<usize>, Option<Groups>)>
{
    let all: Vec<usize> = (0..KEYS.len()).collect();
    let sizes = [&[2, 2][..], &[1, 2, 1], &[3, 1], &[1, 1, 1, 1]];
    let sizes = prop::sample::select(sizes.to_vec());
    let groups = (Just(all).prop_shuffle(), sizes, 1..=2usize, 1..=2usize);
    prop_oneof![
        4 => keys().prop_map(|(keys, count)| (keys, count, None)),
        1 => groups.prop_map(|(keys, sizes, count, wanted)| {
            let count = count.min(sizes.iter().copied().max().unwrap_or(count));
            let large = sizes.iter().filter(|size| **size >= count).count();
            let groups = Groups { wanted: wanted.min(large), sizes: sizes.to_vec() };
            (keys, Some(count), Some(groups))
        }),
    ]
}

/// The ways in which the server refuses writes.
fn refusal() -> impl Strategy<Value = Writes> {
    prop::sample::select(vec![Writes::Paused, Writes::Refused, Writes::WithinCommand])
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    let owner = 0..OWNER_COUNT;
    let right_token = || prop::option::weighted(0.3, any::<bool>());
    prop_oneof![
        14 => call().prop_map(Step::Acquire),
        2 => (0..CLIENTS).prop_map(|client| Step::DropClient { client }),
        1 => (0..CLIENTS, any::<bool>())
            .prop_map(|(client, with_error)| Step::Unblock { client, with_error }),
        6 => Just(Step::EndTurn),
        4 => Just(Step::Tick),
        6 => (key.clone(), owner.clone(), right_token()).prop_map(|(key, owner, right_token)| {
            Step::Release { key, owner, right_token }
        }),
        3 => (key.clone(), owner.clone(), 1..300u64)
            .prop_map(|(key, owner, lease_ms)| Step::Extend { key, owner, lease_ms }),
        2 => (key.clone(), prop::option::of(owner), right_token())
            .prop_map(|(key, owner, right_token)| Step::ForceRelease { key, owner, right_token }),
        2 => (key.clone(), prop::option::of(0..OWNER_COUNT), right_token(), 1..150u64)
            .prop_map(|(key, owner, right_token, after_ms)| {
                Step::GiveNotice { key, owner, right_token, after_ms }
            }),
        1 => key.clone().prop_map(|key| Step::Inspect { key }),
        1 => Just(Step::List),
        2 => (key.clone(), 0..5usize, prop::option::of(1..300u64))
            .prop_map(|(key, value, ttl_ms)| Step::ExternalSet { key, value, ttl_ms }),
        1 => key.clone().prop_map(|key| Step::ExternalSetOther { key }),
        1 => key.clone().prop_map(|key| Step::ExternalDelete { key }),
        1 => key.clone().prop_map(|key| Step::PostponeDelete { key }),
        1 => (key.clone(), prop::option::of(1..300u64))
            .prop_map(|(key, ttl_ms)| Step::ExternalExpire { key, ttl_ms }),
        1 => key.prop_map(|key| Step::Evict { key }),
        4 => (0..200i64).prop_map(|ms| Step::AdvanceClock { ms }),
        1 => (0..500i64).prop_map(|ms| Step::AdvanceClock { ms: -ms }),
        3 => Just(Step::Cron),
        1 => Just(Step::ResetStats),
        1 => (0..4u64).prop_map(|keys| Step::SetTrackedKeys { keys }),
        1 => (0..6u64).prop_map(|waiters| Step::SetMaxWaiters { waiters }),
        1 => Just(Step::Demote),
        2 => refusal().prop_map(|writes| Step::Writes { writes }),
        6 => Just(Step::Writes { writes: Writes::Accepted }),
    ]
}

/// The number of scenarios. Some faults need a million of them.
fn cases() -> u32 {
    let set = std::env::var("PROPTEST_CASES").ok();
    set.map_or(2_000, |cases| cases.parse().expect("PROPTEST_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_law_is_broken_and_every_waiter_is_served_in_the_end(
        steps in vec(step(), 1..120),
        events in prop::sample::select(vec![Events::Off, Events::Release, Events::All]),
        small_budgets in any::<bool>(),
    ) {
        let mut scenario = Scenario::begin(events);
        if small_budgets {
            scenario.use_small_budgets();
        }
        for step in steps {
            scenario.take(step);
        }
        scenario.end();
    }
}
