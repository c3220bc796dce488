//! The wait for the locks: shows progress, and ends the wait on a signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, raise};

use crate::clock::{self, Moment};
use crate::exit;
use crate::human::Span;
use crate::locks::{Lock, LockRequest};
use crate::run::Event;
use crate::run::event_log::EventLog;
use crate::run::holders::MAX_SHOWN;
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
    /// The locks were not granted in time. Contains who holds them, if that is known.
    TimedOut(Option<String>),
    /// The locks are held by the run that started this one.
    HeldByOuterRun,
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
    (stderr, log): (&Stderr, &EventLog),
    events: &Receiver<Event>,
) -> Result<Outcome> {
    stderr.begin_progress();
    let is_over = Arc::<AtomicBool>::default();
    let start = clock::now();
    let mut show_progress_at = Some(start.saturating_add(PROGRESS_DELAY));
    let outcome = loop {
        let event = match show_progress_at {
            None => events.recv()?,
            Some(at) => match events.recv_timeout(at.saturating_sub(clock::now())) {
                Ok(event) => event,
                Err(_) => {
                    show_progress_at = None;
                    log.waiting(request, start);
                    progress::start(address, request, stderr, log, &is_over);
                    continue;
                }
            },
        };
        match event {
            Event::Granted(locks, at) => {
                log.granted(&locks, clock::now().saturating_sub(start), request.lease);
                break Ok(Outcome::Granted(locks, at));
            }
            Event::TimedOut(holders) => break Ok(Outcome::TimedOut(holders)),
            Event::HeldByOuterRun => break Ok(Outcome::HeldByOuterRun),
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
    is_over.store(true, Ordering::SeqCst);
    let is_reported = stderr.end_progress();
    if let Ok(Outcome::Granted(locks, _)) = &outcome
        && is_reported
    {
        let waited = Span(clock::millis(clock::now().saturating_sub(start)));
        stderr.info(&format!("acquired {} after {waited}", names(locks)));
    }
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

/// The keys of the first locks.
fn names(locks: &[Lock]) -> String {
    let mut names: Vec<_> =
        locks.iter().take(MAX_SHOWN).map(|lock| lock.key.to_string()).collect();
    if locks.len() > MAX_SHOWN {
        names.push("…".to_owned());
    }
    names.join(", ")
}
