//! Signals as events: those that a terminal, a supervisor or the kernel sends are blocked
//! and taken one by one, by a thread that waits for nothing else. No handler is installed,
//! so that the command starts with the signals as `gpulock` found them.

use std::fs;
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

use crate::run::Event;

/// Never taken: what nobody can take, and what writing to a closed pipe raises.
const LEFT_ALONE: [Signal; 3] = [Signal::SIGKILL, Signal::SIGPIPE, Signal::SIGSTOP];

/// Blocks the signals in this thread and in those that it starts from now on, and answers
/// them. Those that are ignored (`nohup`) stay so. An error in this program itself ends it
/// all the same: the kernel does not ask what is blocked then.
///
/// # Errors
/// When the kernel cannot be asked, or children end unnoticed.
pub(crate) fn block() -> Result<SigSet> {
    let ignored = ignored()?;
    ensure!(
        !ignored.contains(&Signal::SIGCHLD),
        "SIGCHLD is ignored: start gpulock with `env --default-signal=CHLD`"
    );
    let mut taken = SigSet::empty();
    for signal in Signal::iterator() {
        if !LEFT_ALONE.contains(&signal) && !ignored.contains(&signal) {
            taken.add(signal);
        }
    }
    // Ignored or not: a terminal may be given back from the background then.
    taken.add(Signal::SIGTTOU);
    taken.thread_block().context("blocking signals")?;
    Ok(taken)
}

/// Takes blocked signals for ever, as events.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn listen(taken: SigSet, events: Sender<Event>) -> Result<()> {
    let listener = thread::Builder::new().name("signals".to_owned());
    let listen = move || {
        while let Ok(signal) = taken.wait() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    listener.spawn(listen).context("no thread")?;
    Ok(())
}

/// Whether a signal ends a process that does nothing about it.
pub(crate) fn ends(signal: Signal) -> bool {
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
