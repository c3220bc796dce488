//! Recovery: a holder is killed, and the next waiter gets the lock. Measures how long that
//! takes with SESSION and with a lease alone.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::histogram::Latencies;
use crate::holder::Holder;
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::raw_connection::{RawConnection, encode};
use crate::series::{Recorder, Series};
use crate::server::BenchServer;

const ROUNDS: usize = 5;
/// Kills per round with SESSION, one after the other: each takes a few milliseconds.
const WITH_SESSION: usize = 100;
/// Kills per round with a lease, in parallel: each takes as long as the lease.
const WITH_LEASE: usize = 10;

/// Measures the time from the kill to the next grant. The lease of the lock manager that the
/// module replaces, 600 s, would behave like that of 1 s, so it is not measured.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let server =
        BenchServer::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let mut recorder = Recorder::new(names::RECOVERY);
    progress.set_rounds(2 * ROUNDS);
    for _ in 0..ROUNDS {
        progress.set_step(names::SESSION);
        record(&mut recorder, names::SESSION, &sequential(&server)?)?;
        progress.finish_round();

        progress.set_step(names::LEASE);
        record(&mut recorder, names::LEASE, &parallel(&server)?)?;
        progress.finish_round();
    }
    Ok(recorder.into_series())
}

fn sequential(server: &BenchServer) -> Result<Vec<Duration>> {
    (0..WITH_SESSION).map(|_| recover(server, "one", &["EX", "600", "SESSION"])).collect()
}

fn parallel(server: &BenchServer) -> Result<Vec<Duration>> {
    thread::scope(|scope| {
        let one = |lock: usize| {
            scope.spawn(move || recover(server, &format!("lock {lock}"), &["PX", "1000"]))
        };
        let all: Vec<_> = (0..WITH_LEASE).map(one).collect();
        all.into_iter()
            .map(|one| one.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    })
}

/// Returns the time from the kill of the holder to the reply of the waiter.
fn recover(server: &BenchServer, key: &str, options: &[&str]) -> Result<Duration> {
    let acquire = [&["GPULOCK.ACQUIRE", key, "killed"], options].concat();
    let mut holder = Holder::start(server.process().port(), &acquire)?;
    let mut waiter = RawConnection::connect(server)?;
    waiter.send_blocking(&encode(&["GPULOCK.ACQUIRE", key, "next", "BLOCK", "0"]))?;

    let killed = Instant::now();
    holder.kill()?;
    waiter.read_replies(1)?;
    let time = killed.elapsed();

    waiter.send(&encode(&["GPULOCK.RELEASE", key, "next"]))?;
    waiter.read_replies(1)?;
    Ok(time)
}

fn record(recorder: &mut Recorder, case: &str, times: &[Duration]) -> Result<()> {
    let mut latencies = Latencies::new();
    times.iter().try_for_each(|time| latencies.record(*time))?;
    for (measure, percentile) in
        [(names::P50_MS, 50.0), (names::P99_MS, 99.0), (names::MAX_MS, 100.0)]
    {
        let ms = latencies.percentile_ms(percentile);
        recorder.record(case, names::OURS, measure, ms);
    }
    Ok(())
}
