//! Signals as events: all signals are blocked, and a separate thread accepts them one by one.
//! No handler is installed, so that the command inherits the signal dispositions that `gpulock`
//! was started with.

use std::fs;
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

use crate::run::Event;

/// Not blocked: signals that cannot be, and the one that a write to a closed pipe raises.
const NOT_BLOCKED: [Signal; 3] = [Signal::SIGKILL, Signal::SIGPIPE, Signal::SIGSTOP];

/// Blocks the signals in this thread and in threads that it starts later, and returns them.
/// Signals that are ignored (`nohup`) stay ignored. A fault in this program still kills it: the
/// kernel does not block the signal then.
///
/// # Errors
/// If the ignored signals cannot be read, or SIGCHLD is ignored.
pub(crate) fn block() -> Result<SigSet> {
    let ignored = ignored()?;
    ensure!(
        !ignored.contains(&Signal::SIGCHLD),
        "SIGCHLD is ignored; start gpulock with `env --default-signal=CHLD`"
    );
    let mut blocked = SigSet::empty();
    for signal in Signal::iterator() {
        if !NOT_BLOCKED.contains(&signal) && !ignored.contains(&signal) {
            blocked.add(signal);
        }
    }
    // Even if it is ignored: a background process needs this to take the terminal back.
    blocked.add(Signal::SIGTTOU);
    blocked.thread_block().context("failed to block signals")?;
    Ok(blocked)
}

/// Starts the thread that turns blocked signals into events.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn listen(blocked: SigSet, events: Sender<Event>) -> Result<()> {
    let listener = thread::Builder::new().name("signals".to_owned());
    let listen = move || {
        while let Ok(signal) = blocked.wait() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    listener.spawn(listen).context("failed to start a thread")?;
    Ok(())
}

/// Whether the default action of a signal is to terminate the process.
pub(crate) fn terminates(signal: Signal) -> bool {
    !matches!(
        signal,
        Signal::SIGCHLD
            | Signal::SIGCONT
            | Signal::SIGTSTP
            | Signal::SIGTTIN
            | Signal::SIGTTOU
            | Signal::SIGURG
            | Signal::SIGWINCH
    )
}

/// The signals that this process ignores.
fn ignored() -> Result<Vec<Signal>> {
    const STATUS: &str = "/proc/self/status";
    let status = fs::read_to_string(STATUS).context(STATUS)?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.with_context(|| format!("{STATUS} has no SigIgn"))?;
    let is_ignored = |signal: &Signal| mask & (1 << (*signal as u32 - 1)) != 0;
    Ok(Signal::iterator().filter(is_ignored).collect())
}
