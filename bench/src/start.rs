//! How soon a command has begun when it runs under a free lock, and how soon whoever started it
//! has its status: `gpulock run` beside flock(1), and beside no lock at all.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tempfile::TempDir;

use crate::figures::{Figure, Notebook};
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::served::Served;

const ROUNDS: usize = 5;
/// Commands of each way in a round.
const TURNS: usize = 100;

/// The ways to run echo(1), which says something and ends.
struct Ways {
    gpulock: PathBuf,
    url: String,
    folder: TempDir,
}

/// Measures a round of each way in turn, command by command.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    let served = Served::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let ways = Ways {
        gpulock: setup.module.with_file_name("gpulock"),
        url: format!("redis://127.0.0.1:{}", served.server().port()),
        folder: tempfile::tempdir()?,
    };
    let mut notes = Notebook::new(names::START);
    progress.rounds(ROUNDS);
    progress.doing(names::GPULOCK_RUN);
    for _ in 0..ROUNDS {
        ways.round(&mut notes)?;
        progress.step();
    }
    Ok(notes.into_figures())
}

impl Ways {
    fn round(&self, notes: &mut Notebook) -> Result<()> {
        let new = || Ok([Histogram::<u64>::new(3)?, Histogram::new(3)?]);
        let mut taken =
            names::RUNS.map(|_| new()).into_iter().collect::<Result<Vec<_>>>()?;
        for _ in 0..TURNS {
            for (way, taken) in names::RUNS.into_iter().zip(&mut taken) {
                let times = times(self.command(way)).context(way)?;
                for (taken, time) in taken.iter_mut().zip(times) {
                    taken.record(u64::try_from(time.as_nanos())?)?;
                }
            }
        }
        for (way, taken) in names::RUNS.into_iter().zip(taken) {
            for (case, times) in
                [names::TO_OUTPUT, names::TO_STATUS].into_iter().zip(taken)
            {
                let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
                notes.note(case, way, names::P50_MS, ms(0.5));
                notes.note(case, way, names::P99_MS, ms(0.99));
            }
        }
        Ok(())
    }

    fn command(&self, way: &str) -> Command {
        let mut command = match way {
            names::GPULOCK_RUN => {
                let mut command = Command::new(&self.gpulock);
                command.args(["run", "--key", "gpu:0", "--", "echo"]);
                command
            }
            names::FLOCK => {
                let mut command = Command::new("flock");
                command.arg(self.folder.path().join("gpu:0")).arg("echo");
                command
            }
            _ => Command::new("echo"),
        };
        command.env("GPULOCK_URL", &self.url);
        command
    }
}

/// Until the first byte, and until the status.
fn times(mut command: Command) -> Result<[Duration; 2]> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().context("no output")?;
    output.read_exact(&mut [0])?;
    let to_output = began.elapsed();
    let status = child.wait()?;
    let to_status = began.elapsed();
    ensure!(status.success(), "it ended with {status}");
    Ok([to_output, to_status])
}
