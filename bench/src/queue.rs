//! Queue length: server CPU of a hand-off with few and with many waiters. Two baselines
//! show the server's own growth: plain commands from as many connections, and a module that
//! only blocks and unblocks clients.

use anyhow::Result;

use crate::block_only::{BlockOnly, encode_substitute};
use crate::measure::Setup;
use crate::names;
use crate::open_files;
use crate::progress::Progress;
use crate::raw_connection::{RawConnection, encode};
use crate::series::{Recorder, Series};
use crate::server::BenchServer;

const ROUNDS: usize = 21;
/// Hand-offs per sample.
const HAND_OFFS: usize = 2_000;
/// Hand-offs before each sample, which are not measured.
const WARM_UP: usize = 500;
const LEASE_MS: &str = "60000000";

/// A peer, and the function that returns its server CPU per hand-off in microseconds.
type Peer = (&'static str, fn(&mut Clients) -> Result<f64>);

/// Measures the hand-off with queues of all lengths. Each length has a server with all its
/// connections, on which the peers take turns in each round.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    progress.set_rounds(ROUNDS * names::WAITING.len());
    progress.set_step("connecting");
    let clients: usize = names::WAITING.iter().map(|waiting| waiting + 1).sum();
    open_files::raise_limit(clients as u64 + 200)?;
    let block_only = BlockOnly::build()?;
    let mut queues = names::WAITING
        .iter()
        .map(|waiting| Clients::connect(setup, &block_only, waiting + 1))
        .collect::<Result<Vec<_>>>()?;
    let mut peers: [Peer; 3] = [
        (names::OURS, |clients| clients.hand_off(Commands::ours)),
        (names::BLOCK_ONLY, |clients| clients.hand_off(Commands::block_only)),
        (names::NATIVE, Clients::set_and_delete),
    ];
    let mut recorder = Recorder::new(names::QUEUE);
    for _ in 0..ROUNDS {
        for (waiting, clients) in names::WAITING.iter().zip(&mut queues) {
            let case = names::waiting(*waiting);
            progress.set_step(&case);
            for (peer, cpu_us) in peers {
                recorder.record(&case, peer, names::CPU_US, cpu_us(clients)?);
            }
            progress.finish_round();
        }
        // The first peer finds the processor caches of the previous round.
        peers.rotate_left(1);
    }
    Ok(recorder.into_series())
}

/// The encoded commands of one client.
struct Commands {
    /// Acquires the free lock.
    acquire: Vec<u8>,
    /// Joins the queue.
    wait: Vec<u8>,
    /// Hands the lock off to the next waiter.
    release: Vec<u8>,
    /// Releases the lock and joins the queue again, in one write.
    release_and_wait: Vec<u8>,
}

impl Commands {
    fn new(client: usize, encode: impl Fn(&[&str]) -> Vec<u8>) -> Self {
        let owner = owner(client);
        let wait =
            encode(&["GPULOCK.ACQUIRE", "one", &owner, "PX", LEASE_MS, "BLOCK", "0"]);
        let release = encode(&["GPULOCK.RELEASE", "one", &owner]);
        Self {
            acquire: wait.clone(),
            release_and_wait: [&*release, &*wait].concat(),
            wait,
            release,
        }
    }

    fn ours(client: usize) -> Self {
        Self::new(client, encode)
    }

    /// The module that only blocks has no holder, so the first client has nothing to
    /// acquire.
    fn block_only(client: usize) -> Self {
        let commands = Self::new(client, encode_substitute);
        Self { acquire: commands.release.clone(), ..commands }
    }
}

/// 36 bytes.
fn owner(client: usize) -> String {
    format!("locked_by_transcribe:worker3:{client:07}")
}

/// A server, and clients that hold the lock one after the other.
struct Clients {
    server: BenchServer,
    connections: Vec<RawConnection>,
    holder: usize,
}

impl Clients {
    fn connect(setup: &Setup, block_only: &BlockOnly, count: usize) -> Result<Self> {
        let server =
            BenchServer::start(&setup.flavour, Some(&setup.module), |builder| {
                builder.arg("loadmodule", block_only.module().display())
            })?;
        let connections = RawConnection::connect_many(&server, count)?;
        Ok(Self { server, connections, holder: 0 })
    }

    /// Returns the server CPU of a hand-off in microseconds, with all clients but the
    /// holder waiting. The releasing client queues again at once, so the length of the
    /// queue stays the same.
    fn hand_off(&mut self, commands: impl Fn(usize) -> Commands) -> Result<f64> {
        let commands: Vec<Commands> = (0..self.connections.len()).map(commands).collect();
        self.fill_queue(&commands)?;
        let cpu_us = self.cpu_us(|clients| {
            let holder = clients.holder;
            clients.connections[holder].send(&commands[holder].release_and_wait)?;
            clients.connections[holder].read_replies(1)?;
            clients.next().read_replies(1)
        })?;
        self.drain_queue(&commands)?;
        Ok(cpu_us)
    }

    /// Returns the server CPU of setting and deleting a key, by each connection in turn,
    /// without any queue.
    fn set_and_delete(&mut self) -> Result<f64> {
        let commands: Vec<Vec<u8>> = (0..self.connections.len())
            .map(|client| {
                let set = encode(&["SET", "one", &owner(client), "NX", "PX", LEASE_MS]);
                [set, encode(&["DEL", "one"])].concat()
            })
            .collect();
        self.cpu_us(|clients| {
            let client = clients.holder;
            clients.connections[client].send(&commands[client])?;
            clients.connections[client].read_replies(2)?;
            clients.next();
            Ok(())
        })
    }

    /// Server CPU of one turn, in microseconds.
    fn cpu_us(&mut self, turn: impl Fn(&mut Self) -> Result<()>) -> Result<f64> {
        (0..WARM_UP).try_for_each(|_| turn(self))?;
        let before = self.server.cpu_us()?;
        (0..HAND_OFFS).try_for_each(|_| turn(self))?;
        Ok((self.server.cpu_us()? - before) / HAND_OFFS as f64)
    }

    fn fill_queue(&mut self, commands: &[Commands]) -> Result<()> {
        self.connections[self.holder].send(&commands[self.holder].acquire)?;
        self.connections[self.holder].read_replies(1)?;
        let clients = self.connections.len();
        (1..clients).map(|position| (self.holder + position) % clients).try_for_each(
            |client| self.connections[client].send_blocking(&commands[client].wait),
        )
    }

    fn drain_queue(&mut self, commands: &[Commands]) -> Result<()> {
        for client in 0..self.connections.len() {
            let holder = &mut self.connections[self.holder];
            holder.send(&commands[self.holder].release)?;
            holder.read_replies(1)?;
            let next = self.next();
            if client + 1 < commands.len() {
                next.read_replies(1)?;
            }
        }
        Ok(())
    }

    /// Makes the next client the holder.
    fn next(&mut self) -> &mut RawConnection {
        self.holder = (self.holder + 1) % self.connections.len();
        &mut self.connections[self.holder]
    }
}
