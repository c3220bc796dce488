//! `--on-lost`: a shell command that runs after the locks were lost.

use std::ffi::OsString;
use std::sync::mpsc::Receiver;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

use crate::clock::Moment;
use crate::run::Event;
use crate::run::child;
use crate::run::ending::Interrupt;
use crate::run::environment::{Environment, LOST};
use crate::run::process_group::Change;
use crate::run::terminal::Terminal;

/// Runs the command in a shell with the environment of the locks and the reason of the loss,
/// and waits for it. Returns the interruption that ended it, if one did.
///
/// # Errors
/// If it cannot be started.
pub(crate) fn run(
    command: &OsString,
    mut env: Environment,
    why: &str,
    events: &Receiver<Event>,
) -> Result<Option<Interrupt>> {
    env.push((LOST.to_owned(), Some(why.into())));
    let shell = ["sh".into(), "-c".into(), command.clone()];
    let group = child::start(&shell, &env, Moment::MAX)?;
    let terminal = Terminal::open();
    terminal.offer(group);
    let mut forwarded = SigSet::empty();
    let ended_by = loop {
        group.reap_others();
        match group.change() {
            Some(Change::Ended { signal, .. }) => break signal,
            Some(Change::Stopped(signal)) => {
                if terminal.handle_stop(group, signal) {
                    terminal.resume(group);
                }
            }
            None => match events.recv()? {
                Event::Signal(Signal::SIGCHLD) => {}
                Event::Signal(Signal::SIGCONT) => terminal.resume(group),
                Event::Signal(signal) => {
                    forwarded.add(signal);
                    group.signal(signal);
                }
                _ => {}
            },
        }
    };
    let has_terminal = terminal.is_given_to(group);
    terminal.take_back(group);
    Ok(ended_by.and_then(|signal| Interrupt::of(signal, &forwarded, has_terminal)))
}
