//! Held locks: memory of held locks, cost of a pair while many locks are held, and pauses of
//! the server while a million locks are acquired. Compared with plain keys with an expiry
//! time on a server without the module.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use redis::{Cmd, cmd};

use crate::measure::Setup;
use crate::memory::settled;
use crate::names;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::series::{Recorder, Series};
use crate::server::BenchServer;

/// Number of times the million is acquired.
const PASSES: usize = 3;
/// Commands per pipeline.
const BATCH: usize = 50;
/// Pairs per sample, and samples for each number of locks.
const PAIRS: usize = 2_000;
const SAMPLES: usize = 4;
/// Distance between the locks of consecutive pairs, coprime to the numbers of locks.
const STRIDE: usize = 7_919;
const LEASE_MS: u64 = 60_000_000;
/// See [`settled`]; only hash tables being resized have to settle.
const SETTLE_TIME: Duration = Duration::from_secs(1);
const SLOW_US: u64 = 2_000;

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let mut recorder = Recorder::new(names::HELD);
    progress.set_rounds(PASSES * names::HELD_COUNTS.len());
    for _ in 0..PASSES {
        acquire_a_million(setup, progress, &mut recorder)?;
    }
    Ok(recorder.into_series())
}

/// Fills both servers, a batch each in turn, and measures at each of [`names::HELD_COUNTS`].
fn acquire_a_million(
    setup: &Setup,
    progress: &Progress,
    recorder: &mut Recorder,
) -> Result<()> {
    let mut sides = [Side::ours(setup)?, Side::native(setup)?];
    // Runs all commands once, so that one-time allocations are not attributed to the locks.
    acquire(&mut sides, 0..1)?;
    sides.iter().try_for_each(|side| side.pair_us(1).map(drop))?;
    let first = memory(&sides);
    let mut held = 1;
    for number in names::HELD_COUNTS {
        let case = names::held(number);
        progress.set_step(&case);
        acquire(&mut sides, held..number)?;
        held = number;
        for ((side, all), first) in sides.iter().zip(memory(&sides)).zip(&first) {
            let bytes = (all - first) as f64 / (number - 1) as f64;
            recorder.record(&case, side.peer, names::BYTES, bytes);
        }
        for _ in 0..SAMPLES {
            for side in &sides {
                recorder.record(&case, side.peer, names::CPU_US, side.pair_us(number)?);
            }
        }
        progress.finish_round();
    }
    for side in &sides {
        let case = names::held(held);
        recorder.record(&case, side.peer, names::SLOW, side.slow as f64);
        recorder.record(&case, side.peer, names::BATCH_MS, side.highest_us / 1e3);
    }
    Ok(())
}

fn memory(sides: &[Side]) -> Vec<i64> {
    let servers: Vec<&BenchServer> = sides.iter().map(|side| &side.server).collect();
    settled(&servers, SETTLE_TIME)
}

/// Acquires more locks, and records slow commands and CPU time between batches.
fn acquire(sides: &mut [Side], range: Range<usize>) -> Result<()> {
    let mut connections =
        sides.iter().map(|side| side.server.connect()).collect::<Result<Vec<_>>>()?;
    for (side, connection) in sides.iter_mut().zip(&mut connections) {
        cmd("SLOWLOG").arg("RESET").exec(connection)?;
        side.last_cpu_us = side.server.cpu_us()?;
    }
    for start in range.clone().step_by(BATCH) {
        let batch = start..range.end.min(start + BATCH);
        for (side, connection) in sides.iter_mut().zip(&mut connections) {
            let commands: Vec<Cmd> = batch.clone().map(side.acquire).collect();
            Pipeline::new(&commands).send(connection)?;
            side.record_cpu()?;
        }
    }
    for (side, connection) in sides.iter_mut().zip(&mut connections) {
        side.slow += cmd("SLOWLOG").arg("LEN").query::<u64>(connection)?;
    }
    Ok(())
}

/// Locks or plain keys, on a server.
struct Side {
    peer: &'static str,
    acquire: fn(usize) -> Cmd,
    release: fn(usize) -> Cmd,
    server: BenchServer,
    /// The server's CPU time after the last batch.
    last_cpu_us: f64,
    /// Highest CPU time from one batch to the next, including work between commands.
    highest_us: f64,
    /// Entries of the slow log.
    slow: u64,
}

impl Side {
    fn ours(setup: &Setup) -> Result<Self> {
        let acquire = |number| {
            let mut acquire = cmd("GPULOCK.ACQUIRE");
            acquire.arg(key(number)).arg(owner(number)).arg("PX").arg(LEASE_MS);
            acquire
        };
        let release = |number| {
            let mut release = cmd("GPULOCK.RELEASE");
            release.arg(key(number)).arg(owner(number));
            release
        };
        Self::start(setup, names::OURS, true, acquire, release)
    }

    fn native(setup: &Setup) -> Result<Self> {
        let acquire = |number| {
            let mut acquire = cmd("SET");
            acquire.arg(key(number)).arg(owner(number)).arg("NX").arg("PX").arg(LEASE_MS);
            acquire
        };
        let release = |number| {
            let mut release = cmd("DEL");
            release.arg(key(number));
            release
        };
        Self::start(setup, names::NATIVE, false, acquire, release)
    }

    fn start(
        setup: &Setup,
        peer: &'static str,
        with_module: bool,
        acquire: fn(usize) -> Cmd,
        release: fn(usize) -> Cmd,
    ) -> Result<Self> {
        let module = with_module.then_some(&*setup.module);
        let server = BenchServer::start(&setup.flavour, module, |builder| {
            builder
                .arg("slowlog-log-slower-than", SLOW_US)
                .arg("slowlog-max-len", 1_000_000)
        })?;
        Ok(Self {
            peer,
            acquire,
            release,
            server,
            last_cpu_us: 0.0,
            highest_us: 0.0,
            slow: 0,
        })
    }

    fn record_cpu(&mut self) -> Result<()> {
        let now = self.server.cpu_us()?;
        self.highest_us = self.highest_us.max(now - self.last_cpu_us);
        self.last_cpu_us = now;
        Ok(())
    }

    /// Server CPU of releasing a lock and acquiring it again, in microseconds, averaged over
    /// locks spread over all that are held.
    fn pair_us(&self, held: usize) -> Result<f64> {
        let mut connection = self.server.connect()?;
        let numbers: Vec<usize> = (0..PAIRS).map(|pair| pair * STRIDE % held).collect();
        let pairs = |batch: &[usize]| {
            let each =
                |number: &usize| [(self.release)(*number), (self.acquire)(*number)];
            Pipeline::new(&batch.iter().flat_map(each).collect::<Vec<Cmd>>())
        };
        let batches: Vec<Pipeline> = numbers.chunks(BATCH).map(pairs).collect();
        let before = self.server.cpu_us()?;
        batches.iter().try_for_each(|batch| batch.send(&mut connection))?;
        Ok((self.server.cpu_us()? - before) / PAIRS as f64)
    }
}

/// 16 bytes.
fn key(number: usize) -> String {
    format!("gpu_lock:{number:07}")
}

/// 36 bytes.
fn owner(number: usize) -> String {
    format!("locked_by_transcribe:worker3:{number:07}")
}
