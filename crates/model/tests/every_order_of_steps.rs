//! No law is broken, in whatever order steps come: the smallest scope to its end, the others
//! as far as some seconds go. `make model` goes further.

use std::time::Duration;

use gpulock_model::explore::{Bounds, Explored, explore};
use gpulock_model::flaw::Flaw;
use gpulock_model::scope::{SCOPES, Scope};

#[track_caller]
fn is_kept(scope: &'static Scope, depth: usize) -> Explored {
    // Only so that it ends: a slow machine is no reason to look at less.
    let bounds = Bounds { depth, time: Duration::from_secs(600) };
    let explored = explore(scope, Flaw::None, bounds);
    if let Some((breach, way)) = &explored.breach {
        panic!("{}: {breach}, after {way:?}", scope.name);
    }
    println!("{}: {} states, depth {}", scope.name, explored.states, explored.depth);
    explored
}

#[test]
fn in_every_scope_for_a_few_steps() {
    for scope in &SCOPES {
        assert_eq!(is_kept(scope, 2).depth, 2);
    }
}

#[test]
fn in_the_smallest_scope_to_its_end() {
    assert!(is_kept(&SCOPES[1], usize::MAX).exhausted);
}
