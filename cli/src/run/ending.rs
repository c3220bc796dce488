//! After the command: what is told of its end, and what `--on-lost` does.

use std::ffi::OsString;
use std::sync::mpsc::Receiver;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::run::Event;
use crate::run::child::{self, Change};
use crate::run::environment::Environment;

/// Why the locks are given back, in the words of the event: `normal`, as without a reason,
/// or how the command failed.
pub(crate) fn reason(status: u8) -> String {
    match status {
        0 => "normal".to_owned(),
        status => format!("exit {status}"),
    }
}

/// Runs a command in a shell, told of the locks and why they were lost, and waits for it.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn on_lost(
    command: &OsString,
    mut env: Environment,
    why: &str,
    events: &Receiver<Event>,
) -> Result<()> {
    env.push(("GPULOCK_LOST", why.into()));
    let group = child::start(&["sh".into(), "-c".into(), command.clone()], &env)?;
    loop {
        if let Some(Change::Ended(_)) = group.change() {
            return Ok(());
        }
        match events.recv()? {
            Event::Signal(Signal::SIGCHLD) => {}
            Event::Signal(signal) => group.signal(signal),
            _ => {}
        }
    }
}
