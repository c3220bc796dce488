//! After the command: what is told of its end, and what `--on-lost` does.

use std::ffi::OsString;
use std::sync::mpsc::Receiver;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::clock::Moment;
use crate::run::Event;
use crate::run::child::{self, Change};
use crate::run::environment::Environment;
use crate::run::terminal::Terminal;

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
    let shell = ["sh".into(), "-c".into(), command.clone()];
    let group = child::start(&shell, &env, Moment::MAX)?;
    let terminal = Terminal::open();
    terminal.offer(group);
    loop {
        group.reap_others();
        match group.change() {
            Some(Change::Ended(_)) => break,
            Some(Change::Stopped(signal)) => {
                if terminal.stopped(group, signal) {
                    terminal.go_on(group);
                }
            }
            None => match events.recv()? {
                Event::Signal(Signal::SIGCHLD) => {}
                Event::Signal(Signal::SIGCONT) => terminal.go_on(group),
                Event::Signal(signal) => group.signal(signal),
                _ => {}
            },
        }
    }
    terminal.take_back(group);
    Ok(())
}
