//! Waiters: the memory of a client that waits, beside the same client blocked by the
//! server's own command and by a module that keeps nothing of it.

use std::time::Duration;

use anyhow::Result;

use crate::blocks::{Blocks, packed_in_place_of};
use crate::figures::{Figure, Notebook};
use crate::files;
use crate::link::{Link, packed};
use crate::measure::Setup;
use crate::memory::settled;
use crate::names;
use crate::progress::Progress;
use crate::served::Served;

const CLIENTS: usize = 1_000;
/// Longer than the server leaves the buffers of an idle client alone.
const STILL: Duration = Duration::from_secs(4);
const LEASE_MS: &str = "60000000";

/// Measures the memory of a waiter beyond that of an idle client, in bytes. It depends on
/// no other program and on no chance, so that once is enough; all servers are filled first
/// and looked at together when they stand still.
pub(crate) fn measure(setup: &Setup, progress: &Progress) -> Result<Vec<Figure>> {
    progress.rounds(2);
    let blocks = Blocks::build()?;
    let mut crowds = Vec::new();
    for case in [names::FOR_ONE_LOCK, names::FOR_OWN_LOCK] {
        for peer in [names::OURS, names::BLOCKS, names::BLPOP] {
            files::allow(((crowds.len() + 1) * CLIENTS + 200) as u64)?;
            crowds.push(Crowd::connect(setup, &blocks, case, peer)?);
        }
    }
    progress.doing("clients that idle");
    let idle = memory(&crowds);
    progress.step();
    progress.doing("clients that wait");
    crowds.iter_mut().try_for_each(Crowd::wait)?;
    let waiting = memory(&crowds);
    progress.step();

    let mut notes = Notebook::new(names::WAITERS);
    for ((crowd, idle), waiting) in crowds.iter().zip(idle).zip(waiting) {
        let bytes = (waiting - idle) as f64 / CLIENTS as f64;
        notes.note(crowd.case, crowd.peer, names::BYTES, bytes);
    }
    Ok(notes.into_figures())
}

fn memory(crowds: &[Crowd]) -> Vec<i64> {
    let servers: Vec<&Served> = crowds.iter().map(|crowd| &crowd.served).collect();
    settled(&servers, STILL)
}

/// Clients of one server that will all wait for the same peer.
struct Crowd {
    case: &'static str,
    peer: &'static str,
    served: Served,
    links: Vec<Link>,
}

impl Crowd {
    fn connect(
        setup: &Setup,
        blocks: &Blocks,
        case: &'static str,
        peer: &'static str,
    ) -> Result<Self> {
        let module = match peer {
            names::OURS => Some(setup.module.clone()),
            names::BLOCKS => Some(blocks.module()),
            _ => None,
        };
        let served = Served::start(&setup.flavour, module.as_deref(), |builder| builder)?;
        if peer == names::OURS {
            hold_all(&served)?;
        }
        let links = Link::many_to(&served, CLIENTS)?;
        Ok(Self { case, peer, served, links })
    }

    fn wait(&mut self) -> Result<()> {
        for (client, link) in self.links.iter_mut().enumerate() {
            let lock = if self.case == names::FOR_ONE_LOCK { 0 } else { client };
            let (key, owner) = (key(lock), owner("waiter_of", client));
            let mut words =
                vec!["GPULOCK.ACQUIRE", &key, &owner, "PX", LEASE_MS, "BLOCK", LEASE_MS];
            if self.case == names::FOR_OWN_LOCK {
                words.extend(["UNIQUE", "SESSION"]);
            }
            link.wait(&match self.peer {
                names::OURS => packed(&words),
                names::BLOCKS => packed_in_place_of(&words),
                _ => packed(&["BLPOP", &key, "0"]),
            })?;
        }
        Ok(())
    }
}

/// What they will wait for is held beforehand: it is no part of a waiter.
fn hold_all(served: &Served) -> Result<()> {
    let mut holder = Link::to(served)?;
    for lock in 0..CLIENTS {
        let (key, owner) = (key(lock), owner("locked_by", lock));
        holder.send(&packed(&["GPULOCK.ACQUIRE", &key, &owner, "PX", LEASE_MS]))?;
        holder.answers(1)?;
    }
    Ok(())
}

/// 16 bytes.
fn key(number: usize) -> String {
    format!("gpu_lock:{number:07}")
}

/// 36 bytes.
fn owner(who: &str, number: usize) -> String {
    format!("{who}_transcribe:worker3:{number:07}")
}
