//! Servers on which the lock pairs run at full speed: CPU time of the server and wall-clock
//! time of each pair. One server for each case (append-only file, replica …), on which all
//! pairs take turns.

use std::time::{Duration, Instant};

use anyhow::Result;
use gpulock_testkit::Builder;
use redis::Connection;

use crate::histogram::Latencies;
use crate::lock_pairs::{self, LockPair, PIPELINE};
use crate::measure::Setup;
use crate::names;
use crate::pipeline::Pipeline;
use crate::series::Recorder;
use crate::server::BenchServer;

/// Turns of each pair in a round. Turns are short, so that other load on the machine
/// affects all pairs alike.
const TURNS: usize = 5;
/// Length of a turn that measures CPU time.
const CPU_TURN: Duration = Duration::from_millis(40);
/// Length of a turn that measures wall-clock time.
const CLOCK_TURN: Duration = Duration::from_millis(30);

/// A server in one case.
pub(crate) struct Scenario {
    case: &'static str,
    pairs: Vec<LockPair>,
    connection: Connection,
    replica: Option<BenchServer>,
    server: BenchServer,
}

impl Scenario {
    /// Starts a server for each case. Only the first two have the lower bounds: these pairs
    /// write nothing to a file or a replica.
    pub(crate) fn all(setup: &Setup) -> Result<Vec<Self>> {
        let (off, on) = (events("off"), events("release"));
        let mut scenarios = vec![
            Self::start(setup, names::EVENTS_OFF, &off)?.with_lower_bounds()?,
            Self::start(setup, names::EVENTS_ON, &on)?.with_lower_bounds()?,
            Self::start(setup, names::AOF, |server| with_aof(off(server)))?,
            Self::start(setup, names::REPLICA, &off)?.with_replica(setup)?,
        ];
        for scenario in &mut scenarios {
            scenario.warm_up()?;
        }
        Ok(scenarios)
    }

    fn start(
        setup: &Setup,
        case: &'static str,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        let server = BenchServer::start(&setup.flavour, Some(&setup.module), configure)?;
        let mut connection = server.connect()?;
        let pairs = lock_pairs::locks(&mut connection)?;
        Ok(Self { case, pairs, connection, replica: None, server })
    }

    fn with_lower_bounds(mut self) -> Result<Self> {
        let mut pairs = lock_pairs::lower_bounds(&mut self.connection)?;
        pairs.append(&mut self.pairs);
        Ok(Self { pairs, ..self })
    }

    fn with_replica(mut self, setup: &Setup) -> Result<Self> {
        let primary = self.server.process();
        let configure = |builder: Builder| builder.replica_of(primary);
        self.replica =
            Some(BenchServer::start(&setup.flavour, Some(&setup.module), configure)?);
        Ok(self)
    }

    /// Runs each pair once, so that no first turn includes one-time costs.
    fn warm_up(&mut self) -> Result<()> {
        self.pairs
            .iter()
            .try_for_each(|pair| pair.pipeline().send_times(&mut self.connection, 20))
    }

    /// Runs one round, which adds a sample for each pair. Each round starts with another
    /// pair.
    pub(crate) fn round(&mut self, recorder: &mut Recorder) -> Result<()> {
        let new = |_| RoundTotals { cpu_us: 0.0, pairs: 0, latencies: Latencies::new() };
        let mut totals: Vec<RoundTotals> = self.pairs.iter().map(new).collect();
        for _ in 0..TURNS {
            for (index, totals) in totals.iter_mut().enumerate() {
                self.cpu_turn(index, totals)?;
                self.clock_turn(index, totals)?;
            }
        }
        for (pair, totals) in self.pairs.iter().zip(totals) {
            let mut record =
                |measure, sample| recorder.record(self.case, pair.name, measure, sample);
            record(names::CPU_US, totals.cpu_us / totals.pairs as f64);
            record(names::P50_MS, totals.latencies.percentile_ms(50.0));
            record(names::P99_MS, totals.latencies.percentile_ms(99.0));
        }
        self.pairs.rotate_left(1);
        Ok(())
    }

    /// Runs pipelined pairs. The cost includes the replication to a replica.
    fn cpu_turn(&mut self, index: usize, totals: &mut RoundTotals) -> Result<()> {
        let pipeline = self.pairs[index].pipeline();
        let before = self.server.cpu_us()?;
        let start = Instant::now();
        while start.elapsed() < CPU_TURN {
            pipeline.send(&mut self.connection)?;
            totals.pairs += PIPELINE;
        }
        if let Some(replica) = &self.replica {
            replica.process().wait_caught_up_with(self.server.process());
        }
        totals.cpu_us += self.server.cpu_us()? - before;
        Ok(())
    }

    /// Runs pairs one command at a time and measures each pair by the clock.
    fn clock_turn(&mut self, index: usize, totals: &mut RoundTotals) -> Result<()> {
        let LockPair { acquire, release, .. } = &self.pairs[index];
        let (acquire, release) = (Pipeline::new([acquire]), Pipeline::new([release]));
        let start = Instant::now();
        while start.elapsed() < CLOCK_TURN {
            let before = Instant::now();
            acquire.send(&mut self.connection)?;
            release.send(&mut self.connection)?;
            totals.latencies.record(before.elapsed())?;
        }
        Ok(())
    }
}

/// The totals of one pair in one round.
struct RoundTotals {
    cpu_us: f64,
    pairs: usize,
    latencies: Latencies,
}

fn events(which: &'static str) -> impl Fn(Builder) -> Builder {
    move |server| server.arg("gpulock.events", which)
}

/// An append-only file, fsynced once a second and never rewritten.
fn with_aof(server: Builder) -> Builder {
    server
        .arg("appendonly", "yes")
        .arg("appendfsync", "everysec")
        .arg("auto-aof-rewrite-percentage", 0)
}
