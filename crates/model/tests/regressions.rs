//! Steps that once broke a law, each the shortest sequence that was found.

use gpulock_core::state::settings::Events;
use gpulock_model::action::Action;
use gpulock_model::call::Call;
use gpulock_model::flaw::Flaw;
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
    let mut scenario = Scenario::begin(Events::Release);
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
