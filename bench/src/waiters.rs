//! Waiters: memory of a waiting client, compared with a client blocked by a native command
//! and by a module that keeps no state for it.

use std::time::Duration;

use anyhow::Result;

use crate::block_only::{BlockOnly, encode_substitute};
use crate::measure::Setup;
use crate::memory::settled;
use crate::names;
use crate::open_files;
use crate::progress::Progress;
use crate::raw_connection::{RawConnection, encode};
use crate::series::{Recorder, Series};
use crate::server::BenchServer;

const CLIENTS: usize = 1_000;
/// Longer than the period after which the server shrinks the buffers of idle clients.
const SETTLE_TIME: Duration = Duration::from_secs(4);
const LEASE_MS: &str = "60000000";

/// Measures the memory of a waiter beyond that of an idle client, in bytes. The result does
/// not vary, so one sample is enough.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Series>> {
    progress.set_rounds(2);
    let block_only = BlockOnly::build()?;
    let mut groups = Vec::new();
    for case in [names::FOR_ONE_LOCK, names::FOR_OWN_LOCK] {
        for peer in [names::OURS, names::BLOCK_ONLY, names::BLPOP] {
            open_files::raise_limit(((groups.len() + 1) * CLIENTS + 200) as u64)?;
            groups.push(Group::connect(setup, &block_only, case, peer)?);
        }
    }
    progress.set_step("idle clients");
    let idle = memory(&groups);
    progress.finish_round();
    progress.set_step("waiting clients");
    groups.iter_mut().try_for_each(Group::wait)?;
    let waiting = memory(&groups);
    progress.finish_round();

    let mut recorder = Recorder::new(names::WAITERS);
    for ((group, idle), waiting) in groups.iter().zip(idle).zip(waiting) {
        let bytes = (waiting - idle) as f64 / CLIENTS as f64;
        recorder.record(group.case, group.peer, names::BYTES, bytes);
    }
    Ok(recorder.into_series())
}

fn memory(groups: &[Group]) -> Vec<i64> {
    let servers: Vec<&BenchServer> = groups.iter().map(|group| &group.server).collect();
    settled(&servers, SETTLE_TIME)
}

/// The clients of one peer on one server.
struct Group {
    case: &'static str,
    peer: &'static str,
    server: BenchServer,
    connections: Vec<RawConnection>,
}

impl Group {
    fn connect(
        setup: &Setup,
        block_only: &BlockOnly,
        case: &'static str,
        peer: &'static str,
    ) -> Result<Self> {
        let module = match peer {
            names::OURS => Some(setup.module.clone()),
            names::BLOCK_ONLY => Some(block_only.module()),
            _ => None,
        };
        let server =
            BenchServer::start(&setup.flavour, module.as_deref(), |builder| builder)?;
        if peer == names::OURS {
            hold_all(&server)?;
        }
        let connections = RawConnection::connect_many(&server, CLIENTS)?;
        Ok(Self { case, peer, server, connections })
    }

    fn wait(&mut self) -> Result<()> {
        for (client, connection) in self.connections.iter_mut().enumerate() {
            let lock = if self.case == names::FOR_ONE_LOCK { 0 } else { client };
            let (key, owner) = (key(lock), owner("waiter_of", client));
            let mut words =
                vec!["GPULOCK.ACQUIRE", &key, &owner, "PX", LEASE_MS, "BLOCK", LEASE_MS];
            if self.case == names::FOR_OWN_LOCK {
                words.extend(["UNIQUE", "SESSION"]);
            }
            connection.send_blocking(&match self.peer {
                names::OURS => encode(&words),
                names::BLOCK_ONLY => encode_substitute(&words),
                _ => encode(&["BLPOP", &key, "0"]),
            })?;
        }
        Ok(())
    }
}

/// Acquires all locks before the measurement: holds are not part of a waiter's memory.
fn hold_all(server: &BenchServer) -> Result<()> {
    let mut holder = RawConnection::connect(server)?;
    for lock in 0..CLIENTS {
        let (key, owner) = (key(lock), owner("locked_by", lock));
        holder.send(&encode(&["GPULOCK.ACQUIRE", &key, &owner, "PX", LEASE_MS]))?;
        holder.read_replies(1)?;
    }
    Ok(())
}

/// 16 bytes.
fn key(number: usize) -> String {
    format!("gpu_lock:{number:07}")
}

/// 36 bytes.
fn owner(prefix: &str, number: usize) -> String {
    format!("{prefix}_transcribe:worker3:{number:07}")
}
