//! Recovery: a holder is killed, and the next in line gets the lock. How long that takes
//! with a session, and with a lease alone.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;

use crate::figures::{Figure, Notebook};
use crate::holder::Holder;
use crate::link::{Link, packed};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::served::Served;

const ROUNDS: usize = 5;
/// Deaths in a round, one after the other: with a session each takes a few milliseconds.
const WITH_SESSION: usize = 100;
/// Deaths in a round, side by side: with a lease each takes as long as the lease.
const WITH_LEASE: usize = 10;

/// Measures the time from the kill to the next holder. The lease of the replaced system,
/// 600 s, would be the same as that of 1 s but for the time, and is not waited for.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    let served = Served::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let mut notes = Notebook::new(names::RECOVERY);
    progress.rounds(2 * ROUNDS);
    for _ in 0..ROUNDS {
        progress.doing(names::SESSION);
        note(&mut notes, names::SESSION, &one_by_one(&served)?)?;
        progress.step();

        progress.doing(names::LEASE);
        note(&mut notes, names::LEASE, &side_by_side(&served)?)?;
        progress.step();
    }
    Ok(notes.into_figures())
}

fn one_by_one(served: &Served) -> Result<Vec<Duration>> {
    (0..WITH_SESSION).map(|_| recover(served, "one", &["EX", "600", "SESSION"])).collect()
}

fn side_by_side(served: &Served) -> Result<Vec<Duration>> {
    thread::scope(|scope| {
        let one = |lock: usize| {
            scope.spawn(move || recover(served, &format!("lock {lock}"), &["PX", "1000"]))
        };
        let all: Vec<_> = (0..WITH_LEASE).map(one).collect();
        all.into_iter()
            .map(|one| one.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    })
}

/// One death: the time from the kill of the holder until the waiter has its answer.
fn recover(served: &Served, key: &str, kept_by: &[&str]) -> Result<Duration> {
    let take = [&["GPULOCK.ACQUIRE", key, "the one that dies"], kept_by].concat();
    let mut holder = Holder::start(served.server().port(), &take)?;
    let mut next = Link::to(served)?;
    next.wait(&packed(&["GPULOCK.ACQUIRE", key, "the next", "BLOCK", "0"]))?;

    let killed = Instant::now();
    holder.kill()?;
    next.answers(1)?;
    let time = killed.elapsed();

    next.send(&packed(&["GPULOCK.RELEASE", key, "the next"]))?;
    next.answers(1)?;
    Ok(time)
}

fn note(notes: &mut Notebook, case: &str, times: &[Duration]) -> Result<()> {
    let mut nanoseconds = Histogram::<u64>::new(3)?;
    for time in times {
        nanoseconds.record(u64::try_from(time.as_nanos())?)?;
    }
    for (measure, percent) in
        [(names::P50_MS, 50.0), (names::P99_MS, 99.0), (names::MAX_MS, 100.0)]
    {
        let ms = nanoseconds.value_at_percentile(percent) as f64 / 1e6;
        notes.note(case, names::OURS, measure, ms);
    }
    Ok(())
}
