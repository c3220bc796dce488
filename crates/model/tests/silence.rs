//! While no command runs, the probes rest, and the timer is not armed. Whatever changes a key after
//! that must be noticed by the timer, without the sweep.

use gpulock_core::state::settings::Events;
use gpulock_model::call::Call;
use gpulock_model::scenario::{Scenario, Step};
use gpulock_model::world::Writes;

/// A lock that another client holds without an expiry, and for which client 0 waits. The probes
/// rest.
fn resting() -> [Step; 5] {
    let call = Call {
        keys: vec![0],
        owner: 1,
        block_ms: Some(0),
        has_memory: true,
        ..Call::default()
    };
    [
        Step::ExternalSet { key: 0, value: 0, ttl_ms: None },
        Step::Acquire(call),
        Step::Tick,
        Step::AdvanceClock { ms: 5 },
        Step::Tick,
    ]
}

/// Takes these steps while the probes rest. In the end, the waiter is served.
#[track_caller]
fn in_silence(steps: impl IntoIterator<Item = Step>) {
    let mut scenario = Scenario::begin(Events::Release);
    resting().into_iter().for_each(|step| scenario.take(step));
    assert!(scenario.probes_rest(), "the probes rest after two ticks without a command");
    steps.into_iter().for_each(|step| scenario.take(step));
    scenario.assert_served_by_timer();
}

#[test]
fn a_deleted_key_is_noticed() {
    in_silence([Step::ExternalDelete { key: 0 }]);
}

#[test]
fn an_evicted_key_is_noticed() {
    in_silence([Step::Evict { key: 0 }]);
}

#[test]
fn the_end_of_a_lease_that_was_set_in_silence_is_noticed() {
    in_silence([
        Step::ExternalExpire { key: 0, ttl_ms: Some(50) },
        Step::Tick,
        Step::AdvanceClock { ms: 51 },
    ]);
}

/// The server calls the module when a command arrives. It executes a command that arrived during a
/// pause later, and does not call the module again.
#[test]
fn a_command_that_was_postponed_by_a_pause_is_noticed() {
    in_silence([
        Step::Writes { writes: Writes::Paused },
        Step::PostponeDelete { key: 0 },
        Step::AdvanceClock { ms: 5 },
        Step::Tick,
        Step::Writes { writes: Writes::Accepted },
        Step::AdvanceClock { ms: 5 },
        // The command is executed after this.
        Step::Tick,
    ]);
}

/// An empty string is no owner, so the lock has no hold, and the end of the key no alarm.
#[test]
fn the_end_of_a_key_that_is_no_hold_is_noticed() {
    in_silence([
        Step::ExternalSet { key: 0, value: 3, ttl_ms: Some(50) },
        Step::Tick,
        Step::AdvanceClock { ms: 5 },
        Step::Tick,
        Step::AdvanceClock { ms: 51 },
    ]);
}

/// No tick saw the pause: the first one after it ends it.
#[test]
fn a_command_that_was_postponed_by_a_short_pause_is_noticed() {
    in_silence([
        Step::Writes { writes: Writes::Paused },
        Step::PostponeDelete { key: 0 },
        Step::Writes { writes: Writes::Accepted },
        Step::AdvanceClock { ms: 5 },
        // The command is executed after this.
        Step::Tick,
    ]);
}

#[test]
fn the_end_of_refused_writes_needs_no_command() {
    in_silence([
        Step::ExternalDelete { key: 0 },
        Step::Writes { writes: Writes::Refused },
        Step::AdvanceClock { ms: 5 },
        Step::Tick,
        Step::AdvanceClock { ms: 5 },
        Step::Tick,
        Step::Writes { writes: Writes::Accepted },
    ]);
}
