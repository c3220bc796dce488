//! Load: server CPU of commands unrelated to locks, with locks held and clients waiting.
//! Compared with a server without the module that has as many keys and clients.
//!
//! In contrast to the instructions of these commands, CPU time includes the work of the module
//! between commands, such as its timer.

use anyhow::Result;
use redis::{Cmd, Connection};

use crate::lock_pairs::{PIPELINE, command};
use crate::measure::Setup;
use crate::names;
use crate::pipeline::Pipeline;
use crate::populated::Populated;
use crate::progress::Progress;
use crate::series::{Recorder, Series};

/// Locks held, and clients of which each waits for one of them.
const LOCKS: usize = 1_000;
const WAITERS: usize = 100;
/// Keys that the commands use, each for a string and a number.
const KEYS: usize = 1_000;
const ROUNDS: usize = 41;
/// Turns of each server in a round. Turns are short, so that other load on the machine affects
/// both servers alike.
const TURNS: usize = 20;

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    progress.set_rounds(ROUNDS);
    let mut sides = [
        Side::new(Populated::without_module(setup, LOCKS, WAITERS)?)?,
        Side::new(Populated::with_locks(setup, LOCKS, WAITERS)?)?,
    ];
    for side in &mut sides {
        side.turn()?;
    }
    let mut recorder = Recorder::new(names::LOAD);
    for round in 1..=ROUNDS {
        progress.set_step(&format!("round {round} of {ROUNDS}"));
        let mut cpu_us = [0.0, 0.0];
        for turn in 0..TURNS {
            let (first, second) = (turn % 2, 1 - turn % 2);
            cpu_us[first] += sides[first].turn()?;
            cpu_us[second] += sides[second].turn()?;
        }
        for (side, cpu_us) in sides.iter().zip(cpu_us) {
            let commands = (TURNS * side.commands) as f64;
            let (peer, each) = (side.populated.peer, cpu_us / commands);
            recorder.record(names::LOCKS_AND_QUEUES, peer, names::CPU_US, each);
        }
        progress.finish_round();
    }
    Ok(recorder.into_series())
}

/// One of the two servers, and the load on it.
struct Side {
    connection: Connection,
    pipelines: Vec<Pipeline>,
    /// Commands in all pipelines.
    commands: usize,
    populated: Populated,
}

impl Side {
    fn new(populated: Populated) -> Result<Self> {
        let commands: Vec<Cmd> = (0..KEYS).flat_map(of_key).collect();
        let pipelines = commands.chunks(PIPELINE).map(Pipeline::new).collect();
        let connection = populated.server.connect()?;
        Ok(Self { connection, pipelines, commands: commands.len(), populated })
    }

    /// Sends all pipelines. Returns the server CPU in microseconds.
    fn turn(&mut self) -> Result<f64> {
        let before = self.populated.server.cpu_us()?;
        for pipeline in &self.pipelines {
            pipeline.send(&mut self.connection)?;
        }
        Ok(self.populated.server.cpu_us()? - before)
    }
}

/// The commands for a key.
fn of_key(key: usize) -> [Cmd; 3] {
    let (user, tally) = (format!("user:{key}"), format!("tally:{key}"));
    [command(&["SET", &user, "v"]), command(&["GET", &user]), command(&["INCR", &tally])]
}
