//! The wait for the locks: shows progress, and ends the wait on a signal.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, raise};

use crate::clock::{self, Moment};
use crate::exit;
use crate::locks::{Lock, LockRequest};
use crate::run::Event;
use crate::run::progress;
use crate::run::session::Session;
use crate::run::signals;
use crate::run::stderr::Stderr;
use crate::server::Address;

/// How long the wait lasts before progress is shown.
const PROGRESS_DELAY: Duration = Duration::from_millis(300);

/// How a wait ends.
pub(crate) enum Outcome {
    /// The locks were granted. At the given moment their leases had not begun, or were renewed.
    Granted(Vec<Lock>, Moment),
    /// The wait timed out.
    TimedOut,
    /// A terminating signal came.
    Interrupted(Signal),
}

/// Handles a signal while no command runs: SIGTSTP stops this process, and a terminating
/// signal is returned.
///
/// # Errors
/// If this process cannot be stopped.
pub(crate) fn handle_signal(signal: Signal, stderr: &Stderr) -> Result<Option<Signal>> {
    if signal == Signal::SIGTSTP {
        stderr.clear_progress();
        raise(Signal::SIGSTOP)?;
    }
    Ok(Some(signal).filter(|signal| signals::terminates(*signal)))
}

/// Waits until the session acquires the locks.
///
/// # Errors
/// If the server cannot be reached, or rejects the call.
pub(crate) fn wait(
    session: &Session,
    address: &Address,
    request: &LockRequest,
    stderr: &Stderr,
    events: &Receiver<Event>,
) -> Result<Outcome> {
    let mut show_progress_at = Some(clock::now().saturating_add(PROGRESS_DELAY));
    let outcome = loop {
        let event = match show_progress_at {
            None => events.recv()?,
            Some(at) => match events.recv_timeout(at.saturating_sub(clock::now())) {
                Ok(event) => event,
                Err(_) => {
                    show_progress_at = None;
                    progress::start(address, request, stderr);
                    continue;
                }
            },
        };
        match event {
            Event::Granted(locks, at) => break Ok(Outcome::Granted(locks, at)),
            Event::TimedOut => break Ok(Outcome::TimedOut),
            Event::Failed(error) => break Err(error),
            Event::Note(note) => stderr.info(&note),
            Event::Signal(signal) => {
                if let Some(signal) = handle_signal(signal, stderr)? {
                    break Ok(Outcome::Interrupted(signal));
                }
            }
            _ => {}
        }
    };
    stderr.end_progress();
    if let Ok(Outcome::Interrupted(_)) = &outcome
        && let Err(error) = session.withdraw(address, request)
    {
        let why = exit::message(&error);
        stderr.info(&format!(
            "failed to cancel the wait: {why}; the wait ends when the connection closes"
        ));
    }
    outcome
}
