//! Other commands: instructions of commands unrelated to locks, without the module, with
//! locks held, and with clients waiting.
//!
//! Server starts differ in the layout of the hash table and of strings in memory, so the
//! commands go to many keys, and several starts are measured.

use anyhow::Result;
use redis::{Cmd, Connection};

use crate::callgrind::CallgrindServer;
use crate::lock_pairs::{PIPELINE, command};
use crate::measure::Setup;
use crate::names;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::series::{Recorder, Series};

/// Starts of each server.
const STARTS: usize = 3;
/// Locks held; without the module, as many plain keys.
const LOCKS: usize = 1_000;
/// Waiters, each for another lock; without the module, as many idle clients.
const WAITERS: usize = 100;
/// Keys that the commands use, each for a string and a number. Together with the locks they
/// nearly fill tables of 8,192 keys and of 4,096 expiry times, so that no table grows during
/// a measurement.
const KEYS: usize = 3_000;

/// A name and the commands for a key. Commands that undo each other are measured together.
type Other = (&'static str, fn(usize) -> Vec<Cmd>);

/// The order matters: no command removes the expiry time that an earlier one has set.
const OTHERS: [Other; 6] = [
    ("GET", |key| vec![command(&["GET", &user(key)])]),
    ("SET", |key| vec![command(&["SET", &user(key), "v"])]),
    ("SET EX", |key| vec![command(&["SET", &user(key), "v", "EX", "900"])]),
    ("EXPIRE", |key| vec![command(&["EXPIRE", &user(key), "900"])]),
    ("INCR", |key| vec![command(&["INCR", &tally(key)])]),
    ("SET, DEL", |key| {
        vec![command(&["SET", &draft(key), "v"]), command(&["DEL", &draft(key)])]
    }),
];

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    let mut recorder = Recorder::new(names::OTHER_COMMANDS);
    progress.set_rounds(STARTS);
    for start in 1..=STARTS {
        let mut count = |case, with_module, clients| {
            progress.set_step(&format!("{case}, start {start} of {STARTS}"));
            LoadedServer::start(setup, with_module, clients)?.count(case, &mut recorder)
        };
        count(names::NO_MODULE, false, 0)?;
        count(names::LOCKS_HELD, true, 0)?;
        count(names::IDLE_CLIENTS, false, WAITERS)?;
        count(names::CLIENTS_WAITING, true, WAITERS)?;
        progress.finish_round();
    }
    Ok(recorder.into_series())
}

/// A server with locks and clients.
struct LoadedServer {
    connection: Connection,
    #[expect(dead_code, reason = "they wait, or are idle, as long as this exists")]
    clients: Vec<Connection>,
    server: CallgrindServer,
}

impl LoadedServer {
    fn start(setup: &Setup, with_module: bool, clients: usize) -> Result<Self> {
        let module = with_module.then_some(&*setup.module);
        let server = CallgrindServer::start(&setup.flavour, module, |server| server)?;
        let mut connection = server.server().connect()?;
        let acquire = if with_module { "GPULOCK.ACQUIRE" } else { "SET" };
        send_all(&mut connection, LOCKS, |lock| vec![hold(acquire, lock)])?;
        send_all(&mut connection, KEYS, |key| {
            vec![command(&["SET", &user(key), "v"]), command(&["SET", &tally(key), "1"])]
        })?;
        let clients = if with_module {
            waiting(&server, clients)?
        } else {
            idle(&server, clients)?
        };
        Ok(Self { connection, clients, server })
    }

    /// Counts the commands without timer work: that of the module is known from the calls
    /// into it, that of the server from an idle period. Under callgrind, commands take fifty
    /// times longer while timers keep their pace, so timer work would be overstated by as
    /// much.
    fn count(mut self, case: &str, recorder: &mut Recorder) -> Result<()> {
        let idle_rate = self.server.idle_rate()?;
        for (name, commands) in OTHERS {
            send_all(&mut self.connection, KEYS, commands)?;
            let counted = || send_all(&mut self.connection, KEYS, commands);
            let cost = self.server.cost_of(counted)?;
            let in_module = cost.profile.calls_in.instructions;
            let instructions = cost.without_timers(idle_rate) - in_module;
            recorder.record(case, name, names::INSTRUCTIONS, instructions / KEYS as f64);
        }
        Ok(())
    }
}

/// Clients that wait for a lock each.
fn waiting(server: &CallgrindServer, count: usize) -> Result<Vec<Connection>> {
    let mut clients = idle(server, count)?;
    for (number, client) in clients.iter_mut().enumerate() {
        let owner = format!("waiter:{number}");
        let wait = command(&["GPULOCK.ACQUIRE", &lock(number), &owner, "BLOCK", "0"]);
        client.send_packed_command(&wait.get_packed_command())?;
    }
    server.server().process().wait_blocked(i64::try_from(count)?);
    Ok(clients)
}

/// Idle clients.
fn idle(server: &CallgrindServer, count: usize) -> Result<Vec<Connection>> {
    (0..count).map(|_| server.server().connect()).collect()
}

/// Sends the commands for each number below `count`, in pipelines.
fn send_all(
    connection: &mut Connection,
    count: usize,
    commands: impl Fn(usize) -> Vec<Cmd>,
) -> Result<()> {
    for start in (0..count).step_by(PIPELINE) {
        let end = count.min(start + PIPELINE);
        let all: Vec<Cmd> = (start..end).flat_map(&commands).collect();
        Pipeline::new(&all).send(connection)?;
    }
    Ok(())
}

fn hold(acquire: &str, number: usize) -> Cmd {
    let owner = format!("locked_by_transcribe:worker3:{number:08x}");
    command(&[acquire, &lock(number), &owner, "PX", "6000000"])
}

fn lock(number: usize) -> String {
    format!("gpu_lock:{number:07}")
}

fn user(number: usize) -> String {
    format!("user:{number}")
}

fn tally(number: usize) -> String {
    format!("tally:{number}")
}

fn draft(number: usize) -> String {
    format!("draft:{number}")
}
