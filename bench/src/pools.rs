//! Taking one lock of a pool and giving it back, beside one lock that is named: what it
//! costs in instructions when all are free, and when only the last one is.

use anyhow::Result;
use redis::{Cmd, cmd};

use crate::counter::Counter;
use crate::figures::{Figure, Notebook};
use crate::measure::Setup;
use crate::names;
use crate::packed::Packed;
use crate::progress::Progress;
use crate::ways::{self, LEASE, OWNER, PIPELINE};

/// Counts hardly differ from one start of the server to the next: two show that.
const STARTS: usize = 2;
/// Pipelines that are counted.
const COUNTED: usize = 40;
/// How many locks are named in all that is counted of a pool, about: in large pools each
/// pair names many that cost the same, so that fewer pairs tell as much.
const NAMED: usize = 100_000;

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    let mut notebook = Notebook::new(names::POOLS);
    progress.rounds(STARTS * (1 + names::POOL_SIZES.len()));
    for start in 1..=STARTS {
        progress.doing(&format!("instructions, start {start} of {STARTS}"));
        let mut counter = Counter::start(setup)?;
        let mut note = |case: &str, pipeline_instructions: f64| {
            let instructions = pipeline_instructions / PIPELINE as f64;
            notebook.note(case, names::OURS, names::INSTRUCTIONS, instructions);
        };
        note(names::ONE_LOCK, counter.count(&ways::ours().pipeline(), COUNTED)?);
        progress.step();
        for size in names::POOL_SIZES {
            let pool = Pool::of(size);
            let times = (NAMED / size / PIPELINE).clamp(4, COUNTED);
            note(&names::all_free(size), counter.count(&pool.any(0), times)?);
            pool.others("GPULOCK.ACQUIRE").send(&mut counter.link)?;
            note(&names::last_free(size), counter.count(&pool.any(size - 1), times)?);
            pool.others("GPULOCK.RELEASE").send(&mut counter.link)?;
            progress.step();
        }
    }
    Ok(notebook.into_figures())
}

/// Locks of which it does not matter which one is had.
struct Pool {
    keys: Vec<String>,
}

impl Pool {
    fn of(size: usize) -> Self {
        Self { keys: (0..size).map(|gpu| format!("{{node7}}:gpu:{gpu}")).collect() }
    }

    /// Takes any lock, which is this one, and gives it back.
    fn any(&self, granted: usize) -> Packed {
        let mut take = cmd("GPULOCK.ACQUIREANY");
        take.arg(self.keys.len()).arg(&self.keys).arg(OWNER).arg("PX").arg(LEASE);
        let give = ways::words(&["GPULOCK.RELEASE", &self.keys[granted], OWNER]);
        Packed::new([&take, &give].into_iter().cycle().take(2 * PIPELINE))
    }

    /// All but the last lock are taken or given back by another owner.
    fn others(&self, command: &str) -> Packed {
        let (_, keys) = self.keys.split_last().expect("no pool is empty");
        let commands = keys.iter().map(|key| ways::words(&[command, key, "another"]));
        Packed::new(&commands.collect::<Vec<Cmd>>())
    }
}
