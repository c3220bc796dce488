//! What is compared with what: quantities made of two figures, round by round. Tables,
//! targets and plots take them from here, so that they agree.

use crate::figures::{Figure, Run, ratios};
use crate::names;

/// A pair beside the native one under the same circumstances, or under the plain ones when
/// the native one was not measured under the same.
pub(crate) fn to_native(run: &Run, case: &str, peer: &str, measure: &str) -> Vec<f64> {
    let same = run.samples(names::PAIR, case, names::NATIVE, measure);
    let plain = run.samples(names::PAIR, names::EVENTS_OFF, names::NATIVE, measure);
    let native = if same.is_empty() { plain } else { same };
    ratios(run.samples(names::PAIR, case, peer, measure), native)
}

/// The Lua pair beside ours.
pub(crate) fn lua_to_ours(run: &Run, measure: &str) -> Vec<f64> {
    let of = |peer| run.samples(names::PAIR, names::EVENTS_OFF, peer, measure);
    ratios(of(names::LUA), of(names::OURS))
}

/// Our gap beside that of a peer.
pub(crate) fn gap_to(run: &Run, peer: &str) -> Vec<f64> {
    let case = names::workers(names::WORKERS);
    let of = |peer| run.samples(names::HAND_OFF, &case, peer, names::P50_MS);
    ratios(of(names::OURS), of(peer))
}

/// A hand-off with the most in line beside one with the fewest.
pub(crate) fn growth(run: &Run, peer: &str) -> Vec<f64> {
    let [few, .., many] = names::WAITING;
    ratios(in_line(run, many, peer), in_line(run, few, peer))
}

/// Bytes of a lock beyond those of a plain key.
pub(crate) fn bytes_more(run: &Run, count: usize) -> Vec<f64> {
    let of = |peer| held(run, count, peer, names::BYTES);
    let both = of(names::OURS).iter().zip(of(names::NATIVE));
    both.map(|(lock, plain)| lock - plain).collect()
}

/// Server CPU of a hand-off with so many in line.
pub(crate) fn in_line<'a>(run: &'a Run, waiting: usize, peer: &str) -> &'a [f64] {
    run.samples(names::IN_LINE, &names::waiting(waiting), peer, names::CPU_US)
}

/// A quantity with so many locks held.
pub(crate) fn held<'a>(
    run: &'a Run,
    locks: usize,
    peer: &str,
    measure: &str,
) -> &'a [f64] {
    run.samples(names::HELD, &names::held(locks), peer, measure)
}

/// One lock of a pool beside a lock asked for by name.
pub(crate) fn pool_to_one_lock(run: &Run, case: &str) -> Vec<f64> {
    ratios(pool(run, case), pool(run, names::ONE_LOCK))
}

/// One lock of a pool.
pub(crate) fn pool<'a>(run: &'a Run, case: &str) -> &'a [f64] {
    run.samples(names::POOLS, case, names::OURS, names::INSTRUCTIONS)
}

/// Somebody else's command with the module beside the same without it.
pub(crate) fn bystander(run: &Run, case: &str, command: &str) -> Vec<f64> {
    let with = |case| run.samples(names::BYSTANDERS, case, command, names::INSTRUCTIONS);
    let waiting = case == names::CLIENTS_WAITING;
    ratios(with(case), with(if waiting { names::IDLE_CLIENTS } else { names::NO_MODULE }))
}

/// The cases of a part in the order of their first figures.
pub(crate) fn cases<'a>(run: &'a Run, part: &str) -> Vec<&'a str> {
    distinct(run, part, |figure| &figure.case)
}

/// The peers of a part in the order of their first figures.
pub(crate) fn peers<'a>(run: &'a Run, part: &str) -> Vec<&'a str> {
    distinct(run, part, |figure| &figure.peer)
}

fn distinct<'a>(run: &'a Run, part: &str, of: fn(&Figure) -> &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in run.figures.iter().filter(|figure| figure.part == part).map(of) {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}
