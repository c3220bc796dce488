//! What other people's commands cost beside locks, in instructions: with the module, while
//! locks are held and while clients wait in line, and without it.
//!
//! What differs from one start of a server to the next is where its hash table puts the
//! keys, and how its strings lie in memory. So the commands go to many keys, and several
//! starts are counted.

use anyhow::Result;
use redis::{Cmd, Connection};

use crate::callgrind::Counted;
use crate::figures::{Figure, Notebook};
use crate::measure::Setup;
use crate::names;
use crate::packed::Packed;
use crate::progress::Progress;
use crate::ways::{PIPELINE, words};

/// Starts of each server.
const STARTS: usize = 3;
/// Locks that are held; without the module as many plain keys stand there.
const LOCKS: usize = 1_000;
/// Clients that wait, each for a lock of its own; without the module as many are idle.
const WAITERS: usize = 100;
/// Keys that the commands go to, a string and a number each. With the locks they all but
/// fill tables of 8,192 keys and of 4,096 times to live, so that none grows while it is
/// counted.
const KEYS: usize = 3_000;

/// A command of other people's, on a key of theirs; two that undo each other are one.
type Other = (&'static str, fn(usize) -> Vec<Cmd>);

/// In this order: none meets a key with a time to live that it would not leave with one.
const OTHERS: [Other; 6] = [
    ("GET", |key| vec![words(&["GET", &user(key)])]),
    ("SET", |key| vec![words(&["SET", &user(key), "v"])]),
    ("SET EX", |key| vec![words(&["SET", &user(key), "v", "EX", "900"])]),
    ("EXPIRE", |key| vec![words(&["EXPIRE", &user(key), "900"])]),
    ("INCR", |key| vec![words(&["INCR", &tally(key)])]),
    ("SET, DEL", |key| {
        vec![words(&["SET", &draft(key), "v"]), words(&["DEL", &draft(key)])]
    }),
];

/// Measures the part.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    let mut notebook = Notebook::new(names::BYSTANDERS);
    progress.rounds(STARTS);
    for start in 1..=STARTS {
        let mut count = |case, with_module, clients| {
            progress.doing(&format!("{case}, start {start} of {STARTS}"));
            Beside::start(setup, with_module, clients)?.count(case, &mut notebook)
        };
        count(names::NO_MODULE, false, 0)?;
        count(names::LOCKS_HELD, true, 0)?;
        count(names::IDLE_CLIENTS, false, WAITERS)?;
        count(names::CLIENTS_WAITING, true, WAITERS)?;
        progress.step();
    }
    Ok(notebook.into_figures())
}

/// What the commands run beside: a server with locks and clients.
struct Beside {
    link: Connection,
    #[expect(dead_code, reason = "they wait, or are idle, as long as this is there")]
    clients: Vec<Connection>,
    server: Counted,
}

impl Beside {
    fn start(setup: &Setup, with_module: bool, clients: usize) -> Result<Self> {
        let module = with_module.then_some(&*setup.module);
        let server = Counted::start(&setup.flavour, module, |server| server)?;
        let mut link = server.served().connect()?;
        let take = if with_module { "GPULOCK.ACQUIRE" } else { "SET" };
        send_all(&mut link, LOCKS, |lock| vec![hold(take, lock)])?;
        send_all(&mut link, KEYS, |key| {
            vec![words(&["SET", &user(key), "v"]), words(&["SET", &tally(key), "1"])]
        })?;
        let clients = if with_module {
            waiting(&server, clients)?
        } else {
            idle(&server, clients)?
        };
        Ok(Self { link, clients, server })
    }

    /// Counts everybody's commands. Regular work, which goes by the clock and not by the
    /// command, is left out: the module's is known by the calls into it, the server's by
    /// how much it does while nothing happens. Under callgrind commands are slow and the
    /// clock is not, so it would weigh fifty times what it does in life.
    fn count(mut self, case: &str, notebook: &mut Notebook) -> Result<()> {
        let idle = self.server.idle()?;
        for (name, commands) in OTHERS {
            send_all(&mut self.link, KEYS, commands)?;
            let counted = || send_all(&mut self.link, KEYS, commands);
            let spent = self.server.spent(counted)?;
            let entered = spent.profile.entered;
            let instructions = spent.without_clock(idle) - entered.instructions;
            notebook.note(case, name, names::INSTRUCTIONS, instructions / KEYS as f64);
        }
        Ok(())
    }
}

/// Clients that wait in line.
fn waiting(server: &Counted, number: usize) -> Result<Vec<Connection>> {
    let mut clients = idle(server, number)?;
    for (place, client) in clients.iter_mut().enumerate() {
        let owner = format!("waiter:{place}");
        let wait = words(&["GPULOCK.ACQUIRE", &lock(place), &owner, "BLOCK", "0"]);
        client.send_packed_command(&wait.get_packed_command())?;
    }
    server.served().server().wait_blocked(i64::try_from(number)?);
    Ok(clients)
}

/// Clients that do nothing.
fn idle(server: &Counted, number: usize) -> Result<Vec<Connection>> {
    (0..number).map(|_| server.served().connect()).collect()
}

/// Sends the commands for each of so many, in pipelines.
fn send_all(
    link: &mut Connection,
    number: usize,
    commands: impl Fn(usize) -> Vec<Cmd>,
) -> Result<()> {
    for start in (0..number).step_by(PIPELINE) {
        let end = number.min(start + PIPELINE);
        let all: Vec<Cmd> = (start..end).flat_map(&commands).collect();
        Packed::new(&all).send(link)?;
    }
    Ok(())
}

fn hold(take: &str, number: usize) -> Cmd {
    let owner = format!("locked_by_transcribe:worker3:{number:08x}");
    words(&[take, &lock(number), &owner, "PX", "6000000"])
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
