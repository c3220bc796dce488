//! A checker that never failed proves nothing: modules that break one rule each, on purpose,
//! are found out in one short round, by the very rule, and with faults all around. The same
//! build that breaks none is not accused.

use std::path::PathBuf;
use std::time::Duration;

use gpulock_chaos::checker::Rule;
use gpulock_chaos::faults::named;
use gpulock_chaos::run::{Plan, Round, round};
use gpulock_testkit::{module_that_panics, servers};

/// Faults that excuse something, so that it is seen that they do not excuse too much.
const FAULTS: &str = "client-kill,del,set,expire,rename,process-kill,oom,debug-reload";

/// One round of the first server: what is broken is the module's, not the server's.
fn play(broken: Option<&str>, seconds: u64) -> Round {
    let plan = Plan {
        flavour: servers().swap_remove(0),
        module: module_that_panics(),
        broken: broken.map(str::to_owned),
        program: PathBuf::from(env!("CARGO_BIN_EXE_gpulock-chaos")),
        clients: 12,
        faults: named(FAULTS).expect("they are known"),
    };
    round(&plan, 7, Duration::from_secs(seconds))
}

#[track_caller]
fn assert_found(broken: &str, rule: Rule) {
    let violations = play(Some(broken), 3).verdict.violations;
    let found = violations.iter().filter(|violation| violation.rule == rule).count();
    assert!(found > 0, "{broken} is not found by {rule:?}: {violations:#?}");
}

#[test]
fn a_lock_with_two_owners() {
    assert_found("two-owners", Rule::OneOwner);
}

#[test]
fn a_token_that_is_given_twice() {
    assert_found("token-twice", Rule::TokensDiffer);
}

#[test]
fn a_release_that_asks_nobody_who_he_is() {
    assert_found("anyone-releases", Rule::OnlyTheOwner);
}

#[test]
fn a_hand_off_that_drops_a_waiter() {
    assert_found("waiter-dropped", Rule::Answered);
}

#[test]
fn a_line_that_serves_the_newest_first() {
    assert_found("newest-first", Rule::Order);
}

#[test]
fn a_server_that_keeps_its_promises_is_not_accused() {
    let verdict = play(None, 3).verdict;
    assert_eq!(verdict.violations, []);
    assert!(verdict.calls > 1_000 && verdict.places > 20, "{verdict:?}");
}
