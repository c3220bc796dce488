//! Hand-off: processes that compete for one lock, and how it passes from one to the next.
//! All use redis-py, so the difference is the lock and not the client.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::{Connection, InfoDict};

use crate::histogram::Latencies;
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::series::{Recorder, Series};
use crate::server::BenchServer;
use crate::workers::{Hold, Workers};

/// Time for the order to start to reach all workers.
const NOTICE: Duration = Duration::from_millis(100);

/// Number of workers, and how long they run.
struct Config {
    workers: usize,
    rounds: usize,
    round: Duration,
}

/// The targets refer to eight workers; two and 32 show how the number matters.
const CONFIGS: [Config; 3] = [
    Config { workers: 8, rounds: 5, round: Duration::from_secs(4) },
    Config { workers: 2, rounds: 3, round: Duration::from_secs(1) },
    Config { workers: 32, rounds: 3, round: Duration::from_secs(2) },
];

/// Measures the hand-off. The gap is the time from the moment the holder starts to release
/// the lock to the moment the next holder has it.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let mut recorder = Recorder::new(names::HAND_OFF);
    progress.set_rounds(
        CONFIGS.iter().map(|config| config.rounds * names::HAND_OFF_PEERS.len()).sum(),
    );
    for config in &CONFIGS {
        measure_config(setup, progress, config, &mut recorder)?;
    }
    Ok(recorder.into_series())
}

/// Measures all peers in turn, round by round, on one server.
fn measure_config(
    setup: &Setup,
    progress: &Progress,
    config: &Config,
    recorder: &mut Recorder,
) -> Result<()> {
    let case = names::workers(config.workers);
    let server =
        BenchServer::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let mut workers =
        Workers::start(&setup.python, server.process().port(), config.workers)?;
    for _ in 0..config.rounds {
        for lock in names::HAND_OFF_PEERS {
            progress.set_step(&format!("{case}, {lock}"));
            let round = Round::run(&server, &mut workers, lock, config.round)
                .with_context(|| format!("{case}, {lock}"))?;
            round.record(recorder, &case, lock);
            progress.finish_round();
        }
    }
    Ok(())
}

/// The results of one lock in one round.
struct Round {
    gaps: Latencies,
    rate: f64,
    commands: f64,
    cpu_us: f64,
    jain: f64,
    longest_wait: f64,
}

impl Round {
    fn run(
        server: &BenchServer,
        workers: &mut Workers,
        lock: &str,
        length: Duration,
    ) -> Result<Self> {
        let mut connection = server.connect()?;
        redis::cmd("FLUSHALL").exec(&mut connection)?;
        let begin = workers.prepare(lock)? + nanoseconds(NOTICE);
        let end = begin + nanoseconds(length);
        // After the workers have connected: their handshake is not part of a hand-off.
        let commands = commands_run(&mut connection)?;
        let cpu_us = server.cpu_us()?;
        let holds = workers.work(begin, end)?;
        let cpu_us = server.cpu_us()? - cpu_us;
        let commands = commands_run(&mut connection)? - commands;

        // Workers that wait at the end of the round get the lock once more. Those hand-offs
        // cost the same as others but do not count for the shares of the round.
        let in_time: Vec<usize> = holds
            .iter()
            .filter(|hold| hold.acquired < end)
            .map(|hold| hold.worker)
            .collect();
        let hand_offs = holds.len() as f64;
        Ok(Self {
            gaps: gaps(&holds)?,
            rate: in_time.len() as f64 / length.as_secs_f64(),
            commands: commands as f64 / hand_offs,
            cpu_us: cpu_us / hand_offs,
            jain: jain(&in_time, workers.count()),
            longest_wait: longest_wait(&in_time, workers.count()) as f64,
        })
    }

    fn record(&self, recorder: &mut Recorder, case: &str, lock: &str) {
        let samples = [
            (names::P50_MS, self.gaps.percentile_ms(50.0)),
            (names::P99_MS, self.gaps.percentile_ms(99.0)),
            (names::MAX_MS, self.gaps.percentile_ms(100.0)),
            (names::RATE, self.rate),
            (names::COMMANDS, self.commands),
            (names::CPU_US, self.cpu_us),
            (names::JAIN, self.jain),
            (names::LONGEST_WAIT, self.longest_wait),
        ];
        for (measure, sample) in samples {
            recorder.record(case, lock, measure, sample);
        }
    }
}

/// The gaps between consecutive holds. Overlapping holds abort the benchmark.
fn gaps(holds: &[Hold]) -> Result<Latencies> {
    let mut gaps = Latencies::new();
    for pair in holds.windows(2) {
        match pair[1].acquired.checked_sub(pair[0].releasing) {
            Some(gap) => gaps.record(Duration::from_nanos(gap))?,
            None => bail!("two workers held the lock at the same time: {pair:?}"),
        }
    }
    Ok(gaps)
}

/// Commands that the server has executed, including those in scripts, without our `INFO`.
fn commands_run(connection: &mut Connection) -> Result<u64> {
    let stats: InfoDict = redis::cmd("INFO").arg("commandstats").query(connection)?;
    let mut sum = 0;
    for (name, value) in stats.iter().filter(|(name, _)| *name != "cmdstat_info") {
        let redis::Value::SimpleString(value) = value else {
            bail!("commandstats: {name} is not a string")
        };
        // "calls=5,usec=12,…"
        let calls = value.strip_prefix("calls=").and_then(|rest| rest.split(',').next());
        sum += calls.context("commandstats: missing \"calls\"")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Jain's fairness index: the squared sum of the shares, divided by the number of workers
/// times the sum of the squared shares. 1 if all are equal, 1/n if one worker has all.
fn jain(holders: &[usize], workers: usize) -> f64 {
    let share =
        |worker| holders.iter().filter(|holder| **holder == worker).count() as f64;
    let squares: f64 = (0..workers).map(|worker| share(worker).powi(2)).sum();
    (holders.len() as f64).powi(2) / (workers as f64 * squares)
}

/// The longest run of holds by others that any worker saw, including those at the start and
/// at the end of the round.
fn longest_wait(holders: &[usize], workers: usize) -> usize {
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
    fn jain_is_one_for_equal_shares_and_one_nth_for_a_single_holder() {
        assert_eq!(jain(&[0, 1, 1, 0], 2), 1.0);
        assert_eq!(jain(&[1, 1, 1], 4), 0.25);
    }

    #[test]
    fn longest_wait_includes_the_start_and_the_end() {
        assert_eq!(longest_wait(&[0, 1, 0, 0, 0, 1], 2), 3);
        assert_eq!(longest_wait(&[0, 0], 2), 2);
        assert_eq!(longest_wait(&[0, 1, 1, 1, 1], 2), 4);
    }

    #[test]
    fn overlapping_holds_are_an_error() {
        let first = Hold { acquired: 1, releasing: 5, worker: 0 };
        let next = |acquired| Hold { acquired, releasing: 9, worker: 1 };
        assert_eq!(gaps(&[first, next(7)]).unwrap().percentile_ms(100.0), 2e-6);
        assert!(gaps(&[first, next(4)]).is_err());
    }
}
