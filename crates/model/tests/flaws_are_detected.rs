//! A checker that never failed proves nothing: each broken shell breaks a law, the one that
//! is named here, within few steps.

use std::time::Duration;

use gpulock_model::explore::{Bounds, explore};
use gpulock_model::flaw::Flaw;
use gpulock_model::law::Law;
use gpulock_model::scope::{SCOPES, Scope};

#[track_caller]
fn is_caught(flaw: Flaw, scope: &str, law: Law) {
    let is_it = |it: &&Scope| it.name == scope;
    let scope = SCOPES.iter().find(is_it).expect("a scope of this name");
    let bounds = Bounds { depth: 6, time: Duration::from_secs(120) };
    let explored = explore(scope, flaw, bounds);
    let (breach, way) = explored.breach.expect("a broken shell is caught");
    println!("{flaw:?}: {breach}, after {way:?}");
    assert_eq!(breach.law, law, "{breach}, after {way:?}");
}

#[test]
fn a_release_without_the_owner_check() {
    is_caught(Flaw::ReleasesForAnyone, "one lock, everything", Law::MutualExclusion);
}

#[test]
fn a_hand_off_that_drops_the_waiter() {
    is_caught(Flaw::DropsTheWaiter, "one lock, a line of three", Law::NoStarvation);
}

#[test]
fn a_hand_off_that_is_not_written() {
    is_caught(Flaw::DropsTheHandOff, "one lock, a line of three", Law::AllOrNone);
}

#[test]
fn half_a_share_that_is_written() {
    is_caught(Flaw::WritesHalfASet, "pools and gangs of two", Law::AllOrNone);
}

#[test]
fn a_share_that_is_not_given() {
    is_caught(Flaw::ForgetsSets, "pools and gangs of two", Law::NoLostWakeUp);
}

#[test]
fn what_is_owed_and_never_made_good() {
    is_caught(Flaw::ForgetsDeferredWork, "one lock, everything", Law::Sessions);
    is_caught(Flaw::ForgetsDeferredWork, "pools and gangs of two", Law::NoLostWakeUp);
}

#[test]
fn the_rest_that_never_follows_a_portion() {
    is_caught(Flaw::ForgetsTheRest, "sessions in portions", Law::NoLostWakeUp);
}

#[test]
fn keys_that_are_not_looked_at() {
    is_caught(Flaw::ShowsStaleKeys, "one lock, a line of three", Law::NoLostWakeUp);
}

#[test]
fn a_waiter_that_loses_its_turn() {
    is_caught(Flaw::CallsAgainAtEachTick, "one lock, a line of three", Law::Order);
}

#[test]
fn a_lease_that_is_taken_for_over() {
    is_caught(Flaw::ExpiresEarly, "one lock, a line of three", Law::MutualExclusion);
}

#[test]
fn connections_that_close_unheard() {
    is_caught(Flaw::IgnoresDisconnects, "one lock, everything", Law::Sessions);
    is_caught(Flaw::IgnoresDisconnects, "circles", Law::Tidiness);
}

#[test]
fn a_circle_that_is_not_looked_at() {
    is_caught(Flaw::BelievesInCycles, "a circle, to the end", Law::Deadlocks);
}

#[test]
fn deferred_work_that_is_done_though_writes_are_refused() {
    is_caught(Flaw::WritesWhenRefused, "while writes are refused", Law::Permission);
}

#[test]
fn a_free_lock_that_is_handed_over_though_writes_are_refused() {
    is_caught(Flaw::HandsOverWhenRefused, "while writes are refused", Law::Permission);
}

#[test]
fn deferred_work_that_is_done_within_somebody_elses_command() {
    let scope = "within somebody else's command";
    is_caught(Flaw::WritesWithinCommands, scope, Law::Permission);
}

#[test]
fn statistics_that_forget_the_tokens() {
    is_caught(Flaw::ResetsByStartingOver, "one lock, everything", Law::RisingTokens);
}
