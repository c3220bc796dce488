//! Until the locks are granted: reports on the wait, and ends it at a signal.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, raise};

use crate::clock::{self, Moment};
use crate::exit::sentence;
use crate::run::Event;
use crate::run::locks::{Lock, Wish};
use crate::run::progress;
use crate::run::say::Voice;
use crate::run::session::Session;
use crate::run::signals;
use crate::server::Address;

/// A wait that is shorter is not worth a word.
const NO_WAIT: Duration = Duration::from_millis(300);

/// How a wait ends.
pub(crate) enum Outcome {
    /// The locks are held. At the moment named the lease had not begun, or was renewed.
    Granted(Vec<Lock>, Moment),
    /// They could not be had in time.
    TimeOver,
    /// A signal came that ends a process.
    Interrupted(Signal),
}

/// What a signal does while there is no command: it stops this process, or is answered as one
/// that is to end it.
///
/// # Errors
/// When it cannot be stopped.
pub(crate) fn interrupted(signal: Signal, voice: &Voice) -> Result<Option<Signal>> {
    if signal == Signal::SIGTSTP {
        voice.clear();
        raise(Signal::SIGSTOP)?;
    }
    Ok(Some(signal).filter(|signal| signals::ends(*signal)))
}

/// Waits for what the session is asking for.
///
/// # Errors
/// When the server cannot be asked, or refuses.
pub(crate) fn wait(
    session: &Session,
    address: &Address,
    wish: &Wish,
    voice: &Voice,
    events: &Receiver<Event>,
) -> Result<Outcome> {
    let mut quiet_until = Some(clock::now().saturating_add(NO_WAIT));
    let outcome = loop {
        let event = match quiet_until {
            None => events.recv()?,
            Some(until) => {
                match events.recv_timeout(until.saturating_sub(clock::now())) {
                    Ok(event) => event,
                    Err(_) => {
                        quiet_until = None;
                        progress::start(address, wish, voice);
                        continue;
                    }
                }
            }
        };
        match event {
            Event::Granted(locks, at) => break Ok(Outcome::Granted(locks, at)),
            Event::TimeOver => break Ok(Outcome::TimeOver),
            Event::Failed(error) => break Err(error),
            Event::Note(note) => voice.say(&note),
            Event::Signal(signal) => {
                if let Some(signal) = interrupted(signal, voice)? {
                    break Ok(Outcome::Interrupted(signal));
                }
            }
            _ => {}
        }
    };
    voice.end_reports();
    if let Ok(Outcome::Interrupted(_)) = &outcome
        && let Err(error) = session.withdraw(address, wish)
    {
        let why = sentence(&error);
        voice.say(&format!("the place in line is left to the server: {why}"));
    }
    outcome
}
