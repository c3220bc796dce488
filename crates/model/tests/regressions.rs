//! Steps that once broke a law, each the shortest sequence that was found.

use gpulock_core::state::settings::Events;
use gpulock_model::action::Action;
use gpulock_model::call::Call;
use gpulock_model::flaw::Flaw;
use gpulock_model::groups::Groups;
use gpulock_model::scenario::{Scenario, Step};
use gpulock_model::scope::{SCOPES, Scope};
use gpulock_model::world::Writes;

/// Takes actions in a scope. No law may be broken after any of them.
#[track_caller]
fn explore_path(scope: &str, path: &[Action]) {
    let is_it = |it: &&Scope| it.name == scope;
    let scope = SCOPES.iter().find(is_it).expect("a scope of this name");
    let mut world = scope.begin(Flaw::None);
    for action in path {
        scope.take(&mut world, *action);
        assert_eq!(world.breach(), None, "after {action:?}");
    }
}

/// Runs a scenario, which asserts the laws itself.
fn run_scenario(steps: impl IntoIterator<Item = Step>) {
    run_steps(Scenario::begin(Events::Release), steps);
}

/// The same with the smallest budgets for work.
fn run_with_small_budgets(steps: impl IntoIterator<Item = Step>) {
    let mut scenario = Scenario::begin(Events::Release);
    scenario.use_small_budgets();
    run_steps(scenario, steps);
}

fn run_steps(mut scenario: Scenario, steps: impl IntoIterator<Item = Step>) {
    steps.into_iter().for_each(|step| scenario.take(step));
    scenario.end();
}

fn acquire(client: usize, key: usize, owner: usize, block_ms: u64) -> Call {
    Call { count: None, ..acquire_all(client, &[key], owner, block_ms) }
}

fn acquire_all(client: usize, keys: &[usize], owner: usize, block_ms: u64) -> Call {
    Call {
        client,
        keys: keys.to_vec(),
        count: Some(keys.len()),
        owner,
        unique: true,
        block_ms: Some(block_ms),
        has_memory: true,
        ..Call::default()
    }
}

/// The grant of one of two locks was not delivered, and in the same turn its owner called for the
/// other lock. The position kept for the grant was a second one in the queue of that lock.
#[test]
fn a_call_before_an_undelivered_grant_is_revoked_keeps_one_position() {
    explore_path(
        "disconnect before the reply",
        &[
            Action::Call { client: 0, template: 3 },
            Action::Call { client: 1, template: 2 },
            Action::Release { client: 0, key: 0 },
            Action::Disconnect { client: 1 },
            Action::Call { client: 1, template: 1 },
            Action::EndTurn,
        ],
    );
}

/// Both waiters before the caller were obsolete: the first had timed out, but had no reply yet; the
/// second was the caller's own call for a lock set. The caller waited for a free lock until the
/// next tick.
#[test]
fn an_expired_waiter_does_not_block_a_call() {
    run_scenario([
        Step::Acquire(acquire(0, 0, 0, 1)),
        Step::Acquire(acquire_all(1, &[0, 1], 2, 205)),
        Step::Acquire(acquire_all(2, &[1, 0], 1, 265)),
        Step::AdvanceClock { ms: 206 },
        Step::Acquire(acquire(3, 1, 1, 127)),
    ]);
}

/// A lock was reserved for a waiter for two of four locks, and a call for that lock made the module
/// notice that two were free. The waiter was granted other locks, and the caller waited for the
/// reserved lock, which was free.
#[test]
fn a_lock_set_granted_other_locks_does_not_block_a_call() {
    let two_of_four = Call { count: Some(2), ..acquire_all(0, &[2, 3, 1, 0], 0, 141) };
    run_scenario([
        Step::ExternalSet { key: 1, value: 0, ttl_ms: None },
        Step::Acquire(acquire_all(3, &[3, 2, 1, 0], 2, 15)),
        Step::Acquire(two_of_four),
        Step::AdvanceClock { ms: 110 },
        Step::Acquire(acquire(4, 0, 1, 19)),
    ]);
}

/// Another client removed the expiry of a key, and the key was not read before the old expiry. The
/// hold counted as ended, was adopted, and lost its token.
#[test]
fn a_persisted_lease_is_the_same_hold() {
    let call = Call { block_ms: None, ..acquire(0, 2, 2, 0) };
    run_scenario([
        Step::Acquire(call.clone()),
        Step::ExternalExpire { key: 2, ttl_ms: None },
        Step::Writes { writes: Writes::Paused },
        Step::AdvanceClock { ms: 300 },
        Step::Writes { writes: Writes::Accepted },
        Step::Acquire(call),
    ]);
}

/// The clock was stepped back during a pause. The timer was not due before the clock reached its
/// former time again.
#[test]
fn a_clock_step_back_in_a_pause_does_not_delay_the_timer() {
    run_scenario([
        Step::ExternalSet { key: 3, value: 0, ttl_ms: None },
        Step::Acquire(Call { unique: false, ..acquire(0, 3, 0, 0) }),
        Step::Tick,
        Step::Writes { writes: Writes::Paused },
        Step::AdvanceClock { ms: -400 },
        Step::Tick,
    ]);
}

/// A lease had ended, and another client set the key to the same owner. A RELEASE by a different
/// owner did not notice that, so the ended hold continued.
#[test]
fn a_key_set_to_the_same_owner_after_the_lease_is_a_new_hold() {
    let call = Call { unique: false, block_ms: None, ..acquire(0, 1, 0, 0) };
    run_scenario([
        Step::Acquire(call.clone()),
        Step::Acquire(Call { owner: 2, lease_ms: Some(1), block_ms: Some(0), ..call }),
        Step::ForceRelease { key: 1, owner: None, right_token: None },
        Step::AdvanceClock { ms: 2 },
        Step::ExternalSet { key: 1, value: 2, ttl_ms: None },
        Step::Release { key: 1, owner: 0, right_token: None },
        Step::Extend { key: 1, owner: 2, lease_ms: 1 },
    ]);
}

/// Another client set the key again, without a lease, so the notice may be that of an earlier hold.
#[test]
fn a_second_notice_of_a_key_set_again_does_not_replace_the_first() {
    explore_path(
        "notice",
        &[
            Action::Call { client: 0, template: 0 },
            Action::GiveNotice { key: 0 },
            Action::SetOwner { key: 0, client: 0 },
            Action::Call { client: 0, template: 0 },
            Action::AdvanceClock,
            Action::Persist { key: 0 },
            Action::GiveNotice { key: 0 },
        ],
    );
}

/// The grant that was not delivered is none that passed the restored position.
#[test]
fn a_restored_position_is_passed_as_if_it_had_just_joined() {
    explore_path(
        "turns of one lock",
        &[
            Action::Call { client: 0, template: 2 },
            Action::Call { client: 1, template: 2 },
            Action::Release { client: 0, key: 0 },
            Action::Disconnect { client: 1 },
            Action::Call { client: 0, template: 0 },
            Action::Call { client: 0, template: 1 },
        ],
    );
}

/// An ACQUIRE without UNIQUE and BLOCK.
fn at_once(client: usize, key: usize, owner: usize) -> Call {
    Call { unique: false, block_ms: None, ..acquire(client, key, owner, 0) }
}

/// The same with BLOCK.
fn plain(client: usize, key: usize, owner: usize) -> Call {
    Call { unique: false, ..acquire(client, key, owner, 0) }
}

/// After a demotion, waiters that had left were still counted in the queue of a lock, and so were
/// its grants. They counted for the turn of a later call, which did not get that lock.
#[test]
fn a_turn_is_uncertain_after_calls_joined_behind_waiters_that_had_left() {
    let at_once = at_once(0, 0, 2);
    let urgent = |call| Call { priority: 1, ..call };
    let two_of_three =
        Call { unique: false, count: Some(2), ..acquire_all(1, &[0, 2, 3], 0, 0) };
    run_with_small_budgets([
        Step::Acquire(Call { keys: vec![0, 2], count: Some(2), ..at_once.clone() }),
        Step::Acquire(acquire(1, 0, 0, 0)),
        Step::ExternalDelete { key: 0 },
        Step::DropClient { client: 1 },
        Step::Acquire(plain(2, 2, 0)),
        Step::Acquire(at_once.clone()),
        Step::Demote,
        Step::Acquire(plain(2, 2, 0)),
        Step::Acquire(urgent(plain(3, 2, 0))),
        Step::Acquire(two_of_three),
        Step::ForceRelease { key: 2, owner: None, right_token: None },
        Step::EndTurn,
        Step::ExternalDelete { key: 2 },
        Step::Acquire(Call { keys: vec![2], ..at_once.clone() }),
        Step::Acquire(urgent(Call { keys: vec![2, 3], count: Some(1), ..at_once })),
    ]);
}

/// The position for a set of two locks was restored and gave way. The first lock passed on, so that
/// there was room for the position when the second one was taken back.
#[test]
fn a_waiter_that_was_granted_its_lock_leaves_room_for_a_restored_position() {
    run_scenario([
        Step::SetMaxWaiters { waiters: 1 },
        Step::Acquire(at_once(0, 3, 2)),
        Step::Acquire(acquire_all(4, &[3, 2], 0, 0)),
        Step::Evict { key: 3 },
        Step::Acquire(plain(0, 3, 0)),
        Step::DropClient { client: 4 },
    ]);
}

/// The position for a set was restored before one of its locks passed on, with another lock that
/// was written first. That grant was counted twice.
#[test]
fn a_position_is_restored_before_the_locks_pass_on() {
    let one_of_two = |client: usize, keys: [usize; 4]| Call {
        count: Some(1),
        groups: Some(Groups { wanted: 2, sizes: vec![1, 2, 1] }),
        ..acquire_all(client, &keys, 0, 0)
    };
    run_scenario([
        Step::Acquire(at_once(0, 0, 1)),
        Step::ExternalSet { key: 2, value: 2, ttl_ms: None },
        Step::Acquire(Call { priority: -1, ..one_of_two(2, [0, 1, 3, 2]) }),
        Step::Evict { key: 0 },
        Step::Acquire(at_once(0, 0, 1)),
        Step::ForceRelease { key: 2, owner: None, right_token: None },
        Step::Acquire(at_once(0, 3, 0)),
        Step::Acquire(Call { unique: false, ..one_of_two(0, [0, 1, 2, 3]) }),
        Step::ForceRelease { key: 0, owner: None, right_token: None },
        Step::DropClient { client: 2 },
        Step::Acquire(plain(1, 0, 0)),
    ]);
}

/// The owner's earlier call was granted the lock, with a better turn, while its next call read the
/// key. So that call gave up no wait any longer.
#[test]
fn a_call_whose_owner_was_granted_its_earlier_call_may_find_no_room() {
    run_scenario([
        Step::Acquire(at_once(0, 3, 0)),
        Step::Acquire(plain(1, 3, 0)),
        Step::Acquire(acquire(2, 3, 2, 0)),
        Step::SetMaxWaiters { waiters: 0 },
        Step::Acquire(Call { priority: 1, ..acquire(3, 3, 2, 0) }),
        Step::ExternalDelete { key: 3 },
        Step::Acquire(acquire(0, 3, 2, 0)),
    ]);
}

/// The owner of a wait with KEEP 0 called again. The wait was replaced, and the queues of its locks
/// counted on.
#[test]
fn a_queue_whose_only_position_is_taken_over_counts_on() {
    let three = acquire_all(2, &[0, 2, 3], 1, 0);
    run_scenario([
        Step::Acquire(at_once(0, 1, 0)),
        Step::Acquire(Call { unique: false, ..acquire_all(0, &[1, 3], 0, 0) }),
        Step::Acquire(plain(1, 3, 2)),
        Step::ForceRelease { key: 1, owner: None, right_token: None },
        Step::Acquire(Call { keep_ms: Some(0), ..three.clone() }),
        Step::EndTurn,
        Step::Acquire(Call { client: 0, ..three }),
        Step::Acquire(at_once(2, 2, 0)),
    ]);
}

/// A wait had expired, but the budget was used up before the lock manager removed it. Its owner
/// called again, and took it over.
#[test]
fn an_expired_wait_that_is_not_removed_yet_is_taken_over() {
    run_with_small_budgets([
        Step::Acquire(at_once(0, 1, 1)),
        Step::Acquire(Call { keep_ms: Some(0), ..acquire(0, 1, 0, 56) }),
        Step::Acquire(Call { block_ms: Some(1), ..plain(1, 1, 0) }),
        Step::Acquire(plain(2, 1, 0)),
        Step::AdvanceClock { ms: 56 },
        Step::Acquire(acquire(3, 1, 0, 0)),
    ]);
}

/// A wait expired while there was no room for its position. Its owner called again, and was behind
/// the other waiter.
#[test]
fn an_expired_wait_beyond_the_limit_keeps_no_position() {
    run_scenario([
        Step::Acquire(Call { lease_ms: Some(1), ..at_once(0, 3, 1) }),
        Step::Acquire(acquire(0, 3, 2, 1)),
        Step::Acquire(plain(1, 3, 0)),
        Step::SetMaxWaiters { waiters: 0 },
        Step::AdvanceClock { ms: 2 },
        Step::Acquire(Call { block_ms: None, ..acquire(2, 3, 2, 0) }),
    ]);
}

/// The position of a grant that was not delivered was restored, and other grants were counted
/// meanwhile. Its owner took it over, and passed a waiter that it had come before.
#[test]
fn a_call_that_takes_over_a_position_is_no_newcomer() {
    let last = Call { priority: -1, unique: false, ..acquire_all(0, &[1, 3], 0, 0) };
    run_scenario([
        Step::Acquire(at_once(0, 0, 0)),
        Step::Acquire(Call { unique: false, ..acquire_all(1, &[0, 1, 3], 0, 0) }),
        Step::Acquire(last),
        Step::AdvanceClock { ms: 251 },
        Step::Acquire(acquire(4, 3, 2, 0)),
        Step::Cron,
        Step::Release { key: 3, owner: 0, right_token: None },
        Step::DropClient { client: 4 },
        Step::Acquire(Call { block_ms: None, ..acquire(2, 3, 2, 0) }),
    ]);
}

/// A notice was over when another client had removed the lease. The lock was granted once more,
/// with others that its owner waited for, and ended at once.
#[test]
fn a_lock_of_a_set_may_end_with_its_notice() {
    run_scenario([
        Step::Acquire(at_once(0, 2, 2)),
        Step::ExternalSet { key: 0, value: 3, ttl_ms: None },
        Step::Acquire(acquire_all(2, &[0, 2], 2, 0)),
        Step::GiveNotice { key: 2, owner: None, right_token: None, after_ms: 1 },
        Step::ExternalExpire { key: 2, ttl_ms: None },
        Step::Evict { key: 0 },
        Step::AdvanceClock { ms: 2 },
        Step::Acquire(Call { count: Some(1), ..at_once(0, 0, 0) }),
    ]);
}

/// The position for two locks was restored after one of their queues had been empty, so it came
/// before a waiter that had arrived earlier in the other queue.
#[test]
fn a_position_that_is_first_again_passes_earlier_arrivals() {
    let pair = Call { priority: -1, ..acquire_all(4, &[1, 3], 2, 0) };
    run_scenario([
        Step::Acquire(at_once(0, 3, 1)),
        Step::Acquire(pair),
        Step::Acquire(Call { count: Some(1), ..at_once(0, 1, 0) }),
        Step::Acquire(plain(0, 1, 0)),
        Step::Acquire(acquire_all(3, &[1, 3], 0, 0)),
        Step::ExternalDelete { key: 3 },
        Step::Acquire(acquire(1, 3, 2, 0)),
        Step::DropClient { client: 3 },
    ]);
}

/// A lock that was to pass on when the server became a replica stayed reserved, but it was never
/// offered to the waiter that was left. A later one did not count it.
#[test]
fn a_lock_that_did_not_pass_on_in_a_demotion_counts_for_the_next_call() {
    let two_groups = |client: usize, keys: [usize; 4]| Call {
        count: Some(2),
        unique: false,
        groups: Some(Groups { wanted: 1, sizes: vec![2, 2] }),
        ..acquire_all(client, &keys, 0, 0)
    };
    let free = Call { unique: false, block_ms: None, ..acquire_all(0, &[0, 2, 3], 1, 0) };
    run_with_small_budgets([
        Step::Acquire(free),
        Step::Acquire(two_groups(1, [0, 1, 2, 3])),
        Step::Acquire(two_groups(2, [0, 3, 2, 1])),
        Step::Demote,
        Step::Acquire(two_groups(3, [0, 2, 1, 3])),
    ]);
}
