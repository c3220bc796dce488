//! Held: what locks cost when many are held. Memory, a pair among so many, and how long
//! the server is busy with others while a million are taken; beside plain keys with a time
//! to live on a server without the module.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use redis::{Cmd, cmd};

use crate::figures::{Figure, Notebook};
use crate::measure::Setup;
use crate::memory::settled;
use crate::names;
use crate::packed::Packed;
use crate::progress::Progress;
use crate::served::Served;

/// How often the million is taken.
const PASSES: usize = 3;
/// Commands in one write.
const BATCH: usize = 50;
/// Pairs of one sample, and how many samples of each number held.
const PAIRS: usize = 2_000;
const SAMPLES: usize = 4;
/// From the lock of a pair to that of the next: far, and prime to the numbers held.
const STRIDE: usize = 7_919;
const LEASE_MS: u64 = 60_000_000;
/// Only tables that grow are in motion; see [`settled`].
const STILL: Duration = Duration::from_secs(1);
const SLOW_US: u64 = 2_000;

/// Measures what locks cost that are held.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    let mut notes = Notebook::new(names::HELD);
    progress.rounds(PASSES * names::HELD_COUNTS.len());
    for _ in 0..PASSES {
        take_a_million(setup, progress, &mut notes)?;
    }
    Ok(notes.into_figures())
}

/// Both sides side by side, a batch each in turn; both stop at each number of [`names::HELD_COUNTS`].
fn take_a_million(
    setup: &Setup,
    progress: &Progress,
    notes: &mut Notebook,
) -> Result<()> {
    let mut sides = [Side::ours(setup)?, Side::native(setup)?];
    // All commands once, one lock held: what comes with the first is no other lock's.
    fill(&mut sides, 0..1)?;
    sides.iter().try_for_each(|side| side.pair_us(1).map(drop))?;
    let first = memory(&sides);
    let mut held = 1;
    for number in names::HELD_COUNTS {
        let case = names::held(number);
        progress.doing(&case);
        fill(&mut sides, held..number)?;
        held = number;
        for ((side, all), first) in sides.iter().zip(memory(&sides)).zip(&first) {
            let bytes = (all - first) as f64 / (number - 1) as f64;
            notes.note(&case, side.peer, names::BYTES, bytes);
        }
        for _ in 0..SAMPLES {
            for side in &sides {
                notes.note(&case, side.peer, names::CPU_US, side.pair_us(number)?);
            }
        }
        progress.step();
    }
    for side in &sides {
        let case = names::held(held);
        notes.note(&case, side.peer, names::SLOW, side.slow as f64);
        notes.note(&case, side.peer, names::BATCH_MS, side.most_us / 1e3);
    }
    Ok(())
}

fn memory(sides: &[Side]) -> Vec<i64> {
    let servers: Vec<&Served> = sides.iter().map(|side| &side.served).collect();
    settled(&servers, STILL)
}

/// Takes more locks, and looks after what that does to everybody else.
fn fill(sides: &mut [Side], numbers: Range<usize>) -> Result<()> {
    let mut links =
        sides.iter().map(|side| side.served.connect()).collect::<Result<Vec<_>>>()?;
    for (side, link) in sides.iter_mut().zip(&mut links) {
        cmd("SLOWLOG").arg("RESET").exec(link)?;
        side.mark_us = side.served.cpu_us()?;
    }
    for start in numbers.clone().step_by(BATCH) {
        let batch = start..numbers.end.min(start + BATCH);
        for (side, link) in sides.iter_mut().zip(&mut links) {
            let takes: Vec<Cmd> = batch.clone().map(side.take).collect();
            Packed::new(&takes).send(link)?;
            side.mark()?;
        }
    }
    for (side, link) in sides.iter_mut().zip(&mut links) {
        side.slow += cmd("SLOWLOG").arg("LEN").query::<u64>(link)?;
    }
    Ok(())
}

/// A way to hold locks, on a server of its own.
struct Side {
    peer: &'static str,
    take: fn(usize) -> Cmd,
    give: fn(usize) -> Cmd,
    served: Served,
    /// The server's CPU time at the last look.
    mark_us: f64,
    /// The most between two looks. What the server does between commands is in it.
    most_us: f64,
    /// Entries of the slow log so far.
    slow: u64,
}

impl Side {
    fn ours(setup: &Setup) -> Result<Self> {
        let take = |number| {
            let mut take = cmd("GPULOCK.ACQUIRE");
            take.arg(key(number)).arg(owner(number)).arg("PX").arg(LEASE_MS);
            take
        };
        let give = |number| {
            let mut give = cmd("GPULOCK.RELEASE");
            give.arg(key(number)).arg(owner(number));
            give
        };
        Self::start(setup, names::OURS, true, take, give)
    }

    fn native(setup: &Setup) -> Result<Self> {
        let take = |number| {
            let mut take = cmd("SET");
            take.arg(key(number)).arg(owner(number)).arg("NX").arg("PX").arg(LEASE_MS);
            take
        };
        let give = |number| {
            let mut give = cmd("DEL");
            give.arg(key(number));
            give
        };
        Self::start(setup, names::NATIVE, false, take, give)
    }

    fn start(
        setup: &Setup,
        peer: &'static str,
        with_module: bool,
        take: fn(usize) -> Cmd,
        give: fn(usize) -> Cmd,
    ) -> Result<Self> {
        let module = with_module.then_some(&*setup.module);
        let served = Served::start(&setup.flavour, module, |builder| {
            builder
                .arg("slowlog-log-slower-than", SLOW_US)
                .arg("slowlog-max-len", 1_000_000)
        })?;
        Ok(Self { peer, take, give, served, mark_us: 0.0, most_us: 0.0, slow: 0 })
    }

    fn mark(&mut self) -> Result<()> {
        let now = self.served.cpu_us()?;
        self.most_us = self.most_us.max(now - self.mark_us);
        self.mark_us = now;
        Ok(())
    }

    /// Server CPU of giving back a lock and taking it again, in microseconds, all over
    /// those held.
    fn pair_us(&self, held: usize) -> Result<f64> {
        let mut link = self.served.connect()?;
        let numbers: Vec<usize> = (0..PAIRS).map(|pair| pair * STRIDE % held).collect();
        let pairs = |batch: &[usize]| {
            let each = |number: &usize| [(self.give)(*number), (self.take)(*number)];
            Packed::new(&batch.iter().flat_map(each).collect::<Vec<Cmd>>())
        };
        let batches: Vec<Packed> = numbers.chunks(BATCH).map(pairs).collect();
        let before = self.served.cpu_us()?;
        batches.iter().try_for_each(|batch| batch.send(&mut link))?;
        Ok((self.served.cpu_us()? - before) / PAIRS as f64)
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
