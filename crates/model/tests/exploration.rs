//! Explores every order of steps: one small scope exhaustively, all others up to a small depth.
//! `make model` explores further.

use std::time::Duration;

use gpulock_model::explore::{Bounds, Explored, explore};
use gpulock_model::flaw::Flaw;
use gpulock_model::scope::{SCOPES, Scope};

#[track_caller]
fn explore_without_breach(scope: &'static Scope, depth: usize) -> Explored {
    // Long enough for a slow machine: the depth is what limits the exploration.
    let bounds = Bounds { depth, time: Duration::from_secs(600) };
    let explored = explore(scope, Flaw::None, bounds);
    if let Some((breach, path)) = &explored.counterexample {
        panic!("{}: {breach}, after {path:?}", scope.name);
    }
    println!("{}: {} states, depth {}", scope.name, explored.states, explored.depth);
    explored
}

#[test]
fn no_law_is_broken_in_the_first_steps_of_any_scope() {
    for scope in &SCOPES {
        assert_eq!(explore_without_breach(scope, 2).depth, 2);
    }
}

#[test]
fn no_law_is_broken_in_an_exhausted_scope() {
    assert!(explore_without_breach(&SCOPES[1], usize::MAX).exhausted);
}
