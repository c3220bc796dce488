//! Pools: instructions of acquiring and releasing one lock of a pool, with all locks free
//! and with only the last one free, compared with a named lock, and with what the server
//! itself spends on a command that names as many keys.

use anyhow::Result;
use redis::{Cmd, cmd};

use crate::counter::Counter;
use crate::lock_pairs::{self, LEASE, OWNER, PIPELINE};
use crate::measure::Setup;
use crate::names;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::series::{Recorder, Series};

/// Server starts. Counts hardly differ between starts: two show that.
const STARTS: usize = 2;
/// Pipelines counted.
const COUNTED: usize = 40;
/// Approximate number of locks named in all commands counted for a pool. A pair of a large
/// pool names many locks, so fewer pairs are needed.
const NAMED: usize = 100_000;

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let mut recorder = Recorder::new(names::POOLS);
    progress.set_rounds(STARTS * (1 + names::POOL_SIZES.len()));
    for start in 1..=STARTS {
        progress.set_step(&format!("instructions, start {start} of {STARTS}"));
        let mut counter = Counter::start(setup)?;
        let mut record = |case: &str, pipeline_instructions: f64| {
            let instructions = pipeline_instructions / PIPELINE as f64;
            recorder.record(case, names::OURS, names::INSTRUCTIONS, instructions);
        };
        record(names::ONE_LOCK, counter.count(&lock_pairs::ours().pipeline(), COUNTED)?);
        progress.finish_round();
        for size in names::POOL_SIZES {
            let pool = Pool::new(size);
            let times = (NAMED / size / PIPELINE).clamp(4, COUNTED);
            record(&names::all_free(size), counter.count(&pool.any(0), times)?);
            pool.others("GPULOCK.ACQUIRE").send(&mut counter.connection)?;
            record(&names::last_free(size), counter.count(&pool.any(size - 1), times)?);
            record(&names::exists(size), counter.count(&pool.exists(), times)?);
            pool.others("GPULOCK.RELEASE").send(&mut counter.connection)?;
            progress.finish_round();
        }
    }
    Ok(recorder.into_series())
}

/// Interchangeable locks.
struct Pool {
    keys: Vec<String>,
}

impl Pool {
    fn new(size: usize) -> Self {
        Self { keys: (0..size).map(|gpu| format!("{{node7}}:gpu:{gpu}")).collect() }
    }

    /// Pairs that acquire any lock and release it; `granted` is the one that is free.
    fn any(&self, granted: usize) -> Pipeline {
        let mut acquire = cmd("GPULOCK.ACQUIREANY");
        acquire.arg(self.keys.len()).arg(&self.keys).arg(OWNER).arg("PX").arg(LEASE);
        let release =
            lock_pairs::command(&["GPULOCK.RELEASE", &self.keys[granted], OWNER]);
        Pipeline::new([&acquire, &release].into_iter().cycle().take(2 * PIPELINE))
    }

    /// Commands that look up the keys of all locks.
    fn exists(&self) -> Pipeline {
        let mut exists = cmd("EXISTS");
        exists.arg(&self.keys);
        Pipeline::new([&exists].into_iter().cycle().take(PIPELINE))
    }

    /// Runs `command` on all locks but the last, for another owner.
    fn others(&self, command: &str) -> Pipeline {
        let (_, keys) = self.keys.split_last().expect("a pool is not empty");
        let commands =
            keys.iter().map(|key| lock_pairs::command(&[command, key, "another"]));
        Pipeline::new(&commands.collect::<Vec<Cmd>>())
    }
}
