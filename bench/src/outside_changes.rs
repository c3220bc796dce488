//! Outside changes: time from a `DEL` by another client to the grant of the lock to the client
//! that waits for it. No GPULOCK command is involved: the module has to notice the change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::histogram::Latencies;
use crate::measure::Setup;
use crate::names;
use crate::populated::{Populated, key, wait};
use crate::progress::Progress;
use crate::raw_connection::{RawConnection, encode};
use crate::series::{Recorder, Series};

/// Queues on each server, with one client waiting in each.
const QUEUES: usize = 8;

const BUSY_ROUNDS: usize = 7;
const BUSY_SAMPLES: usize = 300;
/// Longest pause before a change on the busy server. Pauses differ, so that changes come at any
/// time between two checks of the keys.
const BUSY_PAUSE_US: u64 = 10_000;
/// Distance between consecutive pauses, coprime to the longest.
const BUSY_STRIDE_US: u64 = 3_571;

const SILENT_ROUNDS: usize = 5;
/// Servers that are silent at the same time, and silences in a round.
const SILENT_SERVERS: usize = 16;
const SILENCES: usize = 5;
const SILENCE: Duration = Duration::from_millis(1_200);

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let mut recorder = Recorder::new(names::OUTSIDE_CHANGES);
    progress.set_rounds(BUSY_ROUNDS + SILENT_ROUNDS);
    busy(setup, progress, &mut recorder)?;
    silent(setup, progress, &mut recorder)?;
    Ok(recorder.into_series())
}

/// Changes on a server to which another client sends commands all the time.
fn busy(setup: &Setup, progress: &Progress, recorder: &mut Recorder) -> Result<()> {
    let mut queues = Queues::start(setup)?;
    let mut load = RawConnection::connect(&queues.populated.server)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(&is_over, &mut load));
        let measured = (1..=BUSY_ROUNDS).try_for_each(|round| {
            progress.set_step(&format!("busy, round {round} of {BUSY_ROUNDS}"));
            let mut latencies = Latencies::new();
            for sample in 0..BUSY_SAMPLES as u64 {
                let pause_us = sample * BUSY_STRIDE_US % BUSY_PAUSE_US;
                thread::sleep(Duration::from_micros(pause_us));
                latencies.record(queues.change()?)?;
            }
            record(recorder, names::BUSY, &latencies);
            progress.finish_round();
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        let sent = sender.join().ok().context("the load ended with a panic")?;
        measured.and(sent)
    })
}

/// Sends commands that do not concern the locks, one after the other.
fn send_until(is_over: &AtomicBool, connection: &mut RawConnection) -> Result<()> {
    let commands =
        [encode(&["PING"]), encode(&["SET", "user", "v"]), encode(&["INCR", "tally"])];
    for command in commands.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        connection.send(command)?;
        connection.read_replies(1)?;
    }
    Ok(())
}

/// Changes on servers that have received nothing for some time.
fn silent(setup: &Setup, progress: &Progress, recorder: &mut Recorder) -> Result<()> {
    let mut servers =
        (0..SILENT_SERVERS).map(|_| Queues::start(setup)).collect::<Result<Vec<_>>>()?;
    for round in 1..=SILENT_ROUNDS {
        progress.set_step(&format!("silent, round {round} of {SILENT_ROUNDS}"));
        let mut latencies = Latencies::new();
        for _ in 0..SILENCES {
            thread::sleep(SILENCE);
            for queues in &mut servers {
                latencies.record(queues.change()?)?;
            }
        }
        record(recorder, names::SILENT, &latencies);
        progress.finish_round();
    }
    Ok(())
}

fn record(recorder: &mut Recorder, case: &str, latencies: &Latencies) {
    for (measure, percentile) in
        [(names::P50_MS, 50.0), (names::P99_MS, 99.0), (names::MAX_MS, 100.0)]
    {
        recorder.record(case, names::OURS, measure, latencies.percentile_ms(percentile));
    }
}

/// A server with queues, and the client that changes keys.
struct Queues {
    populated: Populated,
    changer: RawConnection,
    next: usize,
}

impl Queues {
    fn start(setup: &Setup) -> Result<Self> {
        let populated = Populated::with_locks(setup, QUEUES, QUEUES)?;
        let [changer] = RawConnection::connect_many(&populated.server, 1)?
            .try_into()
            .ok()
            .context("one connection")?;
        Ok(Self { populated, changer, next: 0 })
    }

    /// Deletes the key of the next lock. Returns the time until the waiter has its grant. Then the
    /// waiter queues again, behind its own hold.
    fn change(&mut self) -> Result<Duration> {
        let lock = self.next;
        self.next = (lock + 1) % QUEUES;
        let delete = encode(&["DEL", &key(lock)]);
        let waiter = &mut self.populated.clients[lock];
        let start = Instant::now();
        self.changer.send(&delete)?;
        waiter.read_replies(1)?;
        let latency = start.elapsed();
        self.changer.read_replies(1)?;
        waiter.send_blocking(&wait(lock))?;
        Ok(latency)
    }
}
