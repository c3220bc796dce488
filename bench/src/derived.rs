//! Quantities derived from two series, round by round. Tables and targets both use these
//! functions, so they agree.

use crate::names;
use crate::series::{Run, Series, ratios};

/// A pair relative to the native one in the same case, or with events off if the native
/// one was not measured in that case.
pub(crate) fn to_native(run: &Run, case: &str, peer: &str, measure: &str) -> Vec<f64> {
    let same = run.samples(names::PAIR, case, names::NATIVE, measure);
    let plain = run.samples(names::PAIR, names::EVENTS_OFF, names::NATIVE, measure);
    let native = if same.is_empty() { plain } else { same };
    ratios(run.samples(names::PAIR, case, peer, measure), native)
}

/// The Lua pair relative to GPULOCK.
pub(crate) fn lua_to_ours(run: &Run, measure: &str) -> Vec<f64> {
    let of = |peer| run.samples(names::PAIR, names::EVENTS_OFF, peer, measure);
    ratios(of(names::LUA), of(names::OURS))
}

/// The hand-off gap of GPULOCK relative to that of a peer.
pub(crate) fn gap_to(run: &Run, peer: &str) -> Vec<f64> {
    let case = names::workers(names::WORKERS);
    let of = |peer| run.samples(names::HAND_OFF, &case, peer, names::P50_MS);
    ratios(of(names::OURS), of(peer))
}

/// A hand-off with the longest queue relative to one with the shortest.
pub(crate) fn growth(run: &Run, peer: &str) -> Vec<f64> {
    let [few, .., many] = names::WAITING;
    ratios(queue(run, many, peer), queue(run, few, peer))
}

/// Bytes of a lock beyond those of a plain key.
pub(crate) fn extra_bytes(run: &Run, count: usize) -> Vec<f64> {
    let of = |peer| held_locks(run, count, peer, names::BYTES);
    let both = of(names::OURS).iter().zip(of(names::NATIVE));
    both.map(|(lock, plain)| lock - plain).collect()
}

/// Server CPU of a hand-off with `waiting` clients in the queue.
pub(crate) fn queue<'a>(run: &'a Run, waiting: usize, peer: &str) -> &'a [f64] {
    run.samples(names::QUEUE, &names::waiting(waiting), peer, names::CPU_US)
}

/// A quantity with `locks` locks held.
pub(crate) fn held_locks<'a>(
    run: &'a Run,
    locks: usize,
    peer: &str,
    measure: &str,
) -> &'a [f64] {
    run.samples(names::HELD, &names::held(locks), peer, measure)
}

/// Acquiring one lock of a pool relative to acquiring a named lock.
pub(crate) fn pool_to_one_lock(run: &Run, case: &str) -> Vec<f64> {
    ratios(pool(run, case), pool(run, names::ONE_LOCK))
}

/// Instructions for acquiring and releasing one lock of a pool.
pub(crate) fn pool<'a>(run: &'a Run, case: &str) -> &'a [f64] {
    run.samples(names::POOLS, case, names::OURS, names::INSTRUCTIONS)
}

/// A command unrelated to locks with the module relative to the same without it.
pub(crate) fn other_command(run: &Run, case: &str, command: &str) -> Vec<f64> {
    let samples =
        |case| run.samples(names::OTHER_COMMANDS, case, command, names::INSTRUCTIONS);
    let baseline = match case {
        names::CLIENTS_WAITING => names::IDLE_CLIENTS,
        _ => names::NO_MODULE,
    };
    ratios(samples(case), samples(baseline))
}

/// Commands unrelated to locks with the module relative to the same without it, in server CPU.
pub(crate) fn load_to_no_module(run: &Run) -> Vec<f64> {
    ratios(load(run, names::OURS), load(run, names::NO_MODULE))
}

/// Server CPU of a command unrelated to locks.
pub(crate) fn load<'a>(run: &'a Run, peer: &str) -> &'a [f64] {
    run.samples(names::LOAD, names::LOCKS_AND_QUEUES, peer, names::CPU_US)
}

/// CPU of an idle server beyond that of one without the module.
pub(crate) fn idle_above(run: &Run, case: &str) -> Vec<f64> {
    let both = idle(run, case, names::OURS).iter().zip(idle(run, case, names::NO_MODULE));
    both.map(|(ours, without)| ours - without).collect()
}

/// CPU of an idle server, in percent of a core.
pub(crate) fn idle<'a>(run: &'a Run, case: &str, peer: &str) -> &'a [f64] {
    run.samples(names::IDLE, case, peer, names::CPU_PERCENT)
}

/// Time from a change by another client to the grant.
pub(crate) fn outside_change<'a>(run: &'a Run, case: &str, measure: &str) -> &'a [f64] {
    run.samples(names::OUTSIDE_CHANGES, case, names::OURS, measure)
}

/// The GPULOCK pair relative to the native one with `locks` locks held, in server CPU.
pub(crate) fn held_to_native(run: &Run, locks: usize) -> Vec<f64> {
    let of = |peer| held_locks(run, locks, peer, names::CPU_US);
    ratios(of(names::OURS), of(names::NATIVE))
}

/// The cases of a part, in the order of their first series.
pub(crate) fn cases<'a>(run: &'a Run, part: &str) -> Vec<&'a str> {
    distinct(run, part, |series| &series.case)
}

/// The peers of a part, in the order of their first series.
pub(crate) fn peers<'a>(run: &'a Run, part: &str) -> Vec<&'a str> {
    distinct(run, part, |series| &series.peer)
}

fn distinct<'a>(run: &'a Run, part: &str, name: fn(&Series) -> &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in run.series.iter().filter(|series| series.part == part).map(name) {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Recorder;
    use crate::test_runs;

    /// A run with one series for GPULOCK and one for the server without the module.
    fn run(part: &'static str, case: &str, measure: &str, samples: [[f64; 2]; 2]) -> Run {
        let mut recorder = Recorder::new(part);
        for (peer, samples) in [names::OURS, names::NO_MODULE].into_iter().zip(samples) {
            for sample in samples {
                recorder.record(case, peer, measure, sample);
            }
        }
        Run { series: recorder.into_series(), ..test_runs::empty() }
    }

    #[test]
    fn idle_cpu_is_compared_round_by_round() {
        let case = names::queues(1_000);
        let percent = [[0.75, 1.0], [0.5, 0.25]];
        let run = run(names::IDLE, &case, names::CPU_PERCENT, percent);
        assert_eq!(idle_above(&run, &case), [0.25, 0.75]);
        assert!(idle_above(&run, &names::queues(1)).is_empty());
    }

    #[test]
    fn load_is_compared_round_by_round() {
        let case = names::LOCKS_AND_QUEUES;
        let cpu_us = [[1.5, 1.0], [1.0, 2.0]];
        let run = run(names::LOAD, case, names::CPU_US, cpu_us);
        assert_eq!(load_to_no_module(&run), [1.5, 0.5]);
    }

    #[test]
    fn a_pair_with_locks_held_is_compared_with_the_native_one() {
        let ratios = held_to_native(&test_runs::redis(), 1_000_000);
        assert!(!ratios.is_empty() && ratios.iter().all(|ratio| *ratio > 0.0));
        assert!(held_to_native(&test_runs::redis(), 7).is_empty());
    }
}
