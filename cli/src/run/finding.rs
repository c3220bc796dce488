//! The locks to choose from: named, or found as the GPUs of this host by a thread of its own,
//! since a driver that hangs is not to keep a signal from ending the run.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::run::say::Voice;
use crate::run::wanted::Wanted;
use crate::run::{Args, Event, host, waiting};

/// Answers the locks, or the signal that came first.
///
/// # Errors
/// When the GPUs cannot be found.
pub(crate) fn find(
    args: &Args,
    voice: &Voice,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<ControlFlow<Signal, Wanted>> {
    let Some(pool) = &args.pool else {
        let named = args.key.as_ref().map_or(&args.keys[..], std::slice::from_ref);
        return Ok(ControlFlow::Continue(Wanted::named(named)));
    };
    look_for_gpus(pool.clone(), args.min_free_mib, sender.clone())?;
    loop {
        match events.recv()? {
            Event::Found(found) => return found.map(ControlFlow::Continue),
            Event::Signal(signal) => {
                if let Some(signal) = waiting::interrupted(signal, voice)? {
                    return Ok(ControlFlow::Break(signal));
                }
            }
            _ => {}
        }
    }
}

fn look_for_gpus(
    pool: String,
    min_free_mib: Option<u64>,
    sender: Sender<Event>,
) -> Result<()> {
    let finder = thread::Builder::new().name("gpus".to_owned());
    let find = move || {
        let found = Wanted::pool(&pool, &host(), min_free_mib);
        // Nobody listens any more when a signal came first.
        let _over = sender.send(Event::Found(found));
    };
    finder.spawn(find).context("no thread")?;
    Ok(())
}
