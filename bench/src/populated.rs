//! Servers with held locks and waiting clients, and for comparison servers without the module,
//! with as many plain keys and idle clients.

use anyhow::Result;
use redis::Cmd;

use crate::lock_pairs::{PIPELINE, command};
use crate::measure::Setup;
use crate::names;
use crate::pipeline::Pipeline;
use crate::raw_connection::{RawConnection, encode};
use crate::server::BenchServer;

/// Longer than any part of the benchmark.
const LEASE_MS: &str = "60000000";

/// A server, and its clients. Nothing happens on it unless the benchmark sends something.
pub(crate) struct Populated {
    /// What it shows: [`names::OURS`] or [`names::NO_MODULE`].
    pub peer: &'static str,
    /// The server.
    pub server: BenchServer,
    /// Clients of which each waits for a lock of its own, in the order of the locks; idle ones
    /// without the module.
    pub clients: Vec<RawConnection>,
}

impl Populated {
    /// A server on which `locks` locks are held, and a client waits for each of the first
    /// `waiters`.
    pub(crate) fn with_locks(
        setup: &Setup,
        locks: usize,
        waiters: usize,
    ) -> Result<Self> {
        let mut populated = Self::start(setup, names::OURS, locks, waiters)?;
        for (lock, client) in populated.clients.iter_mut().enumerate() {
            client.send_blocking(&wait(lock))?;
        }
        Ok(populated)
    }

    /// A server without the module, with plain keys that expire and idle clients.
    pub(crate) fn without_module(
        setup: &Setup,
        keys: usize,
        clients: usize,
    ) -> Result<Self> {
        Self::start(setup, names::NO_MODULE, keys, clients)
    }

    fn start(
        setup: &Setup,
        peer: &'static str,
        keys: usize,
        clients: usize,
    ) -> Result<Self> {
        let with_module = peer == names::OURS;
        let module = with_module.then_some(&*setup.module);
        let hold = if with_module { "GPULOCK.ACQUIRE" } else { "SET" };
        let server = BenchServer::start(&setup.flavour, module, |builder| builder)?;
        let mut connection = server.connect()?;
        for start in (0..keys).step_by(PIPELINE) {
            let locks = start..keys.min(start + PIPELINE);
            let each = |lock| command(&[hold, &key(lock), &owner(lock), "PX", LEASE_MS]);
            Pipeline::new(&locks.map(each).collect::<Vec<Cmd>>())
                .send(&mut connection)?;
        }
        let clients = RawConnection::connect_many(&server, clients)?;
        Ok(Self { peer, server, clients })
    }
}

/// The command with which a client waits for a lock, encoded.
pub(crate) fn wait(lock: usize) -> Vec<u8> {
    let (key, owner) = (key(lock), owner(lock));
    encode(&["GPULOCK.ACQUIRE", &key, &owner, "PX", LEASE_MS, "BLOCK", "0"])
}

/// 16 bytes.
pub(crate) fn key(lock: usize) -> String {
    format!("gpu_lock:{lock:07}")
}

/// 36 bytes. The next holder has the same name, which no lock forbids.
fn owner(lock: usize) -> String {
    format!("locked_by_transcribe:worker3:{lock:07}")
}
