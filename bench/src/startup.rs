//! Startup: the time until a command under a free lock prints its output, and until the
//! parent process has its exit status. Compares `gpulock run` with flock(1) and no lock.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::histogram::Latencies;
use crate::measure::Setup;
use crate::names;
use crate::progress::Progress;
use crate::series::{Recorder, Series};
use crate::server::BenchServer;

const ROUNDS: usize = 5;
/// Commands per launcher and round.
const TURNS: usize = 100;

/// The ways to run echo(1).
struct Launchers {
    gpulock: PathBuf,
    url: String,
    folder: TempDir,
}

/// Measures the launchers in turn, command by command.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let server =
        BenchServer::start(&setup.flavour, Some(&setup.module), |builder| builder)?;
    let launchers = Launchers {
        gpulock: setup.module.with_file_name("gpulock"),
        url: format!("redis://127.0.0.1:{}", server.process().port()),
        folder: tempfile::tempdir()?,
    };
    let mut recorder = Recorder::new(names::STARTUP);
    progress.set_rounds(ROUNDS);
    progress.set_step(names::GPULOCK_RUN);
    for _ in 0..ROUNDS {
        launchers.round(&mut recorder)?;
        progress.finish_round();
    }
    Ok(recorder.into_series())
}

impl Launchers {
    fn round(&self, recorder: &mut Recorder) -> Result<()> {
        let mut latencies =
            names::LAUNCHERS.map(|_| [Latencies::new(), Latencies::new()]);
        for _ in 0..TURNS {
            for (launcher, latencies) in names::LAUNCHERS.into_iter().zip(&mut latencies)
            {
                let times = times(self.command(launcher)).context(launcher)?;
                for (latencies, time) in latencies.iter_mut().zip(times) {
                    latencies.record(time)?;
                }
            }
        }
        for (launcher, latencies) in names::LAUNCHERS.into_iter().zip(latencies) {
            for (case, latencies) in
                [names::TO_OUTPUT, names::TO_STATUS].into_iter().zip(latencies)
            {
                for (measure, percentile) in
                    [(names::P50_MS, 50.0), (names::P99_MS, 99.0)]
                {
                    let ms = latencies.percentile_ms(percentile);
                    recorder.record(case, launcher, measure, ms);
                }
            }
        }
        Ok(())
    }

    fn command(&self, launcher: &str) -> Command {
        let mut command = match launcher {
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

/// The times to the first byte of output and to the exit status.
fn times(mut command: Command) -> Result<[Duration; 2]> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().context("stdout is not piped")?;
    output.read_exact(&mut [0])?;
    let to_output = start.elapsed();
    let status = child.wait()?;
    let to_status = start.elapsed();
    ensure!(status.success(), "the command failed: {status}");
    Ok([to_output, to_status])
}
