//! Each deliberate flaw breaks the law that its test names, within a few steps.

use std::time::Duration;

use gpulock_model::explore::{Bounds, explore};
use gpulock_model::flaw::Flaw;
use gpulock_model::law::Law;
use gpulock_model::scope::{SCOPES, Scope};

#[track_caller]
fn assert_detected(flaw: Flaw, scope: &str, law: Law) {
    let is_it = |it: &&Scope| it.name == scope;
    let scope = SCOPES.iter().find(is_it).expect("a scope of this name");
    let bounds = Bounds { depth: 6, time: Duration::from_secs(120) };
    let explored = explore(scope, flaw, bounds);
    let (breach, path) = explored.counterexample.expect("a detected flaw");
    println!("{flaw:?}: {breach}, after {path:?}");
    assert_eq!(breach.law, law, "{breach}, after {path:?}");
}

#[test]
fn a_release_without_owner_check_is_detected() {
    assert_detected(
        Flaw::ReleasesForAnyone,
        "one lock, all features",
        Law::MutualExclusion,
    );
}

#[test]
fn a_dropped_waiter_is_detected() {
    assert_detected(Flaw::DropsTheWaiter, "one lock, three clients", Law::NoStarvation);
}

#[test]
fn an_unwritten_hand_off_is_detected() {
    assert_detected(Flaw::DropsTheHandOff, "one lock, three clients", Law::AllOrNothing);
}

#[test]
fn a_partly_written_lock_set_is_detected() {
    assert_detected(Flaw::WritesHalfASet, "lock sets of two keys", Law::AllOrNothing);
}

#[test]
fn a_complete_lock_set_that_is_not_granted_is_detected() {
    assert_detected(Flaw::ForgetsSets, "lock sets of two keys", Law::NoLostWakeUp);
}

#[test]
fn forgotten_deferred_work_is_detected() {
    assert_detected(Flaw::ForgetsDeferredWork, "one lock, all features", Law::Sessions);
    assert_detected(
        Flaw::ForgetsDeferredWork,
        "lock sets of two keys",
        Law::NoLostWakeUp,
    );
}

#[test]
fn forgotten_work_beyond_the_first_budget_is_detected() {
    assert_detected(Flaw::ForgetsTheRest, "sessions in small budgets", Law::NoLostWakeUp);
}

#[test]
fn unread_keys_are_detected() {
    assert_detected(Flaw::ShowsStaleKeys, "one lock, three clients", Law::NoLostWakeUp);
}

#[test]
fn a_command_that_is_not_heard_is_detected() {
    assert_detected(Flaw::HearsNoCommand, "one lock, all features", Law::NoLostWakeUp);
}

#[test]
fn a_waiter_that_loses_its_position_is_detected() {
    let law = Law::PlainOrder;
    assert_detected(Flaw::CallsAgainAtEachTick, "one lock, three clients", law);
    assert_detected(Flaw::CallsAgainAtEachTick, "turns of lock sets", law);
}

#[test]
fn ignored_priorities_are_detected() {
    assert_detected(Flaw::IgnoresPriorities, "turns of one lock", Law::Order);
}

#[test]
fn a_call_that_is_passed_after_its_bound_is_detected() {
    assert_detected(Flaw::LengthensRounds, "turns of one lock", Law::BoundedWait);
}

#[test]
fn locks_of_the_wrong_groups_are_detected() {
    assert_detected(Flaw::ShiftsGroups, "two groups of two", Law::AllOrNothing);
}

#[test]
fn locks_reserved_in_too_many_groups_are_detected() {
    assert_detected(Flaw::WaitsForAllGroups, "two groups of two", Law::Reservation);
}

#[test]
fn complete_groups_that_are_not_granted_are_detected() {
    assert_detected(Flaw::ForgetsSets, "two groups of two", Law::NoLostWakeUp);
}

#[test]
fn a_lease_beyond_a_notice_is_detected() {
    assert_detected(Flaw::LengthensNotices, "notice", Law::Notice);
}

#[test]
fn a_wait_that_is_refused_too_early_is_detected() {
    assert_detected(Flaw::RefusesEarly, "kept positions give way", Law::Room);
}

#[test]
fn a_lease_that_ends_early_is_detected() {
    assert_detected(Flaw::ExpiresEarly, "one lock, three clients", Law::MutualExclusion);
}

#[test]
fn ignored_disconnects_are_detected() {
    assert_detected(Flaw::IgnoresDisconnects, "one lock, all features", Law::Sessions);
    assert_detected(Flaw::IgnoresDisconnects, "cycles", Law::Bookkeeping);
}

#[test]
fn an_unprobed_cycle_is_detected() {
    assert_detected(Flaw::SkipsDeadlockProbes, "a cycle, exhaustive", Law::Deadlocks);
}

#[test]
fn deferred_work_while_writes_are_refused_is_detected() {
    assert_detected(
        Flaw::WritesWhenRefused,
        "while writes are refused",
        Law::WritePermission,
    );
}

#[test]
fn a_hand_off_while_writes_are_refused_is_detected() {
    assert_detected(
        Flaw::HandsOverWhenRefused,
        "while writes are refused",
        Law::WritePermission,
    );
}

#[test]
fn deferred_work_within_another_command_is_detected() {
    let scope = "within another client's command";
    assert_detected(Flaw::WritesWithinCommands, scope, Law::WritePermission);
}

#[test]
fn a_token_reset_by_resetstats_is_detected() {
    assert_detected(
        Flaw::ResetsByStartingOver,
        "one lock, all features",
        Law::IncreasingTokens,
    );
}
