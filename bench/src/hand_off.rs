//! Hand-off: processes that want one lock all the time, and how it passes among them. All
//! use redis-py, so that what differs is the lock and not the client. How the processes
//! are driven stands in `workers`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use redis::{Connection, InfoDict};

use crate::figures::{Figure, Notebook};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::served::Served;
use crate::workers::{Hold, Workers};

/// From the order to begin until the beginning: time for the order to reach all workers.
const NOTICE: Duration = Duration::from_millis(100);

/// So many workers, and how long they are looked at.
struct Crowd {
    workers: usize,
    rounds: usize,
    round: Duration,
}

/// Eight is the case that counts; two and many show what changes with their number.
const CROWDS: [Crowd; 3] = [
    Crowd { workers: 8, rounds: 5, round: Duration::from_secs(4) },
    Crowd { workers: 2, rounds: 3, round: Duration::from_secs(1) },
    Crowd { workers: 32, rounds: 3, round: Duration::from_secs(2) },
];

/// Measures the hand-off. The gap is the time from the moment a holder begins to give the
/// lock back to the moment the next one has it.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    let mut notes = Notebook::new(names::HAND_OFF);
    progress.rounds(
        CROWDS.iter().map(|crowd| crowd.rounds * names::HAND_OFF_PEERS.len()).sum(),
    );
    for crowd in &CROWDS {
        measure_crowd(setup, progress, crowd, &mut notes)?;
    }
    Ok(notes.into_figures())
}

/// The locks take turns, in rounds, on one server.
fn measure_crowd(
    setup: &Setup,
    progress: &Progress,
    crowd: &Crowd,
    notes: &mut Notebook,
) -> Result<()> {
    let case = names::workers(crowd.workers);
    let served = Served::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let mut workers =
        Workers::start(&setup.python, served.server().port(), crowd.workers)?;
    for _ in 0..crowd.rounds {
        for lock in names::HAND_OFF_PEERS {
            progress.doing(&format!("{case}, {lock}"));
            let round = Round::run(&served, &mut workers, lock, crowd.round)
                .with_context(|| format!("{case}, {lock}"))?;
            round.note(notes, &case, lock);
            progress.step();
        }
    }
    Ok(())
}

/// What one lock did in one round.
struct Round {
    /// In nanoseconds.
    gaps: Histogram<u64>,
    rate: f64,
    commands: f64,
    cpu_us: f64,
    jain: f64,
    sat_out: f64,
}

impl Round {
    fn run(
        served: &Served,
        workers: &mut Workers,
        lock: &str,
        length: Duration,
    ) -> Result<Self> {
        let mut asking = served.connect()?;
        redis::cmd("FLUSHALL").exec(&mut asking)?;
        let begin = workers.ready(lock)? + nanoseconds(NOTICE);
        let end = begin + nanoseconds(length);
        // Only now: what the clients say when they connect is no part of a hand-off.
        let commands = commands_run(&mut asking)?;
        let cpu_us = served.cpu_us()?;
        let holds = workers.work(begin, end)?;
        let cpu_us = served.cpu_us()? - cpu_us;
        let commands = commands_run(&mut asking)? - commands;

        // Who waits when the round is over gets the lock once more: these hand-offs cost
        // what all do, but they are nobody's share of the round.
        let in_time: Vec<usize> = holds
            .iter()
            .filter(|hold| hold.taken < end)
            .map(|hold| hold.worker)
            .collect();
        let passes = holds.len() as f64;
        Ok(Self {
            gaps: gaps(&holds)?,
            rate: in_time.len() as f64 / length.as_secs_f64(),
            commands: commands as f64 / passes,
            cpu_us: cpu_us / passes,
            jain: jain(&in_time, workers.count()),
            sat_out: longest_sat_out(&in_time, workers.count()) as f64,
        })
    }

    fn note(&self, notes: &mut Notebook, case: &str, lock: &str) {
        let figures = [
            (names::P50_MS, gap_ms(&self.gaps, 50.0)),
            (names::P99_MS, gap_ms(&self.gaps, 99.0)),
            (names::MAX_MS, gap_ms(&self.gaps, 100.0)),
            (names::RATE, self.rate),
            (names::COMMANDS, self.commands),
            (names::CPU_US, self.cpu_us),
            (names::JAIN, self.jain),
            (names::SAT_OUT, self.sat_out),
        ];
        for (measure, figure) in figures {
            notes.note(case, lock, measure, figure);
        }
    }
}

/// The gaps between holds that follow each other. Two holders at once are no figure but
/// the end of the bench.
fn gaps(holds: &[Hold]) -> Result<Histogram<u64>> {
    let mut gaps = no_gaps();
    for pair in holds.windows(2) {
        match pair[1].taken.checked_sub(pair[0].giving) {
            Some(gap) => gaps.record(gap)?,
            None => bail!("two workers held the lock at once: {pair:?}"),
        }
    }
    Ok(gaps)
}

fn no_gaps() -> Histogram<u64> {
    Histogram::new(3).expect("3 digits are as many as it can keep, and fewer")
}

fn gap_ms(gaps: &Histogram<u64>, percent: f64) -> f64 {
    gaps.value_at_percentile(percent) as f64 / 1e6
}

/// Commands that the server has run so far, those in scripts too, but our own question.
fn commands_run(asking: &mut Connection) -> Result<u64> {
    let stats: InfoDict = redis::cmd("INFO").arg("commandstats").query(asking)?;
    let mut sum = 0;
    for (name, value) in stats.iter().filter(|(name, _)| *name != "cmdstat_info") {
        let redis::Value::SimpleString(value) = value else { bail!("{name}: no text") };
        // "calls=5,usec=12,…"
        let calls = value.strip_prefix("calls=").and_then(|rest| rest.split(',').next());
        sum += calls.context("no calls in commandstats")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Jain's index: the square of the sum of the shares by the sum of their squares and
/// their number; 1 when all are equal, 1/n when one has all.
fn jain(holders: &[usize], workers: usize) -> f64 {
    let share =
        |worker| holders.iter().filter(|holder| **holder == worker).count() as f64;
    let squares: f64 = (0..workers).map(|worker| share(worker).powi(2)).sum();
    (holders.len() as f64).powi(2) / (workers as f64 * squares)
}

/// The longest run of holds by others that a worker saw, the ends of the round included.
fn longest_sat_out(holders: &[usize], workers: usize) -> usize {
    let longest_of = |worker| {
        let runs = holders.split(|holder| *holder == worker);
        runs.map(<[usize]>::len).max().unwrap_or_default()
    };
    (0..workers).map(longest_of).max().unwrap_or_default()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a round is shorter than 500 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equal_shares_and_falls_to_one_of_all() {
        assert_eq!(jain(&[0, 1, 1, 0], 2), 1.0);
        assert_eq!(jain(&[1, 1, 1], 4), 0.25);
    }

    #[test]
    fn sitting_out_counts_from_the_beginning_and_to_the_end() {
        assert_eq!(longest_sat_out(&[0, 1, 0, 0, 0, 1], 2), 3);
        assert_eq!(longest_sat_out(&[0, 0], 2), 2);
        assert_eq!(longest_sat_out(&[0, 1, 1, 1, 1], 2), 4);
    }

    #[test]
    fn two_holders_at_once_end_the_bench() {
        let first = Hold { taken: 1, giving: 5, worker: 0 };
        let next = |taken| Hold { taken, giving: 9, worker: 1 };
        assert_eq!(gaps(&[first, next(7)]).unwrap().max(), 2);
        assert!(gaps(&[first, next(4)]).is_err());
    }
}
