//! Idle: CPU time of a server on which nothing happens, with locks held and clients waiting.
//! Compared with a server without the module that has as many keys and clients.
//!
//! All servers are idle at the same time and measured over the same seconds.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::measure::Setup;
use crate::names;
use crate::open_files;
use crate::populated::Populated;
use crate::progress::Progress;
use crate::series::{Recorder, Series};

const ROUNDS: usize = 12;
const ROUND: Duration = Duration::from_secs(3);
/// Until the servers have shrunk the buffers of their clients.
const SETTLE: Duration = Duration::from_secs(5);

/// A case: its name, the locks held, and the clients of which each waits for one of them.
type Case = (String, usize, usize);

fn cases() -> Vec<Case> {
    let queues = |count| (names::queues(count), count, count);
    let held = (names::held(names::IDLE_HELD), names::IDLE_HELD, 0);
    [(names::NOTHING_HELD.to_owned(), 0, 0)]
        .into_iter()
        .chain(names::IDLE_QUEUES.map(queues))
        .chain([held])
        .collect()
}

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let cases = cases();
    progress.set_rounds(ROUNDS);
    progress.set_step("acquiring locks");
    let clients: usize = cases.iter().map(|(.., clients)| 2 * clients).sum();
    open_files::raise_limit(clients as u64 + 200)?;
    let mut servers = Vec::new();
    for (case, locks, clients) in &cases {
        servers.push((case, Populated::without_module(setup, *locks, *clients)?));
        servers.push((case, Populated::with_locks(setup, *locks, *clients)?));
    }
    sleep(SETTLE);
    let mut recorder = Recorder::new(names::IDLE);
    for round in 1..=ROUNDS {
        progress.set_step(&format!("round {round} of {ROUNDS}"));
        let reading = |(_, populated): &(_, Populated)| {
            Ok((Instant::now(), populated.server.cpu_us()?))
        };
        let before = servers.iter().map(reading).collect::<Result<Vec<_>>>()?;
        sleep(ROUND);
        for (side, (then, cpu_us)) in servers.iter().zip(before) {
            let (now, cpu_us_now) = reading(side)?;
            let percent = (cpu_us_now - cpu_us) / 1e4 / (now - then).as_secs_f64();
            let (case, populated) = side;
            recorder.record(case, populated.peer, names::CPU_PERCENT, percent);
        }
        progress.finish_round();
    }
    Ok(recorder.into_series())
}
