//! Servers on which the ways to take a lock are measured as they run in life: what a pair
//! costs the server in CPU time, and how long it takes by the clock. One server for each
//! case (an append-only file, a replica …); all ways have their turn on each of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use gpulock_testkit::Builder;
use hdrhistogram::Histogram;
use redis::Connection;

use crate::figures::Notebook;
use crate::measure::Setup;
use crate::names;
use crate::packed::Packed;
use crate::served::Served;
use crate::ways::{self, PIPELINE, Way};

/// How often each way has its turn in a round: short turns in quick succession, so that
/// what else the machine does for a while meets all alike.
const TURNS: usize = 5;
/// How long a turn is when CPU time is measured.
const CPU_TURN: Duration = Duration::from_millis(40);
/// How long a turn is when the clock is looked at.
const CLOCK_TURN: Duration = Duration::from_millis(30);

/// A server in one case.
pub(crate) struct Stage {
    case: &'static str,
    ways: Vec<Way>,
    link: Connection,
    replica: Option<Served>,
    served: Served,
}

impl Stage {
    /// A server for each case. Only the first two have the limits: without a lock taken
    /// nothing is written to a file or sent to a replica.
    pub(crate) fn all(setup: &Setup) -> Result<Vec<Self>> {
        let (off, on) = (events("off"), events("release"));
        let mut stages = vec![
            Self::start(setup, names::EVENTS_OFF, &off)?.with_limits()?,
            Self::start(setup, names::EVENTS_ON, &on)?.with_limits()?,
            Self::start(setup, names::AOF, |server| with_file(off(server)))?,
            Self::start(setup, names::REPLICA, &off)?.with_replica(setup)?,
        ];
        for stage in &mut stages {
            stage.try_all()?;
        }
        Ok(stages)
    }

    fn start(
        setup: &Setup,
        case: &'static str,
        told: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self> {
        let served = Served::start(&setup.flavour, Some(&setup.module), told)?;
        let mut link = served.connect()?;
        let ways = ways::locks(&mut link)?;
        Ok(Self { case, ways, link, replica: None, served })
    }

    fn with_limits(mut self) -> Result<Self> {
        let mut ways = ways::limits(&mut self.link)?;
        ways.append(&mut self.ways);
        Ok(Self { ways, ..self })
    }

    fn with_replica(mut self, setup: &Setup) -> Result<Self> {
        let primary = self.served.server();
        let told = |builder: Builder| builder.replica_of(primary);
        self.replica = Some(Served::start(&setup.flavour, Some(&setup.module), told)?);
        Ok(self)
    }

    /// Everybody once, so that nobody's first turn pays for what is done only once.
    fn try_all(&mut self) -> Result<()> {
        self.ways.iter().try_for_each(|way| way.pipeline().send_times(&mut self.link, 20))
    }

    /// One round, a sample for each way; another way begins in the next.
    pub(crate) fn round(&mut self, notebook: &mut Notebook) -> Result<()> {
        let new = || Ok(Taken { cpu_us: 0.0, pairs: 0, times: Histogram::new(3)? });
        let mut taken = self.ways.iter().map(|_| new()).collect::<Result<Vec<_>>>()?;
        for _ in 0..TURNS {
            for (place, taken) in taken.iter_mut().enumerate() {
                self.cpu_turn(place, taken)?;
                self.clock_turn(place, taken)?;
            }
        }
        for (way, taken) in self.ways.iter().zip(taken) {
            let mut note =
                |measure, sample| notebook.note(self.case, way.name, measure, sample);
            note(names::CPU_US, taken.cpu_us / taken.pairs as f64);
            note(names::P50_MS, taken.milliseconds(0.5));
            note(names::P99_MS, taken.milliseconds(0.99));
        }
        self.ways.rotate_left(1);
        Ok(())
    }

    /// Pairs in pipelines. What a replica is to get is part of what they cost.
    fn cpu_turn(&mut self, place: usize, taken: &mut Taken) -> Result<()> {
        let pipeline = self.ways[place].pipeline();
        let before = self.served.cpu_us()?;
        let began = Instant::now();
        while began.elapsed() < CPU_TURN {
            pipeline.send(&mut self.link)?;
            taken.pairs += PIPELINE;
        }
        if let Some(replica) = &self.replica {
            replica.server().wait_caught_up_with(self.served.server());
        }
        taken.cpu_us += self.served.cpu_us()? - before;
        Ok(())
    }

    /// Pairs one command at a time: from asking for the lock to having given it back.
    fn clock_turn(&mut self, place: usize, taken: &mut Taken) -> Result<()> {
        let Way { take, give, .. } = &self.ways[place];
        let (take, give) = (Packed::new([take]), Packed::new([give]));
        let began = Instant::now();
        while began.elapsed() < CLOCK_TURN {
            let before = Instant::now();
            take.send(&mut self.link)?;
            give.send(&mut self.link)?;
            taken.times.record(u64::try_from(before.elapsed().as_nanos())?)?;
        }
        Ok(())
    }
}

/// What one way took in one round.
struct Taken {
    cpu_us: f64,
    pairs: usize,
    /// In nanoseconds.
    times: Histogram<u64>,
}

impl Taken {
    fn milliseconds(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e6
    }
}

fn events(which: &'static str) -> impl Fn(Builder) -> Builder {
    move |server| server.arg("gpulock.events", which)
}

/// The file is written to the disk each second, and not rewritten meanwhile.
fn with_file(server: Builder) -> Builder {
    server
        .arg("appendonly", "yes")
        .arg("appendfsync", "everysec")
        .arg("auto-aof-rewrite-percentage", 0)
}
