//! The checker detects modules that break one rule each on purpose: within one short
//! round, with faults injected, and by the right rule. The same build without a broken
//! rule passes.

use std::path::PathBuf;
use std::time::Duration;

use gpulock_chaos::checker::Rule;
use gpulock_chaos::faults::named;
use gpulock_chaos::run::{Plan, Round, round};
use gpulock_testkit::{module_that_panics, servers};

/// Faults with exemptions, to show that they do not exempt too much.
const FAULTS: &str = "client-kill,del,set,expire,rename,process-kill,oom,debug-reload";

/// One round on the first server: the broken rule is the module's, not the server's.
fn run_round(broken: Option<&str>, seconds: u64) -> Round {
    let plan = Plan {
        flavour: servers().swap_remove(0),
        module: module_that_panics(),
        broken: broken.map(str::to_owned),
        program: PathBuf::from(env!("CARGO_BIN_EXE_gpulock-chaos")),
        clients: 12,
        faults: named(FAULTS).expect("all names are valid"),
    };
    round(&plan, 7, Duration::from_secs(seconds))
}

#[track_caller]
fn assert_detected(broken: &str, rule: Rule) {
    let violations = run_round(Some(broken), 3).verdict.violations;
    let detected = violations.iter().filter(|violation| violation.rule == rule).count();
    assert!(detected > 0, "{rule:?} does not detect {broken}: {violations:#?}");
}

#[test]
fn two_owners_of_a_lock_are_detected() {
    assert_detected("two-owners", Rule::MutualExclusion);
}

#[test]
fn a_token_granted_twice_is_detected() {
    assert_detected("token-twice", Rule::UniqueTokens);
}

#[test]
fn a_release_without_owner_check_is_detected() {
    assert_detected("anyone-releases", Rule::OnlyOwnerReleases);
}

#[test]
fn a_dropped_waiter_is_detected() {
    assert_detected("waiter-dropped", Rule::EveryCallReplied);
}

#[test]
fn a_last_in_first_out_queue_is_detected() {
    assert_detected("newest-first", Rule::FifoOrder);
}

#[test]
fn an_intact_module_passes() {
    let verdict = run_round(None, 3).verdict;
    assert_eq!(verdict.violations, []);
    assert!(verdict.calls > 1_000 && verdict.positions > 20, "{verdict:?}");
}
