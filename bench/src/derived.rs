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
