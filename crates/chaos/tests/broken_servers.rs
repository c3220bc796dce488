//! The checker detects modules that break one rule each on purpose: within a few short
//! rounds, with faults injected, and by the right rule. The same build without a broken
//! rule passes.

use std::path::PathBuf;
use std::time::Duration;

use gpulock_chaos::checker::Rule;
use gpulock_chaos::faults::named;
use gpulock_chaos::run::{Plan, Round, round};
use gpulock_testkit::{module_that_panics, servers};

/// Faults with exemptions, to show that they do not exempt too much.
const FAULTS: &str = "client-kill,del,set,expire,rename,process-kill,oom,debug-reload";

/// The same, but no waiters are killed.
const FAULTS_OF_WAITERS: &str = "del,set,expire,rename,oom,debug-reload";

/// The seeds of the rounds in which a broken rule must be detected: on a busy machine, one
/// round may have too few calls. In these, a round of the queues is one grant.
const SEEDS: [u64; 6] = [7, 10, 12, 15, 16, 17];

/// One round of three seconds on the first server: the broken rule is the module's, not the
/// server's.
fn run_round(broken: Option<&str>, faults: &str, seed: u64) -> Round {
    let plan = Plan {
        flavour: servers().swap_remove(0),
        module: module_that_panics(),
        broken: broken.map(str::to_owned),
        program: PathBuf::from(env!("CARGO_BIN_EXE_gpulock-chaos")),
        clients: 12,
        faults: named(faults).expect("all names are valid"),
    };
    round(&plan, seed, Duration::from_secs(3))
}

#[track_caller]
fn assert_detected(broken: &str, rule: Rule) {
    assert_detected_under(FAULTS, broken, rule);
}

#[track_caller]
fn assert_detected_under(faults: &str, broken: &str, rule: Rule) {
    let detected = |seed| {
        let violations = run_round(Some(broken), faults, seed).verdict.violations;
        violations.iter().any(|violation| violation.rule == rule)
    };
    assert!(SEEDS.into_iter().any(detected), "{rule:?} does not detect {broken}");
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
fn a_plain_call_that_passes_an_earlier_one_is_detected() {
    assert_detected("plain-passes-plain", Rule::FifoOrder);
}

#[test]
fn a_priority_without_a_bound_is_detected() {
    assert_detected("priority-without-bound", Rule::FifoOrder);
}

#[test]
fn an_incomplete_lock_set_is_detected() {
    assert_detected("set-incomplete", Rule::CompleteLockSets);
}

#[test]
fn a_call_with_groups_that_is_forgotten_is_detected() {
    assert_detected_under(FAULTS_OF_WAITERS, "groups-forgotten", Rule::NoLostWakeup);
}

#[test]
fn a_notice_that_has_no_effect_is_detected() {
    assert_detected("notice-forgotten", Rule::NoticeDeadline);
}

#[test]
fn an_intact_module_passes() {
    let verdict = run_round(None, FAULTS, SEEDS[0]).verdict;
    assert_eq!(verdict.violations, []);
    assert!(verdict.calls > 1_000 && verdict.positions > 20, "{verdict:?}");
    let checked = [verdict.bounded, verdict.lock_sets, verdict.after_notice];
    assert!(checked.iter().all(|checked| *checked > 5), "{verdict:?}");
}
