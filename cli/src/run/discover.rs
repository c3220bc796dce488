//! Finds the candidate locks: those named on the command line, or the GPUs of this host. A
//! separate thread queries the driver, so that a signal ends the run even if the driver hangs.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::locks::{LockOptions, PoolOptions, Targets};
use crate::run::stderr::Stderr;
use crate::run::{Event, waiting};

/// Returns the candidate locks, or the signal that ended the search.
///
/// # Errors
/// If the GPUs cannot be listed.
pub(crate) fn discover(
    locks: &LockOptions,
    stderr: &Stderr,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<ControlFlow<Signal, Targets>> {
    let Some(pool) = locks.pool() else {
        return Ok(ControlFlow::Continue(locks.named()));
    };
    start_gpu_discovery(pool, sender.clone())?;
    loop {
        match events.recv()? {
            Event::Note(note) => stderr.info(&note),
            Event::Discovered(targets) => return targets.map(ControlFlow::Continue),
            Event::Signal(signal) => {
                if let Some(signal) = waiting::handle_signal(signal, stderr)? {
                    return Ok(ControlFlow::Break(signal));
                }
            }
            _ => {}
        }
    }
}

fn start_gpu_discovery(pool: PoolOptions, sender: Sender<Event>) -> Result<()> {
    let thread = thread::Builder::new().name("gpus".to_owned());
    let discover = move || {
        let targets = Targets::pool(&pool);
        let warnings = targets.as_ref().map(Targets::warnings).unwrap_or_default();
        let events = warnings.into_iter().map(Event::Note);
        for event in events.chain([Event::Discovered(targets)]) {
            // The receiver is gone if a signal came first.
            let _gone = sender.send(event);
        }
    };
    thread.spawn(discover).context("failed to start a thread")?;
    Ok(())
}
